"""The audit of a file: where every constant and every number in it comes from.

Some defects never show in outputs: a changed weight behind a dead unit, an epsilon far below the variance. They show in
the file. Every constant is a tensor of the state dict, bit for bit, or its transpose; or follows from some by a
known rule (see `pipeline.formats.derived`); or is a literal that the exported program states. A constant that nearly equals what
belongs there is a defect whatever the outputs say.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.formats import literals
from pipeline.formats.derived import UNIT_ROUNDOFF, Derived, derived
from pipeline.formats.program import Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NEAR = 0.5  # relative distance below which two tensors are versions of one another
_NEAR_SHARE = 0.5  # or: the share of elements that are equal, where a few differ by much
_LITERAL_ELEMENTS = 64
_NEAR_LITERAL = 0.25
_LISTED = 20
DROPS_OUT = "is dropout in training mode: it sets elements to 0 at random"
BATCH_STATISTICS = (
    "is batch norm in training mode: it uses batch statistics, so that a row's output depends on the others"
)
_WHOLE = frozenset({0, 1, -1, 2**63 - 1, -(2**63), 2**31 - 1, -(2**31)})


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the graph: an initializer, or the value of a Constant node."""

    name: str
    value: Any


class Uses(Protocol):
    """What a graph tells of its constants; an archive without one tells nothing."""

    def steps_of(self, constant: Constant, steps: Mapping[str, Step]) -> list[Step]:
        """Return the steps that a constant is used in, each once."""

    def orientation(self, constant: Constant, step: Step | None) -> str | None:
        """Return how a linear layer's weight must stand in the file, "equal" or "transposed"; None if that is open."""

    def only_sizes(self, constant: Constant) -> bool:
        """Whether a constant is only used to compute sizes, or as a shape."""


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


def known_of(state: Mapping[str, Any], program: Mapping[str, Any] | None) -> tuple[dict[str, Step], Known]:
    """Return the steps of a program (see `pipeline.formats.program.as_values`; none of None) and what constants are held against."""
    steps = {each["name"]: Step(**each) for each in program["steps"]} if program else {}
    return steps, Known(state, steps, program["folded"] if program else {})


def audit_tensors(tensors: Mapping[str, Any], state: Mapping[str, Any], program: Mapping[str, Any] | None) -> Audit:
    """Account for named tensors of an archive (TorchScript's parameters, buffers and constants)."""
    steps, known = known_of(state, program)
    found = Audit(constants=len(tensors), elements=sum(int(each.size) for each in tensors.values()))
    used: set[str] = set()
    for name, value in tensors.items():
        used |= account(Constant(name, value), None, known, found)
    if steps:
        check_use(steps, known, used, found)
    return found


class Known:
    """What constants are held against: the state dict by content, what follows from it, and the program's steps."""

    def __init__(self, state: Mapping[str, Any], steps: Mapping[str, Step], folded: Mapping[str, Any]) -> None:
        self.state = state
        self.steps = steps
        self._as_is = _by_digest(state.items())
        self._transposed: dict[tuple[str, bytes], list[str]] | None = None
        self.derived = derived(steps, state, folded)
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


def account(constant: Constant, graph: Uses | None, known: Known, found: Audit) -> set[str]:
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
    constant: Constant, matches: Sequence[tuple[str, str]], step: Step | None, graph: Uses | None, known: Known
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


def _derived(constant: Constant, known: Known) -> Derived | None:
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


def _is_literal(constant: Constant, users: Sequence[Step], graph: Uses | None) -> bool:
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
        all(_stated(number, literals.numbers(step)[1], constant.value.dtype) for step in users)
        if users
        else number in {0.0, 1.0}
        for number in numbers
    )


def _allowed_whole(number: int, users: Sequence[Step]) -> bool:
    if number in _WHOLE or not users:
        return number in _WHOLE or abs(number) < _LITERAL_ELEMENTS
    return all(number in literals.numbers(step)[0] for step in users)


def _stated(number: float, real: set[float], dtype: Any) -> bool:
    with np.errstate(over="ignore"):
        held = {float(dtype.type(each)) for each in real}
    return number in held or any(
        abs(number - each) <= 4 * UNIT_ROUNDOFF * abs(each) for each in held if np.isfinite(each)
    )


def _cast(constant: Constant, known: Known) -> str | None:
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


def _near(constant: Constant, step: Step | None, known: Known) -> Problem | None:
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


def _candidates(constant: Constant, step: Step | None, known: Known) -> Iterator[tuple[str, float, int]]:
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
        _, real = literals.numbers(step)
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


def uses_batch_statistics(steps: Mapping[str, Step]) -> bool:
    """Whether the network itself normalises by the batch's own statistics, even in eval mode (track_running_stats=False)."""
    return any(
        "batch_norm" in step.operator and step.arguments.get("training", False) is True for step in steps.values()
    )


def check_use(steps: Mapping[str, Step], known: Known, used: set[str], found: Audit) -> None:
    """Every tensor that the program reads must be in the file, unless it has no effect."""
    if any(each["dtype"].startswith("float") and each["elements"] > 1 for each in found.unaccounted):
        return  # what could not be accounted for may hold it
    needed = {key for step in steps.values() for key in step.parameters.values()}
    contained = {other for key in used if key in known.state for other in known.same_content(key)} | used
    for key in sorted(needed - contained):
        tensor = known.state[key]
        if tensor.dtype.kind == "f" and tensor.any():
            found.problems.append(Problem(key, "is used by the network and is not in the file", key))


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
