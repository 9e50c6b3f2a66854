"""The launches of a race on this machine: fresh workers, interleaved blocks, as `rounds` makes them, one launch at a time."""

from __future__ import annotations

import math
import random
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from pipeline.benchmark import rounds, timing
from pipeline.benchmark.measurements import Plan
from pipeline.benchmark.race import Heat
from pipeline.errors import UnavailableError, WorkerError
from pipeline.storage.store import key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pydantic import JsonValue

    from pipeline.benchmark.measurements import ArmMeasurements, Block, WorkerFacts
    from pipeline.benchmark.racing import Phase
    from pipeline.benchmark.recommended import Objective
    from pipeline.benchmark.timing import Entrant, WorkerScenarios
    from pipeline.interface import Case, Interface
    from pipeline.rebuild.network import Network
    from pipeline.worker.runner import Runner

START_S = 1.0
"""What a worker is taken to cost before one was started: loading a runtime, opening, warming up, stopping."""
LEAST_LAUNCHES = 6
"""How many launches a budget is divided by at least."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is raced, at what, and how its workers are started. `file_bytes`: the size of each one's files, by name."""

    entrants: Sequence[Entrant]
    objective: Objective
    file_bytes: Mapping[str, int]
    interface: Interface
    network: Network | None
    case: Case
    cores: int
    seconds: float
    seed: int
    timeout_s: float
    runner: Runner
    tell: Callable[[rounds.Progress], None]

    def callers(self, entrant: Entrant) -> int:
        """How many calls are under way at once: one, or for throughput as many as fill the processors with its threads."""
        return max(self.cores // entrant.threads, 1) if self.objective == "throughput" else 1


@dataclass(frozen=True, slots=True)
class _Together:
    """A worker whose blocks are made by several callers."""

    worker: WorkerScenarios
    callers: int

    @property
    def facts(self) -> WorkerFacts:
        return self.worker.facts

    def block(self, scenario: str, calls: int) -> Sequence[int]:
        return self.worker.timed_together(scenario, self.callers, calls)


@dataclass
class Launches:
    """Makes launches; what one costs is learnt from those before, kept ones included."""

    course: Course
    arm_s: float = START_S
    turn_s: float = Plan(seconds=1).block_ms / 1e3
    made: list[Heat] = field(default_factory=list)

    def __call__(self, phase: Phase, index: int, names: tuple[str, ...], leader: str) -> Heat:
        """Make one launch, as `racing.Launcher` has it; a leader that fails costs the launch, and no more."""
        course, began_s = self.course, time.monotonic()
        entrants = [each for each in course.entrants if each.name in names]
        arms = len(entrants) + 1
        base = Plan(seconds=1)
        fixed_s, round_s = self.arm_s * arms, self.turn_s * arms
        seconds = min(fixed_s + base.worth_s(fixed_s, round_s), course.seconds / LEAST_LAUNCHES)
        try:
            (measured,) = rounds.run(
                [rounds.Arm(each.name, self._starting(each)) for each in entrants],
                reference=leader,
                scenarios=[course.case.name],
                plan=Plan(seconds=max(seconds, 0.1), launches=1, min_launches=1),
                clock=time.monotonic,
                # Of its own for each launch, so that one that was kept is followed by what would have followed it.
                rng=random.Random(key([course.seed, phase, index])),
                progress=course.tell,
            ).values()
        except (WorkerError, UnavailableError) as error:
            return Heat({}, leader, {}, time.monotonic() - began_s, failures={leader: error.message})
        (launch,) = measured.launches
        self.learn(launch.fixed_s / arms, launch.measure_s / max(len(launch.round_orders), 1) / arms)
        callers = {each.name: course.callers(each) for each in entrants} | {measured.control: 1}
        callers[measured.control] = callers[leader]
        there = {name: arm for name, arm in launch.arms.items() if arm.blocks and name not in measured.failures}
        values = {name: self._values(name, arm, callers[name], leader) for name, arm in there.items()}
        control = values.pop(measured.control)
        there.pop(measured.control)
        return Heat(
            values=values,
            leader=leader,
            control=control,
            seconds=time.monotonic() - began_s,
            calls_ns={
                name: [each for block in arm.blocks for each in block.durations_ns] for name, arm in there.items()
            },
            peak_bytes={name: peak for name, arm in there.items() if (peak := _peak_bytes(arm)) is not None},
            failures=dict(measured.failures),
        )

    def learn(self, arm_s: float, turn_s: float) -> None:
        """Take in what a worker cost besides its turns, and what a turn took."""
        self.arm_s, self.turn_s = arm_s, turn_s

    def _starting(self, entrant: Entrant) -> Callable[[], AbstractContextManager[rounds.Timed]]:
        course, callers = self.course, self.course.callers(entrant)
        scenarios = {course.case.name: course.case}
        start = timing.launcher(entrant, course.interface, course.network, scenarios, course.timeout_s, course.runner)

        @contextmanager
        def started() -> Iterator[rounds.Timed]:
            with start() as worker:
                yield worker if callers == 1 else _Together(worker, callers)

        return started

    def _values(self, name: str, arm: ArmMeasurements, callers: int, leader: str) -> dict[int, float]:
        """Return the logarithm of the objective by round; memory and size have one value a launch."""
        course = self.course
        if course.objective == "memory":
            return {0: math.log(max(_peak_bytes(arm) or 1, 1))}
        if course.objective == "size":
            return {0: math.log(max(course.file_bytes.get(name, course.file_bytes[leader]), 1))}
        return {block.round: math.log(_call_ms(block, callers)) for block in arm.blocks}


def _call_ms(block: Block, callers: int) -> float:
    """Return the time of a call: its median, or with several callers the mean ÷ how many, which is what throughput is made of."""
    if callers == 1:
        return statistics.median(block.durations_ns) / 1e6
    return block.total_ns / block.calls / callers / 1e6


def _peak_bytes(arm: ArmMeasurements) -> int | None:
    facts = arm.facts
    if facts.peak_bytes is None or facts.baseline_bytes is None:
        return None
    return max(facts.peak_bytes - facts.baseline_bytes, 0)


def to_json(heat: Heat) -> dict[str, JsonValue]:
    """Return a launch as JSON values, to be kept."""
    return {
        "values": {name: {str(index): value for index, value in logs.items()} for name, logs in heat.values.items()},
        "leader": heat.leader,
        "control": {str(index): value for index, value in heat.control.items()},
        "seconds": heat.seconds,
        "calls_ns": {name: list(calls) for name, calls in heat.calls_ns.items()},
        "peak_bytes": dict(heat.peak_bytes),
        "failures": dict(heat.failures),
    }


def from_json(kept: JsonValue) -> Heat:
    """Return a launch that was kept."""
    return TypeAdapter(Heat).validate_python(kept)
