"""The stages of an export, in order: the one place where the rooms below meet.

A stage is a function from one frozen state to the next. What takes long is kept in the cache under everything it depends
on, so that a run that was stopped goes on where it was, and one with a changed config makes only what the change touches.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.benchmark import timing
from pipeline.errors import MisfitError, UnavailableError, WeighbridgeError, WorkerError
from pipeline.formats.artifact import Artifact
from pipeline.parity import choice, explain, oracle, prove, trained
from pipeline.parity.budget import Rule
from pipeline.parity.compare import Finding
from pipeline.parity.jobs import Evaluate, Evaluation, Rehearse, Rehearsed
from pipeline.rebuild import cases, reference
from pipeline.release import bundle, compose
from pipeline.report import document, html, markdown
from pipeline.run import kept
from pipeline.run import keys as dependencies
from pipeline.run.jobs import Export
from pipeline.run.plan import at_once, results
from pipeline.storage.cache import Cache
from pipeline.weights.files import digest
from pipeline.worker.event import Event
from pipeline.worker.process import LOCAL, LocalRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.backends.variant import Variant
    from pipeline.interface import Case
    from pipeline.parity.candidate import Names
    from pipeline.parity.prove import Proof, Truth
    from pipeline.parity.trained import Agreement
    from pipeline.rebuild.reference import Recording
    from pipeline.run.plan import Plan, Settings
    from pipeline.worker.runner import Runner, Worker

CULPRITS = "culprits"


@dataclass(frozen=True, slots=True)
class State:
    """What a run knows so far; each stage fills in its own."""

    plan: Plan
    settings: Settings
    work: Path
    cases: tuple[Case, ...] = ()
    recording: Recording | None = None
    agreement: Agreement | None = None
    artifacts: tuple[Artifact, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    network_facts: Mapping[str, Any] = field(default_factory=dict)
    truth: Truth | None = None
    proofs: tuple[Proof, ...] = ()
    audits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    names: Mapping[str, Names] = field(default_factory=dict)
    benchmark: Mapping[str, Any] = field(default_factory=lambda: document.benchmark(None))
    release: Path | None = None


def run(state: State, stages: Sequence[Stage], why: str) -> State:
    """Run stages in order, the first with the reason why anything is run at all."""
    name, report = state.plan.config.name, state.settings.report
    for stage in stages:
        report(Event(stage.name, name, "started", why if stage is stages[0] else ""))
        state = stage.run(state)
        report(Event(stage.name, name, "ended"))
    return state


def _cache(state: State) -> Cache:
    """Return where a run keeps its results; one that is to make everything again has a cache of its own."""
    return Cache(state.work / "results") if state.settings.rebuild else results(state.settings)


def sample(state: State) -> State:
    """Make the inputs everything is judged on: seeded ones, the user's own, and those that were recorded, in this order."""
    planned, config = state.plan, state.plan.config
    found = cases.sample(planned.interface, seed=config.parity.seed, cap_elements=config.parity.cap_elements)
    from pipeline.release import predict

    if config.samples:
        arrays = predict.read_inputs([config.samples], planned.interface.inputs)
        found = (*found, cases.from_samples(planned.interface, arrays))
    if not config.reference:
        return replace(state, cases=found)
    file = Path(config.reference.file)
    recording = reference.parse(predict.read_arrays(file), planned.interface, file.name)
    return replace(state, cases=(*found, *recording.cases), recording=recording)


