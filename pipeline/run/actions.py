"""What the commands besides `export` do: check, compare with a candidate, time, verify, reproduce, report."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.benchmark import compare as comparing
from pipeline.benchmark import timing
from pipeline.config import BenchmarkConfig, load, resolved
from pipeline.config.text import parse_value
from pipeline.errors import DigestError, ExportError, GateError, InputError, UnavailableError, UnsafeError
from pipeline.formats.artifact import Artifact
from pipeline.interface import complete_sizes, in_words
from pipeline.parity import candidate, prove
from pipeline.parity.jobs import Evaluate, ReadSignature
from pipeline.rebuild import cases
from pipeline.release import bundle, standalone
from pipeline.release import verify as verifying
from pipeline.report import document, markdown
from pipeline.run import build as driver
from pipeline.run import keys as dependencies
from pipeline.run import recall, stages
from pipeline.run.jobs import FindUndecided
from pipeline.run.plan import at_once, cores, plan, usual_values, vocabulary
from pipeline.run.stages import STAGES, State
from pipeline.storage.store import atomic_write, disk_errors, private_directory
from pipeline.weights.files import digest
from pipeline.worker.event import Event
from pipeline.worker.process import LOCAL
from pipeline.worker.session import Run, opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.benchmark.compare import Comparison
    from pipeline.interface import Arrays, Case, Dimension, Interface
    from pipeline.parity.jobs import Rehearsed
    from pipeline.parity.trained import Agreement
    from pipeline.rebuild.doubts import Doubt
    from pipeline.rebuild.reference import Recording
    from pipeline.release.verify import Origin, Verdict
    from pipeline.run.plan import Plan, Settings
    from pipeline.worker.runner import Worker

CANDIDATE = "candidate"
CONFIGS = frozenset({".yaml", ".yml"})
VERIFY_TIMEOUT_S = 600.0
MAX_TIMED_ELEMENTS = 2**28
"""The most that the inputs of one size may hold where a release, and not a config, says what is timed."""


@dataclass(frozen=True, slots=True)
class ParityRequest:
    """What is held against the network: a file somebody else made, or our own exports; and whether to say why.

    `custom_ops` is a library of operators that the file needs; it is loaded into the candidate's worker.
    """

    candidate: Path | None = None
    custom_ops: Path | None = None
    trust_candidate: bool = False
    explain: bool = False


def parity(path: Path, settings: Settings, request: ParityRequest) -> dict[str, Any]:
    """Export, or take a candidate, and hold it against the network; return parity.json with what was explained.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a worker crashed. A failed comparison is in the document.
    """
    planned = plan(path, settings)
    file = request.candidate
    theirs = candidate.format_of(file, trusted=request.trust_candidate) if file else None
    if request.custom_ops:
        _require_usable(request.custom_ops, theirs)
    with private_directory(settings.out / planned.config.name) as work:
        state = stages.sample(State(planned, settings, work))
        state = _taken(state, request, file, theirs) if file and theirs else stages.export_all(state)
        state = stages.hold(state)
        culprits = settings.out / planned.config.name / stages.CULPRITS
        explanations = stages.explained(state, culprits, all_of_them=request.explain) if request.explain else []
    found = stages.parity_document(state) | {"name": planned.config.name, "explanations": explanations}
    if request.candidate:
        names = state.names[CANDIDATE]
        found["candidate"] = {"file": request.candidate.name, "format": theirs, "matched": names.how}
    return found | {"passed": all(proof.status == "pass" for proof in state.proofs if proof.variant.required)}


def _require_usable(library: Path, format_: str | None) -> None:
    if format_ != "onnx":
        raise InputError(
            f"{library} would hold operators for an ONNX candidate, and there is none", hint="add --candidate FILE.onnx"
        )
    if not library.is_file():
        raise InputError(f"there is no file {library}", hint="name the library that holds the operators (.so, .dll)")


def _taken(state: State, request: ParityRequest, file: Path, theirs: str) -> State:
    """Return the state with a candidate in place of what exporters would have made, and the oracle's answer."""
    planned = state.plan
    with LOCAL.start(f"a look at {file.name}", threads=1) as worker:
        asked = ReadSignature(format=theirs, file=file)
        signature = worker.call(asked, timeout_s=planned.config.limits.run_seconds)
    names = candidate.match(signature, planned.interface, ordered=theirs == "torchscript")
    with ThreadPoolExecutor(at_once(planned, state.settings)) as pool:
        answering, capturing = pool.submit(stages.evaluate_oracle, state), pool.submit(_program, state)
        known, program = answering.result(), capturing.result()
    backend = candidate.BACKENDS[theirs]
    library = request.custom_ops and request.custom_ops.resolve()
    variant = Variant(CANDIDATE, backend, theirs, required=True, file=file, custom_ops=library)
    return replace(
        state,
        plan=replace(planned, variants=(variant,)),
        artifacts=(Artifact(theirs, (file, *candidate.external(file)), program=program),),
        names={CANDIDATE: names},
        truth=prove.truth(state.cases, known.references, known.fallback, stages.rules_of(planned)),
        network_facts={"notes": known.network.notes},
    )


