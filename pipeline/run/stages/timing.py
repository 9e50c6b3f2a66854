"""Time every backend that passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.benchmark import timing
from pipeline.benchmark.document import UNTIMED, Benchmark
from pipeline.errors import UnavailableError, WorkerError
from pipeline.run import cached, keys
from pipeline.run.stages import reporting
from pipeline.run.stages.reporting import note
from pipeline.run.stages.results import Exported, Judged, Proven, Timed
from pipeline.run.stages.state import Stage
from pipeline.worker.event import Event
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.backends.variant import Variant
    from pipeline.run.plan import Plan, Settings
    from pipeline.run.stages.state import State
    from pipeline.worker.runner import Runner

_UNTIMED = "release it without latencies: --no-benchmark"


def _run(state: State) -> tuple[object, ...]:
    if not state.settings.benchmark:
        return (Timed(UNTIMED),)
    judged = state.need(Judged)
    proofs = state.need(Proven).proofs
    passed = [each.variant for each in proofs if each.status == "pass" and not judged.fails(each.variant.artifact)]
    try:
        timed = Timed(_timed(state, passed))
    except WorkerError as error:  # the reference itself: there is nothing to compare the others with
        written = reporting.without_release(state, reporting.files(state))
        raise UnavailableError(f"{error.message}\n  {written}", hint=_UNTIMED, about=error.about) from None
    dropped = _dropped(timed.benchmark)
    required = [variant.name for variant in passed if variant.required]
    note(state, "benchmark", dropped, required)
    if lost := {name: reason for name, reason in dropped.items() if name in required}:
        written = reporting.without_release(state, reporting.files(state, benchmark=timed.benchmark))
        lines = ["a required backend did not last the benchmark:", *map(": ".join, lost.items()), written]
        raise UnavailableError("\n  ".join(lines), hint=_UNTIMED, about=WorkerError.about)
    return (timed,)


def _dropped(benchmark: Benchmark) -> dict[str, str]:
    """Return why backends dropped out of a benchmark."""
    arms = {name: arm.variant for name, arm in benchmark.arms.items()}
    failures = [failure for size in benchmark.sizes for failure in size.measurements.failures.items()]
    # Keyed by the variant: its name may tell threads too, or that it is the reference's second copy.
    return {arms.get(name, name): reason for name, reason in failures}


def _timed(state: State, passed: Sequence[Variant]) -> Benchmark:
    planned, settings = state.plan, state.settings
    if not settings.reuse_timings:
        return measured(planned, passed, settings, state.runner)
    key = keys.of_timings(planned, passed, state.need(Exported).artifacts, settings.threads)
    here = state.cache.local  # what was timed on another machine says nothing of this one
    known = cached.get(here, key)
    if known is not None:
        settings.report(Event("benchmark", "timings", "reused"))
        return Benchmark.from_json(known.answer)
    found = measured(planned, passed, settings, state.runner)
    if not _dropped(found):
        cached.keep(here, key, f"{planned.config.name}: timings", found.to_json())
    return found


def measured(planned: Plan, variants: Sequence[Variant], settings: Settings, runner: Runner = LOCAL) -> Benchmark:
    """Time variants of a config as it says. Nothing else of ours runs meanwhile."""
    with settings.alone():
        timings = timing.measure(
            variants,
            planned.interface,
            planned.network,
            planned.config.benchmark,
            seed=planned.config.parity.seed,
            threads=settings.threads,
            timeout_s=planned.config.limits.run_seconds,
            report=settings.report,
            runner=runner,
        )
    return timings or UNTIMED


TIME = Stage("benchmark", "time every backend that passed", (Exported, Proven, Judged), (Timed,), _run)
