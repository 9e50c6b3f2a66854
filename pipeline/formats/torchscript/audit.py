"""The audit of a TorchScript archive: its tensors against the state dict, its numbers against the exported program."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats.onnx import attributes
from pipeline.formats.onnx.audit import BATCH_STATISTICS, DROPS_OUT, Problem, audit_tensors, uses_batch_statistics
from pipeline.formats.program import Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.interface import Arrays, Interface

# The arguments that matter, of operators whose every use the program must match.
_NUMBERS = ("eps", "stride", "padding", "dilation", "groups", "kernel_size", "approximate", "negative_slope", "alpha")
_FAMILIES = frozenset(
    {"conv", "conv_transpose", "layer_norm", "batch_norm", "group_norm", "instance_norm", "gelu", "leaky_relu", "elu"}
    | {"max_pool", "avg_pool", "rms_norm"}
)

_MODULE_MARGIN = 1e-5

Signature = tuple[str, tuple[tuple[str, Any], ...]]


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


def audit(module: Any, state: Mapping[str, Any], program: Mapping[str, Any] | None) -> dict[str, Any]:
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


def culprit(eager: Any, module: Any, interface: Interface, inputs: Arrays) -> dict[str, Any] | None:
    """Return the smallest module whose outputs differ from the network's own on the network's own inputs, None if none.

    Modules are judged in the order in which they finish, so that the first one has no culprit inside it.
    """
    calls = _recorded(eager, interface, inputs)
    theirs = dict(module.named_modules())
    for name, arguments, expected in calls:
        if name not in theirs:
            continue
        got = _outputs(theirs[name], arguments)
        if got is None or len(got) != len(expected):
            continue
        for index, (value, wanted) in enumerate(zip(got, expected, strict=True)):
            if value.shape != wanted.shape:
                return {
                    "module": name,
                    "output": index,
                    "problem": f"shape {list(value.shape)} instead of {list(wanted.shape)}",
                }
            if (factor := _module_factor(value, wanted)) > 1:
                worst = int((value.double() - wanted.double()).abs().argmax())
                return {
                    "module": name,
                    "operator": type(dict(eager.named_modules())[name]).__name__,
                    "output": index,
                    "factor": factor,
                    "expected": float(wanted.reshape(-1)[worst]),
                    "got": float(value.reshape(-1)[worst]),
                }
    return None


def _recorded(eager: Any, interface: Interface, inputs: Arrays) -> list[tuple[str, tuple[Any, ...], list[Any]]]:
    """Run the network once; return each module's name, arguments and tensors returned, as they finish."""
    import torch
    from torch.utils import _pytree as pytree

    from pipeline.rebuild import calling

    calls: list[tuple[str, tuple[Any, ...], list[Any]]] = []

    def hook(name: str) -> Any:
        def record(_: Any, arguments: tuple[Any, ...], result: Any) -> None:
            tensors = [each.clone() for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]
            calls.append((name, arguments, tensors))

        return record

    handles = [each.register_forward_hook(hook(name)) for name, each in eager.named_modules()]
    tensors = calling.tensors_from(inputs)
    with torch.no_grad():
        calling.invoke(eager, calling.bind(eager, interface), tensors)
    for handle in handles:
        handle.remove()
    return calls


def _outputs(module: Any, arguments: tuple[Any, ...]) -> list[Any] | None:
    """Return the tensors a submodule returns; None if it cannot be called by itself (inlined, or no forward)."""
    import torch
    from torch.utils import _pytree as pytree

    try:
        with torch.no_grad():
            return [each for each in pytree.tree_leaves(module(*arguments)) if isinstance(each, torch.Tensor)]
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return None


def _module_factor(value: Any, wanted: Any) -> float:
    """Return the largest difference ÷ what two evaluations of one module may differ by (1e-5 of its largest value)."""
    if not wanted.is_floating_point():
        return float("inf") if (value != wanted).any() else 0.0
    scale = float(wanted.double().abs().max()) if wanted.numel() else 0.0
    away = float((value.double() - wanted.double()).abs().max()) if wanted.numel() else 0.0
    return away / (_MODULE_MARGIN * scale) if scale else (float("inf") if away else 0.0)


def _check(wanted: list[tuple[Signature, str]], graph: Any, found: Any) -> Iterator[Problem]:
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


def _of_step(step: Step) -> tuple[Signature, str] | None:
    name = attributes.family(step.operator)
    return (_signature(name, step.arguments), step.module) if name in _FAMILIES else None


def _of_node(node: Any) -> Signature | None:
    import torch

    name = attributes.family(node.kind().replace("aten::", "aten."))
    if name not in _FAMILIES or node.schema() == "(no schema)":
        return None
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    return _signature(name, dict(zip(names, map(_constant, node.inputs()), strict=False)))


def _signature(name: str, arguments: Mapping[str, Any]) -> Signature:
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


def _shown(signature: Signature) -> str:
    name, numbers = signature
    return (
        f"{name}({', '.join(f'{key}={list(value) if isinstance(value, tuple) else value}' for key, value in numbers)})"
    )
