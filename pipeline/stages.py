"""The stages of an export, in order, and the driver that runs them: the one place where the rooms below meet.

A stage is a function from one frozen state to the next. What a run needs is checked before any work starts: the config,
the architecture's name and arguments, the weights file, and that every required backend can run here.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cases, oracle, trust
from pipeline.backends.table import backends
from pipeline.benchmark import compare as comparing
from pipeline.benchmark import timing
from pipeline.checkpoint import read, remote
from pipeline.checkpoint.files import digest
from pipeline.config import BenchmarkConfig, Vocabulary, load, resolved
from pipeline.errors import (
    ConfigError,
    DigestError,
    ExportError,
    GateError,
    InputError,
    UnavailableError,
    WeighbridgeError,
)
from pipeline.exporters.table import exporters
from pipeline.parity import candidate, explain, prove
from pipeline.parity.budget import Rule
from pipeline.parity.jobs import SIGNATURE
from pipeline.release import bundle, compose, recall, signing, standalone
from pipeline.release import verify as verifying
from pipeline.report import document, html, markdown
from pipeline.store import atomic_write, disk_errors, private_directory, sweep
from pipeline.types import Artifact, Dimension, Event, InputSpec, Interface, Network, Variant
from pipeline.worker.process import Worker
from pipeline.worker.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.benchmark.compare import Comparison
    from pipeline.benchmark.timing import Timings
    from pipeline.config import Config
    from pipeline.parity.candidate import Names
    from pipeline.parity.prove import Proof, Truth
    from pipeline.release.verify import Origin, Verdict
    from pipeline.types import Arrays, Case

AT_ONCE = 3
CANDIDATE = "candidate"
CULPRITS = "culprits"
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
class ParityRequest:
    """What is held against the network: a file somebody else made, or our own exports; and whether to say why."""

    candidate: Path | None = None
    trust_candidate: bool = False
    explain: bool = False


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
    names: Mapping[str, Names] = field(default_factory=dict)
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
        state = _run(State(planned, settings, work), STAGES, recalled.why)
    assert state.release is not None  # noqa: S101 - the last stage wrote it
    recall.remember(settings.out, name, built_from, state.release)
    return Outcome(state.release, up_to_date=False, why=recalled.why)


def _run(state: State, stages: Sequence[Stage], why: str) -> State:
    """Run stages in order, the first with the reason why anything is run at all."""
    name, report = state.plan.config.name, state.settings.report
    for stage in stages:
        report(Event(stage.name, name, "started", why if stage is stages[0] else ""))
        state = stage.run(state)
        report(Event(stage.name, name, "ended"))
    return state


def parity(path: Path, settings: Settings, request: ParityRequest) -> dict[str, Any]:
    """Export, or take a candidate, and hold it against the network; return parity.json with what was explained.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a worker crashed. A failed comparison is in the document.
    """
    planned = plan(path, settings)
    theirs = request.candidate and candidate.format_of(request.candidate, trusted=request.trust_candidate)
    with private_directory(settings.out / planned.config.name) as work:
        state = _sample(State(planned, settings, work))
        state = _taken(state, request.candidate, theirs) if request.candidate and theirs else _export(state)
        state = _held(state)
        culprits = settings.out / planned.config.name / CULPRITS
        explanations = _explained(state, culprits, all_of_them=request.explain) if request.explain else []
    found = _parity_document(state) | {"name": planned.config.name, "explanations": explanations}
    if request.candidate:
        names = state.names[CANDIDATE]
        found["candidate"] = {"file": request.candidate.name, "format": theirs, "matched": names.how}
    audited = all(each["passed"] for each in state.audits.values())
    return found | {
        "passed": audited and all(proof.status == "pass" for proof in state.proofs if proof.variant.required)
    }


def _taken(state: State, file: Path, theirs: str) -> State:
    """Return the state with a candidate in place of what exporters would have made, and the oracle's answer."""
    planned = state.plan
    with Worker(f"a look at {file.name}", threads=1) as worker:
        described = worker.call(SIGNATURE, timeout_s=planned.config.limits.run_seconds, format=theirs, file=str(file))
    signature = candidate.Signature(
        *(
            tuple((name, dtype, shape and tuple(shape)) for name, dtype, shape in described[key])
            for key in ("inputs", "outputs")
        )
    )
    names = candidate.match(signature, planned.interface, ordered=theirs == "torchscript")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answering, capturing = pool.submit(_reference, state), pool.submit(_program, state)
        known, program = answering.result(), capturing.result()
    variant = Variant(CANDIDATE, candidate.BACKENDS[theirs], theirs, required=True, file=file)
    return replace(
        state,
        plan=replace(planned, variants=(variant,)),
        artifacts=(Artifact(theirs, (file, *candidate.external(file)), program=program),),
        names={CANDIDATE: names},
        truth=prove.truth(state.cases, known, _rules(planned)),
        network_facts={"notes": known["notes"]},
    )


