"""Time a network's backends: arms for the rounds, one worker each."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import cases
from pipeline.benchmark import machine, rounds
from pipeline.benchmark.samples import Plan, Samples
from pipeline.benchmark.statistics import Analysis, analyse
from pipeline.types import Event
from pipeline.worker.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.config import BenchmarkConfig
    from pipeline.types import Case, Interface, Network, Variant
    from pipeline.worker.process import Worker


@dataclass(frozen=True, slots=True)
class SizeTiming:
    """What was measured at one combination of sizes."""

    sizes: Mapping[str, int]
    samples: Samples
    analysis: Analysis


@dataclass(frozen=True, slots=True)
class Timings:
    """What was measured, and on what machine (JSON values)."""

    sizes: tuple[SizeTiming, ...]
    machine: Mapping[str, Any]
    pressure: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerScenarios:
    """An opened worker, its inputs bound under the names of the scenarios."""

    worker: Worker
    facts: Mapping[str, Any]
    timeout_s: float

    def block(self, scenario: str, calls: int) -> Sequence[int]:
        """Make `calls` calls and return the duration of each in ns."""
        durations: list[int] = self.worker.call("block", timeout_s=self.timeout_s, scenario=scenario, calls=calls)
        return durations


def measure(
    variants: Sequence[Variant],
    interface: Interface,
    network: Network | None,
    settings: BenchmarkConfig,
    *,
    seed: int,
    threads: int,
    timeout_s: float,
    report: Callable[[Event], None],
) -> Timings | None:
    """Time `variants` at the configured sizes within `settings.seconds`; None if the reference is not among them."""
    if settings.reference not in {variant.name for variant in variants}:
        return None
    inputs = _inputs(interface, settings, seed)
    arms = [
        rounds.Arm(variant.name, _launcher(variant, interface, network, inputs, threads, timeout_s))
        for variant in variants
    ]

    def progress(each: rounds.Progress) -> None:
        detail = f"{each.phase}, launch {each.launch} of {each.launches}"
        report(Event("benchmark", "backends", "working", detail, min(each.elapsed_s / each.seconds, 1.0)))

    before = machine.pressure()
    samples = rounds.run(
        arms,
        reference=settings.reference,
        scenarios=list(inputs),
        plan=Plan(seconds=settings.seconds),
        clock=time.monotonic,
        rng=random.Random(seed),
        progress=progress,
    )
    return Timings(
        tuple(
            SizeTiming(inputs[name].sizes, each, analyse(each, margin=settings.margin))
            for name, each in samples.items()
        ),
        machine.describe().to_json(),
        machine.pressure_during(before, machine.pressure()),
    )


def _inputs(interface: Interface, settings: BenchmarkConfig, seed: int) -> dict[str, Case]:
    """Return the inputs of each size to time, by a name that says the sizes."""
    lowest = {each.name: cases.allowed(each)[0] for each in interface.dimensions}
    found = {}
    for sizes in settings.sizes or [{}]:
        whole = lowest | sizes
        name = ", ".join(f"{key}={size}" for key, size in whole.items()) or "fixed sizes"
        found[name] = cases.make(interface, whole, seed=seed, name="benchmark")
    return found


def _launcher(
    variant: Variant,
    interface: Interface,
    network: Network | None,
    inputs: Mapping[str, Case],
    threads: int,
    timeout_s: float,
) -> Any:
    @contextmanager
    def launch() -> Iterator[WorkerScenarios]:
        began = time.monotonic()
        with opened(variant, interface, network, threads=threads, timeout_s=timeout_s) as (worker, facts):
            started_ms = (time.monotonic() - began) * 1e3
            first = {
                name: worker.call("bind", timeout_s=timeout_s, scenario=name, inputs=dict(case.inputs))
                for name, case in inputs.items()
            }
            yield WorkerScenarios(worker, {**facts, "start_ms": started_ms, "first_calls": first}, timeout_s)

    return launch