def _program(state: State) -> Mapping[str, Any]:
    """Return the program that our own export of the network states; empty where there is none."""
    try:
        return stages.export_one(state, "onnx", {}).program
    except ExportError:
        return {}


def benchmark(path: Path, settings: Settings) -> dict[str, Any]:
    """Time a config's backends, or those of a release without the network's code; return its report's documents.

    A config is exported and proven first, unless its release is there; no release is written.

    Raises:
        WeighbridgeError: what the user gave is wrong, a gate closed, or nothing can be timed here.
    """
    if path.suffix.lower() not in CONFIGS:
        return _benchmark_release(bundle.find(path), settings)
    planned = plan(path, settings)
    recalled = recall.recall(settings.out, planned.config.name, dependencies.of_release(planned, settings))
    if recalled.release and not settings.rebuild:
        _require_sound(verifying.check_unread(recalled.release), recalled.release)  # recalling compared the digests
        variants = _present(planned.variants, recalled.release)
        return document.read(recalled.release) | {"benchmark": stages.measured(planned, variants, settings)}
    with private_directory(settings.out / planned.config.name) as work:
        state = stages.run(
            State(planned, replace(settings, pages=False), work),
            [stage for stage in STAGES if stage.name != "release"],
            recalled.why,
        )
        return {"parity": stages.parity_document(state), "benchmark": dict(state.benchmark)}


def compare(base: Path, candidate_: Path, *, margin: float, force: bool) -> Comparison:
    """Hold a release against an older one by what both recorded.

    Raises:
        WeighbridgeError: one is no release, they were timed on different machines, or have nothing in common.
    """
    releases = (bundle.find(base), bundle.find(candidate_))
    with document.as_stated(candidate_):
        documents = [document.read(release) | {"manifest": standalone.read_manifest(release)} for release in releases]
        return comparing.compare(*documents, margin=margin, force=force)


def report(release: Path) -> Path:
    """Write the pages of a release's report again, from its documents; return the HTML page, or the Markdown one."""
    documents = document.read(release)
    folder = release / standalone.REPORT
    _require_no_links(folder)
    with document.as_stated(release):
        pages = stages.pages(release.parent.name, documents["parity"], documents["benchmark"])
    with disk_errors(folder):
        for name, text in pages.items():
            atomic_write(folder / name, text.encode())
        sums = {name: digest(folder / name) for name in standalone.list_files(folder) if name != standalone.SUMS}
        atomic_write(folder / standalone.SUMS, standalone.format_sums(sums).encode())
    return folder / _page(pages)


def make_folder(folder: Path) -> None:
    """Make a folder to write to later, so that a place that cannot be written to is told before the work is done.

    Raises:
        WeighbridgeError: it cannot be made.
    """
    with private_directory(folder):
        pass


def write_report(name: str, documents: Mapping[str, Any], folder: Path) -> Path:
    """Write what a benchmark measured into `folder` as JSON and as pages; return the page to open.

    Raises:
        WeighbridgeError: the folder cannot be written to.
    """
    pages = stages.pages(name, documents["parity"], documents["benchmark"])
    texts = {f"{key}.json": json.dumps(documents[key], ensure_ascii=False) for key in ("parity", "benchmark")}
    with disk_errors(folder):
        for file, text in {**texts, **pages}.items():
            atomic_write(folder / file, text.encode())
    markdown.summarise(pages["report.md"])
    return folder / _page(pages)