def _program(state: State) -> Mapping[str, Any]:
    """Return the program that our own export of the network states; empty where there is none."""
    try:
        return _export_one(state, "onnx", {}).program
    except ExportError:
        return {}


def benchmark(path: Path, settings: Settings) -> dict[str, Any]:
    """Time a config's backends, or those of a release without the network's code; return its report's documents.

    A config is exported and proven first, unless its release is there; no release is written.

    Raises:
        WeighbridgeError: what the user gave is wrong, a gate closed, or nothing can be timed here.
    """
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return _benchmark_release(bundle.find(path), settings)
    planned = plan(path, settings)
    recalled = recall.recall(settings.out, planned.config.name, _built_from(planned, settings))
    if recalled.release and not settings.rebuild:
        variants = _present(planned.variants, recalled.release)
        return document.read(recalled.release) | {
            "benchmark": document.benchmark(_measured(planned, variants, settings))
        }
    with private_directory(settings.out / planned.config.name) as work:
        state = _run(
            State(planned, settings, work), [stage for stage in STAGES if stage.name != "release"], recalled.why
        )
        return {"parity": _parity_document(state), "benchmark": document.benchmark(state.timings)}


def compare(base: Path, candidate_: Path, *, margin: float, force: bool) -> Comparison:
    """Hold a release against an older one by what both recorded.

    Raises:
        WeighbridgeError: one is no release, they were timed on different machines, or have nothing in common.
    """
    documents = [
        document.read(release) | {"manifest": standalone.read_manifest(release)}
        for release in (bundle.find(base), bundle.find(candidate_))
    ]
    return comparing.compare(*documents, margin=margin, force=force)


def report(release: Path) -> Path:
    """Write the pages of a release's report again, from its documents; return the HTML page, or the Markdown one."""
    documents = document.read(release)
    pages = _pages(release.parent.name, documents["parity"], documents["benchmark"])
    folder = release / standalone.REPORT
    with disk_errors(folder):
        for name, text in pages.items():
            atomic_write(folder / name, text.encode())
        sums = {name: digest(folder / name) for name in standalone.list_files(folder) if name != standalone.SUMS}
        atomic_write(folder / standalone.SUMS, standalone.format_sums(sums).encode())
    return folder / ("report.html" if "report.html" in pages else "report.md")


def _benchmark_release(release: Path, settings: Settings) -> dict[str, Any]:
    if problems := verifying.check(release):
        raise DigestError(f"{release} is not what was released: {problems[0]}", hint="fetch the release again")
    manifest = standalone.read_manifest(release)
    configured = manifest.get("config", {})
    chosen = BenchmarkConfig.model_validate(configured.get("benchmark", {}) | _benchmark_overrides(settings.overrides))
    variants = _present(
        [
            Variant(
                name,
                each["backend"],
                each["format"],
                required=False,
                options=each["options"],
                unavailable=backends()[each["backend"]].probe(),
            )
            for name, each in manifest.get("backends", {}).items()
            if each["format"] and each["backend"] in backends()
        ],
        release,
    )
    names = [variant.name for variant in variants]
    if not names:
        raise UnavailableError(f"none of the backends of {release.name} can run here", hint="see weighbridge backends")
    if chosen.reference not in names:
        chosen = chosen.model_copy(update={"reference": "torchscript" if "torchscript" in names else names[0]})
    stated = bundle.interface_from(manifest)
    kinds = configured.get("inputs", {})
    inputs = tuple(
        replace(spec, values=kind.get("values") or _usual(spec.dtype), scale=kind.get("scale", 1.0))
        for spec in stated.inputs
        for kind in [kinds.get(spec.name, {})]
    )
    timings = timing.measure(
        variants,
        replace(stated, inputs=inputs),
        None,
        chosen,
        seed=configured.get("parity", {}).get("seed", 0),
        threads=chosen.threads or settings.threads,
        timeout_s=VERIFY_TIMEOUT_S,
        report=settings.report,
    )
    return document.read(release) | {"benchmark": document.benchmark(timings)}


