"""The audit of a file: where every constant and every number in it comes from.

Some defects never show in outputs: a changed weight behind a dead unit, an epsilon far below the variance. They show in
the file. Every constant of a graph is a tensor of the state dict, bit for bit, or its transpose; or follows from some by a
known rule (batch norm folded into a convolution, what the program computes from weights alone), recomputed here in float64; or
is a literal that the exported program states. A constant that nearly equals what belongs there is a defect whatever the
outputs say.

Sources: for batch norm, w' = w·γ/√(σ²+ε) and b' = (b−μ)·γ/√(σ²+ε) + β (B. Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2, which folds them so); each
rounding of such a chain costs at most one unit roundoff of a term (Higham, section 3.1), and `_ROUNDINGS` of them are allowed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.onnx import attributes
from pipeline.formats.onnx.graph import Constant
from pipeline.formats.program import Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.formats.onnx.graph import Graph, Node

_UNIT_ROUNDOFF = 2.0**-24
_ROUNDINGS = 16
_NEAR = 0.5  # relative distance below which two tensors are versions of one another
_NEAR_SHARE = 0.5  # or: the share of elements that are equal, where a few differ by much
_LITERAL_ELEMENTS = 64
_NEAR_LITERAL = 0.25
_LISTED = 20
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
DROPS_OUT = "is dropout in training mode: it sets elements to 0 at random"
BATCH_STATISTICS = (
    "is batch norm in training mode: it uses batch statistics, so that a row's output depends on the others"
)
_WHOLE = frozenset({0, 1, -1, 2**63 - 1, -(2**63), 2**31 - 1, -(2**31)})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that is not what the network says: where, and what it nearly is."""

    where: str
    problem: str
    nearest: str | None = None
    differing: int = 0
    elements: int = 0
    module: str = ""


@dataclass(slots=True)
class Audit:
    """What was accounted for: elements of constants by how, attributes checked, and what is left over."""

    accounted: dict[str, int] = field(default_factory=dict)
    constants: int = 0
    elements: int = 0
    attributes: int = 0
    unaccounted: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the audit's result; `share` is the part of all constants' elements that is not accounted for."""
        left = sum(each["elements"] for each in self.unaccounted)
        return {
            "passed": not self.problems,
            "constants": self.constants,
            "elements": self.elements,
            "attributes": self.attributes,
            "accounted": dict(self.accounted),
            "share": left / self.elements if self.elements else 0.0,
            "unaccounted": self.unaccounted[:_LISTED],
            "unaccounted_count": len(self.unaccounted),
            "problems": [asdict(each) for each in self.problems[:_LISTED]],
            "problem_count": len(self.problems),
        }


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor that follows from the state dict by a rule, in float64, and how far float32 may be from it."""

    rule: str
    keys: tuple[str, ...]
    value: Any
    tolerance: Any


def audit_onnx(graph: Graph, state: Mapping[str, Any], program: Mapping[str, Any] | None) -> dict[str, Any]:
    """Account for every constant and numeric attribute of a graph.

    `state` holds the network's state dict as arrays, `program` what `pipeline.formats.program.describe` returned, None
    where the network could not be exported: attributes are then not checked.
    """
    steps = {each["name"]: Step(**each) for each in program["steps"]} if program else {}
    known = _Known(state, steps, program["folded"] if program else {})
    found = Audit()
    used: set[str] = set()
    for constant in graph.constants:
        found.constants += 1
        found.elements += int(constant.value.size)
        used |= _account(constant, graph, known, found)
    if steps:
        _check_attributes(graph, steps, known, found)
        _check_use(steps, known, used, found)
    found.problems[:0] = _of_chance(graph, steps)  # what explains the others comes first
    return found.to_json()


def audit_tensors(tensors: Mapping[str, Any], state: Mapping[str, Any], program: Mapping[str, Any] | None) -> Audit:
    """Account for named tensors of an archive (TorchScript's parameters, buffers and constants)."""
    steps = {each["name"]: Step(**each) for each in program["steps"]} if program else {}
    known = _Known(state, steps, program["folded"] if program else {})
    found = Audit(constants=len(tensors), elements=sum(int(each.size) for each in tensors.values()))
    used: set[str] = set()
    for name, value in tensors.items():
        used |= _account(Constant(name, value), None, known, found)
    if steps:
        _check_use(steps, known, used, found)
    return found


