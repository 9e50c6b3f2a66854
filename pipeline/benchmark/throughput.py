"""How much a backend gets through: over the batch, and with several callers at once.

A scenario of its own, measured with the workers of the last launch in what is left of the budget. Each point is one short
stretch, so the figures carry no interval: they show a course, and decide no verdict.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.benchmark.document import Rate
from pipeline.errors import WeighbridgeError
from pipeline.interface import complete_sizes, free_dimensions, in_words
from pipeline.rebuild import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.interface import Arrays, Case, Interface
    from pipeline.worker.session import Throughput

LONGEST_S = 0.25
SHORTEST_S = 0.02


@dataclass(frozen=True, slots=True)
class Point:
    """A batch and a number of callers; `items` is what one call gets through."""

    case: Case
    items: int
    callers: int


class Caller(Protocol):
    """A worker that can be called by several threads."""

    def bind(self, scenario: str, inputs: Arrays) -> None:
        """Fix the inputs of a scenario."""

    def together(self, scenario: str, callers: int, seconds: float) -> Throughput:
        """Call from several threads for `seconds`."""


def batch_dimension(interface: Interface) -> str | None:
    """Return the first dynamic dimension of the first input: what a batch is, as far as shapes tell."""
    first = next((size for size in interface.inputs[0].shape if isinstance(size, str)), None)
    return first if first in {each.name for each in free_dimensions(interface.dimensions)} else None


def points(interface: Interface, sizes: Mapping[str, int], threads: int, seed: int) -> list[Point]:
    """Return what to measure: every fourth power of two of the batch, then callers up to twice the threads."""
    batch = batch_dimension(interface)
    sweep = [dict(sizes)]
    if batch:
        allowed = cases.allowed(next(each for each in interface.dimensions if each.name == batch))
        steps = {allowed[0], allowed[-1]} | {4**power for power in range(12) if 4**power in allowed}
        sweep = [complete_sizes(interface.dimensions, {**sizes, batch: size}) for size in sorted(steps - {0})]
    made = [cases.make(interface, each, seed=seed, name="benchmark") for each in sweep]
    alone = [Point(case, case.sizes[batch] if batch else 1, 1) for case in made]
    several = sorted({count for count in (2, threads, 2 * threads) if count > 1})
    return alone + [Point(alone[0].case, alone[0].items, count) for count in several]


def measure(
    workers: Mapping[str, Caller], wanted: Sequence[Point], seconds: float, clock: Callable[[], float] = time.monotonic
) -> tuple[list[Rate], list[str]]:
    """Measure the points in order, each on every backend, within `seconds`; return the rates and what had to be left out."""
    until, rates, notes = clock() + seconds, list[Rate](), list[str]()
    slowest_s: dict[str, float] = {}
    for index, point in enumerate(wanted):
        share_s = (until - clock()) / (len(wanted) - index) / max(len(workers), 1)
        for name, worker in workers.items():
            label = f"{name}, {_label(point)}"
            expected_s = slowest_s.get(name, 0.0) * point.items * point.callers
            if share_s < SHORTEST_S or clock() + 2 * expected_s > until:
                notes.append(f"{label}: no time left within benchmark.seconds")
                continue
            try:
                rate = _rate(name, worker, point, min(share_s / 2, LONGEST_S))
            except WeighbridgeError as error:
                notes.append(f"{label}: {error.message}")
                continue
            rates.append(rate)
            slowest_s[name] = 1 / rate.per_second
    return rates, notes


def _rate(name: str, worker: Caller, point: Point, seconds: float) -> Rate:
    scenario = f"throughput {_label(point)}"
    worker.bind(scenario, point.case.inputs)
    worker.together(scenario, point.callers, 0.0)  # the first call at a new size allocates, and may compile
    found = worker.together(scenario, point.callers, seconds)
    return Rate(
        name=name,
        sizes=dict(point.case.sizes),
        callers=point.callers,
        calls=found.calls,
        seconds=found.seconds,
        per_second=found.calls * point.items / found.seconds,
    )


def _label(point: Point) -> str:
    sizes = in_words(point.case.sizes)
    return sizes if point.callers == 1 else f"{sizes}, {point.callers} callers"
