"""Hold our own exports, or a file that somebody else made, against the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.config.models import ExportConfig
from pipeline.errors import ExportError, InputError
from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.onnx.record import ONNX
from pipeline.formats.table import formats
from pipeline.parity import candidate
from pipeline.parity.document import Candidate
from pipeline.parity.jobs import ReadSignature
from pipeline.parity.prove import Truth
from pipeline.run.plan import at_once, plan, sweep_away
from pipeline.run.stages import accuracy, reporting
from pipeline.run.stages.exporting import EXPORT, export
from pipeline.run.stages.network import evaluate_oracle, truth_of
from pipeline.run.stages.proving import explained, heard_longer, prove_all, proven_or_second
from pipeline.run.stages.results import Exported, Inputs, Proven, Rebuilt
from pipeline.run.stages.sampling import SAMPLE
from pipeline.run.stages.state import Stage, State, run
from pipeline.storage.store import private_directory
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.formats.format import Format, Signature
    from pipeline.parity.document import Parity
    from pipeline.run.plan import Plan, Settings

CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Request:
    """What is held against the network: a file somebody else made, or our own exports; and whether to say why.

    `custom_ops` is a library of operators that the file needs; it is loaded into the candidate's worker.
    """

    candidate: Path | None = None
    custom_ops: Path | None = None
    trust_candidate: bool = False
    explain: bool = False


def parity(path: Path, settings: Settings, request: Request) -> Parity:
    """Export, or take a candidate, and hold it against the network; return parity.json with what was explained.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a worker crashed. A failed comparison is in the document.
    """
    planned = plan(path, settings)
    file = request.candidate
    theirs = candidate.format_of(file, trusted=request.trust_candidate) if file else None
    if request.custom_ops:
        _require_usable(request.custom_ops, theirs)
    sweep_away(planned.config.name, settings)
    with private_directory(settings.out / planned.config.name) as work:
        state = State(planned, settings, work)
        if file and theirs:
            names = candidate.match(_signature(file, theirs, planned), planned.interface)
            state = run(_with_candidate(state, request, file, theirs), [SAMPLE, _take(file, theirs)])
            state = heard_longer(state.adding(prove_all(state, {CANDIDATE: names})))
        else:
            state = accuracy.judged(proven_or_second(run(state, [SAMPLE, EXPORT])))
        proven = state.need(Proven)
        culprits = settings.out / planned.config.name / reporting.CULPRITS
        explanations = explained(state, culprits, all_of_them=request.explain) if request.explain else []
    found: dict[str, object] = {"name": planned.config.name, "explanations": tuple(explanations)}
    if file and theirs:
        found["candidate"] = Candidate(file=file.name, format=theirs.name, matched=names.how)
    document = reporting.parity_document(state)
    found["passed"] = (
        not document.silent
        and not any(each.closes for each in document.accuracies.values())
        and all(proof.status == "pass" for proof in proven.proofs if proof.variant.required)
    )
    return document.model_copy(update=found)


def _require_usable(library: Path, theirs: Format | None) -> None:
    if theirs is None or not theirs.takes_custom_ops:
        able = " or ".join(each.name for each in formats().values() if each.takes_custom_ops)
        raise InputError(
            f"{library} would hold operators for a candidate in {able}, and there is none",
            hint="name one with --candidate",
        )
    if not library.is_file():
        raise InputError(f"there is no file {library}", hint="name the library that holds the operators (.so, .dll)")


def _signature(file: Path, theirs: Format, planned: Plan) -> Signature:
    """Return what a candidate takes and gives, read in a worker."""
    request = ReadSignature(format=theirs.name, file=file)
    with LOCAL.start(f"a look at {file.name}", threads=1) as worker:
        return worker.call(request, timeout_s=planned.config.limits.run_seconds)


def _with_candidate(state: State, request: Request, file: Path, theirs: Format) -> State:
    """Return the state of a run that proves a candidate, on the first backend that opens such a file on the processor."""
    backend = next((each for each in backends().values() if each.format == theirs.name and each.device == "cpu"), None)
    if backend is None:
        raise InputError(f"no backend here opens {theirs.name} files", hint="see weighbridge backends")
    library = request.custom_ops and request.custom_ops.resolve()
    variant = Variant(CANDIDATE, backend.name, CANDIDATE, required=True, file=file, custom_ops=library)
    return replace(state, plan=replace(state.plan, variants=(variant,)))


def _take(file: Path, theirs: Format) -> Stage:
    """Return the stage that takes a candidate in place of what exporters would have made, and asks the oracle."""

    def take(state: State) -> tuple[object, ...]:
        with ThreadPoolExecutor(at_once(state.plan, state.settings)) as pool:
            answering, capturing = pool.submit(evaluate_oracle, state), pool.submit(_program, state)
            answer, program = answering.result(), capturing.result()
        written = Written((file, *theirs.beside(file)), program=program)
        exported = Exported((Artifact(CANDIDATE, theirs.name, written),), {})
        return exported, Rebuilt(answer.network), truth_of(state, answer)

    return Stage("candidate", "take a file that somebody else made", (Inputs,), (Exported, Rebuilt, Truth), take)


def _program(state: State) -> Mapping[str, object]:
    """Return the program that our own export of the network states; empty where there is none."""
    try:
        return export(state, ExportConfig(name=ONNX.name, format=ONNX.name)).written.program
    except ExportError:
        return {}
