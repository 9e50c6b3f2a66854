"""The audit of a TorchScript archive: its tensors against the state dict, its numbers against the exported program."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats.accounting import BATCH_STATISTICS, DROPS_OUT, Problem, audit_tensors, uses_batch_statistics
from pipeline.formats.format import Signature
from pipeline.formats.literals import family
from pipeline.formats.program import Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.format import AuditSubject

# The arguments that matter, of operators whose every use the program must match.
_NUMBERS = ("eps", "stride", "padding", "dilation", "groups", "kernel_size", "approximate", "negative_slope", "alpha")
_FAMILIES = frozenset(
    {"conv", "conv_transpose", "layer_norm", "batch_norm", "group_norm", "instance_norm", "gelu", "leaky_relu", "elu"}
    | {"max_pool", "avg_pool", "rms_norm"}
)


Use = tuple[str, tuple[tuple[str, Any], ...]]


def read(path: Path) -> Any:
    """Return a TorchScript module in eval mode. Loading one runs code of its author: only for files that are trusted.

    Raises:
        InputError: it is no TorchScript archive.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"{path.name} is not a TorchScript archive: {str(error).splitlines()[0]}") from None


def signature(path: Path) -> Signature:
    """Return what an archive's forward takes; outputs have no names.

    Raises:
        InputError: it is no TorchScript archive.
    """
    arguments = read(path).forward.schema.arguments[1:]
    return Signature(tuple((each.name, None, None) for each in arguments), ())


def audit(file: Path, subject: AuditSubject) -> dict[str, Any]:
    """Account for every tensor of an archive and the numbers of its operators.

    Raises:
        InputError: it is no TorchScript archive.
    """
    program, reason = subject.captured()
    found = audit_module(read(file), subject.state, program)
    return found if reason is None else {**found, "unchecked": reason}


def audit_module(module: Any, state: Mapping[str, Any], program: Mapping[str, Any] | None) -> dict[str, Any]:
    """Account for every tensor of a module and the numbers of its operators."""
    from pipeline.rebuild import calling

    graph = module.inlined_graph
    tensors = {**dict(module.named_buffers()), **module.state_dict(), **_tensor_constants(graph)}
    found = audit_tensors({name: calling.array_from(each) for name, each in tensors.items()}, state, program)
    found.problems[:0] = _training(graph, program)  # what explains the others comes first
    if program is not None:
        wanted = [_of_step(Step(**each)) for each in program["steps"]]
        found.problems += _check([each for each in wanted if each], graph, found)
    return found.to_json()


def _check(wanted: list[tuple[Use, str]], graph: Any, found: Any) -> Iterator[Problem]:
    outer = [signature for node in graph.nodes() if (signature := _of_node(node))]
    everything = [signature for node in _all_nodes(graph) if (signature := _of_node(node))]
    found.attributes += sum(len(numbers) for _, numbers in everything)
    expected = Counter(signature for signature, _ in wanted)
    modules = dict(reversed(wanted))
    available = Counter(everything)
    for signature, count in expected.items():
        if available[signature] < count:
            yield Problem(
                _shown(signature), f"is used {count} times by the network and {available[signature]} times in the file",
                module=modules[signature],
            )  # fmt: skip
    for signature, count in Counter(outer).items():
        if count > expected[signature]:
            yield Problem(
                _shown(signature), f"is used {count} times in the file and {expected[signature]} times by the network"
            )


def _training(graph: Any, program: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Say which operators were recorded in training mode, where the network's own are not."""
    steps = {each["name"]: Step(**each) for each in program["steps"]} if program else {}
    for node in _all_nodes(graph):
        name = node.kind().removeprefix("aten::")
        if name.endswith("dropout") and _argument(node, "train") is True:
            yield Problem(name, DROPS_OUT)
        elif name == "batch_norm" and _argument(node, "training") is True and not uses_batch_statistics(steps):
            yield Problem(name, BATCH_STATISTICS)


def _argument(node: Any, name: str) -> Any:
    """Return an argument's constant value by the name the operator's schema gives it."""
    import torch

    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    return dict(zip(names, map(_constant, node.inputs()), strict=False)).get(name)


def _of_step(step: Step) -> tuple[Use, str] | None:
    name = family(step.operator)
    return (_signature(name, step.arguments), step.module) if name in _FAMILIES else None


def _of_node(node: Any) -> Use | None:
    import torch

    name = family(node.kind().replace("aten::", "aten."))
    if name not in _FAMILIES or node.schema() == "(no schema)":
        return None
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    return _signature(name, dict(zip(names, map(_constant, node.inputs()), strict=False)))


def _signature(name: str, arguments: Mapping[str, Any]) -> Use:
    numbers = [(key, _plain(arguments[key])) for key in _NUMBERS if key in arguments]
    filled = dict(numbers)
    if filled.get("stride") in {(), 0} and "kernel_size" in filled:
        filled["stride"] = filled["kernel_size"]  # what a pool without a stride uses
    return name, tuple(filled.items())


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        listed = tuple(_plain(each) for each in value)
        return listed[:1] if len(set(listed)) == 1 else listed
    if isinstance(value, bool) or value is None:
        return int(value or 0)
    return float(f"{value:.6e}") if isinstance(value, float) else value


def _constant(value: Any) -> Any:
    node = value.node()
    if node.kind() == "prim::Constant":
        return value.toIValue()
    if node.kind() == "prim::ListConstruct":
        return [_constant(each) for each in node.inputs()]
    return None


def _all_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


def _tensor_constants(graph: Any) -> dict[str, Any]:
    """Return the tensors of a few elements or more that stand in the code itself, as frozen modules have them."""
    import torch

    found = {}
    for index, node in enumerate(_all_nodes(graph)):
        if node.kind() == "prim::Constant" and isinstance(value := node.output().toIValue(), torch.Tensor):
            found[f"constant {index}"] = value
    return found


def _shown(signature: Use) -> str:
    name, numbers = signature
    return (
        f"{name}({', '.join(f'{key}={list(value) if isinstance(value, tuple) else value}' for key, value in numbers)})"
    )