def export_all(state: State) -> State:
    """Run the network on every case; then export every format and evaluate the oracle, each in a worker of its own."""
    wanted = state.plan.config.exports
    with rehearsed(state) as evaluate, ThreadPoolExecutor(at_once(state.plan, state.settings)) as pool:
        state = replace(state, agreement=agreed(state, evaluate()) if state.recording else None)
        exporting = [pool.submit(export_one, state, each.format, dict(each.options)) for each in wanted]
        answer = pool.submit(evaluate)
        outcomes = [each.exception() or each.result() for each in exporting]
        known = answer.result()
    artifacts = tuple(each for each in outcomes if isinstance(each, Artifact))
    refusals = _refusals([each.format for each in wanted], outcomes)
    rules = rules_of(state.plan)
    network = known.network
    facts = {"sha256": network.sha256, "parameters": network.parameters, "bytes": network.bytes}
    facts["notes"] = [*network.contradictions, *network.notes]
    truth = prove.truth(state.cases, known.references, known.fallback, rules)
    return replace(state, artifacts=artifacts, refusals=refusals, network_facts=facts, truth=truth)


def agreed(state: State, evaluation: Evaluation) -> Agreement:
    """Hold the rebuilt network against the recording, with the oracle's evaluation of all cases or of the recorded ones.

    Raises:
        GateError: it is not the network that was recorded.
    """
    recording = state.recording
    assert recording is not None  # noqa: S101 - callers ask only where there is one
    state.settings.report(Event("reference", recording.name, "started"))
    own = evaluation.model_copy(update={"references": evaluation.references[-len(recording.calls) :]})
    found, rules = _judged(state, own)
    trained.require(found, recording, own, _setup(state), rules)
    state.settings.report(Event("reference", recording.name, "ended"))
    return found


def _judged(state: State, evaluation: Evaluation) -> tuple[Agreement, dict[str, Rule]]:
    """Compare a network with the recording, given its oracle's evaluation of the recorded cases; return that and the rules."""
    given = state.plan.config.reference
    assert state.recording is not None  # noqa: S101 - callers ask only where there is one
    assert given is not None  # noqa: S101 - the config names what was recorded
    rule = Rule(state.plan.config.parity.limit, given.atol, given.rtol)
    rules = dict.fromkeys(state.plan.interface.outputs, rule)
    explicit = given.atol is not None
    return trained.judge(state.recording, evaluation, _setup(state), rules, explicit=explicit), rules


def _refusals(formats: Sequence[str], outcomes: Sequence[Any]) -> dict[str, str]:
    """Return why formats could not be exported. Whether that closes the gate is decided when the others were proven."""
    refusals = {}
    for name, outcome in zip(formats, outcomes, strict=True):
        if isinstance(outcome, WorkerError):
            refusals[name] = outcome.message + (f" ({outcome.hint})" if outcome.hint else "")
        elif isinstance(outcome, BaseException):
            raise outcome
    return refusals


def export_one(state: State, name: str, options: Mapping[str, Any]) -> Artifact:
    """Export the network in one format; raise ExportError with the exporter's reason if it refuses, WorkerError if it crashes."""
    planned, report = state.plan, state.settings.report
    report(Event("export", name, "started"))
    peaks = []

    def work(folder: Path) -> dict[str, Any]:
        request = Export(
            network=planned.network,
            interface=planned.interface,
            examples=dict(_examples(planned).inputs),
            format=name,
            options=dict(options),
            folder=folder,
            identity=_identity(planned),
        )
        with _runner(state).start(f"the {name} exporter", threads=1) as worker:
            artifact = worker.call(request, timeout_s=planned.config.limits.export_seconds)
            peaks.append(worker.peak_bytes)
        return asdict(artifact) | {"files": [each.name for each in artifact.files]}

    key = dependencies.of_export(planned, name, options, _identity(planned))
    try:
        found = kept.keep(_cache(state), key, f"{planned.config.name}: {name} export", work)
    except WorkerError as error:
        report(Event("export", name, "failed", error.message))
        raise
    files, notes = tuple(found.folder / each for each in found.answer["files"]), tuple(found.answer["notes"])
    report(_ended("export", name, found, "; ".join(notes), peaks))
    return Artifact(**found.answer | {"files": files, "notes": notes})


