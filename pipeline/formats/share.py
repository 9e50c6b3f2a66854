"""How much of a network is found in a file that nobody can look into: its weights, bit for bit, wherever they lie."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.ledger import Audit
from pipeline.weights.files import mapped

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BIT_FOR_BIT = "found in the file bit for bit"
CHANNELS_LAST = {2: ((1, 0),), 3: ((0, 2, 1), (1, 2, 0)), 4: ((0, 2, 3, 1), (1, 2, 3, 0))}
"""In which orders of their axes compilers lay out weights: convolutions with their channels last, depthwise ones with them first of all."""


def audit(
    files: Sequence[Path],
    state: Mapping[str, Any],
    reason: str,
    orders: Mapping[int, Sequence[Sequence[int]]] | None = None,
) -> dict[str, Any]:
    """Return an audit that says why a file is not audited, and which part of the state dict's elements stands in it as they are.

    `state` is by name, arrays of any dtype; `orders` says, by their number of axes, in which other orders of their axes a file may
    have them. A runtime may lay out weights in an order of its own, or keep them compressed: what
    is not found is no problem, and what is found is no proof that it is used.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(mapped(path)) for path in files if path.stat().st_size]
        found = sum(
            int(value.size)
            for value in state.values()
            if any(_holds(data, each) for each in _turned(value, orders or {}) for data in held)
        )
    counted = Audit(
        {BIT_FOR_BIT: found} if found else {},
        constants=len(state),
        elements=sum(int(each.size) for each in state.values()),
    )
    share = 1 - found / counted.elements if counted.elements else 0.0
    return counted.to_json() | {"share": share, "not_audited": reason}


def _turned(value: Any, orders: Mapping[int, Sequence[Sequence[int]]]) -> Iterator[Any]:
    yield value
    yield from (np.transpose(value, order) for order in orders.get(np.ndim(value), ()))


def _holds(data: mmap.mmap, value: Any) -> bool:
    return data.find(np.ascontiguousarray(value).tobytes()) >= 0
