"""Choose the best of the proven ways to run a config's release, and write down which it is and how that was found out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.benchmark import heats, race, racing, recommended
from pipeline.benchmark.machine import processor
from pipeline.benchmark.recommended import Candidate, Choice, Limits, Recommended
from pipeline.benchmark.timing import Entrant, inputs_of
from pipeline.errors import GateError, UnavailableError, WorkerError
from pipeline.release import bundle, standalone
from pipeline.release.recommended import is_good_enough
from pipeline.release.tools import tools
from pipeline.report import document
from pipeline.run import cached, candidates, keys, up_to_date
from pipeline.run.export import export
from pipeline.run.plan import plan, results, sweep_away
from pipeline.run.stages import reporting
from pipeline.run.stages.exporting import EXPORT
from pipeline.run.stages.proving import heard_longer, prove_all
from pipeline.run.stages.results import Exported, Proven
from pipeline.run.stages.sampling import SAMPLE
from pipeline.run.stages.state import State, run
from pipeline.storage.store import canonical_json, key, lock, private_directory
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from pipeline.benchmark.race import Heat
    from pipeline.benchmark.racing import Outcome, Phase
    from pipeline.benchmark.rounds import Progress
    from pipeline.config.models import TuneConfig
    from pipeline.formats.artifact import Artifact
    from pipeline.parity.prove import Proof
    from pipeline.run.candidates import Way
    from pipeline.run.plan import Plan, Settings

STAGE = "tune"
_UNJUDGED = "it has a precision of its own, and nothing shows that it is good enough: give gates.….accuracy"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it: the release, and what was written into its report."""

    release: Path
    found: Recommended


def tune(path: Path, settings: Settings, *, again: bool = False) -> Tuned:
    """Race the proven ways to run a config's release, add the result to its report, and return both.

    A config is exported and proven first, unless its release is there. Launches that were made before are taken as they
    are, unless everything is to be timed `again`.

    Raises:
        WeighbridgeError: what the user gave is wrong, a gate closed, or nothing keeps the limits.
    """
    planned = plan(path, settings)
    release = _released(path, planned, settings)
    sweep_away(planned.config.name, settings)
    with private_directory(settings.out / planned.config.name) as work:
        begun = State(planned, settings, work)
        with results(settings).in_use():
            state = _of_release(run(begun, [SAMPLE, EXPORT]), release)
            ways = _ways(state, release)
            proven, notes = _proven(state, ways)
            raced, launches = _raced(state, proven, again=again)
    found = _document(state, release, proven, raced, launches, notes)
    write(release, found)
    return Tuned(release, found)


def write(release: Path, found: Recommended) -> None:
    """Put a recommendation and the pages that show it into a release's report, in place of the older one, whole or not at all."""
    documents = replace(document.read(release), recommended=found)
    files = {recommended.FILE: canonical_json(found.to_json())}
    files |= {name: text.encode() for name, text in reporting.pages(release.parent.name, documents).items()}
    with lock(release.parent / ".lock", f"waiting for another process that writes a release of {release.parent.name}"):
        bundle.add_to_report(release, files)


def _released(path: Path, planned: Plan, settings: Settings) -> Path:
    """Return the release of a config: the one that is there, timed or not, or one that is made now."""
    for benchmark in (True, False):
        parts = keys.of_release(planned, replace(settings, benchmark=benchmark))
        if found := up_to_date.find(settings.out, planned.config.name, parts).release:
            return found
    return export(path, replace(settings, benchmark=False)).release


def _of_release(state: State, release: Path) -> State:
    """Return the state with the release's own files as its artifacts: what is chosen among is what was released."""
    models = {each.get("name") or each["format"]: each for each in standalone.read_manifest(release)["models"]}
    exported = state.need(Exported)
    own = tuple(
        replace(each, written=replace(each.written, files=tuple(release / name for name in models[each.name]["files"])))
        for each in exported.artifacts
        if each.name in models
    )
    return state.adding(replace(exported, artifacts=own))


def _ways(state: State, release: Path) -> list[Way]:
    """Return what there is to try.

    Raises:
        GateError: the size or the precision of every artifact is beyond the limits.
        UnavailableError: none of the proven backends runs an artifact here.
    """
    tuned, cores = state.plan.config.tune, state.settings.threads
    manifest = standalone.read_manifest(release)
    proven = manifest["backends"]
    artifacts = {each.name: each for each in state.need(Exported).artifacts}
    unjudged = [each["name"] for each in manifest["models"] if each.get("name") and not is_good_enough(each)]
    left = candidates.left_out(tuned, artifacts) | dict.fromkeys(unjudged, _UNJUDGED)
    able = [
        replace(each, file=artifacts[each.artifact].files[0])
        for each in state.plan.variants
        if each.name in proven and each.artifact in artifacts and each.unavailable is None
    ]
    for name, why in left.items():
        state.settings.report(Event(STAGE, name, "noted", f"{name} is not looked at: {why}"))
    if not able:
        raise UnavailableError(
            f"none of the backends that {release.name} was proven with runs one of its files here",
            hint="see weighbridge backends, and name in `backends` what runs what is in `exports`",
        )
    found = candidates.ways([each for each in able if each.artifact not in left], cores)
    if not found:
        told = "\n  ".join(f"{name}: {why}" for name, why in left.items())
        raise GateError(
            f"no artifact is within the limits of tune:\n  {told}", hint="raise the limits, or add to `exports`"
        )
    return found