def _ended(stage: str, subject: str, found: kept.Kept, detail: str = "", peaks: Sequence[int | None] = ()) -> Event:
    return Event(stage, subject, "reused" if found.reused else "ended", detail, peak_bytes=peaks[0] if peaks else None)


def _runner(state: State) -> Runner:
    planned = state.plan
    return LocalRunner(planned.config.limits.memory_bytes, state.settings.out / planned.config.name / bundle.CRASHES)


def _identity(planned: Plan) -> dict[str, str]:
    """Return what a model file says of itself. A version that is the content's digest cannot stand in the content."""
    version = planned.config.release.version
    identity = {"name": planned.config.name, "weights_sha256": planned.weights_sha256}
    return identity | ({"version": version} if version else {})


@contextmanager
def rehearsed(state: State) -> Iterator[Callable[[], Evaluation]]:
    """Run the network on every case, and yield what evaluates the oracle on them and returns that with the network's facts.

    Raises:
        ArchitectureError: it does not take them all, before anything else is done.
    """
    planned, report, key = state.plan, state.settings.report, dependencies.of_oracle(state.plan)
    if (answer := kept.recall(_cache(state), key)) is not None:
        report(Event("export", "oracle", "reused"))
        known = Evaluation.model_validate(answer)
        _note_contradictions(state, known.network)
        yield lambda: known
        return
    timeout_s = planned.config.limits.run_seconds
    with _runner(state).start("the oracle", threads=1, environment=oracle.ENVIRONMENT) as worker:
        report(Event("export", "network", "started"))
        facts = rehearse(worker, state)
        report(Event("export", "network", "ended", peak_bytes=worker.peak_bytes))
        _note_contradictions(state, facts)

        @cache
        def evaluate() -> Evaluation:
            report(Event("export", "oracle", "started"))
            known = worker.call(Evaluate(seed=planned.config.parity.seed), timeout_s=timeout_s)
            found = kept.keep(_cache(state), key, f"{planned.config.name}: oracle", lambda _: known.model_dump())
            report(_ended("export", "oracle", found, peaks=[worker.peak_bytes]))
            return Evaluation.model_validate(found.answer)

        yield evaluate


def _note_contradictions(state: State, facts: Rehearsed) -> None:
    """Remark on arguments that the config writes out otherwise than the checkpoint says."""
    for each in facts.contradictions:
        state.settings.report(Event("export", "network", "noted", each))


def rehearse(worker: Worker, state: State) -> Rehearsed:
    """Let a worker build the network and run it on every case; return the network's facts and how it is bound.

    Raises:
        MisfitError: the weights do not fit; where several names are possible, it says which of them the recording tells.
    """
    planned, recording = state.plan, state.recording
    try:
        request = Rehearse(
            network=planned.network,
            interface=planned.interface,
            cases=state.cases,
            recorded=len(recording.calls) if recording else 0,
        )
        return worker.call(request, timeout_s=planned.config.limits.run_seconds)
    except MisfitError as error:
        if recording is None:
            raise

        def agrees(evaluation: Evaluation) -> bool:
            return _judged(state, evaluation)[0].passed

        raise choice.explained(error, worker, _setup(state), recording, agrees) from None


def evaluate_oracle(state: State) -> Evaluation:
    """Return the oracle's evaluation of every case, with the facts about the network."""
    with rehearsed(state) as evaluate:
        return evaluate()


def rules_of(planned: Plan) -> dict[str, Rule]:
    """Return what each output is held to."""
    parity = planned.config.parity
    rules = {}
    for name in planned.config.outputs:
        own = parity.outputs.get(name, parity)
        limit = getattr(own, "limit", None) or parity.limit
        rules[name] = Rule(limit=limit, atol=own.atol, rtol=own.rtol)
    return rules