class _Known:
    """What constants are held against: the state dict by content, what follows from it, and the program's steps."""

    def __init__(self, state: Mapping[str, Any], steps: Mapping[str, Step], folded: Mapping[str, Any]) -> None:
        self.state = state
        self.steps = steps
        self._as_is = _by_digest(state.items())
        self._transposed: dict[tuple[str, bytes], list[str]] | None = None
        self.derived = [*_fused(steps, state), *_folded(folded), *_stacked(steps, state)]
        self.by_weight = {step.parameters["weight"]: step for step in steps.values() if "weight" in step.parameters}

    def equal(self, value: Any) -> list[tuple[str, str]]:
        """Return the state dict's tensors with the same bits, each with how: "equal" or "transposed"."""
        key = _digest(value)
        if keys := self._as_is.get(key):
            return [(each, "equal") for each in keys]
        if value.ndim != 2:
            return []
        if self._transposed is None:
            self._transposed = _by_digest((name, each.T) for name, each in self.state.items() if each.ndim == 2)
        return [(each, "transposed") for each in self._transposed.get(key, ())]

    def same_content(self, key: str) -> set[str]:
        """Return the names of all tensors that hold the same bits as `key`."""
        return set(self._as_is[_digest(self.state[key])])


def _account(constant: Constant, graph: Graph | None, known: _Known, found: Audit) -> set[str]:
    """Account for one constant; return the state dict's tensors that it uses."""
    users = graph.steps_of(constant, known.steps) if graph else []
    step = users[0] if len(users) == 1 else None
    # A whole number alone equals many by chance; only its name makes it one of the state dict's.
    alone = constant.value.dtype.kind != "f" and not constant.value.ndim and constant.name not in known.state
    matches = [] if alone else known.equal(constant.value)
    if matches:
        _count(found, matches[0][1], constant)
        if problem := _misplaced(constant, matches, step, graph, known):
            found.problems.append(problem)
        return {key for key, _ in matches}
    if (exact := _derived(constant, known)) is not None:
        _count(found, exact.rule, constant)
        return set(exact.keys)
    if constant.name not in known.state and _is_literal(constant, users, graph):
        _count(found, "literal", constant)
        return set()
    if (cast := _cast(constant, known)) is not None:
        _count(found, "cast", constant)
        return {cast}
    if problem := _near(constant, step, known):
        found.problems.append(problem)
        return {problem.nearest or ""}
    where = {"name": constant.name, "shape": list(constant.value.shape), "elements": int(constant.value.size)}
    found.unaccounted.append(where | {"dtype": constant.value.dtype.name})
    return set()


def _count(found: Audit, how: str, constant: Constant) -> None:
    found.accounted[how] = found.accounted.get(how, 0) + int(constant.value.size)


def _misplaced(
    constant: Constant, matches: Sequence[tuple[str, str]], step: Step | None, graph: Graph | None, known: _Known
) -> Problem | None:
    """Say it when a tensor of the state dict, whole as it is, stands where another belongs, or the wrong way round."""
    keys = {key for key, _ in matches}
    if constant.name in known.state and constant.name not in keys:
        if any(each.rule == "batch norm folded" and constant.name in each.keys for each in known.derived):
            return None
        return Problem(constant.name, "holds another tensor of the state dict", min(keys), module=_module(step))
    expected = (
        {key for key in step.parameters.values() if known.state[key].size == constant.value.size} if step else set()
    )
    if step and expected and not any(known.same_content(key) & keys for key in expected):
        return Problem(constant.name, f"stands where {min(expected)} belongs", min(keys), module=step.module)
    wanted = graph.orientation(constant, step) if graph else None
    if wanted and wanted not in {how for _, how in matches} and not _is_symmetric(constant.value):
        return Problem(
            constant.name, f"is {matches[0][1]}, where it should be {wanted}", min(keys), module=_module(step)
        )
    return None


