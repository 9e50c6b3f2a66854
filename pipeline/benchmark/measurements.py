"""What a benchmark run leaves behind: every raw value as it was measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic evaluates annotations in this module
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from pipeline.benchmark.gpu import State  # noqa: TC001 - as above
from pipeline.errors import InputError
from pipeline.storage.documents import Count, Many, Part, Positive

KEPT_CALLS = 200
# How much more rounds scatter than launches, roughly, which decides when another launch tells more than further rounds:
# the variance of the mean, (launch² + round² ÷ rounds) ÷ launches, is smallest for a given time if a launch measures for
# this × √(time to prepare it × time of a round).
_SCATTER = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure and in what portions, fixed before the first measurement.

    `seconds` is the budget of the whole run, starting and stopping workers included. `launches` are wanted and
    `min_launches` are made even if the budget is too small for them; of `min_rounds` in each launch only the first is, then. A block of
    one backend lasts about `block_ms`, but at least one call and at most `max_calls`. Warm-up ends when the medians
    of `agreeing` consecutive windows of `window_ms` (of two, where one call fills a block) lie within `tolerance` of one
    another, or after `warm_up_s`. `reserve_s` of the budget is left to what is measured after the last round.
    """

    seconds: float
    launches: int = 6
    min_launches: int = 3
    min_rounds: int = 3
    block_ms: float = 60.0
    max_calls: int = 20_000
    warm_up_s: float = 1.0
    window_ms: float = 20.0
    agreeing: int = 3
    tolerance: float = 0.05
    concurrent_starts: int = 2
    reserve_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            InputError: a value is not positive, or a minimum is above what it is the minimum of.

        """
        for name in (each.name for each in dataclasses.fields(self)):
            if not (getattr(self, name) > 0 or (name == "reserve_s" and self.reserve_s == 0)):
                raise InputError(f"benchmark {name} is {getattr(self, name)}", hint="give a number above 0")
        if self.min_launches > self.launches:
            raise InputError(
                f"benchmark launches is {self.launches}, below the minimum of {self.min_launches}",
                hint=f"give at least {self.min_launches} launches: an interval needs their spread",
            )

    def worth_s(self, fixed_s: float, round_s: float) -> float:
        """How long a launch should measure before another one tells more, if preparing one takes `fixed_s`."""
        return max(self.min_rounds * round_s, _SCATTER * math.sqrt(fixed_s * round_s))


Nanoseconds = Annotated[int, Field(gt=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Block:
    """One backend's turn in one round: `calls` calls that took `total_ns` together.

    `durations_ns` holds each call, or, of more than 200, every so many so that 200 remain (see `thin`).
    """

    round: Count
    calls: Count
    total_ns: Nanoseconds
    durations_ns: Many[Nanoseconds]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a worker got up to speed: whether it settled, and the median time of a call in each window."""

    settled: bool
    calls: Count
    medians_ns: Many[Positive]


class WorkerFacts(Part):
    """What a worker reported about itself, the times and memory of its own start first; a backend may tell more.

    `device_ms`: the time of a call by scenario without copies, of a backend on a GPU, whose state then was `gpu`.
    `changed_ms`: there, the time of the first call after one with other inputs, which is in no other figure.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    start_ms: float | None = None
    import_ms: float | None = None
    load_ms: float | None = None
    baseline_bytes: Count | None = None
    resident_bytes: Count | None = None
    peak_bytes: Count | None = None
    joules_per_call: Mapping[str, float] = Field(default={})
    device_ms: dict[str, float | None] | None = None
    changed_ms: dict[str, float] = Field(default={})
    gpu: State | None = None


@dataclass(frozen=True, slots=True)
class ArmMeasurements:
    """One backend in one launch."""

    facts: WorkerFacts
    warm_up: WarmUp | None
    blocks: Many[Block]


@dataclass(frozen=True, slots=True)
class Launch:
    """One set of fresh workers: the order they were started in, each round's order, and where the time went.

    The seconds are the launch's, whose workers may have served other scenarios too.
    """

    start_order: Many[str]
    round_orders: Many[tuple[str, ...]]
    arms: Mapping[str, ArmMeasurements]
    start_s: float
    warm_up_s: float
    measure_s: float
    stop_s: float

    @property
    def fixed_s(self) -> float:
        """What it took besides measuring."""
        return self.start_s + self.warm_up_s + self.stop_s


@dataclass(frozen=True, slots=True)
class Measurements:
    """A whole run in one scenario. `control` is the second copy of the reference; `failures` say why an arm dropped out."""

    reference: str
    control: str
    arms: Many[str]
    plan: Plan
    launches: Many[Launch]
    elapsed_s: float
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: Many[str] = ()
    schema: Literal[1] = 1


def thin(durations_ns: Sequence[int]) -> tuple[int, ...]:
    """Keep at most 200 of a block's calls, evenly spaced from the first on, so that no value decides what is kept."""
    count = len(durations_ns)
    if count <= KEPT_CALLS:
        return tuple(durations_ns)
    return tuple(durations_ns[index * count // KEPT_CALLS] for index in range(KEPT_CALLS))
