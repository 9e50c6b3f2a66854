"""The audit of an exported program: its tensors against the state dict, the numbers of its operators against the network's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats import uses
from pipeline.formats.accounting import audit_tensors, known_of
from pipeline.formats.format import Signature
from pipeline.formats.literals import family
from pipeline.formats.pt2 import archive
from pipeline.formats.uses import OPEN, Uses, use_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.format import AuditSubject, Declared
    from pipeline.formats.uses import Use


def signature(path: Path) -> Signature:
    """Return what a program takes; its outputs have no names.

    Raises:
        WeightsError: it is no exported program.
    """
    with archive.opened(path) as held:
        program = held.text(archive.MODEL)
    values = program["graph_module"]["graph"]["tensor_values"]
    specs = program["graph_module"]["signature"]["input_specs"]
    given = [each["user_input"]["arg"]["as_tensor"]["name"] for each in specs if "user_input" in each]
    return Signature(tuple(_declared(name, values[name]) for name in given), ())


def _declared(name: str, meta: Mapping[str, Any]) -> Declared:
    return name, archive.DTYPES.get(meta["dtype"]), tuple(each.get("as_int", OPEN) for each in meta["sizes"])


def audit(file: Path, subject: AuditSubject) -> dict[str, Any]:
    """Account for every tensor of an archive and the numbers of its operators, read without torch's loader.

    Raises:
        WeightsError: it is no exported program.
    """
    program, reason = subject.captured()
    with archive.opened(file) as held:
        stated = held.text(archive.MODEL)
        _, known = known_of(subject.state, program, subject.effect)
        found = audit_tensors(archive.tensors(held), known)
    uses.check(known, _uses(stated), found)
    result = found.to_json()
    return result if reason is None else {**result, "unchecked": reason}


def _uses(program: Mapping[str, Any]) -> Uses:
    outer, *inner = (tuple(_of_graph(graph)) for graph in archive.graphs(program))
    inside = tuple(use for graph in inner for use in graph)
    return Uses((*outer, *inside), frozenset(outer), frozenset(name for name, _ in inside))


def _of_graph(graph: Mapping[str, Any]) -> Iterator[Use]:
    for node in graph["nodes"]:
        arguments = _arguments(node)
        operator = node["target"].removeprefix("torch.ops.").rpartition(".")[0]
        if use := use_of(family(operator, arguments), arguments):
            yield use


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's arguments by the operator's own names, defaults included."""
    import torch

    given = {each["name"]: _plain(each["arg"]) for each in node["inputs"]}
    namespace, _, rest = node["target"].removeprefix("torch.ops.").partition(".")
    name, _, overload = rest.partition(".")
    operator = getattr(getattr(getattr(torch.ops, namespace, None), name, None), overload, None)
    if not isinstance(operator, torch._ops.OpOverload):  # noqa: SLF001 - what an operator of a graph is
        return given
    schema = operator._schema.arguments  # noqa: SLF001 - the only place that says so
    return {each.name: each.default_value for each in schema if each.has_default_value()} | given


def _plain(argument: Mapping[str, Any]) -> Any:
    ((kind, value),) = argument.items()
    if kind == "as_none":
        return None
    if kind == "as_sym_ints":
        return [each.get("as_int", OPEN) for each in value]
    return value if kind.startswith(("as_int", "as_float", "as_bool", "as_string")) else OPEN
