"""Which sizes an engine is built for: the optimisation profile that follows from what the config declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import InputError, suggestion
from pipeline.interface import complete_sizes, formula_bounds, free_dimensions
from pipeline.rebuild.cases import allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.interface import Interface

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest shape of an input, the one that an engine is tuned for, and the largest."""

    least: Shape
    best: Shape
    most: Shape


def profile(interface: Interface, best: Mapping[str, int] | None = None) -> dict[str, Range]:
    """Return the range of each input's shapes by name; `best` are sizes to tune for, by default the largest of each dimension.

    A size that follows from others has the bounds of its formula, and where it is tuned for the value of it.

    Raises:
        InputError: `best` names no dimension, or a size that the dimension does not take.
    """
    free = {each.name: allowed(each) for each in free_dimensions(interface.dimensions)}
    ends = {name: (sizes[0], sizes[-1]) for name, sizes in free.items()}
    tuned = {name: sizes[-1] for name, sizes in free.items()}
    for name, size in (best or {}).items():
        if name not in free:
            told = f"{name!r} is no dimension of its own{suggestion(name, free)}"
            raise InputError(f"tensorrt, best: {told}", hint="name dimensions of the config's `dimensions`")
        if size not in free[name]:
            hint = "name one of those sizes"
            raise InputError(f"tensorrt, best: {name} takes {free[name][0]} to {free[name][-1]}, not {size}", hint=hint)
        tuned[name] = size
    tuned = complete_sizes(interface.dimensions, tuned)
    for each in interface.dimensions:
        if each.formula is not None:
            low, high = formula_bounds(each.formula, ends)
            ends[each.name] = (max(0, low), high)
    return {
        spec.name: Range(
            *(
                tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
                for sizes in (
                    {name: low for name, (low, _) in ends.items()},
                    tuned,
                    {n: high for n, (_, high) in ends.items()},
                )
            )
        )
        for spec in interface.inputs
    }


def in_words(shapes: Iterable[tuple[str, Shape]]) -> str:
    """Return shapes as onnxruntime's TensorRT provider takes them: `x:1x10,y:1x3`. Inputs without axes have none."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes if shape)
