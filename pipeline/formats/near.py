"""What a constant that nothing accounts for nearly equals, and what the network would be with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats import literals
from pipeline.formats.known import is_floating
from pipeline.formats.ledger import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.formats.known import Known
    from pipeline.formats.ledger import Constant
    from pipeline.formats.program import Step

_NEAR = 0.5  # relative distance below which two tensors are versions of one another
_NEAR_COMPUTED = 0.1  # the same for what is computed from several
_NEAR_SHARE = 0.5  # or: the share of elements that are equal, where a few differ by much
_NEAR_LITERAL = 0.25


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What a constant may be a version of: its name, the keys it follows from, how far away it is.

    `equal`: how many elements are the same and say something: zeros and ones are in many tensors. `as_if`: the state dict's tensors
    as they would be if the file's constant were right; None if nobody can say.
    """

    name: str
    keys: tuple[str, ...]
    distance: float
    differing: int
    equal: int
    is_computed: bool
    as_if: Mapping[str, Any] | None

    def is_near(self, size: int) -> bool:
        limit = _NEAR_COMPUTED if self.is_computed else _NEAR
        return self.distance < limit or self.equal >= size * _NEAR_SHARE


@dataclass(frozen=True, slots=True)
class Near:
    """What is wrong with a constant, the state dict's tensors that it should follow from, and these as they would be if it were right.

    `as_if`: None where nobody can say.
    """

    problem: Problem
    keys: tuple[str, ...]
    as_if: Mapping[str, Any] | None


def nearest(constant: Constant, step: Step | None, known: Known) -> Near | None:
    """Say what a constant nearly equals: the tensor of its name, of its step, or any other of its size; None if nothing."""
    is_named, size = constant.name in known.state, int(constant.value.size)
    if not is_named and size > 1 and bool((constant.value == constant.value.reshape(-1)[0]).all()):
        return None  # one number throughout is a version of nothing
    candidates = list(_candidates(constant, step, known))
    if is_named:  # a version of that one, or of what follows from it, whatever else it may be nearer to
        candidates = [each for each in candidates if constant.name in each.keys]
    best = min(candidates, key=lambda each: each.distance, default=None)
    if best is None:
        return Near(_as_named(constant, known), (constant.name,), None) if is_named else None
    if not (is_named or best.is_near(size)):
        return None
    verb = "nearly equals" if best.is_near(size) else "is not"
    words = (
        f"{verb} {best.name}: {best.differing:,} of {size:,} elements differ (relative distance {best.distance:.2g})"
    )
    found = Problem(constant.name, words, best.name, best.differing, size, step.module if step else "")
    return Near(found, best.keys, best.as_if)


def _as_named(constant: Constant, known: Known) -> Problem:
    own, value, size = known.state[constant.name], constant.value, int(constant.value.size)
    if own.shape == value.shape:
        count = int((own != value).sum())
        words = f"holds other values than the state dict: {count:,} of {size:,} differ"
        return Problem(constant.name, words, constant.name, count, size)
    words = f"has {list(value.shape)}, and {constant.name} is {list(own.shape)}"
    return Problem(constant.name, words, constant.name)


def _candidates(constant: Constant, step: Step | None, known: Known) -> Iterator[_Candidate]:
    value = constant.value
    if not is_floating(value) or not value.size:
        return
    flat = value.reshape(-1).astype(np.float64)
    if flat.size == 1 and step is not None:
        yield from _literals(float(flat[0]), step)
    for key, tensor in known.state.items():
        if tensor.size != flat.size or not is_floating(tensor):
            continue
        if flat.size == 1 and not _belongs(key, constant, step):
            continue
        as_it_is = {key: value.reshape(tensor.shape)}
        yield _candidate(key, (key,), flat, tensor.reshape(-1).astype(np.float64), 0.0, as_it_is)
        if tensor.ndim == 2 and tensor.size > 1:
            turned = {key: value.reshape(tensor.T.shape).T}
            yield _candidate(key, (key,), flat, tensor.T.reshape(-1).astype(np.float64), 0.0, turned)
    for each in known.derived:
        if each.value.size == flat.size > 1 and each.value.dtype.kind == "f":
            tolerance = np.broadcast_to(each.tolerance, each.value.shape).reshape(-1)
            as_if = _followed_back(value, each.value, each.keys, known)
            yield _candidate(str(each), each.keys, flat, each.value.reshape(-1), tolerance, as_if, is_computed=True)


def _literals(number: float, step: Step) -> Iterator[_Candidate]:
    for stated in sorted(literals.numbers(step)[1] - {0.0}):
        if np.isfinite(stated) and abs(number - stated) <= _NEAR_LITERAL * abs(stated):
            away = abs(number - stated) / abs(stated)
            yield _Candidate(f"the literal {stated:.9g} of {step.operator}", (), away, 1, 0, False, None)  # noqa: FBT003 - plain fields


def _candidate(
    name: str,
    keys: tuple[str, ...],
    flat: Any,
    wanted: Any,
    tolerance: Any,
    as_if: Mapping[str, Any] | None,
    *,
    is_computed: bool = False,
) -> _Candidate:
    with np.errstate(invalid="ignore", over="ignore"):
        difference = flat - wanted
        same = (np.abs(difference) <= tolerance) | (flat == wanted)
        norm, away = float(np.linalg.norm(wanted)), float(np.linalg.norm(difference))
    says = ~np.isin(wanted, (0.0, 1.0, -1.0)) & np.isfinite(wanted)
    distance = away / norm if norm else (np.inf if away else 0.0)
    distance = np.inf if np.isnan(distance) else distance
    return _Candidate(name, keys, distance, int((~same).sum()), int((same & says).sum()), is_computed, as_if)


def _followed_back(value: Any, wanted: Any, keys: tuple[str, ...], known: Known) -> Mapping[str, Any] | None:
    """Return the tensor of the shape of what is computed from it, changed by as much as the constant is; None if there is none."""
    for key in keys:
        tensor = known.state[key]
        if tensor.shape == wanted.shape and is_floating(tensor):
            own = tensor.astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = value.reshape(wanted.shape).astype(np.float64) / wanted
            return {key: np.where(np.isfinite(ratio), own * ratio, own)}
    return None


def _belongs(key: str, constant: Constant, step: Step | None) -> bool:
    return key == constant.name or (step is not None and key in step.parameters.values())
