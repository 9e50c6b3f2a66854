"""What the constants of a file are held against: the state dict by content, and what follows from it."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats import literals
from pipeline.formats.derived import Derived, derived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.formats.program import Step

    Effect = Callable[[Mapping[str, Any]], bool | None]

_AXES = 5  # tensors of more axes are not tried in other orders: there are too many
_HEAD = 16  # elements that are compared first: most candidates differ at once


@dataclass(frozen=True, slots=True)
class Match:
    """How a constant was found: "equal", "transposed" or a rule, and the state dict's tensors that it holds or follows from."""

    how: str
    keys: tuple[str, ...] = ()


class Known:
    """The state dict by content, what follows from it, and the program's steps.

    `effect` tells whether outputs show it when tensors of the state dict hold other values; None where nobody can say.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        program: Mapping[str, Any] | None,
        steps: Mapping[str, Step],
        effect: Effect | None,
    ) -> None:
        self.state = {name: each for name, each in state.items() if is_plain(each)}
        self.steps = steps
        self.effect = effect
        self._program = program or {}
        self._folded = self._program.get("folded", {})
        self._folded_keys = self._program.get("folded_keys", {})
        self._as_is = _by_digest(self.state.items())

    @cached_property
    def derived(self) -> list[Derived]:
        """What follows from the state dict by a rule; computed only if something is not in the state dict as it is."""
        return derived(self.steps, self.state, self._program)

    @cached_property
    def live(self) -> list[Step]:
        """The steps whose values can reach an output."""
        named = self._program.get("live")
        return [step for step in self.steps.values() if named is None or step.name in named]

    @cached_property
    def numbers(self) -> tuple[set[int], set[float]]:
        """The integers and floats that any step of the program justifies."""
        every = [literals.numbers(step) for step in self.steps.values()]
        return {number for whole, _ in every for number in whole}, {number for _, real in every for number in real}

    @cached_property
    def readers(self) -> dict[str, list[Step]]:
        """The steps that read each tensor of the state dict, or what is computed from it alone."""
        found: dict[str, list[Step]] = {}
        for step in self.steps.values():
            inputs = [str(each).removeprefix("%") for each in step.arguments.values() if str(each).startswith("%")]
            for key in {
                *step.parameters.values(),
                *(key for each in inputs for key in self._folded_keys.get(each, ())),
            }:
                found.setdefault(key, []).append(step)
        return found

    def is_folded(self, step: Step) -> bool:
        """Whether a step's value needs no input, so that the steps that read it count in its place."""
        return step.name in self._folded

    def operands(self, step: Step, key: str) -> Iterator[tuple[str, Any]]:
        """Yield by the name of its argument what a step reads of a tensor: that itself, or what is computed from it alone."""
        for argument in step.arguments:
            name = step.operand(argument)
            if step.parameters.get(argument) == key:
                yield argument, self.state[key]
            elif name in self._folded and key in self._folded_keys.get(name, ()):
                yield argument, self._folded[name]

    def equal(self, value: Any) -> list[tuple[str, str]]:
        """Return the state dict's tensors with the same bits, each with how: "equal" or "transposed"."""
        key = _digest(value)
        if keys := self._as_is.get(key):
            return [(each, "equal") for each in keys]
        if value.ndim != 2:
            return []
        return [(each, "transposed") for each in self._transposed.get(key, ())]

    @cached_property
    def _transposed(self) -> dict[tuple[str, bytes], list[str]]:
        return _by_digest((name, each.T) for name, each in self.state.items() if each.ndim == 2)

    def same_content(self, key: str) -> set[str]:
        """Return the names of all tensors that hold the same bits as `key`."""
        return set(self._as_is[_digest(self.state[key])])

    def follows(self, value: Any) -> Derived | None:
        """Return what a value follows from by a rule, in the same order of elements, or else in another order of axes."""
        fitting = [each for each in self.derived if each.value.size == value.size and same_kind(value, each.value)]
        exact = next((each for each in fitting if agrees(value, each.value, each.tolerance)), None)
        return exact or next((each for each in fitting if in_another_order(value, each.value, each.tolerance)), None)

    def holds_what_follows(self, key: str, value: Any) -> bool:
        """Whether a value is, among other things, something that follows from a tensor of the state dict and from others."""
        return any(
            key in each.keys
            and each.value.size == value.size > 1
            and is_plain(value)
            and same_kind(value, each.value)
            and (agrees(value, each.value, each.tolerance) or in_another_order(value, each.value, each.tolerance))
            for each in self.derived
        )

    def cast(self, value: Any) -> str | None:
        """Return the tensor of the state dict that a value of another floating dtype is the cast of."""
        for key, tensor in self.state.items():
            if (
                tensor.size != value.size
                or tensor.dtype == value.dtype
                or not (is_floating(tensor) and is_floating(value))
            ):
                continue
            with np.errstate(over="ignore"):
                for layout in (tensor, tensor.T) if tensor.ndim == 2 else (tensor,):
                    if np.array_equal(layout.astype(value.dtype).reshape(-1), value.reshape(-1)):
                        return key
        return None

    def part(self, value: Any) -> str | None:
        """Return the tensor of the state dict of which a value is some rows that follow each other, as they are or transposed."""
        for form in (value, value.T) if value.ndim == 2 else (value,):
            for key, tensor in self.state.items():
                if form.ndim and tensor.ndim == form.ndim and tensor.dtype == form.dtype and _has_rows(tensor, form):
                    return key
        return None

    def reordered(self, value: Any) -> str | None:
        """Return the tensor of the state dict that a value is in another order of axes, as it is or in another shape."""
        for key, tensor in self.state.items():
            if tensor.size == value.size and tensor.dtype == value.dtype and in_another_order(value, tensor, 0.0):
                return key
        return None


