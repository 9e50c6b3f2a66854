"""Run every backend over every case and hold it against the oracle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pipeline.backends import placement
from pipeline.errors import DefectError, GateError, UnavailableError, WeighbridgeError, WorkerError
from pipeline.formats.table import formats
from pipeline.parity import behaviour, bounded, jobs
from pipeline.parity.candidate import Names
from pipeline.parity.compare import REFUSED, Finding, compare, refused, worst
from pipeline.parity.document import Audit, AuditProblem
from pipeline.parity.truth import Conditions, Truth, truth
from pipeline.worker.event import Event
from pipeline.worker.session import ReadFacts, ReadPlacement, Run, opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from pipeline.backends.variant import Variant
    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Arrays
    from pipeline.worker import event
    from pipeline.worker.runner import Worker

__all__ = ["Conditions", "Proof", "Truth", "audit", "finding_in_words", "gate", "prove", "truth", "with_audits"]

_FORGED = "the file it runs holds what the network does not"

Status = Literal["pass", "fail", "unavailable", "crashed"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of one variant: its status, the reason where it is not a pass, and every finding.

    `facts` are the session's, with the `placement` of its nodes where the backend can tell.
    """

    variant: Variant
    status: Status
    reason: str | None
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """The exported file that was proven; raises DefectError for the network itself."""
        if self.variant.file is None:
            raise DefectError(f"{self.variant.name} was not proven of a file")
        return self.variant.file

    @property
    def worst(self) -> Finding | None:
        """The finding that decided."""
        return worst(self.findings) if self.findings else None


def prove(
    variants: Sequence[Variant], conditions: Conditions, known: Truth, names: Mapping[str, Names] | None = None
) -> tuple[Proof, ...]:
    """Return a proof for each variant, in their order; a variant that crashes does not stop the others.

    `names` holds, by variant, what its file calls inputs and outputs where that differs from the config.

    Raises:
        WeighbridgeError: what the user gave is wrong (a worker's own failure is a proof with status "crashed").
    """

    def one(variant: Variant) -> Proof:
        if variant.unavailable:
            return Proof(variant, "unavailable", variant.unavailable, (), {})
        conditions.report(Event("parity", variant.name, "started"))
        proof = _prove_one(
            variant, conditions, known, (names or {}).get(variant.name) or Names.same(conditions.interface)
        )
        peak_bytes = proof.facts.get("peak_bytes")
        ended: event.Status = "ended" if proof.status == "pass" else "failed"
        conditions.report(Event("parity", variant.name, ended, proof.reason or "", peak_bytes=peak_bytes))
        return proof

    with ThreadPoolExecutor(conditions.at_once) as pool:
        return tuple(pool.map(one, variants))


def _prove_one(variant: Variant, conditions: Conditions, known: Truth, names: Names) -> Proof:
    # The folder is ours, so that it goes even if the worker crashes.
    with TemporaryDirectory(prefix="weighbridge-profile-") as profile:
        session = opened(
            conditions.runner,
            variant,
            names.renamed(conditions.interface),
            conditions.network,
            threads=conditions.threads,
            timeout_s=conditions.timeout_s,
            profile=Path(profile),
        )
        return _judged(variant, session, conditions, known.of(variant.artifact), names)


