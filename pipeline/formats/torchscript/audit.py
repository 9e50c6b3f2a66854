"""The audit of a TorchScript archive: its tensors against the state dict, its numbers against the exported program."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats.accounting import (
    BATCH_STATISTICS,
    DROPS_OUT,
    audit_tensors,
    known_of,
    uses_batch_statistics,
)
from pipeline.formats.format import Signature
from pipeline.formats.ledger import Problem
from pipeline.formats.literals import family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.known import Known
    from pipeline.formats.ledger import Audit
    from pipeline.formats.program import Step

# The arguments that matter, of operators whose every use the program must match.
_NUMBERS = ("eps", "stride", "padding", "dilation", "groups", "kernel_size", "approximate", "negative_slope", "alpha")
_FAMILIES = frozenset(
    {"conv", "conv_transpose", "layer_norm", "batch_norm", "group_norm", "instance_norm", "gelu", "leaky_relu", "elu"}
    | {"max_pool", "avg_pool", "rms_norm"}
)


# Those whose numbers outputs may hide.
_HIDDEN = frozenset(
    {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "gelu", "leaky_relu", "elu"}
)
_OPEN = "?"  # as `pipeline.formats.program` writes what is not fixed

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
    found = audit_module(read(file), subject.state, program, subject.effect)
    return found if reason is None else {**found, "unchecked": reason}


def audit_module(
    module: Any,
    state: Mapping[str, Any],
    program: Mapping[str, Any] | None,
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None,
) -> dict[str, Any]:
    """Account for every tensor of a module and the numbers of its operators."""
    from pipeline.rebuild import calling

    graph = module.inlined_graph
    tensors = {**dict(module.named_buffers()), **module.state_dict(), **_tensor_constants(graph)}
    _, known = known_of(state, program, effect)
    found = audit_tensors(calling.arrays_of(tensors), known)
    found.problems[:0] = _training(graph, known.steps)  # what explains the others comes first
    _check(known, graph, found)
    return found.to_json()


def _check(known: Known, graph: Any, found: Audit) -> None:
    """Hold the numbers of operators against the program's, as a multiset a family.

    A script may have an operator once in a loop, or in each of two branches, and a trace one fused operator instead of several. Where
    the two have not the same number of a family, only numbers that the other has nowhere are held against it.
    """
    every = [use for node in _all_nodes(graph) if (use := _of_node(node))]
    outer = {use for node in graph.nodes() if (use := _of_node(node))}
    inner = {use[0] for block in _blocks(graph) for node in _all_nodes(block) if (use := _of_node(node))}
    found.attributes += sum(len(numbers) for _, numbers in every)
    wanted = [each for step in known.live if (each := _of_step(step))]
    modules = dict(reversed(wanted))
    for name in dict.fromkeys(each for each, _ in every):
        theirs = Counter(use for use in every if use[0] == name)
        ours = Counter(use for use, _ in wanted if use[0] == name)
        extra, lacking = theirs - ours, ours - theirs
        if any(_is_open(use) for use in (*theirs, *ours)):
            continue
        if name in inner or theirs.total() != ours.total():
            lacking = Counter({use: count for use, count in lacking.items() if use not in theirs})
            extra = Counter({use: count for use, count in extra.items() if use not in ours})
            if name not in _HIDDEN:
                lacking.clear()
        for use in extra:
            instead = max(lacking, key=lambda each: len({*each[1]} & {*use[1]}), default=None)
            if instead is None or use not in outer:
                found.leave(_shown(use), (), 0, "attribute", name)
            else:
                words = f"is what the network has where the file has {_shown(use)}"
                found.problems.append(Problem(_shown(instead), words, module=modules[instead]))


def _is_open(use: Use) -> bool:
    """Whether a number of a use is computed when it runs."""
    return any(_OPEN in (value if isinstance(value, tuple) else (value,)) for _, value in use[1])


def _blocks(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield from node.blocks()


def _training(graph: Any, steps: Mapping[str, Step]) -> Iterator[Problem]:
    """Say which operators were recorded in training mode, where the network's own are not."""
    for node in _all_nodes(graph):
        name = node.kind().removeprefix("aten::")
        # Attention calls it so in eval mode as well, with a probability of 0 that a script computes.
        if name.endswith("dropout") and _argument(node, "train") is True and _argument(node, "p") not in {0, _OPEN}:
            yield Problem(name, DROPS_OUT)
        elif name == "batch_norm" and _argument(node, "training") is True and not uses_batch_statistics(steps):
            yield Problem(name, BATCH_STATISTICS)


def _argument(node: Any, name: str) -> Any:
    """Return an argument's constant value by the name the operator's schema gives it."""
    import torch

    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    return dict(zip(names, map(_constant, node.inputs()), strict=False)).get(name)


def _of_step(step: Step) -> tuple[Use, str] | None:
    name = family(step.operator, step.arguments)
    return (_signature(name, step.arguments), step.module) if name in _FAMILIES else None


def _of_node(node: Any) -> Use | None:
    import torch

    if node.schema() == "(no schema)" or not node.kind().startswith("aten::"):
        return None
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    arguments = dict(zip(names, map(_constant, node.inputs()), strict=False))
    name = family(node.kind().replace("aten::", "aten."), arguments)
    return _signature(name, arguments) if name in _FAMILIES else None


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
        return _OPEN if _is_enum(value.type()) else value.toIValue()
    if node.kind() == "prim::ListConstruct":
        return [_constant(each) for each in node.inputs()]
    return _OPEN


def _is_enum(kind: Any) -> bool:
    """Tell whether a constant is a member of an Enum, or holds some: a number of no operator, whose class only its author has."""
    return kind.kind() == "EnumType" or any(map(_is_enum, kind.containedTypes()))


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
        if node.kind() == "prim::Constant" and isinstance(value := _constant(node.output()), torch.Tensor):
            found[f"constant {index}"] = value
    return found


def _shown(signature: Use) -> str:
    name, numbers = signature
    return (
        f"{name}({', '.join(f'{key}={list(value) if isinstance(value, tuple) else value}' for key, value in numbers)})"
    )
