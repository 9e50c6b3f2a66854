"""Ties: where an index may come out otherwise, because what it was chosen for is as good as what the network chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - read when answers are validated

from pipeline.interface import Array  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Sequence

    Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Choice:
    """What some elements of an index output were chosen from.

    `values` (float64 [rows, candidates]) and the `floor` of their error (broadcastable to it). `cells`: for each element of the
    output row × candidates + candidate of what the network chose, -1 for an element chosen from elsewhere. `table`: the index
    that stands for each candidate.
    """

    values: NDArray[np.float64]
    floor: NDArray[np.float64]
    cells: NDArray[np.int64]
    table: NDArray[np.int64]


def good(choices: Sequence[Choice], got: Array, limit: float) -> Flags:
    """Return where an index is as good as the network's: the values of both differ by what they may be off by, or less.

    Where one row gives several indices, as a topk does, none may stand in for another: a row in which more of them are the same
    than in the network's has no ties.
    """
    found = np.zeros(got.shape, bool)
    for each in choices:
        mine = each.cells >= 0
        if mine.any():
            found[mine] = _good(each, each.cells[mine], got[mine].astype(np.int64), limit)
    return found


def undecided(choices: Sequence[Choice], shape: tuple[int, ...], limit: float) -> Flags:
    """Return where another index would be as good as the network's."""
    found = np.zeros(shape, bool)
    for each in choices:
        order = np.argsort(each.values, axis=1)
        ascending = np.take_along_axis(each.values, order, 1)
        floor = np.take_along_axis(np.broadcast_to(each.floor, each.values.shape), order, 1)
        near = _near(ascending[:, 1:], ascending[:, :-1], limit * (floor[:, 1:] + floor[:, :-1]))
        is_tied = np.zeros(each.values.shape, bool)
        is_tied[:, 1:] |= near
        is_tied[:, :-1] |= near
        flags = np.zeros(each.values.shape, bool)
        np.put_along_axis(flags, order, is_tied, 1)
        mine = each.cells >= 0
        found[mine] = flags.reshape(-1)[each.cells[mine]]
    return found


def _near(one: NDArray[np.float64], other: NDArray[np.float64], allowed: NDArray[np.float64]) -> Flags:
    with np.errstate(invalid="ignore"):
        close = np.abs(one - other) <= allowed
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)) | close, bool)


def _good(choice: Choice, cells: NDArray[np.int64], got: NDArray[np.int64], limit: float) -> Flags:
    count = choice.table.size
    rows, expected = cells // count, cells % count
    order = np.argsort(choice.table, kind="stable")
    ascending = choice.table[order]
    first, last = np.searchsorted(ascending, got, "left"), np.searchsorted(ascending, got, "right")
    floor = np.broadcast_to(choice.floor, choice.values.shape)
    found = np.zeros(got.shape, bool)
    # An index that was divided stands for several candidates: any of them will do.
    for step in range(int((last - first).max(initial=0))):
        meant = order[np.minimum(first + step, count - 1)]
        allowed = limit * (floor[rows, meant] + floor[rows, expected])
        is_near = _near(choice.values[rows, meant], choice.values[rows, expected], allowed)
        found |= (first + step < last) & is_near
    if len(np.unique(choice.table)) < count:
        return found
    return np.asarray(found & ~_repeats(rows, got, expected), bool)


def _repeats(rows: NDArray[np.int64], got: NDArray[np.int64], expected: NDArray[np.int64]) -> Flags:
    """Return the elements of rows that name fewer different indices than they should."""
    per_row = np.zeros(int(rows.max(initial=0)) + 1, np.int64)
    for sign, indices in ((1, got), (-1, expected)):
        of_rows = np.unique(np.stack([rows, indices], 1), axis=0)[:, 0]
        np.add.at(per_row, of_rows, sign)
    return np.asarray(per_row < 0, bool)[rows]
