"""The audit of a TorchScript archive: its tensors against the state dict, its numbers against the exported program."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats import uses
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
from pipeline.formats.uses import OPEN, Use, Uses, use_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.program import Step


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
    uses.check(known, _uses(graph), found)
    return found.to_json()


def _uses(graph: Any) -> Uses:
    every = tuple(use for node in _all_nodes(graph) if (use := _of_node(node)))
    outer = frozenset(use for node in graph.nodes() if (use := _of_node(node)))
    inner = frozenset(use[0] for block in _blocks(graph) for node in _all_nodes(block) if (use := _of_node(node)))
    return Uses(every, outer, inner)


def _blocks(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield from node.blocks()


def _training(graph: Any, steps: Mapping[str, Step]) -> Iterator[Problem]:
    """Say which operators were recorded in training mode, where the network's own are not."""
    for node in _all_nodes(graph):
        name = node.kind().removeprefix("aten::")
        # Attention calls it so in eval mode as well, with a probability of 0 that a script computes.
        if name.endswith("dropout") and _argument(node, "train") is True and _argument(node, "p") not in {0, OPEN}:
            yield Problem(name, DROPS_OUT)
        elif name == "batch_norm" and _argument(node, "training") is True and not uses_batch_statistics(steps):
            yield Problem(name, BATCH_STATISTICS)


def _argument(node: Any, name: str) -> Any:
    """Return an argument's constant value by the name the operator's schema gives it."""
    import torch

    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    return dict(zip(names, map(_constant, node.inputs()), strict=False)).get(name)


def _of_node(node: Any) -> Use | None:
    import torch

    if node.schema() == "(no schema)" or not node.kind().startswith("aten::"):
        return None
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001 - torch has no other
    arguments = dict(zip(names, map(_constant, node.inputs()), strict=False))
    name = family(node.kind().replace("aten::", "aten."), arguments)
    return use_of(name, arguments)


def _constant(value: Any) -> Any:
    node = value.node()
    if node.kind() == "prim::Constant":
        return OPEN if _is_enum(value.type()) else value.toIValue()
    if node.kind() == "prim::ListConstruct":
        return [_constant(each) for each in node.inputs()]
    return OPEN


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