def _has_rows(tensor: Any, rows: Any) -> bool:
    if tensor.shape[1:] != rows.shape[1:] or not 2 <= rows.size < tensor.size:
        return False
    first = (tensor == rows[0]).reshape(len(tensor), -1).all(axis=1)
    return any(np.array_equal(tensor[start : start + len(rows)], rows) for start in np.flatnonzero(first))


def is_plain(value: Any) -> bool:
    """Whether an array holds numbers that numpy can compute with: no text, nothing of less than a byte."""
    return is_floating(value) or value.dtype.kind in "iubc"


def is_floating(value: Any) -> bool:
    """Whether an array holds real numbers; numpy knows narrow ones by name only."""
    name = str(value.dtype.name)
    return value.dtype.kind == "f" or name == "bfloat16" or name.startswith("float8")


def same_kind(value: Any, other: Any) -> bool:
    """Whether both hold real numbers, or numbers of the same kind."""
    return is_floating(value) == is_floating(other) and (is_floating(value) or value.dtype.kind == other.dtype.kind)


def in_another_order(value: Any, wanted: Any, tolerance: Any) -> bool:
    """Whether a value is another with its axes in another order, both in whatever shape."""
    if value.size < 2 or not _same_range(value, wanted, float(np.max(tolerance, initial=0.0))):
        return False
    spread = np.broadcast_to(tolerance, wanted.shape)
    flat = wanted.reshape(-1)
    return any(
        agrees(value, wanted.transpose(order), spread.transpose(order)) for order in _other_orders(wanted)
    ) or any(
        agrees(value.transpose(order), flat, tolerance) for order in _other_orders(value) if np.ndim(tolerance) == 0
    )


def _other_orders(value: Any) -> Iterator[tuple[int, ...]]:
    long = [axis for axis, size in enumerate(value.shape) if size > 1]
    if not 2 <= len(long) <= _AXES:
        return
    for order in itertools.permutations(long):
        if list(order) != long:
            places = iter(order)
            yield tuple(next(places) if axis in long else axis for axis in range(value.ndim))


def _same_range(value: Any, wanted: Any, tolerance: float) -> bool:
    if value.dtype.kind in "cb":
        return True
    with np.errstate(invalid="ignore"):
        pairs = [(np.min(value), np.min(wanted)), (np.max(value), np.max(wanted))]
        return all(mine == other or abs(float(mine) - float(other)) <= tolerance for mine, other in pairs)


def agrees(value: Any, wanted: Any, tolerance: Any) -> bool:
    """Whether two tensors hold the same numbers in the same order, within a tolerance; infinities where the other has them."""
    spread = np.broadcast_to(tolerance, wanted.shape)
    head = slice(0, _HEAD)
    if not _within(value.flat[head], wanted.flat[head], spread.flat[head]):
        return False
    return _within(value.reshape(-1), wanted.reshape(-1), spread.reshape(-1))


def _within(value: Any, wanted: Any, tolerance: Any) -> bool:
    if value.dtype.kind in "iub":
        return bool(np.array_equal(value, wanted))
    wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    with np.errstate(invalid="ignore"):
        same = (np.abs(wide - wanted) <= tolerance) | (wide == wanted)
    missing = np.isnan(wide) & np.isnan(wanted)
    return bool((same | missing | _is_lowest(wide, wanted)).all())


def _is_lowest(value: Any, wanted: Any) -> Any:
    """Where both are below any number that counts: a mask's float64 minimum is the float32 one, or minus infinity."""
    if value.dtype.kind == "c":
        return np.zeros(value.shape, bool)
    lowest = float(np.finfo(np.float32).min)
    with np.errstate(invalid="ignore"):
        return (value <= lowest) & (wanted <= lowest)


def _by_digest(tensors: Any) -> dict[tuple[str, bytes], list[str]]:
    found: dict[tuple[str, bytes], list[str]] = {}
    for name, tensor in tensors:
        found.setdefault(_digest(tensor), []).append(name)
    return found


def _digest(value: Any) -> tuple[str, bytes]:
    content = (
        np.ascontiguousarray(value).reshape(-1).view(np.uint8) if math.prod(value.shape) else np.zeros(0, np.uint8)
    )
    return value.dtype.name, hashlib.blake2b(content.data, digest_size=16).digest()
