"""Time several backends so that a busy machine cannot pass for a slow backend.

A run is several launches. A launch starts a fresh worker for every backend, in random order, because two processes of
the same program differ steadily by up to a percent (memory layout, which core), and only new processes average that
out. Within a launch every round gives each backend one block of about 60 ms, in random order, so that a burst of
foreign load falls on all alike. Where several scenarios (sizes of the inputs) are timed, the workers of a launch serve
all of them, since starting one costs more than a round. The reference takes part twice: what it differs by from itself is what this machine
cannot tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline.benchmark.measurements import (
    ArmMeasurements,
    Block,
    Launch,
    Measurements,
    Plan,
    WarmUp,
    WorkerFacts,
    thin,
)
from pipeline.errors import InputError, UnavailableError, WorkerError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

__all__ = ["Arm", "Phase", "Plan", "Progress", "Timed", "run"]

_WARM_UP_SHARE = 1 / 3
_OVERRUN = 1.1
_LATEST = 1.05

Phase = Literal["starting", "warming up", "measuring", "measuring throughput", "done"]


class Timed(Protocol):
    """A worker with its backend open and the inputs of every scenario bound, ready to be called."""

    @property
    def facts(self) -> WorkerFacts:
        """What the worker reports about itself."""

    def block(self, scenario: str, calls: int) -> Sequence[int]:
        """Make `calls` calls with the scenario's inputs and return how long each took, in ns by the worker's own clock.

        It may make fewer, but one, if they take far longer than they did before.

        Raises:
            WorkerError: the worker died, hung or answered garbage.

        """


@dataclass(frozen=True, slots=True)
class Arm:
    """One contestant: entering `launch()` starts a fresh worker, leaving it ends the worker."""

    name: str
    launch: Callable[[], AbstractContextManager[Timed]]


Finale = Callable[[Mapping[str, Timed], float], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; what is left of it is `seconds - elapsed_s`, because the budget is kept."""

    phase: Phase
    launch: int
    launches: int
    rounds: int
    elapsed_s: float
    seconds: float


def run(  # noqa: PLR0913 - what a run is made of; all but the arms are named by the caller
    arms: Sequence[Arm],
    *,
    reference: str,
    scenarios: Sequence[str],
    plan: Plan,
    clock: Callable[[], float],
    rng: random.Random,
    progress: Callable[[Progress], None],
    finale: Finale | None = None,
) -> dict[str, Measurements]:
    """Measure every arm against the one named `reference` and return the measurements of each scenario.

    The scenarios together take `plan.seconds` by `clock` (seconds, monotonic). `finale` is what else is measured with the
    workers of the last launch, after its rounds: it gets them by name, and the seconds that are left to it.

    Launches that do not fit the budget are left out down to `plan.min_launches`, then the budget is overrun; either is
    said in the notes. An arm whose worker dies drops out with its reason; the others go on. Workers are started
    `plan.concurrent_starts` at a time, so start-up facts are those of a machine that is busy starting.

    Raises:
        InputError: two arms share a name, or none is the reference.
        WorkerError, UnavailableError: the reference itself failed.

    """
    control = f"{reference} (A/A)"
    contest = _Contest(
        arms=_contestants(arms, reference, control),
        essential=frozenset({reference, control}),
        scenarios=tuple(scenarios),
        plan=plan,
        clock=clock,
        rng=rng,
        report=progress,
        finale=finale,
        began_s=clock(),
    )
    contest.run()
    return {
        scenario: Measurements(
            reference=reference,
            control=control,
            arms=tuple(contest.arms),
            plan=plan,
            launches=tuple(launch[scenario] for launch in contest.launches),
            elapsed_s=contest.elapsed_s(),
            failures=contest.failures,
            notes=contest.notes(),
        )
        for scenario in scenarios
    }


def _contestants(
    arms: Sequence[Arm], reference: str, control: str
) -> dict[str, Callable[[], AbstractContextManager[Timed]]]:
    names = [arm.name for arm in arms]
    repeated = sorted({name for name in [*names, control] if [*names, control].count(name) > 1})
    if repeated:
        raise InputError(f"two backends to time are called {repeated[0]!r}", hint="give each variant its own name")
    if reference not in names:
        raise InputError(
            f"benchmark.reference is {reference!r}, and the backends to time are {', '.join(names)}",
            hint="name one of them",
        )
    launches = {arm.name: arm.launch for arm in arms}
    return launches | {control: launches[reference]}