def _derived(constant: Constant, known: _Known) -> Derived | None:
    flat = constant.value.reshape(-1)
    for each in known.derived:
        if each.value.size != flat.size or constant.value.dtype.kind != each.value.dtype.kind:
            continue
        wanted, tolerance = each.value.reshape(-1), np.broadcast_to(each.tolerance, each.value.shape).reshape(-1)
        head = slice(0, 16)  # most candidates differ at once
        if _within(flat[head], wanted[head], tolerance[head]) and _within(flat, wanted, tolerance):
            return each
    return None


def _within(value: Any, wanted: Any, tolerance: Any) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.abs(value.astype(np.float64) - wanted) <= tolerance).all())


def _is_literal(constant: Constant, users: Sequence[Step], graph: Graph | None) -> bool:
    """Whether the program states every number of a small constant, or it only computes sizes."""
    if constant.value.size > _LITERAL_ELEMENTS or constant.value.dtype.kind not in "fiub":
        return False
    if constant.value.dtype.kind == "b":
        return True
    if constant.value.dtype.kind in "iu" and graph and graph.only_sizes(constant):
        return True
    numbers = constant.value.reshape(-1).tolist()
    if constant.value.dtype.kind in "iu":
        # Axes, starts and sizes: every case would fail at once on a wrong one, so that here it is enough that they are small.
        return all(_allowed_whole(number, users) for number in numbers)
    return all(
        all(_stated(number, attributes.numbers(step)[1], constant.value.dtype) for step in users)
        if users
        else number in {0.0, 1.0}
        for number in numbers
    )


def _allowed_whole(number: int, users: Sequence[Step]) -> bool:
    if number in _WHOLE or not users:
        return number in _WHOLE or abs(number) < _LITERAL_ELEMENTS
    return all(number in attributes.numbers(step)[0] for step in users)


def _stated(number: float, real: set[float], dtype: Any) -> bool:
    with np.errstate(over="ignore"):
        held = {float(dtype.type(each)) for each in real}
    return number in held or any(
        abs(number - each) <= 4 * _UNIT_ROUNDOFF * abs(each) for each in held if np.isfinite(each)
    )


def _cast(constant: Constant, known: _Known) -> str | None:
    """Return the tensor of the state dict that a constant of another floating dtype is the cast of."""
    if constant.value.dtype.kind != "f":
        return None
    for key, tensor in known.state.items():
        if tensor.size != constant.value.size or tensor.dtype == constant.value.dtype or tensor.dtype.kind != "f":
            continue
        with np.errstate(over="ignore"):
            for layout in (tensor, tensor.T) if tensor.ndim == 2 else (tensor,):
                if np.array_equal(layout.astype(constant.value.dtype).reshape(-1), constant.value.reshape(-1)):
                    return key
    return None


def _near(constant: Constant, step: Step | None, known: _Known) -> Problem | None:
    """Say what a constant nearly equals: the tensor of its name, of its step, or any other of its size."""
    candidates = list(_candidates(constant, step, known))
    if (
        constant.name in known.state
    ):  # a version of that one, or of what follows from it, whatever else it may be nearer to
        candidates = [each for each in candidates if constant.name in (each[0], *each[0].replace(":", ",").split(", "))]
    best = min(candidates, key=lambda each: each[1], default=None)
    named = constant.name in known.state
    if best is None:
        if named:
            own, size = known.state[constant.name], int(constant.value.size)
            if own.shape == constant.value.shape:
                words, count = "holds other values than the state dict", int((own != constant.value).sum())
                return Problem(constant.name, f"{words}: {count:,} of {size:,} differ", constant.name, count, size)
            words = f"has {list(constant.value.shape)}, and {constant.name} is {list(own.shape)}"
            return Problem(constant.name, words, constant.name)
        return None
    key, distance, differing = best
    size = int(constant.value.size)
    if distance < _NEAR or differing <= size * (1 - _NEAR_SHARE) or named:
        verb = "nearly equals" if distance < _NEAR or differing <= size * (1 - _NEAR_SHARE) else "is not"
        words = f"{verb} {key}: {differing:,} of {size:,} elements differ (relative distance {distance:.2g})"
        return Problem(constant.name, words, key, differing, size, _module(step))
    return None


