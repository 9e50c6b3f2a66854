"""From "outputs differ" to a node: run a graph once with every value exposed, and find where the error begins.

What each value should be is known from the exported program, run step by step in float64: ONNX values carry the names of
the program's steps. Values in between (a product before its bias is added) come from the network exported afresh. The
culprit is the first node whose output leaves its error budget although none of its inputs does.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.errors import ExportError
from pipeline.formats.format import CulpritSearch, Found
from pipeline.formats.onnx.graph import read
from pipeline.formats.onnx.reproduction import Culprit, write_reproduction
from pipeline.formats.onnx.session import DEFAULT_LEVEL
from pipeline.formats.onnx.truths import LIMIT, exposed, truths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.formats.onnx.graph import Graph, Node
    from pipeline.formats.onnx.truths import Truths
    from pipeline.interface import Arrays

_NEAR = 1e-3
_SHOWN_ATTRIBUTES = 12


def search(wanted: CulpritSearch) -> Found:
    """Look for the node where a file's error begins, and write its reproduction.

    Raises:
        InputError: the file is no valid ONNX model.
    """
    try:
        known = truths(wanted).renamed(wanted.outputs)
    except ExportError as error:
        return Found(None, f"no step of the network to compare with: {error.message}")
    graph = read(wanted.file, whole=True)
    level = wanted.options.get("graph_optimization_level", DEFAULT_LEVEL)
    fed = {wanted.names[name]: array for name, array in wanted.inputs.items()}
    found = find(graph, fed, known, level=level, custom_ops=wanted.custom_ops)
    if found is not None and found.output in known.values:
        write_reproduction(graph, found, fed, known, wanted.folder, level=level, custom_ops=wanted.custom_ops)
    if found is None:
        return Found(None, "with every value exposed, each is within its budget", known.program_outputs)
    return Found(as_json(found), None, known.program_outputs)


def find(graph: Graph, inputs: Arrays, known: Truths, *, level: str, custom_ops: Path | None = None) -> Culprit | None:
    """Return the first node of `graph` whose error its inputs do not explain, None if no value is off."""
    values = exposed(graph.model, inputs, level=level, custom_ops=custom_ops)
    # A single case says little about the noise of a single channel: judge by whole tensors first.
    found = _first(graph, values, inputs, known, whole=True) or _first(graph, values, inputs, known, whole=False)
    if found is not None and _has_known_inputs(graph, found, values, inputs, known):
        return found
    return _last_good(graph, values, inputs, known) or found


def _has_known_inputs(graph: Graph, found: Culprit, values: Mapping[str, Any], inputs: Arrays, known: Truths) -> bool:
    """Whether what the culprit was given is known to be right, rather than nothing being known of it."""
    node = next(each for each in graph.nodes if each.name == found.node and found.output in each.outputs)
    given = [name for name in node.inputs if name in values and name not in inputs]
    return all(
        values[name].dtype.kind != "f" or _judge(name, values[name], known, whole=True) is not None for name in given
    )


def _first(graph: Graph, values: Mapping[str, Any], inputs: Arrays, known: Truths, *, whole: bool) -> Culprit | None:
    factors: dict[str, float] = dict.fromkeys(inputs, 0.0)
    found: Culprit | None = None
    explored = 0
    for node in graph.nodes:
        arriving = max((factors.get(name, 0.0) for name in node.inputs), default=0.0)
        for output in node.outputs:
            judged = _judge(output, values.get(output), known, whole=whole)
            explored += judged is not None
            # A value nothing is known of is as good as what it was made from.
            factors[output] = judged.factor if judged else arriving
            if found is None and judged and judged.factor > LIMIT and arriving <= LIMIT:
                found = _culprit(graph, node, output, judged, arriving, known)
    return found and replace(found, explored=explored, certain=whole and found.certain)


class _Judged(NamedTuple):
    """A value's factor with its worst element, expected and got there, or in words what is wrong where no element is."""

    factor: float
    worst_index: tuple[int, ...] = ()
    expected: float = 0.0
    got: float = 0.0
    problem: str | None = None


def _judge(name: str, value: Any, known: Truths, *, whole: bool) -> _Judged | None:
    """Return how far a value is from what is known of it; None if nothing is."""
    if value is None:
        return None
    if value.dtype.kind != "f":
        return _judge_exactly(value, known.values.get(name))
    named = truth = known.values.get(name)
    if truth is not None and truth[0].dtype.kind != "f":
        truth = named = None
    if truth is None or truth[0].shape != value.shape:
        truth = _by_content(value, known)
    if truth is None and named is not None:
        return _Judged(np.inf, problem=f"shape {list(value.shape)} instead of {list(named[0].shape)}")
    if truth is None:
        return None
    expected, noise = truth
    if not value.size:
        return _Judged(0.0)
    (floor,) = known.floors(
        [expected], [np.full_like(noise, noise[np.isfinite(noise)].max(initial=0.0)) if whole else noise]
    )
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(value.astype(np.float64) - expected)
        equal = (value == expected) | (np.isnan(value) & np.isnan(expected))
    error = np.where(equal | ~np.isfinite(noise), 0.0, np.nan_to_num(error, nan=np.inf))
    share = error / np.broadcast_to(floor, error.shape)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(share)), share.shape))
    return _Judged(float(share[index]), index, float(expected[index]), float(value[index]))


