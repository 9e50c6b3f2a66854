"""The user's own inputs, many of them, to judge accuracy on: what a file of them must hold, how they are fed, and which rows two share."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.interface import complete_sizes, formula_names, free_dimensions
from pipeline.rebuild.cases import allowed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pipeline.interface import Array, Arrays, Dimension, InputSpec, Interface

MOST_ELEMENTS = 2**20
"""Most elements that any one input of a batch has, where a smaller batch is allowed."""
MOST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Which samples are fed at once, and what is fed: `fed` rows, more than there are samples where fewer are not allowed."""

    rows: range
    inputs: Arrays
    fed: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of many samples, a row each, and what else their file holds by row, for a metric.

    `batch` is the dimension that rows are counted by; None where each sample is a call of its own.
    """

    count: int
    inputs: Arrays
    further: Arrays
    batch: Dimension | None

    def row(self, index: int) -> dict[str, Array]:
        """Return the arrays of one sample, those beside the inputs as well."""
        return {name: np.array(each[index]) for name, each in {**self.inputs, **self.further}.items()}

    def batches(self) -> Iterator[Batch]:
        """Yield all samples in batches of an allowed size; a last one that is too small has the first samples behind its own."""
        if self.batch is None:
            for index in range(self.count):
                yield Batch(range(index, index + 1), {name: each[index] for name, each in self.inputs.items()}, 1)
            return
        sizes = allowed(self.batch)
        row_elements = max(1, *(math.prod(each.shape[1:]) for each in self.inputs.values()))
        wanted = max(1, min(MOST_ROWS, MOST_ELEMENTS // row_elements))
        size = max((each for each in sizes if 0 < each <= wanted), default=next(each for each in sizes if each))
        for start in range(0, self.count, size):
            rows = range(start, min(start + size, self.count))
            fed = next(each for each in sizes if each >= len(rows))
            taken = np.resize(np.arange(self.count), start + fed)[start:]
            yield Batch(rows, {name: each[taken] for name, each in self.inputs.items()}, fed)

    def split(self, output: str, values: Array, batch: Batch) -> list[Array]:
        """Return an output's values for each sample of a batch.

        Raises:
            InputError: it has no row for each sample.
        """
        if self.batch is None:
            return [values]
        require_rows(output, values.shape, batch.fed)
        return [values[index] for index in range(len(batch.rows))]


def require_rows(output: str, shape: Sequence[int], fed: int) -> None:
    """Raise InputError where an output has no row for each of the samples that are given at once."""
    if tuple(shape[:1]) != (fed,):
        raise InputError(
            f"output '{output}' has shape {list(shape)} where {fed} samples are given at once, so it has no row for each",
            hint="give every input one more leading axis, that of the samples, so that each is a call of its own",
        )


def batch_dimension(interface: Interface) -> Dimension | None:
    """Return the dimension along which all inputs have their rows: their first, and nowhere else; None where there is none."""
    firsts = {spec.shape[0] if spec.shape else None for spec in interface.inputs}
    others = {size for spec in interface.inputs for size in spec.shape[1:]}
    used = {name for each in interface.dimensions if each.formula for name in formula_names(each.formula)}
    found = [each for each in free_dimensions(interface.dimensions) if firsts == {each.name}]
    return next((each for each in found if each.name not in others | used), None)


def parse(arrays: Arrays, interface: Interface, what: str, *, dependent: bool = False) -> Samples:
    """Return the samples of a file; `what` is its name, `dependent` whether rows of a batch were seen to depend on one another.

    Raises:
        InputError: an input is missing, has another dtype or shape than declared or values outside its range, or there are
            not as many rows in each array.
    """
    batch = batch_dimension(interface)
    for spec in interface.inputs:
        if spec.name not in arrays:
            raise InputError(
                f"{what}: no array for input '{spec.name}'; there are {', '.join(sorted(arrays)) or 'none'}",
                hint=f"save one under the name {spec.name}, a row for each sample",
            )
    ranks = {arrays[spec.name].ndim - len(spec.shape) for spec in interface.inputs}
    is_stacked = ranks == {1}
    for spec in interface.inputs:
        _require_declared(spec, arrays[spec.name], what, batch, is_stacked=is_stacked)
    if not is_stacked and dependent and batch is not None:
        raise InputError(
            f"{what}: the network's rows along {batch.name} depend on one another, so that a row is no sample",
            hint="give every input one more leading axis, that of the samples",
        )
    counts = {name: len(each) if each.ndim else 0 for name, each in arrays.items()}
    first = interface.inputs[0].name
    for name, count in counts.items():
        if count != counts[first]:
            raise InputError(
                f"{what}: '{name}' has {count} rows and '{first}' {counts[first]}",
                hint="save a row of each for every sample",
            )
    if counts[first] == 0:
        raise InputError(f"{what}: there is no sample in it", hint="save a row for each sample")
    inputs = {spec.name: arrays[spec.name] for spec in interface.inputs}
    _require_sizes(interface, inputs, what, is_stacked=is_stacked)
    further = {name: each for name, each in arrays.items() if name not in inputs}
    return Samples(counts[first], inputs, further, None if is_stacked else batch)


def _require_declared(spec: InputSpec, array: Array, what: str, batch: Dimension | None, *, is_stacked: bool) -> None:
    shape = [str(size) for size in spec.shape]
    wanted = (
        f"[samples, {', '.join(shape)}]".replace(", ]", "]") if batch is None else f"[samples, {', '.join(shape[1:])}]"
    )
    if array.dtype.name != spec.dtype or not (is_stacked or (batch is not None and array.ndim == len(spec.shape))):
        raise InputError(
            f"{what}: '{spec.name}' is {array.dtype} {list(array.shape)}, and samples of it are {spec.dtype} {wanted}",
            hint="save it as declared, a row for each sample",
        )
    values = array if array.dtype.kind in "biuf" else array.astype(np.float32)  # bfloat16 is none of numpy's own
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise InputError(
            f"{what}: '{spec.name}' is not finite in row {row}",
            hint="leave such rows out, or save what the network is given",
        )
    if spec.low is None or spec.high is None or not values.size:
        return
    # A float may lie on the upper bound, as a white pixel does; a whole number is an index below it.
    beyond = np.less(values, spec.low) | (np.greater if is_float else np.greater_equal)(values, spec.high)
    if beyond.any():
        at, last = tuple(np.argwhere(beyond)[0]), spec.high if is_float else spec.high - 1
        raise InputError(
            f"{what}: '{spec.name}' is {values[at]:g} in row {at[0]}, and declared is {spec.low:g} to {last:g}",
            hint="save what the network is given, or declare the range that it has",
        )


def _require_sizes(interface: Interface, inputs: Arrays, what: str, *, is_stacked: bool) -> None:
    """Raise InputError for sizes that contradict one another or are outside what is declared."""
    batch = None if is_stacked else batch_dimension(interface)
    known: dict[str, int] = {}
    for spec in interface.inputs:
        for declared, given in zip(spec.shape, inputs[spec.name].shape[1 if is_stacked else 0 :], strict=True):
            wanted = known.setdefault(declared, given) if isinstance(declared, str) else declared
            if wanted != given:
                raise InputError(
                    f"{what}: '{spec.name}' has size {given} where {declared} is {wanted}",
                    hint=f"save it with {wanted} there",
                )
    for each in interface.dimensions:
        if each == batch or each.name not in known:
            continue
        size = known[each.name]
        if each.formula is None and size not in allowed(each):
            steps = f", in steps of {each.multiple_of}" if each.multiple_of > 1 else ""
            raise InputError(
                f"{what}: {each.name} is {size}, and declared is {each.min} to {each.max}{steps}",
                hint=f"save samples with a declared size, or widen dimensions.{each.name}",
            )
        if each.formula is not None and (follows := complete_sizes(interface.dimensions, known)[each.name]) != size:
            raise InputError(
                f"{what}: {each.name} is {size}, and {each.formula} is {follows}", hint=f"save it with {follows} there"
            )


def shared_rows(some: Arrays, others: Arrays, names: Collection[str]) -> int:
    """Return how many rows of `some` are in `others` as well: the same bytes in all of the named arrays that both have."""
    common = sorted(name for name in names if name in some and name in others)
    if not common:
        return 0
    known = set(_digests(others, common))
    return sum(each in known for each in _digests(some, common))


def _digests(arrays: Mapping[str, Array], names: Sequence[str]) -> Iterator[bytes]:
    for index in range(min(len(arrays[name]) for name in names)):
        digest = hashlib.sha256()
        for name in names:
            digest.update(np.ascontiguousarray(arrays[name][index]).tobytes())
        yield digest.digest()