def is_undecided(benchmark: Mapping[str, Any]) -> bool:
    """Say whether a benchmark left a backend without a verdict for want of certainty."""
    return any(
        row["verdict"] == "undecided" and row["name"] not in {size["control"], *size["samples"]["failures"]}
        for size in benchmark["sizes"]
        for row in size["rows"]
    )


def _page(pages: Mapping[str, str]) -> str:
    return "report.html" if "report.html" in pages else "report.md"


def _require_sound(problems: Sequence[str], release: Path) -> None:
    if problems:
        raise DigestError(f"{release} is not what was released: {problems[0]}", hint="fetch the release again")


def _require_small(interface: Interface, sizes: Sequence[Mapping[str, int]], release: Path) -> None:
    """Raise UnsafeError for a release that states sizes whose inputs alone would exhaust memory."""
    least = cases.smallest(interface)
    for chosen in sizes or [{}]:
        whole = complete_sizes(interface.dimensions, {**least, **chosen})
        shapes = [cases.shape_of(spec, whole) for spec in interface.inputs]
        elements = sum(math.prod(shape) for shape in shapes)
        if elements > MAX_TIMED_ELEMENTS:
            raise UnsafeError(
                f"{release} asks to be timed with inputs of {elements:,} elements, more than {MAX_TIMED_ELEMENTS:,}",
                hint="time it from its config: weighbridge benchmark CONFIG",
            )


def _require_no_links(folder: Path) -> None:
    """Raise UnsafeError for a folder to write to that leads somewhere else."""
    linked = next((each for each in (folder, *folder.rglob("*")) if each.is_symlink()), None)
    if linked is not None:
        raise UnsafeError(f"{linked} is a link: what is written there would go elsewhere", hint="remove it")


def _benchmark_release(release: Path, settings: Settings) -> dict[str, Any]:
    _require_sound(verifying.check(release), release)
    manifest = standalone.read_manifest(release)
    configured = manifest.get("config", {})
    with document.as_stated(release):
        stated_settings = configured.get("benchmark", {}) | _benchmark_overrides(settings.overrides)
    chosen = _benchmark_config(stated_settings)
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
    with document.as_stated(release):
        inputs = tuple(
            replace(spec, values=kind.get("values") or usual_values(spec.dtype), scale=kind.get("scale", 1.0))
            for spec in stated.inputs
            for kind in [kinds.get(spec.name, {})]
        )
        _require_small(stated, chosen.sizes, release)
    timings = timing.measure(
        variants,
        replace(stated, inputs=inputs),
        None,
        chosen,
        seed=configured.get("parity", {}).get("seed", 0),
        threads=settings.threads,
        timeout_s=VERIFY_TIMEOUT_S,
        report=settings.report,
    )
    return document.read(release) | {"benchmark": document.benchmark(timings)}


def _benchmark_config(values: Mapping[str, Any]) -> BenchmarkConfig:
    try:
        return BenchmarkConfig.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(
            f"benchmark.{wrong['loc'][0]} is {wrong['input']!r}: {wrong['msg'].lower()}",
            hint="weighbridge schema says what each setting may be",
        ) from None


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
        try:
            found[name] = parse_value(value)
        except ValueError as error:
            raise InputError(f"--set {each}: {error}", hint="give a value as in a config") from None
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
    """Check a config, build its network, load its weights and run it on every parity case; return the plan of an export.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a required backend cannot run here.
    """
    planned = plan(path, settings)
    state = stages.sample(State(planned, settings, Path()))
    sampled, recording, agreement = state.cases, state.recording, None
    settings.report(Event("check", f"{len(sampled)} cases", "started"))
    with LOCAL.start("the network", threads=1) as worker:
        timeout_s = planned.config.limits.run_seconds
        facts = stages.rehearse(worker, state)
        undecided: tuple[Doubt, ...] = ()
        if recording:
            seed, last = planned.config.parity.seed, len(recording.calls)
            evaluation = worker.call(Evaluate(seed=seed, last=last), timeout_s=timeout_s)
            agreement = stages.agreed(state, evaluation)
        else:
            undecided = worker.call(FindUndecided(network=planned.network), timeout_s=timeout_s)
    plan_ = _described(planned, facts, sampled, undecided)
    return {"plan": plan_ | {"trained network": _trained(recording, agreement)}}


