"""How long something takes, held against a plain loop on the same machine: a slow moment slows both, and decides nothing."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNS = 200_000


def _seconds_of_a_million() -> float:
    """Return the seconds of processor time that a million turns of a loop take: a twentieth where it is quiet."""
    start = time.process_time()
    total = 0
    for index in range(_TURNS):
        total += index
    return (time.process_time() - start) * 1e6 / _TURNS


@contextmanager
def at_most(millions: float) -> Iterator[None]:
    """Hold that a block takes no more processor time than so many million turns of a loop; 40 are two seconds where it is quiet."""
    million = _seconds_of_a_million()
    gc.freeze()  # what tests before it left behind is not looked through again with every thousand objects that it makes
    start = time.process_time()
    try:
        yield
    finally:
        taken = time.process_time() - start
        gc.unfreeze()
    if taken > millions * million:  # the machine may have slowed down since
        million = max(million, *(_seconds_of_a_million() for _ in range(5)))
    assert taken <= millions * million, f"{taken:.2f} s: {taken / million:.0f} million turns, not {millions:g}"
