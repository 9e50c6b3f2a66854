"""How long something takes, held against a plain loop on the same machine: a slow moment slows both, and decides nothing."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNS = 1_000_000


def _loop() -> float:
    """Return the seconds of processor time that a million turns take: a twentieth of a second on a quiet machine."""
    start = time.process_time()
    total = 0
    for index in range(_TURNS):
        total += index
    return time.process_time() - start


@contextmanager
def at_most(millions: float) -> Iterator[None]:
    """Hold that a block takes no more processor time than so many million turns of a loop; 40 are two seconds where it is quiet."""
    before = _loop()
    start = time.process_time()
    yield
    taken = time.process_time() - start
    turns = taken / max(before, _loop())
    assert turns < millions, f"{taken:.2f} s, the time of {turns:.0f} million turns of a loop"