def recording_lines(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the lines that record a network's outputs, `python`, and the one that names the file, `config`."""
    config = load(path, overrides=overrides, vocabulary=vocabulary()) if path else None
    roots = dict.fromkeys(name.partition(".")[0] for name in config.inputs) if config else {"x": None}
    constants = [f"{name}={value!r}" for name, value in config.constants.items()] if config else []
    method = [f"method={config.model.call!r}"] if config and config.model.call != "forward" else []
    given = ", ".join([*(f"{name}={name}" for name in roots), *constants, *method])
    return {
        "python": [
            "from pipeline import record",
            f'record("reference.npz", model, {given})',
            f'record("reference.npz", model, {given}, append=True)  # and again, with another input',
        ],
        "config": "reference: reference.npz",
    }


def _trained(recording: Recording | None, agreement: Agreement | None) -> str:
    """Say how the rebuilt network compares with the trained one."""
    if recording is None or agreement is None:
        return "not compared: nothing tells whether this is the network that was trained (see weighbridge record)"
    found = agreement.to_json()
    calls = f"{len(recording.calls)} recorded call{'s' if len(recording.calls) > 1 else ''}"
    return (
        f"the same in {calls} of {recording.name} ({recording.place}): {found['factor']:.3g}, limit {found['limit']:g}"
    )


def _described(planned: Plan, facts: Rehearsed, sampled: Sequence[Case], undecided: Sequence[Doubt]) -> dict[str, Any]:
    config = planned.config
    doubts = {
        "contradicted": list(facts.contradictions),
        "not decided": [
            f"{each.name}={each.value} (default of {planned.located.name}): {each.why}; "
            "write it under model.arguments, or give a reference"
            for each in undecided
        ],
    }
    binding = {"called by": list(facts.binding)} if facts.binding else {}
    return {
        "network": f"{config.model.architecture}, {facts.parameters:,} parameters, {facts.bytes:,} bytes",
        "weights": [f"{Path(planned.network.weights).name}, sha256 {planned.weights_sha256}", *facts.notes],
        **{key: lines for key, lines in doubts.items() if lines},
        "inputs": [f"{spec.name}: {spec.dtype} {list(spec.shape)}" for spec in planned.interface.inputs],
        "dimensions": [_dimension(each) for each in planned.interface.dimensions] or ["none"],
        "outputs": list(planned.interface.outputs),
        **binding,
        "exports": [f"{each.format} {each.options or ''}".strip() for each in config.exports],
        "backends": [
            f"{variant.name}: {'required' if variant.required else 'optional'}"
            + (f", cannot run here: {variant.unavailable}" if variant.unavailable else "")
            for variant in planned.variants
        ],
        "parity cases": [f"{case.name}: {in_words(case.sizes)}, runs" for case in sampled],
        "benchmark": f"{config.benchmark.seconds:g} s, against {config.benchmark.reference}",
    }


def _dimension(each: Dimension) -> str:
    steps = f", in steps of {each.multiple_of}" if each.multiple_of > 1 else ""
    return f"{each.name}: {each.min} to {each.max}{steps}{f', always {each.formula}' if each.formula else ''}"


def reproduce(path: Path, settings: Settings, release: Path) -> tuple[str, ...]:
    """Build a config again, in another directory and without timing it; return the files that came out the same.

    Raises:
        GateError: a file outside `report/` came out with other bytes; it is named.
    """
    with private_directory(settings.out) as elsewhere:
        again = driver.export(path, replace(settings, out=elsewhere, rebuild=True, benchmark=False)).release
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
                declared = (
                    planned.interface
                    if planned and backend == verifying.NETWORK
                    else bundle.interface_from(standalone.read_manifest(release))
                )
                variant = Variant(backend, backend, backends()[backend].artifact, required=True, file=file)
                network = planned.network if planned else None
                session = opened(LOCAL, variant, declared, network, threads=cores(), timeout_s=VERIFY_TIMEOUT_S)
                workers[backend], _ = stack.enter_context(session)
            return workers[backend].call(Run(inputs=dict(inputs)), timeout_s=VERIFY_TIMEOUT_S)

        verdict = verifying.verify(release, backends=names, origin=origin, run=run)
        if planned is None or not verdict.passed:
            return verdict
        stated = verifying.Stated(resolved(planned.config), planned.weights_sha256, digest(planned.located.path))
        return verifying.against(verdict, stated, run)