@dataclass
class _Contest:
    """A run in progress. A launch is kept as what it gave for each scenario; its seconds are the same in all."""

    arms: Mapping[str, Callable[[], AbstractContextManager[Timed]]]
    essential: frozenset[str]
    scenarios: tuple[str, ...]
    plan: Plan
    clock: Callable[[], float]
    rng: random.Random
    report: Callable[[Progress], None]
    finale: Finale | None
    began_s: float
    launches: list[dict[str, Launch]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    planned: int = 0

    def run(self) -> None:
        self.planned = self.plan.launches
        while len(self.launches) < self.planned:
            self.launches.append(self._launch())
        self._tell("done", len(self._spent()[-1].round_orders))

    def elapsed_s(self) -> float:
        return self.clock() - self.began_s

    def notes(self) -> tuple[str, ...]:
        """What the reader of the figures must know about how the budget was spent."""
        notes = []
        made, wanted = len(self.launches), self.plan.launches
        if made < wanted:
            cost_s = statistics.fmean(launch.fixed_s for launch in self._spent())
            notes.append(
                f"{made} of {wanted} launches: one takes {cost_s:.1f} s to start, warm up and stop its workers, "
                f"and the budget is {self.plan.seconds:.3g} s"
            )
        if self.elapsed_s() > _OVERRUN * self.plan.seconds:
            notes.append(
                f"took {self.elapsed_s():.1f} s of a budget of {self.plan.seconds:.3g} s: "
                f"{self.plan.min_launches} launches are the least that can be compared"
            )
        return tuple(notes)

    def _spent(self) -> list[Launch]:
        return [launch[self.scenarios[0]] for launch in self.launches]

    def _share(self, preparing_s: float, round_s: float) -> float:
        """Settle how many launches the budget has room for, and return how long the one that is ready may measure [s].

        `preparing_s`: what starting and warming up have just taken; `round_s`: what a round will take.
        """
        stop_s = self._stop_s()
        fixed_s = statistics.fmean([*(launch.fixed_s for launch in self._spent()), preparing_s + stop_s])
        worth_s = self.plan.worth_s(fixed_s, round_s)
        left_s = self.plan.seconds - self.plan.reserve_s - self.elapsed_s()
        more = max(1, int((left_s + preparing_s) / (fixed_s + worth_s)))
        self.planned = min(self.planned, max(self.plan.min_launches, len(self.launches) + more))
        remaining = self.planned - len(self.launches)
        return max((left_s - (remaining - 1) * fixed_s - stop_s) / remaining, 0.0)

    def _launch(self) -> dict[str, Launch]:
        order = [name for name in self.arms if name not in self.failures]
        self.rng.shuffle(order)
        self._tell("starting", 0)
        times = [self.clock()]
        with ExitStack() as workers:
            timed = self._start(order, workers)
            times.append(self.clock())
            self._tell("warming up", 0)
            warm_ups = self._warm_up(timed)
            times.append(self.clock())
            share_s = self._share(times[-1] - times[0], self._round_s(warm_ups))
            turns = self._measure(timed, warm_ups, times[-1] + share_s)
            facts = self._facts(timed)
            times.append(self.clock())
            if self.finale and len(self.launches) + 1 == self.planned:
                self._tell("measuring throughput", 0)
                present = {name: worker for name, worker in timed.items() if name not in self.failures}
                self.finale(present, _LATEST * self.plan.seconds - self.elapsed_s() - self._stop_s())
        times.append(self.clock())
        start_s, warm_up_s, measure_s, stop_s = (later - earlier for earlier, later in pairwise(times))
        return {
            scenario: Launch(
                start_order=tuple(order),
                round_orders=tuple(tuple(made) for made in turns[scenario]),
                arms={
                    name: ArmMeasurements(
                        facts.get(name, WorkerFacts()),
                        warm_ups.get((scenario, name)),
                        tuple(made[name] for made in turns[scenario] if name in made),
                    )
                    for name in timed
                },
                start_s=start_s,
                warm_up_s=warm_up_s,
                measure_s=measure_s,
                stop_s=stop_s,
            )
            for scenario in self.scenarios
        }

    def _start(self, order: Sequence[str], workers: ExitStack) -> dict[str, Timed]:
        # Importing torch takes seconds of one core. Entering from threads is safe: the stack only appends.
        with ThreadPoolExecutor(self.plan.concurrent_starts) as pool:
            starting = {name: pool.submit(lambda arm: workers.enter_context(arm()), self.arms[name]) for name in order}
        timed = {}
        for name, start in starting.items():
            with self._excuse(name):
                timed[name] = start.result()
        return timed

    def _warm_up(self, timed: Mapping[str, Timed]) -> dict[tuple[str, str], WarmUp]:
        """Warm each worker up in each scenario; of all launches this may take a third of the budget."""
        count = self.plan.min_launches * len(self.arms) * len(self.scenarios)
        cap_s = min(self.plan.warm_up_s, _WARM_UP_SHARE * self.plan.seconds / count)
        warm_ups = {}
        for name, worker in timed.items():
            with self._excuse(name):
                for scenario in self.scenarios:
                    warm_ups[scenario, name] = _warm_up(worker, scenario, self.plan, self.clock, cap_s)
        return warm_ups

    def _measure(
        self, timed: Mapping[str, Timed], warm_ups: Mapping[tuple[str, str], WarmUp], deadline_s: float
    ) -> dict[str, list[dict[str, Block]]]:
        """Return each scenario's rounds: the blocks by arm, in the order in which they were made."""
        calls = {key: _calls(self.plan.block_ms, each.medians_ns[-1], self.plan) for key, each in warm_ups.items()}
        turns: dict[str, list[dict[str, Block]]] = {scenario: [] for scenario in self.scenarios}
        began_s, index = self.clock(), 0
        while index == 0 or self._fits(began_s, index, deadline_s):
            for scenario in self.scenarios:
                turns[scenario].append(self._round(timed, scenario, calls, index))
            index += 1
            self._tell("measuring", index)
        return turns

    def _round(
        self, timed: Mapping[str, Timed], scenario: str, calls: Mapping[tuple[str, str], int], index: int
    ) -> dict[str, Block]:
        order = [name for name in timed if name not in self.failures]
        self.rng.shuffle(order)
        blocks = {}
        for name in order:
            with self._excuse(name):
                blocks[name] = _block(timed[name], scenario, calls[scenario, name], index)
        return blocks

    def _round_s(self, warm_ups: Mapping[tuple[str, str], WarmUp]) -> float:
        """How long a round of every arm in every scenario takes: a block each, or a call where that is longer."""
        return sum(max(self.plan.block_ms / 1e3, each.medians_ns[-1] / 1e9) for each in warm_ups.values())

    def _stop_s(self) -> float:
        return statistics.fmean(launch.stop_s for launch in self._spent()) if self.launches else 0.0

    def _facts(self, timed: Mapping[str, Timed]) -> dict[str, WorkerFacts]:
        facts = {}
        for name, worker in timed.items():
            with self._excuse(name):
                facts[name] = worker.facts
        return facts

    def _fits(self, began_s: float, rounds: int, deadline_s: float) -> bool:
        """Whether another round would end nearer to the deadline than stopping now."""
        now_s = self.clock()
        return now_s + (now_s - began_s) / rounds / 2 <= deadline_s

    @contextmanager
    def _excuse(self, name: str) -> Iterator[None]:
        """Let an arm drop out with its reason; without the reference there is nothing to compare to."""
        try:
            yield
        except (WorkerError, UnavailableError) as error:
            if name in self.essential:
                raise
            self.failures.setdefault(name, error.message)

    def _tell(self, phase: Phase, rounds: int) -> None:
        launch = min(len(self.launches) + 1, self.planned)
        self.report(Progress(phase, launch, self.planned, rounds, self.elapsed_s(), self.plan.seconds))


def _warm_up(worker: Timed, scenario: str, plan: Plan, clock: Callable[[], float], cap_s: float) -> WarmUp:
    """Call until windows agree. The first window is the worker's first call in this scenario."""
    began_s, calls, total = clock(), 1, 0
    medians: list[float] = []
    while True:
        window = _block(worker, scenario, calls, 0)
        total += window.calls
        medians.append(statistics.median(window.durations_ns))
        # Three calls that each fill a block would cost as much as the rounds.
        agreeing = 2 if medians[-1] >= plan.block_ms * 1e6 else plan.agreeing
        last = medians[-agreeing:]
        enough = len(last) == agreeing
        settled = enough and max(last) <= (1 + plan.tolerance) * min(last)
        if settled or (enough and clock() - began_s >= cap_s):
            return WarmUp(settled, total, tuple(medians))
        calls = _calls(plan.window_ms, medians[-1], plan)


def _calls(duration_ms: float, call_ns: float, plan: Plan) -> int:
    return min(plan.max_calls, max(1, round(duration_ms * 1e6 / call_ns)))


def _block(worker: Timed, scenario: str, calls: int, index: int) -> Block:
    durations = [int(each) for each in worker.block(scenario, calls)]
    if not 1 <= len(durations) <= calls or min(durations) <= 0:
        raise WorkerError(
            f"a backend that was to time {calls} calls gave {len(durations)} durations, the shortest of "
            f"{min(durations, default=0)} ns",
            hint="every call takes time: report it to whoever made the backend",
        )
    return Block(index, len(durations), sum(durations), thin(durations))