def _judge_exactly(value: Any, truth: tuple[Any, Any] | None) -> _Judged | None:
    """Return whether an integer or boolean value is the step's of its name; None where there is none of its kind."""
    if truth is None or truth[0].dtype.kind == "f" or value.dtype.kind not in "biu":
        return None
    expected, noise = truth
    if expected.shape != value.shape:
        return _Judged(np.inf, problem=f"shape {list(value.shape)} instead of {list(expected.shape)}")
    differs = (value != expected) & (noise == 0)
    if not differs.any():
        return _Judged(0.0)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(differs)), differs.shape))
    return _Judged(np.inf, index, float(expected[index]), float(value[index]))


def _last_good(graph: Graph, values: Mapping[str, Any], inputs: Arrays, known: Truths) -> Culprit | None:
    """Return the first node all of whose inputs the network computes too, and nothing that follows from it.

    A file of another exporter has values that no step of the program has a name for. A healthy one among them has something
    behind it that a step computes.
    """
    judged = {name: _judge(name, value, known, whole=True) for name, value in values.items()}
    good = {name for name, each in judged.items() if each and each.factor <= LIMIT and values[name].dtype.kind == "f"}
    from_input = set(inputs)
    leads = set(good)
    for node in graph.nodes:
        if any(name in from_input for name in node.inputs):
            from_input.update(node.outputs)
    for node in reversed(graph.nodes):
        if leads.intersection(node.outputs):
            leads.update(node.inputs)
    for node in graph.nodes:
        output = next((name for name in node.outputs if name in values), "")
        fed = [name for name in node.inputs if name in from_input]
        is_right = all(name in inputs or name in good or not _is_floating(values.get(name)) for name in fed)
        if fed and is_right and output not in leads and _is_floating(values.get(output)):
            place, expected = _nearest(node, values[output], known)
            found = _culprit(graph, node, output, _off(values[output], expected), 0.0, known, place)
            return replace(found, explored=len(judged), certain=False)
    return None


def _is_floating(value: Any) -> bool:
    return value is not None and value.dtype.kind == "f" and value.size > 1


def _nearest(node: Node, value: Any, known: Truths) -> tuple[tuple[str, str, str] | None, Any]:
    """Return the step that a node stands for, by the weights it uses or its path, with its value; of several the nearest."""
    names = [name for name in node.inputs if name in known.users]
    steps = [step for name in names for step in known.users[name]]
    if not steps:
        path = ".".join(part for part in node.name.split("/")[1:-1] if part)
        steps = [step for step, place in known.places.items() if path and place[0] == path]
    fitting = {step: known.values[step][0] for step in steps if step in known.values}
    fitting = {step: each for step, each in fitting.items() if each.shape == value.shape and each.dtype.kind == "f"}
    if not fitting:
        return (known.places[steps[0]] if steps else None), None
    nearest = min(fitting, key=lambda step: float(np.nan_to_num(np.abs(fitting[step] - value), nan=np.inf).sum()))
    return known.places[nearest], fitting[nearest]


def _off(value: Any, expected: Any) -> _Judged:
    if expected is None:
        return _Judged(
            np.inf,
            problem="nothing that the network computes comes out of it or of what follows, and its inputs are right",
        )
    error = np.nan_to_num(np.abs(value.astype(np.float64) - expected), nan=np.inf)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(error)), error.shape))
    return _Judged(np.inf, index, float(expected[index]), float(value[index]))


def _by_content(value: Any, known: Truths) -> tuple[Any, Any] | None:
    """Return the step whose value this nearly is: files of other exporters have other names."""
    for expected, noise in known.values.values():
        if expected.shape == value.shape and value.size > 1 and expected.dtype.kind == "f":
            scale = np.abs(expected).max(initial=0.0)
            with np.errstate(invalid="ignore"):
                if scale and np.abs(value - expected).max() <= _NEAR * scale:
                    return expected, noise
    return None


def _culprit(
    graph: Graph,
    node: Node,
    output: str,
    judged: _Judged,
    arriving: float,
    known: Truths,
    place: tuple[str, str, str] | None = None,
) -> Culprit:
    module, source, _ = (
        place
        or known.places.get(output)
        or next(
            (known.places[name] for name in (*node.scopes[-1:], *node.outputs) if name in known.places),
            (node.scopes[-2] if len(node.scopes) > 1 else "", "", ""),
        )
    )
    attributes = dict(list(graph.numeric_attributes(node).items())[:_SHOWN_ATTRIBUTES])
    consumers = tuple(user.name for each in node.outputs for user in graph.users.get(each, ()))
    return Culprit(
        node=node.name,
        operator=node.operator,
        module=module,
        source=source,
        attributes=attributes,
        output=output,
        factor=judged.factor,
        input_factor=arriving,
        worst_index=judged.worst_index,
        expected=judged.expected,
        got=judged.got,
        consumers=consumers,
        explored=0,
        certain=output in known.values,
        problem=judged.problem,
    )


def as_json(culprit: Culprit) -> dict[str, Any]:
    """Return a culprit as JSON values; what is not finite as text."""
    return {name: _plain(value) for name, value in asdict(culprit).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
