"""The stages of an export, in order, and the driver that runs them: the one place where the rooms below meet.

A stage is a function from one frozen state to the next. What a run needs is checked before any work starts: the config,
the architecture's name and arguments, the weights file, and that every required backend can run here.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cases, oracle, trust
from pipeline.backends.table import backends
from pipeline.benchmark import timing
from pipeline.checkpoint import read, remote
from pipeline.checkpoint.files import digest
from pipeline.config import Vocabulary, load, resolved
from pipeline.errors import ConfigError, DigestError, ExportError, GateError, UnavailableError, WeighbridgeError
from pipeline.exporters.table import exporters
from pipeline.parity import prove
from pipeline.parity.budget import Rule
from pipeline.release import bundle, compose, recall, signing, standalone
from pipeline.release import verify as verifying
from pipeline.report import document, markdown
from pipeline.store import private_directory, sweep
from pipeline.types import Artifact, Dimension, Event, InputSpec, Interface, Network, Variant
from pipeline.worker.process import Worker
from pipeline.worker.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.benchmark.timing import Timings
    from pipeline.config import Config
    from pipeline.parity.prove import Proof, Truth
    from pipeline.release.verify import Origin, Verdict
    from pipeline.types import Arrays, Case

AT_ONCE = 3
VERIFY_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole run, whichever config it runs."""

    out: Path
    trust: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    rebuild: bool = False
    benchmark: bool = True
    sign: Path | None = None
    max_bytes: int | None = None
    report: Callable[[Event], None] = lambda _: None
    threads: int = field(default_factory=lambda: _cores())  # noqa: PLW0108 - defined below


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an export came to: the release, whether it was there already, and why or why not."""

    release: Path
    up_to_date: bool
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A config that was checked, as far as that needs no torch."""

    config: Config
    network: Network
    interface: Interface
    variants: tuple[Variant, ...]
    weights_sha256: str
    source: Path
    sign: Path | None = None
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What a run knows so far; each stage fills in its own."""

    plan: Plan
    settings: Settings
    work: Path
    cases: tuple[Case, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    network_facts: Mapping[str, Any] = field(default_factory=dict)
    truth: Truth | None = None
    proofs: tuple[Proof, ...] = ()
    audits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timings: Timings | None = None
    release: Path | None = None


def vocabulary() -> Vocabulary:
    """Return the names a config may use, with the models of their options."""
    return Vocabulary(
        exporters={name: exporter.options for name, exporter in exporters().items()},
        backends={name: backend.options for name, backend in backends().items()},
    )


def plan(path: Path, settings: Settings) -> Plan:
    """Check a config, its architecture's name and arguments and its weights file, and return the plan. Imports no torch.

    Raises:
        ConfigError, WeightsError, ArchitectureError, UnsafeError: what the user gave is wrong.
        UnavailableError: a required backend cannot run here.
    """
    config = load(path, overrides=settings.overrides, vocabulary=vocabulary())
    prefixes = trust.trusted_prefixes(Path.cwd(), settings.trust)
    located = trust.locate(config.model.architecture, prefixes)
    if problems := trust.check_arguments(located, config.model.arguments):
        lines = [f"{config.place(f'model.arguments.{name}')}: {message}" for name, message in problems]
        raise ConfigError("\n".join(lines))
    weights, weights_sha256 = _weights(config, settings)
    arguments = dict(config.model.arguments)
    places = {key: config.place(key) for key in ["model.arguments", *(f"model.arguments.{name}" for name in arguments)]}
    sign = settings.sign or (path.parent / config.release.sign if config.release.sign else None)
    planned = Plan(
        config=config,
        network=Network(
            config.model.architecture,
            arguments,
            str(weights),
            prefixes,
            places,
            config.model.rename,
            tuple(config.model.ignore),
            settings.max_bytes,
        ),
        interface=interface(config),
        variants=_variants(config),
        weights_sha256=weights_sha256,
        source=located.path,
        sign=sign,
        signed_by=signing.read_signer(sign).key_id if sign else "",
    )
    _require_available(planned)
    return planned


def interface(config: Config) -> Interface:
    """Return what goes in and out of the configured network."""
    return Interface(
        inputs=tuple(
            InputSpec(
                name, each.dtype, tuple(each.shape), each.low, each.high, each.values or _usual(each.dtype), each.scale
            )
            for name, each in config.inputs.items()
        ),
        dimensions=tuple(
            Dimension(name, each.min, each.max, each.multiple_of) for name, each in config.dimensions.items()
        ),
        outputs=tuple(config.outputs),
    )


def export(path: Path, settings: Settings) -> Outcome:
    """Run every stage for one config, unless its release is there and nothing it depends on has changed.

    Raises:
        WeighbridgeError: whatever stopped it; what was found until then is under `failed/` if a gate closed.
    """
    planned = plan(path, settings)
    name = planned.config.name
    built_from = _built_from(planned, settings)
    recalled = recall.recall(settings.out, name, built_from)
    if recalled.release and not settings.rebuild:
        return Outcome(recalled.release, up_to_date=True, why=recalled.why)
    folder = settings.out / name
    sweep(folder)
    with private_directory(folder) as work:
        state = State(planned, settings, work)
        for stage in STAGES:
            settings.report(Event(stage.name, name, "started", recalled.why if stage is STAGES[0] else ""))
            state = stage.run(state)
            settings.report(Event(stage.name, name, "ended"))
    assert state.release is not None  # noqa: S101 - the last stage wrote it
    recall.remember(settings.out, name, built_from, state.release)
    return Outcome(state.release, up_to_date=False, why=recalled.why)


def check(path: Path, settings: Settings) -> dict[str, Any]:
    """Check a config, build its network and load its weights; return the plan of an export as JSON values.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a required backend cannot run here.
    """
    planned = plan(path, settings)
    with Worker("the network", threads=1) as worker:
        facts = worker.call("load", timeout_s=planned.config.limits.run_seconds, network=asdict(planned.network))
    return {"plan": _described(planned, facts)}


def _described(planned: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    config = planned.config
    sampled = cases.sample(planned.interface, seed=config.parity.seed, cap_elements=config.parity.cap_elements)
    return {
        "network": f"{config.model.architecture}, {facts['parameters']:,} parameters, {facts['bytes']:,} bytes",
        "weights": [f"{Path(planned.network.weights).name}, sha256 {planned.weights_sha256}", *facts["notes"]],
        "inputs": [f"{spec.name}: {spec.dtype} {list(spec.shape)}" for spec in planned.interface.inputs],
        "dimensions": [f"{each.name}: {each.min} to {each.max}" for each in planned.interface.dimensions] or ["none"],
        "outputs": list(planned.interface.outputs),
        "exports": [f"{each.format} {each.options or ''}".strip() for each in config.exports],
        "backends": [
            f"{variant.name}: {'required' if variant.required else 'optional'}"
            + (f", cannot run here: {variant.unavailable}" if variant.unavailable else "")
            for variant in planned.variants
        ],
        "parity cases": [
            f"{case.name}: " + (", ".join(f"{name}={size}" for name, size in case.sizes.items()) or "fixed sizes")
            for case in sampled
        ],
        "benchmark": f"{config.benchmark.seconds:g} s, against {config.benchmark.reference}",
    }


def reproduce(path: Path, settings: Settings, release: Path) -> tuple[str, ...]:
    """Build a config again, in another directory and without timing it; return the files that came out the same.

    Raises:
        GateError: a file outside `report/` came out with other bytes; it is named.
    """
    with private_directory(settings.out) as elsewhere:
        again = export(path, replace(settings, out=elsewhere, rebuild=True, benchmark=False)).release
        first, second = bundle.file_digests(release), bundle.file_digests(again)
    if differing := sorted(name for name in first | second if first.get(name) != second.get(name)):
        raise GateError(
            f"{path} is not reproducible: a second build gave other bytes for {', '.join(differing)}",
            hint="look for what depends on time, order or chance in the network's code, or in an exporter of another package",
        )
    return tuple(sorted(first))


def verify(
    path: Path, names: Sequence[str] | None, origin: Origin, against: Path | None, settings: Settings
) -> Verdict:
    """Check a release's digests and origin, then its golden cases on `names`, or on every backend that can run here.

    `against` is a config: the release must be what it describes, and its network must give the golden outputs as well.
    """
    release = bundle.find(path)
    planned = plan(against, settings) if against else None
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def run(backend: str, file: Path | None, inputs: Arrays) -> Any:
            if backend not in workers:
                declared = planned.interface if planned else bundle.interface_from(standalone.read_manifest(release))
                variant = Variant(backend, backend, backends()[backend].artifact, required=True, file=file)
                network = planned.network if planned else None
                session = opened(variant, declared, network, threads=_cores(), timeout_s=VERIFY_TIMEOUT_S)
                workers[backend], _ = stack.enter_context(session)
            return workers[backend].call("run", timeout_s=VERIFY_TIMEOUT_S, inputs=dict(inputs))

        verdict = verifying.verify(release, backends=names, origin=origin, run=run)
        if planned is None or not verdict.passed:
            return verdict
        stated = verifying.Stated(resolved(planned.config), planned.weights_sha256, digest(planned.source))
        return verifying.against(verdict, stated, run)


def _weights(config: Config, settings: Settings) -> tuple[Path, str]:
    """Return the weights file, fetched if it is remote, and its digest, which is the configured one if there is one."""
    if "://" in config.model.weights:
        assert config.model.sha256 is not None  # noqa: S101 - the config requires it for a URL
        path = remote.fetch(config.model.weights, config.model.sha256, settings.out / ".cache")
        read.require_state_dict(path, max_bytes=settings.max_bytes)
        return path, config.model.sha256
    path = Path(config.model.weights)
    # From its headers and before any worker starts: a hostile file is refused here.
    read.require_state_dict(path, max_bytes=settings.max_bytes)
    found = digest(path)
    if config.model.sha256 not in {None, found}:
        raise DigestError(
            f"{path.name} has sha256 {found}, and {config.place('model.sha256')} says {config.model.sha256}",
            hint="this is another file than the config was written for: fetch it again, or correct model.sha256",
        )
    return path, found


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _built_from(planned: Plan, settings: Settings) -> dict[str, str]:
    return {"benchmark": "yes" if settings.benchmark else "left out", "signing key": planned.signed_by} | recall.parts(
        resolved(planned.config),
        weights_sha256=planned.weights_sha256,
        architecture=planned.source,
        samples=planned.config.samples,
        unavailable={variant.name: variant.unavailable for variant in planned.variants},
    )


def _usual(dtype: str) -> str:
    return "normal" if "float" in dtype else "uniform"


def _variants(config: Config) -> tuple[Variant, ...]:
    table = backends()
    return tuple(
        Variant(
            name=each.name,
            backend=each.backend,
            format=table[each.backend].artifact,
            required=each.name in config.require,
            options=dict(each.options),
            unavailable=table[each.backend].probe(),
        )
        for each in config.backends
    )


def _require_available(planned: Plan) -> None:
    exported = {each.format for each in planned.config.exports}
    for variant in planned.variants:
        backend = backends()[variant.backend]
        if variant.required and variant.unavailable:
            raise UnavailableError(
                f"required backend {variant.name} cannot run here: {variant.unavailable}",
                hint=f"install {backend.install}, or take it out of `require` ({planned.config.place('require')})",
            )
        if variant.format and variant.format not in exported:
            raise ConfigError(
                f"{planned.config.place('backends')}: {variant.name} runs {variant.format} files, "
                f"and `exports` has none: add `{variant.format}` to it"
            )


# --- stages -----------------------------------------------------------------------------------------------------------


def _sample(state: State) -> State:
    """Make the inputs everything is judged on."""
    config = state.plan.config
    sampled = cases.sample(state.plan.interface, seed=config.parity.seed, cap_elements=config.parity.cap_elements)
    if config.samples:
        from pipeline.release import predict

        arrays = predict.read_inputs([config.samples], state.plan.interface.inputs)
        sampled = (*sampled, cases.from_samples(state.plan.interface, arrays))
    return replace(state, cases=sampled)


def _export(state: State) -> State:
    """Export every format and evaluate the oracle, each in a worker of its own, two at a time."""
    wanted = state.plan.config.exports
    with ThreadPoolExecutor(AT_ONCE) as pool:
        exporting = [pool.submit(_export_one, state, each.format, dict(each.options)) for each in wanted]
        answer = pool.submit(_reference, state)
        outcomes = [each.exception() or each.result() for each in exporting]
        known = answer.result()
    artifacts = tuple(each for each in outcomes if isinstance(each, Artifact))
    refusals = _refusals(state, [each.format for each in wanted], outcomes)
    rules = _rules(state.plan)
    facts = {key: known[key] for key in ("notes", "sha256", "parameters", "bytes")}
    truth = prove.truth(state.cases, known, rules)
    return replace(state, artifacts=artifacts, refusals=refusals, network_facts=facts, truth=truth)


def _refusals(state: State, formats: Sequence[str], outcomes: Sequence[Any]) -> dict[str, str]:
    """Return why formats could not be exported; raise if a required backend needs one of them."""
    refusals = {}
    for name, outcome in zip(formats, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            needed = [variant.name for variant in state.plan.variants if variant.required and variant.format == name]
            if needed or not isinstance(outcome, ExportError):
                raise outcome
            refusals[name] = str(outcome)
    return refusals


def _export_one(state: State, name: str, options: Mapping[str, Any]) -> Artifact:
    planned = state.plan
    report = state.settings.report
    report(Event("export", name, "started"))
    folder = state.work / name
    folder.mkdir()
    examples = _examples(planned)
    with Worker(f"the {name} exporter", threads=1) as worker:
        answer = worker.call(
            "export",
            timeout_s=planned.config.limits.export_seconds,
            network=asdict(planned.network),
            interface=asdict(planned.interface),
            examples=dict(examples.inputs),
            format=name,
            options=dict(options),
            folder=str(folder),
            identity={"name": planned.config.name, "weights_sha256": planned.weights_sha256},
        )
    answer["files"], answer["notes"] = tuple(map(Path, answer["files"])), tuple(answer["notes"])
    artifact = Artifact(**answer)
    report(Event("export", name, "ended", "; ".join(artifact.notes)))
    return artifact


def _reference(state: State) -> Any:
    planned = state.plan
    state.settings.report(Event("export", "oracle", "started"))
    with Worker("the oracle", threads=1, environment=oracle.ENVIRONMENT) as worker:
        answer = worker.call(
            "reference",
            timeout_s=planned.config.limits.run_seconds,
            network=asdict(planned.network),
            interface=asdict(planned.interface),
            cases=[dict(case.inputs) for case in state.cases],
            seed=planned.config.parity.seed,
        )
    state.settings.report(Event("export", "oracle", "ended"))
    return answer


def _rules(planned: Plan) -> dict[str, Rule]:
    parity = planned.config.parity
    rules = {}
    for name in planned.config.outputs:
        own = parity.outputs.get(name, parity)
        limit = getattr(own, "limit", None) or parity.limit
        rules[name] = Rule(limit=limit, atol=own.atol, rtol=own.rtol)
    return rules


def _prove(state: State) -> State:
    """Hold every backend against the oracle."""
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
        proofs = prove.prove(variants, _setup(state), state.truth)
        audits = auditing.result()
    proven = replace(state, proofs=proofs, audits=audits)
    try:
        prove.gate(proofs, audits)
    except WeighbridgeError as error:
        folder = bundle.write_failed(state.plan.config.name, state.settings.out, _report(proven))
        raise type(error)(error.message, hint=f"no release was written; the report is in {folder}") from None
    return proven


def _audit(state: State) -> dict[str, dict[str, Any]]:
    """Account for every constant and number of the exported files."""
    return prove.audit(state.artifacts, _setup(state), _examples(state.plan).inputs)


def _setup(state: State) -> prove.Setup:
    return prove.Setup(
        state.plan.interface,
        state.plan.network,
        state.settings.threads,
        state.plan.config.limits.run_seconds,
        state.settings.report,
    )


def _examples(planned: Plan) -> Case:
    """Return the inputs that exporters are shown."""
    sizes = cases.example_sizes(planned.interface)
    return cases.make(planned.interface, sizes, seed=planned.config.parity.seed, name="exporter")


def _benchmark(state: State) -> State:
    """Time every backend that passed, unless the user does not want to wait for it."""
    if not state.settings.benchmark:
        return state
    timings = timing.measure(
        [proof.variant for proof in state.proofs if proof.status == "pass"],
        state.plan.interface,
        state.plan.network,
        state.plan.config.benchmark,
        seed=state.plan.config.parity.seed,
        threads=state.plan.config.benchmark.threads or state.settings.threads,
        timeout_s=state.plan.config.limits.run_seconds,
        report=state.settings.report,
    )
    return replace(state, timings=timings)


def _release(state: State) -> State:
    """Write the release, whole or not at all."""
    assert state.truth is not None  # noqa: S101 - the driver runs the stages in order
    weights = {key: state.network_facts[key] for key in ("sha256", "parameters")}
    evidence = compose.Evidence(
        config=state.plan.config,
        interface=state.plan.interface,
        weights=weights | {"file": Path(state.plan.network.weights).name},
        architecture={"name": state.plan.config.model.architecture, "sha256": digest(state.plan.source)},
        artifacts=state.artifacts,
        truth=state.truth,
        proofs=state.proofs,
        report=_report(state),
        sign=state.plan.sign,
    )
    return replace(state, release=compose.write(evidence, state.settings.out))


def _report(state: State) -> dict[str, bytes]:
    """Return the report's files for what is known so far."""
    assert state.truth is not None  # noqa: S101 - there is nothing to report before the oracle
    documents = {
        "parity.json": document.parity(
            state.truth,
            state.proofs,
            state.artifacts,
            state.audits,
            state.refusals,
            tuple(state.network_facts["notes"]),
        ),
        "benchmark.json": document.benchmark(state.timings),
        **{f"{each.format}-nodes.json": each.explanations for each in state.artifacts if each.explanations},
    }
    text = markdown.render(state.plan.config.name, documents["parity.json"], documents["benchmark.json"])
    return compose.report_files(documents, {"report.md": text})


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of an export."""

    name: str
    summary: str
    run: Callable[[State], State]


STAGES = (
    Stage("sample", "make seeded inputs over the declared dimensions", _sample),
    Stage("export", "export every format; evaluate the network in float64", _export),
    Stage("parity", "hold every backend against the float64 network", _prove),
    Stage("benchmark", "time every backend that passed", _benchmark),
    Stage("release", "write the release", _release),
)
