"""Time a network's backends: arms for the rounds, one worker each."""

from __future__ import annotations

import math
import random
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, cast

from pipeline.backends.table import backends
from pipeline.benchmark import energy, figures, gpu, machine, rounds, throughput
from pipeline.benchmark.document import Arm, Benchmark, Energy, Figures, Graph, Roofline, Size
from pipeline.benchmark.jobs import CountOperators, MeasureRoofline
from pipeline.benchmark.measurements import Plan, WorkerFacts
from pipeline.benchmark.statistics import analyse
from pipeline.errors import WeighbridgeError, WorkerError
from pipeline.formats.table import formats
from pipeline.interface import complete_sizes, in_words
from pipeline.rebuild import cases
from pipeline.worker.event import Event
from pipeline.worker.process import LOCAL
from pipeline.worker.session import (
    Bind,
    CallTogether,
    ReadChanges,
    ReadFacts,
    ReadMemory,
    TimeBlock,
    TimeOnDevice,
    TimeTogether,
    opened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pydantic import JsonValue

    from pipeline.backends.variant import Variant
    from pipeline.benchmark.document import Achieved, Rate
    from pipeline.benchmark.energy import Meter
    from pipeline.benchmark.measurements import Measurements
    from pipeline.benchmark.statistics import Analysis
    from pipeline.config import BenchmarkConfig
    from pipeline.formats.format import Format
    from pipeline.interface import Arrays, Case, Interface
    from pipeline.rebuild.network import Network
    from pipeline.worker.runner import Runner, Worker
    from pipeline.worker.session import Throughput

RESERVED_SHARE = 0.1
ROOFLINE_S = 0.3
ON_DEVICE_S = 0.05
# Under load a call may take a thousand times what it took to warm up, because threads wait for one another.
LONGEST_BLOCK_S = 0.24
_OWN_THREADS = {"threads", "intra_op_num_threads"}
MACHINE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Entrant:
    """A variant with the threads it is given, under the name its results carry."""

    name: str
    variant: Variant
    threads: int


@dataclass(frozen=True, slots=True)
class Reached:
    """What this machine reaches at best, and what the exported ONNX file asks of it, or why that is not known."""

    roofline: Roofline
    graph: Graph | None
    notes: tuple[str, ...] = ()


@dataclass
class WorkerScenarios:
    """An opened worker, its inputs bound under the names of the scenarios; `gpu` is the index of the one it runs on."""

    worker: Worker
    opened: Mapping[str, JsonValue]
    timeout_s: float
    meter: Meter | None = None
    gpu: int | None = None
    joules: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)

    @property
    def facts(self) -> WorkerFacts:
        """What opening told, the worker's memory now, the joules that went into the timed calls, and what its GPU tells."""
        used = {name: self.joules[name] / self.calls[name] for name in self.joules}
        memory = self.worker.call(ReadMemory(), timeout_s=self.timeout_s)
        session = self.worker.call(ReadFacts(), timeout_s=self.timeout_s)
        told = {**self.opened, **session, **memory.model_dump(), "joules_per_call": used}
        if self.gpu is not None:
            now = gpu.state(self.gpu)  # while it is still warm from the rounds
            told["gpu"] = now and asdict(now)
            changed = self.worker.call(ReadChanges(), timeout_s=self.timeout_s)
            told["changed_ms"] = {name: statistics.median(each) / 1e6 for name, each in changed.items()}
            told["device_ms"] = {name: self._device_ms(name) for name in self.scenarios}
        try:
            return WorkerFacts.from_json(told)
        except ValueError as error:
            said = f"a backend tells of itself what cannot be: {error}"
            raise WorkerError(said, hint="report it to whoever made the backend") from None

    def _device_ms(self, scenario: str) -> float | None:
        """Return the median time of a call in the GPU's own memory."""
        found = self.worker.call(TimeOnDevice(scenario=scenario, seconds=ON_DEVICE_S), timeout_s=self.timeout_s)
        return statistics.median(found) / 1e6 if found else None

    def bind(self, scenario: str, inputs: Arrays) -> None:
        """Fix the inputs of a scenario."""
        self.scenarios.append(scenario)
        self.worker.call(Bind(scenario=scenario, inputs=dict(inputs)), timeout_s=self.timeout_s)

    def block(self, scenario: str, calls: int) -> Sequence[int]:
        """Make `calls` calls, or fewer if they take too long, and return the duration of each in ns."""
        before = self.meter() if self.meter else 0.0
        request = TimeBlock(scenario=scenario, calls=calls, longest_s=LONGEST_BLOCK_S)
        durations = self.worker.call(request, timeout_s=self.timeout_s)
        if self.meter:
            self.joules[scenario] = self.joules.get(scenario, 0.0) + self.meter() - before
            self.calls[scenario] = self.calls.get(scenario, 0) + len(durations)
        return durations

    def timed_together(self, scenario: str, callers: int, calls: int) -> Sequence[int]:
        """Make `calls` calls, or fewer if they take too long, several at once, and return the duration of each in ns."""
        request = TimeTogether(scenario=scenario, callers=callers, calls=calls, longest_s=LONGEST_BLOCK_S)
        return self.worker.call(request, timeout_s=self.timeout_s)

    def together(self, scenario: str, callers: int, seconds: float) -> Throughput:
        """Call from several threads at once."""
        request = CallTogether(scenario=scenario, callers=callers, seconds=seconds)
        return self.worker.call(request, timeout_s=self.timeout_s)