def _judged(
    variant: Variant,
    session: AbstractContextManager[tuple[Worker, dict[str, Any]]],
    conditions: Conditions,
    known: Truth,
    names: Names,
) -> Proof:
    """Run every case in a session and judge the outputs, and where its nodes ran."""
    findings: list[Finding] = []
    forgiving: dict[tuple[str, str], Finding] = {}
    try:
        with session as (worker, opening):
            speaks = (
                variant.artifact in known.own
            )  # then the network's last sigmoid is not the one that it is held against
            for index, case in enumerate(known.cases):
                found, excusable = _run(worker, index, known, names, conditions.timeout_s)
                findings.extend(found)
                forgiving |= {
                    (case.name, each.output): excusable[each.output]
                    for each in found
                    if not each.passed and each.output in excusable and not speaks
                }
            facts = {**opening, **worker.call(ReadFacts(), timeout_s=conditions.timeout_s)}
            if placed := worker.call(ReadPlacement(), timeout_s=conditions.timeout_s):
                facts["placement"] = placed
            if any(_is_failure(finding, forgiving) for finding in findings):
                findings = _explain_chance(worker, findings, known, names, conditions.timeout_s)
            facts["peak_bytes"] = worker.peak_bytes
        if forgiving and not any(_is_failure(finding, forgiving) for finding in findings):
            findings, forgiving = bounded.confirmed(variant, conditions, known, findings, forgiving, names), {}
    except UnavailableError as error:
        return Proof(variant, "unavailable", error.message, (), {})
    except WeighbridgeError as error:
        return Proof(variant, "crashed", error.message, tuple(findings), {})
    failed = [finding for finding in findings if _is_failure(finding, forgiving)]
    misplaced = placement.problems(facts.get("placement"))
    if not failed and not names.problems and not misplaced:
        return Proof(variant, "pass", None, tuple(findings), facts)
    described = finding_in_words(worst(failed), known) if failed else ""
    recognised = [each for each in behaviour.recognise(findings, known.cases) if each not in described]
    said = [*names.problems, *misplaced, *([described] if failed else []), *recognised]
    return Proof(variant, "fail", "; ".join(said), tuple(findings), facts)


def _is_failure(finding: Finding, forgiving: Mapping[tuple[str, str], Finding]) -> bool:
    """Whether nothing can excuse an output."""
    return not finding.passed and (finding.case, finding.output) not in forgiving


def _run(
    worker: Worker, index: int, known: Truth, names: Names, timeout_s: float
) -> tuple[tuple[Finding, ...], dict[str, Finding]]:
    """Run one case; what a backend refuses to run is a finding of that case, as long as it is still there afterwards.

    Beside the findings come those with the accuracy of last sigmoids and softmaxes allowed for, where that excuses an output.
    """
    case, reference = known.cases[index], known.references[index]
    try:
        outputs = worker.call(Run(inputs=names.feed(case.inputs)), timeout_s=timeout_s)
    except WeighbridgeError as error:
        if not worker.alive:
            raise
        return refused(case.name, reference, known.rules, error.message), {}
    ours = names.ours(outputs)
    found = compare(case.name, reference, known.floors[index], ours, known.rules)
    return found, bounded.excusable(case.name, index, known, ours)


def _explain_chance(
    worker: Worker, findings: list[Finding], known: Truth, names: Names, timeout_s: float
) -> list[Finding]:
    """Run the worst case a second time: outputs that change between two runs are random, not wrong."""
    failed = worst([finding for finding in findings if not finding.passed])
    if failed.problem and failed.problem.startswith(REFUSED):
        return findings
    index = next(index for index, case in enumerate(known.cases) if case.name == failed.case)
    again, _ = _run(worker, index, known, names, timeout_s)
    changed = {each.output for each in again for old in findings if behaviour.differs(each, old)}
    return [behaviour.as_random(each) if each.output in changed and not each.passed else each for each in findings]


