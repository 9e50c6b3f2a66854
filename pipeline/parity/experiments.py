"""Experiments that tell why a file is wrong: inputs in which one thing differs, and what must hold for a cause to be named.

A cause is named only if its experiment came out as it must. What a pattern of cases suggests is never enough: sizes differ in
their values too, and masks, ties and rounding with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.interface import Case, complete_sizes, free_dimensions
from pipeline.parity import budget
from pipeline.parity.compare import compare
from pipeline.parity.peculiar import PECULIARITIES
from pipeline.rebuild import cases as making

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.interface import Array, Arrays, Interface, Sizes
    from pipeline.parity.behaviour import Suspicion
    from pipeline.parity.budget import Floats, Rule
    from pipeline.parity.oracle import Reference
    from pipeline.parity.peculiar import Peculiarity
    from pipeline.parity.vary import Met, TwinOutputs

_OTHER_SIZES = 3
_FEWEST_OTHERS = 2
_SEEDS = 2
_FEWEST_RIGHT = 4
_OPENED = 2
_TWICE = 2.0  # one run tells less of a twin's noise than the oracle's three do of the network's


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with what a file gave for it (None: it refused it), what it should be, and whether that is within budget."""

    case: Case
    reference: Reference
    floors: Mapping[str, Floats]
    outputs: Arrays | None
    rules: Mapping[str, Rule]

    @property
    def passed(self) -> bool:
        """Whether every output is within its budget."""
        return self.agrees(self.reference)

    def agrees(self, reference: Reference) -> bool:
        """Whether the file gave what another reference says, within the same budget."""
        if self.outputs is None:
            return False
        return all(each.passed for each in compare(self.case.name, reference, self.floors, self.outputs, self.rules))

    def wrong_elements(self) -> dict[str, NDArray[np.bool_]] | None:
        """Return by output which elements are out of budget; None where an output is missing or of another shape."""
        found = {}
        for name, expected in self.reference.values.items():
            got = (self.outputs or {}).get(name)
            if got is None or got.shape != expected.shape:
                return None
            found[name] = self._wrong(name, expected, got)
        return found

    def _wrong(self, name: str, expected: Array, got: Array) -> NDArray[np.bool_]:
        noise = self.reference.noise[name]
        if expected.dtype.kind != "f":
            return np.asarray((got != expected) & (noise == 0))
        value, exact = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(value - exact), nan=np.inf)
        same = (value == expected) | (np.isnan(value) & np.isnan(expected)) | ~np.isfinite(noise)
        return np.asarray(~same & (error > self.rules[name].allowed(exact, self.floors[name])))


# Sizes


@dataclass(frozen=True, slots=True)
class SizeTrial:
    """A case for a suspicion: whether it has the suspected size, and so must be right, or another, and must be wrong."""

    suspicion: Suspicion
    case: Case
    must_pass: bool


def size_trials(
    suspicion: Suspicion, interface: Interface, cases: Sequence[Case], failed: set[str], seed: int
) -> list[SizeTrial]:
    """Return the cases that tell whether a file holds only at a size; none if there are too few sizes to tell.

    What the file got wrong at other sizes is cut and repeated to the suspected one, where it must be right; what it got right
    there is cut and repeated to others, where it must be wrong; and fresh values of two seeds likewise.
    """
    name, size = suspicion.dimension, suspicion.size
    dimension = next((each for each in free_dimensions(interface.dimensions) if each.name == name), None)
    right = [case for case in cases if case.sizes[name] == size and case.name not in failed]
    wrong = [case for case in cases if case.name in failed]
    if dimension is None or not right or not wrong:
        return []
    near = [each for each in making.allowed(dimension) if each != size]
    others = sorted(sorted(near, key=lambda each: abs(each - size))[:_OTHER_SIZES])
    if len(others) < _FEWEST_OTHERS:
        return []
    base, worse = min(right, key=_elements), sorted(wrong, key=_elements)[:2]
    moved = [_sizes(base.sizes, interface, name, each) for each in others]
    trials = [resized(case, base.sizes, interface, at_end=end) for case in worse for end in (False, True)]
    fresh = [
        (offset, making.make(interface, base.sizes, seed=seed + offset, name="fresh"))
        for offset in range(1, _SEEDS + 1)
    ]
    trials += [case for _, case in fresh]
    found = [SizeTrial(suspicion, case, must_pass=True) for case in trials]
    for sizes in moved:
        found.append(SizeTrial(suspicion, resized(base, sizes, interface), must_pass=False))
        found.append(SizeTrial(suspicion, making.make(interface, sizes, seed=seed + 1, name="fresh"), must_pass=False))
    return found


def specialised(trials: Sequence[tuple[SizeTrial, bool]]) -> str | None:
    """Say that a file is specialised to a size if every trial of it came out as it must, None else."""
    if not trials or any(trial.must_pass != passed for trial, passed in trials):
        return None
    suspicion = trials[0][0].suspicion
    name = suspicion.dimension
    others = sorted({trial.case.sizes[name] for trial, _ in trials if not trial.must_pass})
    right = sum(trial.must_pass for trial, _ in trials)
    if right < _FEWEST_RIGHT or len(others) < _FEWEST_OTHERS:
        return None  # the network itself does not take the others
    return (
        f"specialised to the size {name}={suspicion.size}: right there on {right} inputs, and wrong at "
        f"{', '.join(f'{name}={each}' for each in others)} on the same and on fresh values, every other size equal; "
        f"fix: export it with {name} as a dynamic size (dynamic_shapes, dynamic_axes), and take sizes from x.shape without int()"
    )