def entrants(variants: Sequence[Variant], threads: Sequence[int]) -> list[Entrant]:
    """Return every variant at every number of threads, which its name tells if there are several.

    A variant whose options say its threads, or that runs on a GPU, takes part once.
    """
    if len(threads) == 1:
        return [Entrant(variant.name, variant, threads[0]) for variant in variants]
    found = []
    for variant in variants:
        fixed = backends()[variant.backend].device != "cpu" or not variant.options.keys().isdisjoint(_OWN_THREADS)
        if fixed:
            found.append(Entrant(variant.name, variant, threads[0]))
        else:
            found += [Entrant(f"{variant.name}, {_of_threads(count)}", variant, count) for count in threads]
    return found


def _of_threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def measure(  # noqa: PLR0913 - what a run is made of
    variants: Sequence[Variant],
    interface: Interface,
    network: Network | None,
    settings: BenchmarkConfig,
    *,
    seed: int,
    threads: int,
    timeout_s: float,
    report: Callable[[Event], None],
    runner: Runner = LOCAL,
) -> Benchmark | None:
    """Time `variants` at the configured sizes and numbers of threads within `settings.seconds`.

    `threads`: how many a backend gets where the settings do not say. With several numbers the reference is the configured
    backend at the first of them, so that a verdict on threads comes from the same interleaved rounds as any other. Returns
    None if the reference is not among the variants.
    """
    contestants = entrants(variants, settings.thread_counts(threads))
    reference = next((each.name for each in contestants if each.variant.name == settings.reference), None)
    if reference is None:
        return None
    most = max(each.threads for each in contestants)
    began_s, before = time.monotonic(), machine.pressure()
    inputs = inputs_of(interface, settings, seed)
    arms = [
        rounds.Arm(each.name, launcher(each, interface, network, inputs, timeout_s, runner)) for each in contestants
    ]
    report(Event("benchmark", "backends", "working", "what this machine reaches", 0.0))
    reached = _machine(variants, inputs, most, runner)
    spent_s = time.monotonic() - began_s
    rates: list[Rate] = []
    notes: list[str] = []

    def progress(each: rounds.Progress) -> None:
        left_s = max(settings.seconds - spent_s - each.elapsed_s, 0)
        detail = f"{each.phase}, launch {each.launch} of {each.launches}, {left_s:.0f} s left"
        report(Event("benchmark", "backends", "working", detail, min((each.elapsed_s + spent_s) / settings.seconds, 1)))

    def finale(timed: Mapping[str, rounds.Timed], seconds: float) -> None:
        workers = {name: cast("WorkerScenarios", each) for name, each in timed.items() if "(A/A)" not in name}
        sizes = next(iter(inputs.values())).sizes
        found = throughput.measure(workers, throughput.points(interface, sizes, most, seed), seconds)
        rates.extend(found[0])
        notes.extend(found[1])

    measured = rounds.run(
        arms,
        reference=reference,
        scenarios=list(inputs),
        plan=Plan(seconds=max(settings.seconds - spent_s, 0.1), reserve_s=RESERVED_SHARE * settings.seconds),
        clock=time.monotonic,
        rng=random.Random(seed),
        progress=progress,
        finale=finale,
    )
    analysed = {name: analyse(each, margin=settings.margin) for name, each in measured.items()}
    elsewhere = {each.name for each in contestants if backends()[each.variant.backend].device != "cpu"}
    return Benchmark(
        schema_version=1,
        arms={each.name: Arm(variant=each.variant.name, threads=each.threads) for each in contestants},
        sizes=tuple(size(inputs[name].sizes, each, analysed[name]) for name, each in measured.items()),
        machine=machine.here(),
        pressure=machine.pressure_during(before, machine.pressure()),
        figures=Figures(
            backends=tuple(figures.backend(each.name, measured, _file_bytes(each.variant)) for each in contestants),
            roofline=reached.roofline,
            graph=reached.graph,
            achieved={name: _achieved(inputs[name], each, name, reached, elsewhere) for name, each in analysed.items()},
            energy=_energy([each.name for each in contestants], measured),
            throughput=tuple(rates),
            throughput_notes=tuple(notes),
            notes=reached.notes,
        ),
        budget_s=settings.seconds,
        elapsed_s=time.monotonic() - began_s,
    )