def _candidates(constant: Constant, step: Step | None, known: _Known) -> Iterator[tuple[str, float, int]]:
    """Yield, for what a constant may be a version of, its name, the relative distance and how many elements differ."""
    value = constant.value
    if value.dtype.kind != "f" or not value.size:
        return
    flat = value.reshape(-1).astype(np.float64)
    for key, tensor in known.state.items():
        if (
            tensor.size != flat.size
            or tensor.dtype.kind != "f"
            or (flat.size == 1 and not _belongs(key, constant, step))
        ):
            continue
        for layout in (tensor, tensor.T) if tensor.ndim == 2 and tensor.size > 1 else (tensor,):
            yield _distance(key, flat, layout.reshape(-1).astype(np.float64), 0.0)
    for each in known.derived:
        if each.value.size == flat.size and each.value.dtype.kind == "f" and flat.size > 1:
            tolerance = np.broadcast_to(each.tolerance, each.value.shape).reshape(-1)
            yield _distance(f"{each.rule}: {', '.join(each.keys[:2])}", flat, each.value.reshape(-1), tolerance)
    if flat.size == 1 and step is not None:
        _, real = attributes.numbers(step)
        for number in sorted(real - {0.0}):
            if np.isfinite(number) and abs(flat[0] - number) <= _NEAR_LITERAL * abs(number):
                yield f"the literal {number:.9g} of {step.operator}", abs(flat[0] - number) / abs(number), 1


def _belongs(key: str, constant: Constant, step: Step | None) -> bool:
    return key == constant.name or (step is not None and key in step.parameters.values())


def _distance(key: str, flat: Any, wanted: Any, tolerance: Any) -> tuple[str, float, int]:
    norm = float(np.linalg.norm(wanted))
    away = float(np.linalg.norm(flat - wanted))
    with np.errstate(invalid="ignore"):
        differing = int((~(np.abs(flat - wanted) <= tolerance)).sum())
    return key, away / norm if norm else (np.inf if away else 0.0), differing


def _check_attributes(graph: Graph, steps: Mapping[str, Step], known: _Known, found: Audit) -> None:
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


def uses_batch_statistics(steps: Mapping[str, Step]) -> bool:
    """Whether the network itself normalises by the batch's own statistics, even in eval mode (track_running_stats=False)."""
    return any(
        "batch_norm" in step.operator and step.arguments.get("training", False) is True for step in steps.values()
    )


def _step(node: Node, graph: Graph, steps: Mapping[str, Step], known: _Known) -> Step | None:
    """Return the step a node came from: the layer its weight belongs to, or what its scopes, outputs or inputs name."""
    named = graph.step_of_node(node, steps)
    if node.operator in {"Conv", "ConvTranspose"}:  # a batch norm folded into one has left its own scopes on it
        return _by_weight(node.inputs, known) or named
    return named or attributes.step_before(node.inputs[0] if node.inputs else "", node.operator, steps)


def _by_weight(inputs: Sequence[str], known: _Known) -> Step | None:
    return next((known.by_weight[name] for name in inputs if name in known.by_weight), None)


def _is_default(operator: str, name: str, value: Any, graph: Graph) -> bool:
    """Whether an attribute without a rule just states the specification's default."""
    return bool(graph.default(operator, name) == value)


def _check_use(steps: Mapping[str, Step], known: _Known, used: set[str], found: Audit) -> None:
    """Every tensor that the program reads must be in the file, unless it has no effect."""
    if any(each["dtype"].startswith("float") and each["elements"] > 1 for each in found.unaccounted):
        return  # what could not be accounted for may hold it
    needed = {key for step in steps.values() for key in step.parameters.values()}
    contained = {other for key in used if key in known.state for other in known.same_content(key)} | used
    for key in sorted(needed - contained):
        tensor = known.state[key]
        if tensor.dtype.kind == "f" and tensor.any():
            found.problems.append(Problem(key, "is used by the network and is not in the file", key))


