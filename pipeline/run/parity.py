"""Hold our own exports, or a file that somebody else made, against the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.backends.variant import Variant
from pipeline.errors import ExportError, InputError
from pipeline.formats.artifact import Artifact
from pipeline.parity import candidate, prove
from pipeline.parity.jobs import SIGNATURE
from pipeline.run import stages
from pipeline.run.plan import at_once, plan
from pipeline.run.stages import State
from pipeline.storage.store import private_directory
from pipeline.worker.process import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.run.plan import Settings

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


def parity(path: Path, settings: Settings, request: Request) -> dict[str, Any]:
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


def _taken(state: State, request: Request, file: Path, theirs: str) -> State:
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
        truth=prove.truth(state.cases, known, stages.rules_of(planned)),
        network_facts={"notes": known["notes"]},
    )


def _program(state: State) -> Mapping[str, Any]:
    """Return the program that our own export of the network states; empty where there is none."""
    try:
        return stages.export_one(state, "onnx", {}).program
    except ExportError:
        return {}
