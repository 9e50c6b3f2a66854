"""The audit of an ONNX file: its constants against the state dict, the numbers in its attributes against the exported program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.accounting import (
    BATCH_STATISTICS,
    DROPS_OUT,
    account,
    check_use,
    known_of,
    uses_batch_statistics,
)
from pipeline.formats.ledger import Audit, Problem
from pipeline.formats.onnx import attributes, quantised
from pipeline.formats.onnx.graph import Graph, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.known import Known
    from pipeline.formats.onnx.graph import Node
    from pipeline.formats.program import Step

# What is known by its weight: the one operator that takes it.
_BY_WEIGHT = frozenset({"Conv", "ConvTranspose"}) | attributes.STRICT_OPERATORS
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def audit(file: Path, subject: AuditSubject) -> dict[str, Any]:
    """Account for every constant and numeric attribute of a file.

    Raises:
        InputError: it is no valid ONNX model.
    """
    program, reason = (subject.program, None) if subject.program else subject.captured()
    found = audit_graph(read(file), subject.state, program, subject.effect)
    return found if reason is None else {**found, "unchecked": reason}


def audit_graph(
    graph: Graph,
    state: Mapping[str, Any],
    program: Mapping[str, Any] | None,
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None,
) -> dict[str, Any]:
    """Account for every constant and numeric attribute of a graph.

    `state` holds the network's state dict as arrays, `program` what `pipeline.formats.program.as_values` returned, None
    where the network could not be exported: attributes are then not checked. `effect`: as `pipeline.formats.format.AuditSubject` has it.
    """
    return account_graph(graph, state, program, effect).to_json()


def account_graph(
    graph: Graph,
    state: Mapping[str, Any],
    program: Mapping[str, Any] | None,
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None,
) -> Audit:
    """Return what `audit_graph` says in JSON."""
    steps, known = known_of(state, program, effect)
    found = Audit()
    done, used = quantised.account(graph, known, found)
    for constant in graph.constants:
        if constant.name in done:
            continue
        found.constants += 1
        found.elements += int(constant.value.size)
        used |= account(constant, graph, known, found)
    if steps:
        _check_attributes(graph, known, found)
        check_use(known, used, graph.constants, found)
    found.problems[:0] = _of_chance(graph, steps)  # what explains the others comes first
    return found


@dataclass(frozen=True, slots=True)
class _Origin:
    """The steps that a node may have come from; `is_sure`: by what it is called or which weight it has, and not by its kind."""

    steps: tuple[Step, ...]
    is_sure: bool


def _check_attributes(graph: Graph, known: Known, found: Audit) -> None:
    for node in graph.nodes:
        numeric = graph.numeric_attributes(node)
        # What an operator of whole numbers says of axes, blocks and bits is held against the weights with it.
        if not numeric or graph.is_size_arithmetic(node) or node.operator in quantised.OPERATORS:
            continue
        origin = _origin(node, graph, known, found)
        for name, value in numeric.items():
            if name not in attributes.NEUTRAL:
                found.attributes += 1
                _check_attribute(node, name, value, origin, graph, known, found)


def _check_attribute(
    node: Node, name: str, value: Any, origin: _Origin, graph: Graph, known: Known, found: Audit
) -> None:
    expected = [(step, attributes.expected(step, node.operator, known.steps)) for step in origin.steps]
    wanted = [(step, each[name]) for step, each in expected if each and name in each]
    if any(attributes.agrees(value, each, graph.rank(step, node)) for step, each in wanted):
        return
    is_strict = name in attributes.STRICT
    if not wanted:
        if _is_default(node.operator, name, value, graph):
            return
        # Where no rule says what a number should be, it is left over; one that outputs may hide has to be somebody's.
        if not is_strict or node.operator not in attributes.STRICT_OPERATORS or _states(known, value):
            _leave(node, name, found)
            return
    elif is_strict and not origin.is_sure and _states(known, value):
        return
    if name == "perm" and any(value in attributes.merged(step, known.steps) for step, _ in wanted):
        return
    if wanted and not is_strict and (not origin.is_sure or _may_be_merged(name, wanted, known)):
        _leave(node, name, found)
        return
    found.problems.append(_misstated(node, name, value, wanted))


def _states(known: Known, value: Any) -> bool:
    """Whether any step of the program states a number, as float32 holds it."""
    return isinstance(value, float) and any(attributes.agrees(value, each, None) for each in known.numbers[1])


def _leave(node: Node, name: str, found: Audit) -> None:
    found.leave(f"{node.name} ({node.operator}).{name}", (), 0, "attribute", node.operator)


def _may_be_merged(name: str, wanted: Sequence[tuple[Step, Any]], known: Known) -> bool:
    return name == "perm" and any(
        attributes.merged(step, known.steps) or attributes.is_beside_a_transpose(step, known.steps)
        for step, _ in wanted
    )


def _misstated(node: Node, name: str, value: Any, wanted: Sequence[tuple[Step, Any]]) -> Problem:
    where = f"{node.name} ({node.operator}).{name}"
    if not wanted:
        return Problem(where, f"is {_shown(value)}, which no operator of the network says")
    step, first = wanted[0]
    others = {_shown(each) for _, each in wanted} - {_shown(first)}
    said = f"{_shown(first)}{f' or {len(others)} others' if others else ''}"
    return Problem(where, f"is {_shown(value)}, and the network says {said} ({step.operator})", module=step.module)


def _of_chance(graph: Graph, steps: Mapping[str, Step]) -> Iterator[Problem]:
    """Say which nodes are in training mode or draw random numbers, where the network does neither."""
    constants = {each.name: each.value for each in graph.constants}
    for node in graph.nodes:
        if node.operator == "Dropout" and len(node.inputs) > 2 and np.any(constants.get(node.inputs[2], False)):
            yield Problem(f"{node.name} (Dropout)", DROPS_OUT)
        elif node.operator == "BatchNormalization" and graph.numeric_attributes(node).get("training_mode"):
            if not uses_batch_statistics(steps):
                yield Problem(f"{node.name} (BatchNormalization)", BATCH_STATISTICS)
        elif node.operator in _RANDOM:
            yield Problem(f"{node.name} ({node.operator})", "draws random numbers, which the network does not")


def _origin(node: Node, graph: Graph, known: Known, found: Audit) -> _Origin:
    """Return the steps a node may have come from: by its scopes or outputs, its weights, what it reads, or its kind.

    A weight may be used several times, with other attributes each time.
    """
    named = graph.step_of_node(node, known.steps)
    by_weight = _by_weight(node, known, found)
    has_rule = named is not None and attributes.expected(named, node.operator, known.steps) is not None
    # A batch norm folded into a convolution has left its own scopes on it.
    if named and has_rule and (named in by_weight or not by_weight or node.operator not in _BY_WEIGHT):
        return _Origin((named,), is_sure=True)
    if by_weight:  # what is computed from a weight is read by other operators than the weight
        return _Origin(tuple(by_weight), is_sure=node.operator in _BY_WEIGHT)
    if named:
        return _Origin((named,), is_sure=True)
    before = attributes.steps_before(node.inputs[0] if node.inputs else "", node.operator, known.steps)
    if len(before) == 1:
        return _Origin(tuple(before), is_sure=True)
    return _Origin(tuple(attributes.steps_with_rule(node.operator, known.steps.values())), is_sure=False)


def _by_weight(node: Node, known: Known, found: Audit) -> list[Step]:
    """Return the steps that read what the first of a node's constants holds or follows from, and that it may have come from."""
    for name in node.inputs:
        reading = {step.name: step for key in found.holds.get(name, ()) for step in known.readers.get(key, ())}
        if steps := attributes.steps_with_rule(node.operator, reading.values()):
            return steps
    return []


def _is_default(operator: str, name: str, value: Any, graph: Graph) -> bool:
    """Whether an attribute without a rule just states the specification's default."""
    return bool(graph.default(operator, name) == value)


def _shown(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
