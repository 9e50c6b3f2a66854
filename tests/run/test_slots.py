"""Builds share the memory there is, and a timing has the machine for itself."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import STOPPING, InterruptedRunError
from pipeline.run.slots import Slots


class Watch:
    """Counts who is at work at once."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def work(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize(
    ("count", "memory_bytes", "most"), [(1, 100, 1), (3, 100, 3), (8, 100, 5), (8, 30, 1), (8, 1, 1)]
)
def test_as_many_builds_run_at_once_as_were_asked_for_and_fit_but_always_one(count, memory_bytes, most):
    slots, watch = Slots(count, memory_bytes), Watch()

    def build(_):
        with slots.take(20):
            watch.work()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(build, range(20)))
    assert watch.most <= most
    assert count == 1 or memory_bytes < 40 or watch.most > 1


def test_while_one_is_timed_nobody_builds_and_nobody_else_is_timed():
    slots, building, timing = Slots(4), Watch(), Watch()
    disturbed = []

    def build(_):
        with slots.take(1) as alone:
            building.work()
            with alone():
                disturbed.append(building.now)
                timing.work()
                disturbed.append(building.now)
            building.work()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(8)))
    assert set(disturbed) == {0}
    assert timing.most == 1


def test_a_build_that_fails_gives_its_slot_back_also_while_it_is_timed():
    slots = Slots(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), slots.take(1) as alone, alone():
            raise ZeroDivisionError
    with slots.take(1):
        pass


def test_who_waits_when_the_run_is_stopped_stops_too():
    slots = Slots(1)
    with slots.take(1), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: slots.take(1).__enter__())
        STOPPING.set()
        try:
            with pytest.raises(InterruptedRunError):
                waiting.result(timeout=30)
        finally:
            STOPPING.clear()
