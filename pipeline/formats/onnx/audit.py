"""The audit of an ONNX file: its constants against the state dict, the numbers in its attributes against the exported program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.accounting import (
    BATCH_STATISTICS,
    DROPS_OUT,
    Audit,
    Known,
    Problem,
    account,
    check_use,
    known_of,
    uses_batch_statistics,
)
from pipeline.formats.onnx import attributes
from pipeline.formats.onnx.graph import Graph, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.onnx.graph import Node
    from pipeline.formats.program import Step

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def audit(file: Path, subject: AuditSubject) -> dict[str, Any]:
    """Account for every constant and numeric attribute of a file.

    Raises:
        InputError: it is no valid ONNX model.
    """
    return audit_graph(read(file), subject.state, subject.program)


def audit_graph(graph: Graph, state: Mapping[str, Any], program: Mapping[str, Any] | None) -> dict[str, Any]:
    """Account for every constant and numeric attribute of a graph.

    `state` holds the network's state dict as arrays, `program` what `pipeline.formats.program.as_values` returned, None
    where the network could not be exported: attributes are then not checked.
    """
    steps, known = known_of(state, program)
    found = Audit()
    used: set[str] = set()
    for constant in graph.constants:
        found.constants += 1
        found.elements += int(constant.value.size)
        used |= account(constant, graph, known, found)
    if steps:
        _check_attributes(graph, steps, known, found)
        check_use(steps, known, used, found)
    found.problems[:0] = _of_chance(graph, steps)  # what explains the others comes first
    return found.to_json()


def _check_attributes(graph: Graph, steps: Mapping[str, Step], known: Known, found: Audit) -> None:
    for node in graph.nodes:
        numeric = graph.numeric_attributes(node)
        if not numeric or graph.is_size_arithmetic(node):
            continue
        step = _step(node, graph, steps, known)
        wanted = attributes.expected(step, node.operator, steps) if step else None
        for name, value in numeric.items():
            if name in attributes.NEUTRAL:
                continue
            found.attributes += 1
            where = f"{node.name} ({node.operator}).{name}"
            if wanted is None or name not in wanted:
                if _is_default(node.operator, name, value, graph):
                    continue
                found.unaccounted.append({"name": where, "shape": [], "elements": 0, "dtype": "attribute"})
            elif not attributes.agrees(value, wanted[name], graph.rank(step, node)):
                assert step is not None  # noqa: S101 - what is wanted came from it
                text = f"is {_shown(value)}, and the network says {_shown(wanted[name])} ({step.operator})"
                found.problems.append(Problem(where, text, module=step.module))


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


def _step(node: Node, graph: Graph, steps: Mapping[str, Step], known: Known) -> Step | None:
    """Return the step a node came from: the layer its weight belongs to, or what its scopes, outputs or inputs name."""
    named = graph.step_of_node(node, steps)
    if node.operator in {"Conv", "ConvTranspose"}:  # a batch norm folded into one has left its own scopes on it
        return _by_weight(node.inputs, known) or named
    return named or attributes.step_before(node.inputs[0] if node.inputs else "", node.operator, steps)


def _by_weight(inputs: Sequence[str], known: Known) -> Step | None:
    return next((known.by_weight[name] for name in inputs if name in known.by_weight), None)


def _is_default(operator: str, name: str, value: Any, graph: Graph) -> bool:
    """Whether an attribute without a rule just states the specification's default."""
    return bool(graph.default(operator, name) == value)


def _shown(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
