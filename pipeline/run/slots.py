"""Slots for builds: so many at once as were asked for and the memory holds, and a timing only when nothing else of ours runs."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pipeline.errors import STOPPING, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STOP_CHECK_S = 0.5


class Slots:
    """Slots for at most `count` builds that together need at most `memory_bytes`; one build may always run."""

    def __init__(self, count: int = 1, memory_bytes: float = float("inf")) -> None:
        self._count, self.memory_bytes = count, memory_bytes
        self._needs: dict[object, int] = {}
        self._is_timing = False
        self._changed = threading.Condition()

    @contextmanager
    def take(self, need_bytes: int) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Wait for a slot and hold it while the block runs; yield a function that gives a context to time in.

        Raises InterruptedRunError when the run is stopped while it waits.
        """
        slot = object()
        self._enter(slot, need_bytes, lambda: self._fits(need_bytes))
        try:
            yield partial(self._alone, slot, need_bytes)
        finally:
            self._leave(slot)

    @contextmanager
    def _alone(self, slot: object, need_bytes: int) -> Iterator[None]:
        self._leave(slot)
        self._enter(slot, need_bytes, lambda: not self._needs, is_timing=True)
        try:
            yield
        finally:
            with self._changed:
                self._is_timing = False
                self._changed.notify_all()

    def _fits(self, need_bytes: int) -> bool:
        if self._is_timing or len(self._needs) >= self._count:
            return False
        return not self._needs or sum(self._needs.values()) + need_bytes <= self.memory_bytes

    def _enter(self, slot: object, need_bytes: int, is_free: Callable[[], bool], *, is_timing: bool = False) -> None:
        with self._changed:
            while not self._changed.wait_for(is_free, timeout=_STOP_CHECK_S):
                if STOPPING.is_set():
                    raise InterruptedRunError
            self._needs[slot] = need_bytes
            self._is_timing = is_timing

    def _leave(self, slot: object) -> None:
        with self._changed:
            self._needs.pop(slot, None)
            self._changed.notify_all()