def _fused(steps: Mapping[str, Step], state: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield weight and bias of each convolution or linear layer with the batch norm after it folded in."""
    for norm in steps.values():
        if "batch_norm" not in norm.operator or "running_var" not in norm.parameters:
            continue
        layer = steps.get(str(norm.arguments["input"]).removeprefix("%"))
        if layer is None or "weight" not in layer.parameters:
            continue
        weight = state[layer.parameters["weight"]].astype(np.float64)
        bias = state[layer.parameters["bias"]].astype(np.float64) if "bias" in layer.parameters else 0.0
        mean, variance, gamma, beta = (
            state[norm.parameters[name]].astype(np.float64) if name in norm.parameters else default
            for name, default in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0))
        )
        scale = gamma / np.sqrt(variance + float(norm.arguments["eps"]))
        keys = (*layer.parameters.values(), *norm.parameters.values())
        axis = 1 if "transpose" in layer.operator else 0
        if weight.shape[axis] != np.size(scale):
            continue  # a grouped transposed convolution is not folded
        folded = weight * scale.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
        terms = np.abs(scale) * (np.abs(bias) + np.abs(mean)) + np.abs(beta)
        margin = _ROUNDINGS * _UNIT_ROUNDOFF
        yield Derived("batch norm folded", keys, folded, margin * np.abs(folded))
        yield Derived("batch norm folded", keys, (bias - mean) * scale + beta, margin * terms)


def _folded(folded: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield what the program computes from weights and its own constants alone."""
    for name, value in folded.items():
        largest = np.abs(value).max(initial=0.0) if value.dtype.kind == "f" else 0.0
        yield Derived("folded", (name,), value, _ROUNDINGS * _UNIT_ROUNDOFF * largest)


def _stacked(steps: Mapping[str, Step], state: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield the weights of recurrent layers as ONNX orders their gates (ONNX operators LSTM: iofc, GRU: zrh; torch: ifgo, rzn)."""
    orders = {"aten.lstm": [0, 3, 1, 2], "aten.gru": [1, 0, 2], "aten.rnn_tanh": [0], "aten.rnn_relu": [0]}
    for step in steps.values():
        order = orders.get(step.operator)
        if order is None:
            continue
        keys = list(step.parameters.values())
        tensors = [_gates(state[key].astype(np.float64), order) for key in keys]
        group = 4 if step.arguments.get("has_biases") else 2
        directions = 2 if step.arguments.get("bidirectional") else 1
        layers = [
            range(start, start + group * directions) for start in range(0, len(keys) - group + 1, group * directions)
        ]
        for layer in layers:
            parts = [list(layer)[index::group] for index in range(group)]
            for part in parts[:2]:
                yield Derived(
                    "gates reordered",
                    tuple(keys[each] for each in part),
                    np.stack([tensors[each] for each in part]),
                    0.0,
                )
            if group == 4:
                both = [
                    np.concatenate([tensors[first], tensors[second]])
                    for first, second in zip(parts[2], parts[3], strict=True)
                ]
                yield Derived(
                    "gates reordered", tuple(keys[each] for each in (*parts[2], *parts[3])), np.stack(both), 0.0
                )


def _gates(tensor: Any, order: Sequence[int]) -> Any:
    blocks = np.split(tensor, len(order))
    return np.concatenate([blocks[each] for each in order])


def _by_digest(tensors: Any) -> dict[tuple[str, bytes], list[str]]:
    found: dict[tuple[str, bytes], list[str]] = {}
    for name, tensor in tensors:
        found.setdefault(_digest(tensor), []).append(name)
    return found


def _digest(value: Any) -> tuple[str, bytes]:
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return value.dtype.name, hashlib.blake2b(content.data, digest_size=16).digest()


def _is_symmetric(value: Any) -> bool:
    return bool(value.ndim == 2 and value.shape[0] == value.shape[1] and np.array_equal(value, value.T))


def _module(step: Step | None) -> str:
    return step.module if step else ""


def _shown(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