def _sizes(sizes: Sizes, interface: Interface, name: str, size: int) -> dict[str, int]:
    free = {each.name: sizes[each.name] for each in free_dimensions(interface.dimensions)}
    return complete_sizes(interface.dimensions, {**free, name: size})


def resized(case: Case, sizes: Sizes, interface: Interface, *, at_end: bool = False) -> Case:
    """Return a case with its values cut, from the front or the end, or repeated to other sizes."""
    inputs = dict(case.inputs)
    for spec in interface.inputs:
        array = inputs[spec.name]
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and array.shape[axis]:
                old, new = array.shape[axis], sizes[size]
                skipped = old - new if at_end and new < old else 0
                array = np.take(array, (np.arange(new) + skipped) % old, axis)
        inputs[spec.name] = array
    return Case(f"{case.name}, resized", dict(sizes), inputs)


# Twins


def holds_twin(twin: TwinOutputs, judged: Sequence[Judged | None]) -> bool:
    """Whether a file agrees with a twin of the network on every case, of which it gets some wrong as the network's.

    What the network or the twin does not take is None. The budget is the network's, or the twin's own where that is wider.
    """
    columns = zip(judged, twin.outputs, twin.noise, strict=True)
    taken = [(each, outputs, noise or {}) for each, outputs, noise in columns if each and outputs]
    if all(each.passed for each, *_ in taken):
        return False
    floors: list[dict[str, Floats]] = [dict(each.floors) for each, *_ in taken]
    for name in floors[0]:
        values = [outputs[name].astype(np.float64) for _, outputs, _ in taken]
        noises = [
            _TWICE * noise.get(name, np.zeros(each.shape)).astype(np.float64)
            for each, (*_, noise) in zip(values, taken, strict=True)
        ]
        for own, wider in zip(floors, budget.floors(values, noises), strict=True):
            own[name] = np.maximum(own[name], wider) if own[name].ndim == wider.ndim else own[name]
    return all(
        replace(each, floors=own).agrees(replace(each.reference, values=_as(each.reference.values, outputs)))
        for (each, outputs, _), own in zip(taken, floors, strict=True)
    )


def _as(values: Mapping[str, Array], outputs: Arrays) -> dict[str, Array]:
    return {name: outputs[name].astype(value.dtype) for name, value in values.items()}


# Peculiarities


def opened(cases: Sequence[Case], interface: Interface) -> list[Case]:
    """Return the smallest of some cases with every boolean input true: masks that hide nothing."""
    masks = [spec.name for spec in interface.inputs if spec.dtype == "bool"]
    if not masks:
        return []
    return [
        replace(
            case,
            name=f"{case.name}, opened",
            inputs={**case.inputs, **{name: np.ones_like(case.inputs[name]) for name in masks}},
        )
        for case in sorted(cases, key=_elements)[:_OPENED]
    ]


def explained_by(judged: Sequence[Judged], met: Sequence[Sequence[Met]]) -> Iterator[str]:
    """Yield what torch does in its own way, if all that is wrong depends on it and all that does not is right."""
    for each in PECULIARITIES:
        of_case = [next((found for found in own if found.name == each.name), None) for own in met]
        if (said := _explained(each, judged, of_case)) is not None:
            yield said


def _explained(peculiarity: Peculiarity, judged: Sequence[Judged], met: Sequence[Met | None]) -> str | None:
    """Say it if every wrong element depends on it, and enough that does not depend on it was seen to be right."""
    wrong_count, right_beside, right_without = 0, 0, 0
    lines: dict[str, None] = {}
    for each, found in zip(judged, met, strict=True):
        if each.passed:
            right_without += found is None
            continue
        wrong = each.wrong_elements()
        if found is None or wrong is None:
            return None
        lines |= dict.fromkeys(found.lines)
        for name, elements in wrong.items():
            dependent = found.dependents[name].astype(bool)
            if dependent.shape != elements.shape or (elements & ~dependent).any():
                return None
            wrong_count += int(elements.sum())
            right_beside += int((~dependent).sum()) if elements.any() else 0
    if not wrong_count or not (right_beside or right_without > 1):
        return None
    seen = [
        f"{right_beside:,} elements beside them that do not are right" if right_beside else "",
        f"{right_without} cases without any are right" if right_without else "",
    ]
    place = f" ({', '.join(_short(line) for line in list(lines)[:2] if line)})" if any(lines) else ""
    return (
        f"{peculiarity.words}{place}: all {wrong_count:,} wrong elements depend on that, and {' and '.join(filter(None, seen))}; "
        f"fix: {peculiarity.remedy}"
    )


def _short(line: str) -> str:
    return line.rpartition("/")[2]


def _elements(case: Case) -> int:
    return sum(int(array.size) for array in case.inputs.values())
