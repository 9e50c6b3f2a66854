"""Indices that a network chooses by value: what they were chosen from, so that a tie can be told from a wrong choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.parity import steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

_CHOOSING = frozenset({"topk", "sort", "argsort", "max", "min", "kthvalue", "median", "nanmedian"})
_LARGEST = 2**24
"""Elements of a tensor that is kept for its ties; 128 MB in float64."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an operator chose from: rows of candidates [rows, candidates], each row on its own.

    Its elements are numbered on from `first` through all sources of a call: these numbers are called cells. `moved`: how far
    each moves when the last bounded functions before it are off by 1, None for not at all; `coarsest`: the unit roundoff.
    """

    first: int
    values: torch.Tensor
    moved: torch.Tensor | None
    coarsest: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an integer tensor's elements stand for: `cells` (int64, its shape, -1 for none).

    `tables`: for each source, by its number, the value that stands for each candidate: an index that was shifted still says
    which one it means.
    """

    cells: torch.Tensor
    tables: Mapping[int, torch.Tensor]

    def further(self, number: int, first: int) -> Chosen:
        """Return it of the source with this number, the cells counted from `first`."""
        return Chosen(self.cells + first, {number: next(iter(self.tables.values()))})


def source(
    name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any, carried: Any
) -> tuple[torch.Tensor, torch.Tensor | None, Chosen] | None:
    """Return what an operator chose from as in `Source`, and what its indices stand for; None if it chose nothing.

    `carried` gives how far an argument's elements move.
    """
    import torch

    found: tuple[torch.Tensor, torch.Tensor] | None = None
    moved = None
    if name in {"searchsorted", "bucketize"}:
        found = _places(name, args, kwargs, out)
    elif name in _CHOOSING and (name == "argsort" or isinstance(out, tuple | list)):
        indices = out if name == "argsort" else out[1]
        axis = steps.axis_of(name, args, kwargs)
        found, moved = _along(args[0], axis, indices), carried(args[0])
        moved = None if moved is None or found is None else _along(moved, axis, indices)[0]
    elif name in {"argmax", "argmin"}:
        given = kwargs.get("dim", args[1] if len(args) > 1 else None)
        values, indices = (args[0].reshape(-1), out.reshape(1)) if given is None else (args[0], out)
        found, moved = _along(values, given or 0, indices), carried(args[0])
        moved = None if moved is None or found is None else _along(moved.reshape(values.shape), given or 0, indices)[0]
    if found is None or not 0 < found[0].numel() <= _LARGEST:
        return None
    rows, cells = found
    shape = (out if isinstance(out, torch.Tensor) else out[1]).shape
    return rows.clone(), moved, Chosen(cells.reshape(shape), {0: torch.arange(rows.shape[1])})


def _along(values: torch.Tensor, axis: int, indices: torch.Tensor) -> Any:
    """Return the rows along an axis, and the cells that indices along it name."""
    import torch

    if values.ndim == 0:
        return None
    axis %= values.ndim
    kept = indices if indices.ndim == values.ndim else indices.unsqueeze(axis)
    last = values.movedim(axis, -1)
    rows = last.reshape(-1, last.shape[-1]) if last.numel() else last.reshape(0, last.shape[-1])
    starts = torch.arange(rows.shape[0]).reshape(last.shape[:-1]).unsqueeze(-1) * rows.shape[1]
    cells = (starts + kept.movedim(axis, -1)).movedim(-1, axis)
    return rows, cells


def _places(name: str, args: Sequence[Any], kwargs: dict[str, Any], out: torch.Tensor) -> Any:
    """Return how far each value lies outside each interval between the boundaries: 0 where it belongs."""
    import torch

    boundaries, values = (args[0], args[1]) if name == "searchsorted" else (args[1], args[0])
    if not isinstance(values, torch.Tensor) or kwargs.get("sorter") is not None:
        return None
    if values.numel() * (boundaries.shape[-1] + 1) > _LARGEST:
        return None
    own = boundaries if boundaries.ndim == 1 else boundaries.unsqueeze(-2)
    ends = torch.full((*own.shape[:-1], 1), float("inf"), dtype=torch.float64)
    exact = own.double()
    below, above = torch.cat([-ends, exact], -1), torch.cat([exact, ends], -1)
    outside = torch.maximum(below - values.double().unsqueeze(-1), values.double().unsqueeze(-1) - above).clamp(min=0)
    rows = outside.reshape(-1, outside.shape[-1])
    cells = torch.arange(rows.shape[0]).reshape(out.shape) * rows.shape[1] + out
    return rows, cells


def carried(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], chosen: Any) -> list[Chosen | None]:
    """Return what each result's indices stand for after an operator that moves them, or counts on from them; else nothing.

    `chosen` gives what an argument's elements stand for.
    """
    given = args[0] if args else None
    known = [each for each in map(chosen, given if isinstance(given, list | tuple) else [given]) if each is not None]
    if not known:
        return []
    tables: dict[int, Any] = {}
    for each in known:
        for number, table in each.tables.items():
            if not tables.setdefault(number, table).equal(table):
                return []
    counted = {number: steps.on_whole_numbers(func, name, args, kwargs, table) for number, table in tables.items()}
    if all(each is not None for each in counted.values()):
        return [replace(known[0], tables=counted)]

    def cells(each: Any) -> Any:
        found = chosen(each)
        return None if found is None else found.cells

    result = steps.moved(func, name, args, kwargs, cells, -1)
    results = result if isinstance(result, list | tuple) else [] if result is None else [result]
    return [Chosen(each, tables) for each in results]