def _prove(state: State) -> State:
    """Hold every backend against the oracle."""
    with ThreadPoolExecutor(1) as pool:
        if state.settings.pages:
            pool.submit(html.prepare)  # the workers leave a processor idle, and the report is wanted next
        proven = hold(state)
    failed = {each.variant.name: each.reason for each in proven.proofs if each.status == "crashed"}
    _note(state, "parity", {**state.refusals, **failed})
    try:
        prove.gate(proven.proofs)
    except WeighbridgeError as error:
        folder = state.work / CULPRITS
        culprits = [_beside_report(each) for each in explained(proven, folder)]
        where = "".join(f"\n  {explain.sentence(each)}" for each in culprits)
        report = _report(proven, culprits) | _files_below(folder, state.work)
        raise type(error)(error.message + where, hint=_without_release(state, report)) from None
    return proven


def _note(state: State, stage: str, failures: Mapping[str, str | None]) -> None:
    """Remark on the formats and backends that failed without being required; the others end the run."""
    required = {each for variant in state.plan.variants if variant.required for each in (variant.name, variant.format)}
    for subject, reason in failures.items():
        if subject not in required:
            state.settings.report(Event(stage, subject, "noted", f"{subject}: {reason}"))


def _without_release(state: State, report: Mapping[str, bytes]) -> str:
    """Write the report of a run that ends here, and say so."""
    folder = bundle.write_failed(state.plan.config.name, state.settings.out, report)
    return f"no release was written; the report is in {folder}"


def hold(state: State) -> State:
    """Return the state with every backend's proof and every file's audit, passed or not."""
    assert state.truth is not None  # noqa: S101 - the stage before made it
    files = {artifact.format: artifact.files[0] for artifact in state.artifacts}
    variants = tuple(
        replace(
            variant,
            file=files.get(variant.format or ""),
            unavailable=variant.unavailable or state.refusals.get(variant.format or ""),
        )
        for variant in state.plan.variants
    )
    with ThreadPoolExecutor(1) as pool:
        auditing = pool.submit(_audit, state)
        if at_once(state.plan, state.settings) == 1:
            auditing.result()
        proofs = _proofs(state, variants)
        audits = auditing.result()
    return replace(state, proofs=prove.with_audits(proofs, audits), audits=audits)


def _proofs(state: State, variants: Sequence[Variant]) -> tuple[Proof, ...]:
    """Return a proof for each variant, in their order: those that passed before on the same bytes, and new ones."""
    assert state.truth is not None  # noqa: S101 - the stage before made it
    if state.names:  # a candidate: somebody is looking for what is wrong with it
        return prove.prove(variants, _setup(state), state.truth, state.names)
    files = {artifact.format: artifact.files for artifact in state.artifacts}
    keys = {
        each.name: dependencies.of_proof(state.plan, each, files.get(each.format or "", ()), state.settings.threads)
        for each in variants
        if not each.unavailable
    }
    known = _known(state, keys)
    made = prove.prove([each for each in variants if each.name not in known], _setup(state), state.truth)
    for proof in made:
        if proof.status == "pass":
            answer = {"facts": dict(proof.facts), "findings": [asdict(each) for each in proof.findings]}
            _keep(state, keys[proof.variant.name], proof.variant.name, answer)
    proofs = {proof.variant.name: proof for proof in made}
    return tuple(proofs.get(each.name) or _proof_from(each, known[each.name]) for each in variants)