def _proven(state: State, ways: Sequence[Way]) -> tuple[dict[str, tuple[Way, Proof]], list[str]]:
    """Hold each way against the network, with its options, and return those that passed and what is said of the others.

    Raises:
        GateError: none passed.
    """
    state.settings.report(Event("parity", state.plan.config.name, "started", "every candidate", is_stage=True))
    variants = tuple(each.variant for each in ways)
    state = replace(state, plan=replace(state.plan, variants=variants))
    proofs = {each.variant.name: each for each in heard_longer(state.adding(prove_all(state))).need(Proven).proofs}
    state.settings.report(Event("parity", state.plan.config.name, "ended", is_stage=True))
    passed = {each.name: (each, proofs[each.name]) for each in ways if proofs[each.name].status == "pass"}
    failed = [
        f"{name} is not raced: {each.status}: {each.reason}" for name, each in proofs.items() if name not in passed
    ]
    for each in failed:
        state.settings.report(Event("parity", state.plan.config.name, "noted", each))
    if not passed:
        told = "\n  ".join(["no candidate passed parity with its options:", *failed])
        raise GateError(told, hint="prove the release again: weighbridge export CONFIG", about="parity-fail")
    return passed, failed


@dataclass
class _Kept:
    """Launches that are made once: those of an earlier run are taken from the cache."""

    state: State
    base: str
    launches: heats.Launches
    again: bool
    heats: list[Heat]

    def __call__(self, phase: Phase, index: int, names: tuple[str, ...], leader: str) -> Heat:
        cache = results(self.state.settings).local  # what was timed on another machine says nothing of this one
        name = key([self.base, phase, index, sorted(names), leader])
        if self.again:
            cache.remove(name)

        def make(_: Path) -> dict[str, JsonValue]:
            made = self.launches(phase, index, names, leader)
            return {"heat": heats.to_json(made), "arm_s": self.launches.arm_s, "turn_s": self.launches.turn_s}

        about = f"{self.state.plan.config.name}: launch {index + 1} of a {phase}"
        found = cached.get_or_make(cache, name, about, make)
        if found.answer["heat"]["failures"]:
            cache.remove(name)  # as everywhere: what failed is tried again by the next run
        self.launches.learn(found.answer["arm_s"], found.answer["turn_s"])
        self.heats.append(heats.from_json(found.answer["heat"]))
        return self.heats[-1]


def _raced(state: State, proven: Mapping[str, tuple[Way, Proof]], *, again: bool) -> tuple[Outcome, list[Heat]]:
    """Race what was proven; raises GateError where nothing keeps the limits."""
    planned, settings, tuned = state.plan, state.settings, state.plan.config.tune
    artifacts = {each.name: each for each in state.need(Exported).artifacts}
    ways = [way for way, _ in proven.values()]
    sizes = {way.name: artifacts[way.variant.artifact or ""].size_bytes for way in ways}
    chosen = planned.config.benchmark.model_copy(update={"sizes": [tuned.size]})
    (case,) = inputs_of(planned.interface, chosen, planned.config.parity.seed).values()
    shown = _Shown(state, tuned.seconds)
    course = heats.Course(
        entrants=[Entrant(way.name, way.variant, way.threads) for way in ways],
        objective=tuned.objective,
        file_bytes=sizes,
        interface=planned.interface,
        network=planned.network,
        case=case,
        cores=settings.threads,
        seconds=tuned.seconds,
        seed=planned.config.parity.seed,
        timeout_s=planned.config.limits.run_seconds,
        runner=state.runner,
        tell=shown.within,
    )
    variants = [way.variant for way in ways]
    base = keys.of_race(planned, variants, list(artifacts.values()), settings.threads)
    launches = _Kept(state, base, heats.Launches(course), again, [])
    rules = racing.Rules(tuned.seconds, planned.config.benchmark.margin, tuned.p99_ms, tuned.memory_bytes)
    settings.report(Event(STAGE, planned.config.name, "started", f"{len(ways)} candidates", is_stage=True))
    with settings.alone():
        outcome = racing.run([way.name for way in ways], launches, rules, sizes, shown.between)
    settings.report(Event(STAGE, planned.config.name, "ended", is_stage=True))
    if outcome.chosen is None:
        raise _unkept(outcome, tuned)
    return outcome, launches.heats