def audit(
    artifacts: Sequence[Artifact], conditions: Conditions, examples: Arrays, among: Sequence[Artifact] = ()
) -> dict[str, Audit]:
    """Return each artifact's audit by name: where its constants and numbers come from (see `pipeline.formats.accounting`).

    `among` are all that there are: what was made from one in a precision of its own is held against that as well.
    Where the audit crashed, no file passed it; a file that cannot be audited is so alone.

    Raises:
        WeighbridgeError: the network cannot be built.
    """
    known = [each for each in artifacts if formats()[each.format].audit]
    if not known:
        return {}
    for each in known:
        conditions.report(Event("parity", f"{each.name} audit", "started"))
    # One process for all: starting torch and loading the network takes longer than most audits.
    peak_bytes = None
    sources = {each.name: each.files[0] for each in among if each.written.facts.get("precision")}
    files = [
        jobs.Exported(
            format=each.format,
            file=each.files[0],
            program=dict(each.written.program) or None,
            precision=str(each.written.facts.get("precision", "")),
            source=sources.get(each.made_from or ""),
        )
        for each in known
    ]
    request = jobs.Audit(
        network=conditions.network, interface=conditions.interface, examples=dict(examples), files=tuple(files)
    )
    try:
        # Of a file that somebody else made there is no program yet: the network is captured for it.
        capturing = [module for each in known if not each.written.program for module in formats()[each.format].modules]
        modules = ("torch", "onnx", *capturing, jobs.__name__)
        with conditions.runner.start("the audit", threads=1, modules=modules) as worker:
            answers = worker.call(request, timeout_s=conditions.timeout_s)
            peak_bytes = worker.peak_bytes
        audits = [Audit.from_json(each) for each in answers]
    except WorkerError as error:
        if len(known) > 1:  # one of the files ended it: only that one failed
            return {name: each for one in known for name, each in audit([one], conditions, examples, among).items()}
        problem = AuditProblem(where="", module=None, problem=error.message)
        audits = [Audit(passed=False, crashed=True, problem_count=1, problems=(problem,))] * len(known)
    found = {each.name: audit for each, audit in zip(known, audits, strict=True)}
    for name, audited in found.items():
        ended: event.Status = "ended" if audited.passed else "failed"
        conditions.report(Event("parity", f"{name} audit", ended, peak_bytes=peak_bytes))
    return found


def finding_in_words(finding: Finding, known: Truth) -> str:
    """Say in one line what is wrong with an output: where, by how much, and what was allowed."""
    sizes = next((case.sizes for case in known.cases if case.name == finding.case), {})
    shown = ", ".join(f"{name}={size}" for name, size in sizes.items())
    place = f"output '{finding.output}' in case '{finding.case}'" + (f" ({shown})" if shown else "")
    if finding.problem:
        return f"{place}: {finding.problem}"
    index = f"[{', '.join(map(str, finding.worst_index))}]"
    rule = known.rules[finding.output]
    allowed = (
        f"what atol {rule.atol:g} and rtol {rule.rtol:g} allow"
        if rule.explicit
        else f"the noise floor (limit {finding.limit:g})"
    )
    return f"{place}: {finding.got:.9g} instead of {finding.expected:.9g} at {index}, {finding.factor:.3g} × {allowed}"


def with_audits(proofs: Sequence[Proof], audits: Mapping[str, Audit]) -> tuple[Proof, ...]:
    """Return the proofs with what became of the files they ran: no backend passes on a file that failed its audit."""
    return tuple(_with_audit(proof, audits.get(proof.variant.artifact or "")) for proof in proofs)


def _with_audit(proof: Proof, found: Audit | None) -> Proof:
    if found is None or proof.status not in {"pass", "fail"}:
        return proof
    if proof.status == "fail" and (suspicion := found.suspicion()):
        proof = replace(proof, reason=f"{proof.reason}; {suspicion}")
    if found.passed:
        return proof
    if found.crashed:
        return replace(proof, status="crashed", reason=found.in_words()) if proof.status == "pass" else proof
    said = f"{_FORGED}: {found.in_words()}"
    return replace(proof, status="fail", reason=f"{proof.reason}; {said}" if proof.reason else said)


def gate(proofs: Sequence[Proof]) -> None:
    """Close the gate on any required variant that did not pass.

    Raises:
        GateError: a required backend left its error budget or its device, or the file it runs holds what the network does not.
        UnavailableError: a required backend could not run, or it or its file's audit crashed.
    """
    bad = [proof for proof in proofs if proof.variant.required and proof.status != "pass"]
    failed = [proof for proof in bad if proof.status == "fail"]
    told = dict.fromkeys(f"{proof.variant.name}: {proof.reason}" for proof in failed or bad)
    if failed:
        what = "a required backend is not what was asked for"
        if not all(each.passed for proof in failed for each in proof.findings):
            what = "a required backend left its error budget"
        raise GateError("\n  ".join([f"{what}:", *told]), about="parity-fail")
    if bad:
        is_crash = any(proof.status == "crashed" for proof in bad)
        about = "crashed" if is_crash else UnavailableError.about
        raise UnavailableError("\n  ".join(["a required backend did not run:", *told]), about=about)