def _known(state: State, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the answers that are kept under some of the keys, by the keys' names."""
    found = {name: kept.recall(_cache(state), key) for name, key in keys.items()}
    known = {name: answer for name, answer in found.items() if answer is not None}
    for name in known:
        state.settings.report(Event("parity", name, "reused"))
    return known


def _keep(state: State, key: str, subject: str, answer: Any) -> None:
    kept.keep(_cache(state), key, f"{state.plan.config.name}: parity of {subject}", lambda _: answer)


def _proof_from(variant: Variant, answer: Mapping[str, Any]) -> Proof:
    findings = tuple(Finding(**each | {"worst_index": tuple(each["worst_index"])}) for each in answer["findings"])
    return prove.Proof(variant, "pass", None, findings, answer["facts"])


def explained(state: State, folder: Path, *, all_of_them: bool = False) -> list[dict[str, Any]]:
    """Explain each required proof that failed (or each that ran), with reproductions in `folder`."""
    assert state.truth is not None  # noqa: S101 - there are proofs, so there is a truth
    found = []
    for proof in state.proofs:
        if proof.variant.format is None or proof.status not in {"pass", "fail"}:
            continue
        # Outputs that are right have no culprit: it is the device, or the file by its audit, that failed.
        if all_of_them or not all(each.passed for each in proof.findings):
            shutil.rmtree(folder / proof.variant.name, ignore_errors=True)  # what an earlier run reproduced
            explanation = explain.explain(
                proof,
                _setup(state),
                state.truth,
                names=state.names.get(proof.variant.name),
                examples=_examples(state.plan).inputs,
                seed=state.plan.config.parity.seed,
                folder=folder / proof.variant.name,
            )
            script = folder / proof.variant.name / "culprit.py"
            found.append(explanation | {"reproduction": str(script) if script.exists() else None})
    return found


def _beside_report(explanation: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation whose reproduction is named as it lies in a report."""
    if explanation["reproduction"] is None:
        return explanation
    return explanation | {"reproduction": f"{CULPRITS}/{explanation['backend']}/culprit.py"}


def _files_below(folder: Path, root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _audit(state: State) -> dict[str, dict[str, Any]]:
    """Account for every constant and number of the exported files; return what was found by format."""
    audited = {f"{each.format} audit": each for each in state.artifacts if each.format in prove.AUDITED}
    keys = {name: dependencies.of_audit(state.plan, artifact) for name, artifact in audited.items()}
    known = _known(state, keys)
    waiting = [artifact for name, artifact in audited.items() if name not in known]
    made = prove.audit(waiting, _setup(state), _examples(state.plan).inputs)
    for format_, found in made.items():
        if found["passed"]:
            _keep(state, keys[f"{format_} audit"], f"{format_} audit", found)
    return {artifact.format: made.get(artifact.format) or known[name] for name, artifact in audited.items()}


def _setup(state: State) -> prove.Setup:
    return prove.Setup(
        state.plan.interface,
        state.plan.network,
        state.settings.threads,
        state.plan.config.limits.run_seconds,
        state.settings.report,
        _runner(state),
        max(1, at_once(state.plan, state.settings) - 1),  # the audit runs beside them
    )


def _examples(planned: Plan) -> Case:
    """Return the inputs that exporters are shown."""
    sizes = cases.example_sizes(planned.interface)
    return cases.make(planned.interface, sizes, seed=planned.config.parity.seed, name="exporter")


def _benchmark(state: State) -> State:
    """Time every backend that passed, unless the user does not want to wait for it."""
    if not state.settings.benchmark:
        return state
    passed = [proof.variant for proof in state.proofs if proof.status == "pass"]
    try:
        timed = replace(state, benchmark=_timed(state, passed))
    except WorkerError as error:  # the reference itself: there is nothing to compare the others with
        raise UnavailableError(error.message, hint=_without_release(state, _report(state))) from None
    dropped = _dropped(timed.benchmark)
    _note(state, "benchmark", dropped)
    required = {variant.name for variant in passed if variant.required}
    if lost := {name: reason for name, reason in dropped.items() if name in required}:
        lines = ["a required backend did not last the benchmark:", *map(": ".join, lost.items())]
        raise UnavailableError("\n  ".join(lines), hint=_without_release(timed, _report(timed)))
    return timed


def _dropped(benchmark: Mapping[str, Any]) -> dict[str, str]:
    """Return why backends dropped out of a benchmark."""
    arms = benchmark.get("arms", {})
    failures = [failure for size in benchmark["sizes"] for failure in size["samples"]["failures"].items()]
    # Keyed by the variant: its name may tell threads too, or that it is the reference's second copy.
    return {arms.get(name, {"variant": name})["variant"]: reason for name, reason in failures}


def _timed(state: State, passed: Sequence[Variant]) -> Mapping[str, Any]:
    if not state.settings.reuse_timings:
        return measured(state.plan, passed, state.settings, _runner(state))
    files = {artifact.format: artifact.files for artifact in state.artifacts}
    key = dependencies.of_timings(state.plan, passed, files, state.settings.threads)
    known: Mapping[str, Any] | None = kept.recall(_cache(state), key)
    if known is not None:
        state.settings.report(Event("benchmark", "timings", "reused"))
        return known
    found = measured(state.plan, passed, state.settings, _runner(state))
    if not _dropped(found):
        kept.keep(_cache(state), key, f"{state.plan.config.name}: timings", lambda _: found)
    return found


def measured(planned: Plan, variants: Sequence[Variant], settings: Settings, runner: Runner = LOCAL) -> dict[str, Any]:
    """Time variants of a config as it says, and return benchmark.json. Nothing else of ours runs meanwhile."""
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
    return document.benchmark(timings)


def _release(state: State) -> State:
    """Write the release, whole or not at all."""
    assert state.truth is not None  # noqa: S101 - the driver runs the stages in order
    weights = {key: state.network_facts[key] for key in ("sha256", "parameters")}
    evidence = compose.Evidence(
        config=state.plan.config,
        interface=state.plan.interface,
        weights=weights | {"file": Path(state.plan.network.weights).name},
        architecture={"name": state.plan.config.model.architecture, "sha256": digest(state.plan.located.path)},
        artifacts=state.artifacts,
        truth=state.truth,
        proofs=state.proofs,
        report=_report(state),
        sign=state.plan.sign,
        recording=state.recording,
    )
    return replace(state, release=compose.write(evidence, state.settings.out))


def parity_document(state: State) -> dict[str, Any]:
    """Return parity.json of what is known so far."""
    assert state.truth is not None  # noqa: S101 - there is nothing to report before the oracle
    notes = tuple(state.network_facts["notes"])
    found = document.parity(state.truth, state.proofs, state.artifacts, state.audits, state.refusals, notes)
    return found | {"reference": _compared(state)}


def _compared(state: State) -> dict[str, Any] | None:
    """Return what a report says of the comparison with the trained network; None if there was none."""
    if state.agreement is None or state.recording is None:
        return None
    known = {"file": state.recording.name, "calls": len(state.recording.calls), "recorded": state.recording.place}
    return known | state.agreement.to_json()


def _report(state: State, explanations: Sequence[Mapping[str, Any]] = ()) -> dict[str, bytes]:
    """Return the report's files for what is known so far."""
    documents = {
        "parity.json": parity_document(state) | ({"explanations": list(explanations)} if explanations else {}),
        "benchmark.json": dict(state.benchmark),
        **{f"{each.format}-nodes.json": each.explanations for each in state.artifacts if each.explanations},
    }
    texts = pages(state.plan.config.name, documents["parity.json"], documents["benchmark.json"])
    markdown.summarise(texts["report.md"])
    return compose.report_files(documents, texts)


def pages(name: str, parity_: Mapping[str, Any], benchmark_: Mapping[str, Any]) -> dict[str, str]:
    """Return the report as Markdown, and as HTML where the packages for it are installed."""
    pages = {"report.md": markdown.render(name, parity_, benchmark_)}
    return pages if html.unavailable() else pages | {"report.html": html.render(name, parity_, benchmark_)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of an export."""

    name: str
    summary: str
    run: Callable[[State], State]


STAGES = (
    Stage("sample", "make seeded inputs over the declared dimensions", sample),
    Stage("export", "export every format; evaluate the network in float64", export_all),
    Stage("parity", "hold every backend against the float64 network", _prove),
    Stage("benchmark", "time every backend that passed", _benchmark),
    Stage("release", "write the release", _release),
)