def size(sizes: Mapping[str, int], measured: Measurements, analysis: Analysis) -> Size:
    """Return what a document says of one combination of sizes."""
    judged = {each.name: getattr(analysis, each.name) for each in fields(analysis)}
    return Size(sizes=dict(sizes), samples=measured, **judged)


def _machine(variants: Sequence[Variant], inputs: Mapping[str, Case], threads: int, runner: Runner) -> Reached:
    """Measure this machine's roofline, and count the operations of an exported file whose format can tell them."""
    counting = next((each for each in variants if each.file and _format(each).count_operators), None)
    shapes = {name: {key: list(each.shape) for key, each in case.inputs.items()} for name, case in inputs.items()}
    found = Reached(Roofline(), None)
    with runner.start("the roofline", threads=threads, fresh=True) as worker:
        try:
            roofline = worker.call(MeasureRoofline(seconds=ROOFLINE_S), timeout_s=MACHINE_TIMEOUT_S)
            found = replace(found, roofline=Roofline.from_json(roofline))
            if counting and counting.file:
                request = CountOperators(format=_format(counting).name, file=counting.file, inputs=shapes)
                found = replace(found, graph=Graph.from_json(worker.call(request, timeout_s=MACHINE_TIMEOUT_S)))
        except WeighbridgeError as error:
            found = replace(found, notes=(f"operations were not counted: {error.message}",))
    return found


def _format(variant: Variant) -> Format:
    return formats()[backends()[variant.backend].format or ""]


def _achieved(
    case: Case, analysis: Analysis, scenario: str, reached: Reached, elsewhere: Collection[str]
) -> tuple[Achieved, ...]:
    """Return what each backend gets out of the machine at one size."""
    flops = moved_bytes = None
    if reached.graph:
        flops = reached.graph.flops[scenario]
        moved_bytes = reached.graph.weight_bytes + sum(array.nbytes for array in case.inputs.values())
    return figures.achieved(analysis, flops, moved_bytes, reached.roofline, elsewhere)


def _file_bytes(variant: Variant) -> int | None:
    """The size of what a backend opens, with the data an ONNX file keeps beside itself."""
    if variant.file is None:
        return None
    beside = variant.file.with_name(f"{variant.file.name}.data")
    return variant.file.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _energy(names: Sequence[str], measured: Mapping[str, Measurements]) -> Energy:
    """Return the joules of a call by size and backend, or that they are not measurable here."""
    found: dict[str, dict[str, float]] = {}
    for scenario, each in measured.items():
        for name in names:
            facts = [launch.arms[name].facts for launch in each.launches if name in launch.arms]
            used = [told.joules_per_call[scenario] for told in facts if scenario in told.joules_per_call]
            if used:
                found.setdefault(scenario, {})[name] = math.fsum(used) / len(used)
    reason = None if found else "not measurable: no RAPL or NVML counter can be read here"
    return Energy(joules_per_call=found, reason=reason)


def inputs_of(interface: Interface, settings: BenchmarkConfig, seed: int) -> dict[str, Case]:
    """Return the inputs of each size to time, by a name that says the sizes."""
    lowest = cases.smallest(interface)
    found = {}
    for sizes in settings.sizes or [{}]:
        whole = complete_sizes(interface.dimensions, lowest | sizes)
        found[in_words(whole)] = cases.make(interface, whole, seed=seed, name="benchmark")
    return found


def launcher(
    entrant: Entrant,
    interface: Interface,
    network: Network | None,
    inputs: Mapping[str, Case],
    timeout_s: float,
    runner: Runner,
) -> Callable[[], AbstractContextManager[WorkerScenarios]]:
    """Return what starts a fresh worker for an entrant, with the inputs of every scenario bound."""
    variant = entrant.variant
    on_gpu = backends()[variant.backend].device == "cuda"
    index = variant.options.get("device_id", 0) if on_gpu else None

    @contextmanager
    def launch() -> Iterator[WorkerScenarios]:
        began = time.monotonic()
        session = opened(runner, variant, interface, network, threads=entrant.threads, timeout_s=timeout_s, fresh=True)
        with session as (worker, facts):
            started_ms = (time.monotonic() - began) * 1e3
            meter = energy.cpu_meter() if index is None else gpu.meter(index)
            scenarios = WorkerScenarios(worker, {**facts, "start_ms": started_ms}, timeout_s, meter, index)
            for name, case in inputs.items():
                scenarios.bind(name, case.inputs)
            yield scenarios

    return launch
