"""The audit of an OpenVINO model: its constants against the state dict, and the numbers of its layers that outputs may hide."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.formats.accounting import account, check_use, known_of
from pipeline.formats.known import is_floating
from pipeline.formats.ledger import Audit, Problem
from pipeline.formats.openvino.graph import Graph, read
from pipeline.formats.openvino.source import TAKEN
from pipeline.formats.openvino.source import read as read_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.known import Known
    from pipeline.formats.ledger import Constant
    from pipeline.formats.openvino.graph import Layer
    from pipeline.formats.openvino.source import Source

_HIDDEN = ("eps", "epsilon", "alpha")
"""Attributes whose value outputs may hide."""
_RANDOM = frozenset({"RandomUniform", "RandomNormal", "Multinomial"})
_STATES = frozenset({"ReadValue", "Assign"})
_ROUNDINGS = 4 * 2.0**-24


def audit(file: Path, subject: AuditSubject) -> dict[str, Any]:
    """Account for every constant of a file, and the numbers of its layers that outputs may hide.

    Raises:
        UnsafeError, WeightsError: it is no OpenVINO model, or one that may not be opened.
    """
    program, reason = (subject.program, None) if subject.program else subject.captured()
    source = read_source(subject.source, subject, program) if subject.source else None
    narrow = bool(subject.precision)
    found = audit_graph(read(file), subject.state, program, subject.effect, is_narrow=narrow, source=source)
    return found if reason is None else {**found, "unchecked": reason}


def audit_graph(
    graph: Graph,
    state: Mapping[str, Any],
    program: Mapping[str, Any] | None,
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None,
    *,
    is_narrow: bool = False,
    source: Source | None = None,
) -> dict[str, Any]:
    """Account for a graph; the arguments are those of `pipeline.formats.onnx.audit.audit_graph`.

    `is_narrow`: weights may be rounded; `source`: by whom they were.
    """
    steps, known = known_of(state, program, effect)
    found = Audit()
    used: set[str] = set()
    for constant in graph.constants:
        found.constants += 1
        found.elements += int(constant.value.size)
        taken = source.holds(constant, graph) if source else None
        if source and taken is not None:
            found.count(TAKEN, constant)
            used.update(source.keys(taken))
        elif source and (contradiction := source.contradicts(constant, graph)):
            found.problems.append(contradiction)
        elif not is_narrow and (rounded := _rounded(constant, known)):
            found.problems.append(rounded)
            used.add(rounded.nearest or "")
        else:
            used |= account(constant, graph, known, found)
    used |= source.lacks(state) if source else set()
    if steps:
        for layer in graph.layers:
            found.problems += _misstated(layer, known, found)
        check_use(known, used, graph.constants, found)
    # What explains the others comes first.
    found.problems[:0] = _of_chance(graph)
    found.problems[:0] = (
        [replace(each, where=f"{source.name}: {each.where}") for each in source.audit.problems] if source else []
    )
    return found.to_json()


def _rounded(constant: Constant, known: Known) -> Problem | None:
    """Say it when a tensor of the network stands in the file in a narrower type, as OpenVINO saves it unless it is told otherwise."""
    value = constant.value
    if not is_floating(value) or value.dtype.itemsize > 2 or value.size < 2:
        return None
    key = known.cast(value)
    if key is None or known.state[key].dtype.itemsize <= value.dtype.itemsize:
        return None
    words = f"is {key} rounded to {value.dtype.name}, and the network has it in {known.state[key].dtype.name}"
    return Problem(constant.name, words, key, int(value.size), int(value.size))


def _misstated(layer: Layer, known: Known, found: Audit) -> Iterator[Problem]:
    """Yield the numbers of a layer that no operator of the network says: OpenVINO has none of its own that is free."""
    for name in _HIDDEN:
        if name not in layer.attributes:
            continue
        found.attributes += 1
        number = float(layer.attributes[name])
        if not any(abs(number - each) <= _ROUNDINGS * abs(each) for each in known.numbers[1]):
            yield Problem(
                f"{layer.name} ({layer.type}).{name}", f"is {number:.9g}, which no operator of the network says"
            )
    if layer.type == "Gelu":
        found.attributes += 1
        mode = layer.attributes.get("approximation_mode", "ERF").lower()
        stated = {
            str(step.arguments.get("approximate", "none")) for step in known.steps.values() if "gelu" in step.operator
        }
        wanted = {"none": "erf", "tanh": "tanh"}
        if stated and mode not in {wanted.get(each, each) for each in stated}:
            said = " or ".join(sorted(stated))
            yield Problem(
                f"{layer.name} (Gelu).approximation_mode", f"is {mode}, and the network says {said} (aten.gelu)"
            )


def _of_chance(graph: Graph) -> Iterator[Problem]:
    """Say which layers draw random numbers or keep a state between calls: no export of a network has them."""
    for layer in graph.layers:
        if layer.type in _RANDOM:
            yield Problem(f"{layer.name} ({layer.type})", "draws random numbers, which the network does not")
        elif layer.type in _STATES:
            yield Problem(f"{layer.name} ({layer.type})", "keeps a state between calls, which the network does not")
