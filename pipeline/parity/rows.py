"""Whether a row of a batch depends on the other rows: asked of the network, by changing the others and by leaving them out.

Whoever joins requests of several callers into one batch, or splits a batch that is too large, takes for granted that it does
not. Batch norm without running statistics, attention across the batch or a contrastive softmax make it depend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.interface import Dimension, formula_names, free_dimensions
from pipeline.parity import oracle
from pipeline.parity.budget import Rule
from pipeline.rebuild import cases as making

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.interface import Array, Arrays, Case, Interface
    from pipeline.parity.oracle import Reference

_MOST_CASES = 3
_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Rows:
    """What was found: whether rows along `dimension` are independent, on which cases, or why it was not shown.

    `difference`, where they depend: by how much `output` of a row changed ÷ its largest value.
    """

    verdict: Literal["independent", "dependent", "not shown"]
    dimension: str | None = None
    cases: tuple[str, ...] = ()
    output: str | None = None
    difference: float | None = None
    reason: str | None = None


def examine(
    run: Callable[[Arrays], Mapping[str, Array]],
    interface: Interface,
    cases: Sequence[Case],
    references: Sequence[Reference],
    *,
    seed: int,
) -> Rows:
    """Hold the first and the last row of some cases, with other rows beside them and alone, against what they were.

    `run` makes a call in the precision of the references. A row may differ by what a backend's output may.
    """
    dimension = batch_dimension(interface)
    if dimension is None:
        return Rows("not shown", reason="no dimension stands once in the shape of every input")
    able = [index for index, case in enumerate(cases) if case.sizes[dimension.name] >= 2]
    if not able:
        return Rows("not shown", dimension.name, reason=f"no case has two rows of {dimension.name}")
    axes = {name: _axis(name, dimension.name, interface, cases, references) for name in references[0].values}
    if without := [name for name, axis in axes.items() if axis is None]:
        return Rows("not shown", dimension.name, reason=f"output {without[0]} has no axis of {dimension.name}")
    allowed = _allowed(references)
    scales = {name: max(_largest(each.values[name]) for each in references) for name in axes}
    able = sorted(able, key=lambda index: sum(array.size for array in cases[index].inputs.values()))[:_MOST_CASES]
    shown = tuple(cases[index].name for index in able)
    worst: tuple[float, str] = (0.0, "")
    for index in able:
        reference, budgets = references[index], allowed[index]
        for inputs, own, theirs in _trials(cases[index], dimension, interface, seed):
            try:
                outputs = run(inputs)
            except Exception as error:  # noqa: BLE001 - a network raises whatever it likes; then nothing was shown
                said = (str(error).splitlines() or [type(error).__name__])[0]
                return Rows("not shown", dimension.name, shown, reason=f"the network does not take other rows: {said}")
            for name, axis in axes.items():
                assert axis is not None  # noqa: S101 - none is, see above
                apart = _apart(reference, name, budgets, outputs[name], axis, (own, theirs))
                worst = max(worst, (apart / (scales[name] or 1.0), name)) if apart else worst
    if worst[1]:
        return Rows("dependent", dimension.name, shown, worst[1], _rounded(worst[0]))
    return Rows("independent", dimension.name, shown)


def batch_dimension(interface: Interface) -> Dimension | None:
    """Return the dimension that rows are counted by: the first of the inputs, if each input has it once and no size follows from it."""
    first = next((size for spec in interface.inputs for size in spec.shape if isinstance(size, str)), None)
    dimension = next((each for each in free_dimensions(interface.dimensions) if each.name == first), None)
    if dimension is None or any(spec.shape.count(dimension.name) != 1 for spec in interface.inputs):
        return None
    is_related = any(dimension.name in formula_names(each.formula) for each in interface.dimensions if each.formula)
    return None if is_related else dimension


def _trials(
    case: Case, dimension: Dimension, interface: Interface, seed: int
) -> list[tuple[dict[str, Array], int, int]]:
    """Return inputs that hold one row of the case, with where it was and where it is: beside other rows, and alone."""
    size = case.sizes[dimension.name]
    found = []
    for kept, values in ((0, "normal"), (size - 1, "large")):
        strange = making.make(interface, case.sizes, seed=seed + 1, name=f"other rows than {kept}", values=values)
        mixed, alone = {}, {}
        for spec in interface.inputs:
            axis = spec.shape.index(dimension.name)
            mixed[spec.name] = np.array(strange.inputs[spec.name])
            alone[spec.name] = np.take(case.inputs[spec.name], [kept], axis)
            _row(mixed[spec.name], axis, kept)[...] = _row(case.inputs[spec.name], axis, kept)
        found.append((mixed, kept, kept))
        if 1 in making.allowed(dimension):
            found.append((alone, kept, 0))
    return found


def _row(array: Array, axis: int, index: int) -> Array:
    found: Array = array[(slice(None),) * axis + (slice(index, index + 1),)]
    return found


def _axis(
    name: str, dimension: str, interface: Interface, cases: Sequence[Case], references: Sequence[Reference]
) -> int | None:
    """Return the axis of an output whose size is the dimension's in every case; the inputs' own before others."""
    shapes = [reference.values[name].shape for reference in references]
    usual = interface.inputs[0].shape.index(dimension)
    fitting = [
        axis
        for axis in range(min(map(len, shapes)))
        if all(shape[axis] == case.sizes[dimension] for shape, case in zip(shapes, cases, strict=True))
    ]
    return usual if usual in fitting else next(iter(fitting), None)


def _allowed(references: Sequence[Reference]) -> list[dict[str, Array]]:
    """Return by case what each floating output may be off by, whatever tolerances a config gives."""
    found: list[dict[str, Array]] = [{} for _ in references]
    for name, value in references[0].values.items():
        if value.dtype.kind == "f" and (floors := oracle.floors(references, name)):
            for each, floor, budgets in zip(references, floors, found, strict=True):
                budgets[name] = Rule().allowed(each.values[name], floor)
    return found


def _apart(
    reference: Reference, name: str, budgets: Mapping[str, Array], got: Array, axis: int, rows: tuple[int, int]
) -> float:
    """Return how far a row is from what it was, infinite where it has another shape; 0 within its budget."""
    if axis >= got.ndim:
        return np.inf
    own, theirs = rows
    expected, value = _row(reference.values[name], axis, own), _row(got, axis, theirs)
    if expected.shape != value.shape:
        return np.inf
    if not expected.size:
        return 0.0
    unknowable = _row(reference.noise[name], axis, own)
    if expected.dtype.kind != "f":
        changed = (expected != value) & (unknowable == 0)
        return float(np.abs(value.astype(np.float64) - expected.astype(np.float64))[changed].max(initial=0.0))
    with np.errstate(invalid="ignore"):
        error = np.abs(value.astype(np.float64) - expected.astype(np.float64))
    same = (value == expected) | (np.isnan(value) & np.isnan(expected)) | ~np.isfinite(unknowable)
    error = np.where(same, 0.0, np.nan_to_num(error, nan=np.inf))
    if not (error > _row(budgets[name], axis, own)).any():
        return 0.0
    return float(error.max())


def _largest(values: Array) -> float:
    numbers = values.astype(np.float64)
    return float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))


def _rounded(share: float) -> float | None:
    """Return two digits: what is recorded must be the same on every machine."""
    return float(f"{share:.{_DIGITS}g}") if np.isfinite(share) else None