def _benchmark_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what `--set benchmark.KEY=VALUE` asks for; a release has no other keys to override."""
    found = {}
    for each in overrides:
        key, _, value = each.partition("=")
        section, _, name = key.partition(".")
        if section != "benchmark" or name not in {"seconds", "margin", "threads", "reference"}:
            raise InputError(
                f"--set {each}: a release is timed as it was configured",
                hint="of a release, benchmark.seconds, .margin, .threads and .reference can be set",
            )
        found[name] = value if name == "reference" else json.loads(value)
    return found


def _present(variants: Sequence[Variant], release: Path) -> list[Variant]:
    """Return the variants that can run here, with their files in a release."""
    files = {model["format"]: release / model["path"] for model in standalone.read_manifest(release)["models"]}
    return [
        replace(variant, file=files.get(variant.format or ""))
        for variant in variants
        if variant.unavailable is None and (variant.format is None or variant.format in files)
    ]


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
    header = read.require_state_dict(path, max_bytes=settings.max_bytes)
    found = read.weights_digest(path, header)
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
    """Export every format and evaluate the oracle, each in a worker of its own, a few at a time."""
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
            identity=_identity(planned),
        )
    answer["files"], answer["notes"] = tuple(map(Path, answer["files"])), tuple(answer["notes"])
    artifact = Artifact(**answer)
    report(Event("export", name, "ended", "; ".join(artifact.notes)))
    return artifact


def _identity(planned: Plan) -> dict[str, str]:
    """Return what a model file says of itself. A version that is the content's digest cannot stand in the content."""
    version = planned.config.release.version
    identity = {"name": planned.config.name, "weights_sha256": planned.weights_sha256}
    return identity | ({"version": version} if version else {})


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
    proven = _held(state)
    try:
        prove.gate(proven.proofs, proven.audits)
    except WeighbridgeError as error:
        folder = state.work / CULPRITS
        culprits = [_beside_report(each) for each in _explained(proven, folder)]
        report = _report(proven, culprits) | _files_below(folder, state.work)
        folder = bundle.write_failed(state.plan.config.name, state.settings.out, report)
        where = "".join(f"\n  {explain.sentence(each)}" for each in culprits)
        hint = f"no release was written; the report is in {folder}"
        raise type(error)(error.message + where, hint=hint) from None
    return proven


def _held(state: State) -> State:
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
        proofs = prove.prove(variants, _setup(state), state.truth, state.names)
        audits = auditing.result()
    return replace(state, proofs=proofs, audits=audits)


def _explained(state: State, folder: Path, *, all_of_them: bool = False) -> list[dict[str, Any]]:
    """Explain each required proof that failed (or each that ran), with reproductions in `folder`."""
    assert state.truth is not None  # noqa: S101 - there are proofs, so there is a truth
    found = []
    for proof in state.proofs:
        wanted = proof.variant.format is not None and (
            proof.status == "fail" or (all_of_them and proof.status == "pass")
        )
        if wanted:
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
    passed = [proof.variant for proof in state.proofs if proof.status == "pass"]
    return replace(state, timings=_measured(state.plan, passed, state.settings))


def _measured(planned: Plan, variants: Sequence[Variant], settings: Settings) -> Timings | None:
    return timing.measure(
        variants,
        planned.interface,
        planned.network,
        planned.config.benchmark,
        seed=planned.config.parity.seed,
        threads=planned.config.benchmark.threads or settings.threads,
        timeout_s=planned.config.limits.run_seconds,
        report=settings.report,
    )


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


def _parity_document(state: State) -> dict[str, Any]:
    assert state.truth is not None  # noqa: S101 - there is nothing to report before the oracle
    notes = tuple(state.network_facts["notes"])
    return document.parity(state.truth, state.proofs, state.artifacts, state.audits, state.refusals, notes)


def _report(state: State, explanations: Sequence[Mapping[str, Any]] = ()) -> dict[str, bytes]:
    """Return the report's files for what is known so far."""
    documents = {
        "parity.json": _parity_document(state) | ({"explanations": list(explanations)} if explanations else {}),
        "benchmark.json": document.benchmark(state.timings),
        **{f"{each.format}-nodes.json": each.explanations for each in state.artifacts if each.explanations},
    }
    texts = _pages(state.plan.config.name, documents["parity.json"], documents["benchmark.json"])
    markdown.summarise(texts["report.md"])
    return compose.report_files(documents, texts)


def _pages(name: str, parity_: Mapping[str, Any], benchmark_: Mapping[str, Any]) -> dict[str, str]:
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
    Stage("sample", "make seeded inputs over the declared dimensions", _sample),
    Stage("export", "export every format; evaluate the network in float64", _export),
    Stage("parity", "hold every backend against the float64 network", _prove),
    Stage("benchmark", "time every backend that passed", _benchmark),
    Stage("release", "write the release", _release),
)