def _unkept(outcome: Outcome, tuned: TuneConfig) -> GateError | WorkerError:
    if outcome.result == "not shown":
        return GateError(
            f"no candidate was shown to keep tune.p99_ms, the nearest is {outcome.why}",
            hint=f"more calls may show it: --seconds {2 * tuned.seconds:g}",
        )
    told = [f"{each.name}: {each.left.why}" for each in outcome.standings if each.left]
    if all(each.left.failed for each in outcome.standings if each.left):
        message = "\n  ".join(["no candidate could be timed:", *told])
        return WorkerError(message, hint="see what is said there; with `parity` each is run once, without being timed")
    return GateError(
        "\n  ".join(["no candidate keeps the limits of tune:", *told]),
        hint="raise the limits, or lower what a call has to do",
    )


@dataclass
class _Shown:
    """What a person sees of a race."""

    state: State
    seconds: float
    now: racing.Progress | None = None

    def between(self, now: racing.Progress) -> None:
        """Take in that a launch begins."""
        self.now = now

    def within(self, launch: Progress) -> None:
        """Show where a launch stands."""
        if self.now is None:
            return
        left_s = max(self.now.left_s - launch.elapsed_s, 0.0)
        what = "new launch" if self.now.phase == "confirmation" else "launch"
        detail = f"{what} {self.now.launch}, {launch.phase}, {self.now.racing} of {self.now.candidates} candidates, at most {left_s:.0f} s left"
        done = min(1 - left_s / self.seconds, 1.0)
        self.state.settings.report(Event(STAGE, "candidates", "working", detail, done))


def _document(
    state: State,
    release: Path,
    proven: Mapping[str, tuple[Way, Proof]],
    outcome: Outcome,
    launches: Sequence[Heat],
    notes: Sequence[str],
) -> Recommended:
    planned, tuned, cores = state.plan, state.plan.config.tune, state.settings.threads
    artifacts = {each.name: each for each in state.need(Exported).artifacts}
    rows = tuple(_candidate(each, *proven[each.name], artifacts, launches, len(proven)) for each in outcome.standings)
    chosen = next(row for row in rows if row.name == outcome.chosen)
    chosen_config = planned.config.benchmark.model_copy(update={"sizes": [tuned.size]})
    (case,) = inputs_of(planned.interface, chosen_config, planned.config.parity.seed).values()
    together = tuned.objective == "throughput"
    return Recommended(
        schema_version=1,
        digest=standalone.read_manifest(release)["digest"],
        processor=processor(),
        device=backends()[chosen.choice.backend].device_facts(),
        cores=cores,
        objective=tuned.objective,
        sizes=dict(case.sizes),
        callers="as many as fill the processors" if together else "one",
        limits=Limits(
            p99_ms=tuned.p99_ms,
            memory_bytes=tuned.memory_bytes,
            bytes=tuned.bytes,
            precision=None if tuned.precision is None else tuple(tuned.precision),
        ),
        margin=planned.config.benchmark.margin,
        result="best" if outcome.result == "best" else "not told apart",
        choice=chosen.choice,
        chosen=chosen.name,
        tied=outcome.tied,
        why=outcome.why,
        candidates=rows,
        launches=outcome.launches,
        confirmations=outcome.confirmations,
        seconds=outcome.seconds,
        budget_s=tuned.seconds,
        more_s=outcome.more_s,
        tools=tools(keys.distributions(planned)),
        notes=tuple(notes),
    )


def _candidate(
    standing: racing.Standing,
    way: Way,
    proof: Proof,
    artifacts: Mapping[str, Artifact],
    launches: Sequence[Heat],
    count: int,
) -> Candidate:
    variant, name = way.variant, way.name
    artifact = artifacts[variant.artifact or ""]
    calls = sorted(call for heat in launches for call in heat.calls_ns.get(name, ()))
    peaks = [heat.peak_bytes[name] for heat in launches if name in heat.peak_bytes]
    worst = proof.worst
    return Candidate(
        name=name,
        choice=Choice(
            variant=way.base.name, backend=variant.backend, artifact=artifact.name, options=dict(variant.options)
        ),
        precision=candidates.precision_of(artifact),
        factor=worst.factor if worst else None,
        file_bytes=artifact.size_bytes,
        median_ms=statistics.median(calls) / 1e6 if calls else None,
        p99=_p99(calls, count),
        peak_bytes=round(statistics.median(peaks)) if peaks else None,
        ratio=standing.ratio,
        interval=standing.interval,
        launches=standing.launches,
        left=f"launch {standing.left.launch}: {standing.left.why}" if standing.left else None,
    )


def _p99(calls: Sequence[int], count: int) -> recommended.P99 | None:
    if not calls:
        return None
    low, high = race.p99_bounds_ms(calls, race.ALPHA / count)
    value = calls[max(-(-99 * len(calls) // 100), 1) - 1] / 1e6
    return recommended.P99(value_ms=value, low_ms=low, high_ms=high, calls=len(calls))
