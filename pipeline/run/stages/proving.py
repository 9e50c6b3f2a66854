"""Hold every backend against the float64 network, account for every file, and explain what failed."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import backends
from pipeline.errors import ExportError, UnavailableError, WeighbridgeError
from pipeline.parity import explain, listening, prove, truth
from pipeline.parity.compare import Finding
from pipeline.parity.prove import Proof, Truth
from pipeline.run import keys, precisions
from pipeline.run.plan import at_once
from pipeline.run.stages import accuracy, auditing, kept, lighter, products, reporting, second
from pipeline.run.stages.network import conditions_of
from pipeline.run.stages.reporting import CULPRITS, note
from pipeline.run.stages.results import Exported, Inputs, Judged, Proven, Rebuilt
from pipeline.run.stages.sampling import examples
from pipeline.run.stages.state import Stage
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pipeline.backends.variant import Variant
    from pipeline.parity.candidate import Names
    from pipeline.parity.document import Explanation
    from pipeline.run.stages.state import State


def _run(state: State) -> tuple[object, ...]:
    state = proven_or_second(state)
    proven = state.need(Proven)
    failed = {each.variant.name: each.reason for each in proven.proofs if each.status == "crashed"}
    refusals = state.need(Exported).refusals
    required = [
        each for variant in state.plan.variants if variant.required for each in (variant.name, variant.artifact)
    ]
    note(state, "parity", {**refusals, **failed}, required)
    known = state.need(Truth)
    if said := truth.silent_cases(known):
        state.settings.report(Event("parity", state.plan.config.name, "noted", said))
    try:
        prove.gate(proven.proofs)
        truth.require_telling(known)
    except WeighbridgeError as error:
        folder = state.work / CULPRITS
        culprits = [_beside_report(each) for each in explained(state, folder)]
        where = [each.in_words() for each in culprits]
        report = reporting.files(state, culprits) | _files_below(folder, state.work)
        told = "\n  ".join([error.message, *where, reporting.without_release(state, report)])
        is_refusal = isinstance(error, UnavailableError) and any(each in refusals for each in required)
        about = ExportError.about if is_refusal else error.about
        hint = error.hint or _working(state, proven.proofs)
        raise type(error)(told, hint=hint, about=about) from None
    state = lighter.judged(state, lambda again, only: again.adding(prove_all(again, only=only)))
    accuracy.noted(state)
    try:
        accuracy.gate(state)
    except WeighbridgeError as error:
        told = f"{error.message}\n  {reporting.without_release(state, reporting.files(state))}"
        raise type(error)(told, hint=error.hint, about=error.about) from None
    return state.need(Exported), state.need(Proven), state.need(Truth), state.need(Judged)


def _working(state: State, proofs: Sequence[Proof]) -> str | None:
    """Say which artifacts passed everywhere, if others were refused: a release of them alone is a way out."""
    exported, config = state.need(Exported), state.plan.config
    passed = [
        each.name
        for each in exported.artifacts
        if {proof.status for proof in proofs if proof.variant.artifact == each.name} == {"pass"}
    ]
    if not exported.refusals or not passed:
        return None
    kept = [each.name for each in config.backends if each.artifact is None or each.artifact in passed]
    required = [name for name in kept if name in config.require]
    plain = all(each.name == each.format for each in config.exports if each.name in passed) and all(
        each.name == each.backend for each in config.backends if each.name in kept
    )
    said = f"{', '.join(passed)} passed in this run"
    if not plain or not required:
        return f"{said}: take the others, and their backends, out of `exports`, `backends` and `require`"
    options = {"exports": passed, "backends": kept, "require": required}
    return f"{said}: " + " ".join(f"--set '{key}=[{', '.join(names)}]'" for key, names in options.items())


def proven_or_second(state: State) -> State:
    """Return the state with every proof and audit, wrong files replaced where their format has another way that is right."""
    first = heard_longer(state.adding(prove_all(state)))
    return second.tried(first, lambda again, only: heard_longer(again.adding(prove_all(again, only=only))))


def heard_longer(state: State) -> State:
    """Return the state after noise was listened to for longer, where that alone may be what a proof failed for.

    What passed only so is not kept: the next run listens again.
    """
    proven, known = state.need(Proven), state.need(Truth)
    of_network = [each for each in proven.proofs if each.variant.artifact not in known.own]
    if not (names := listening.in_doubt(of_network)):
        return state
    with suppress(WeighbridgeError):
        seed = state.plan.config.parity.seed
        again = listening.heard_longer(known, names, conditions_of(state), seed)
        doubtful = [each.variant for each in of_network if listening.in_doubt([each])]
        found = prove.with_audits(prove.prove(doubtful, conditions_of(state), again, proven.names), proven.audits)
        newer = {each.variant.name: each for each in found}
        proofs = tuple(newer.get(each.variant.name, each) for each in proven.proofs)
        return state.adding(again, replace(proven, proofs=proofs))
    return state


def prove_all(state: State, names: Mapping[str, Names] | None = None, only: Collection[str] | None = None) -> Proven:
    """Return every backend's proof and every file's audit; `names` where a candidate's file has its own.

    `only`: of these artifacts alone.
    """
    exported = state.need(Exported)
    variants = []
    for variant in state.plan.variants:
        if only is not None and variant.artifact not in only:
            continue
        artifact = exported.named(variant.artifact)
        reason = variant.unavailable or exported.refusals.get(variant.artifact or "")
        variants.append(replace(variant, file=artifact.files[0] if artifact else None, unavailable=reason))
    audit = auditing.of_exported(state, only)
    if at_once(state.plan, state.settings) == 1:
        audit.result()
    proofs = _proofs(state, variants, names or {})
    audits = audit.result()
    return Proven(prove.with_audits(products.judged(state, proofs), audits), audits, names or {})


def _proofs(state: State, variants: Sequence[Variant], names: Mapping[str, Names]) -> tuple[Proof, ...]:
    """Return a proof for each variant, in their order: those that passed before on the same bytes, and new ones."""
    truth, exported = state.need(Truth), state.need(Exported)
    if names:  # a candidate: somebody is looking for what is wrong with it
        return prove.prove(variants, conditions_of(state), truth, names)
    found = {each.name: exported.named(each.artifact) for each in variants}
    speaking = precisions.speaking(state.plan.config)
    by_variant = {
        each.name: keys.of_proof(
            state.plan,
            each,
            found[each.name],
            state.settings.threads,
            exported.named(speaking.get(each.artifact or "")),
        )
        for each in variants
        if not each.unavailable
    }
    with kept.known(state, by_variant) as known:
        made = prove.prove([each for each in variants if each.name not in known], conditions_of(state), truth)
        for proof in made:
            if proof.status == "pass":
                answer = {"facts": dict(proof.facts), "findings": [asdict(each) for each in proof.findings]}
                kept.keep(state, by_variant[proof.variant.name], proof.variant.name, answer)
    proofs = {proof.variant.name: proof for proof in made}
    return tuple(proofs.get(each.name) or _proof_from(each, known[each.name]) for each in variants)


def _proof_from(variant: Variant, answer: Mapping[str, Any]) -> Proof:
    findings = tuple(Finding(**each | {"worst_index": tuple(each["worst_index"])}) for each in answer["findings"])
    return Proof(variant, "pass", None, findings, answer["facts"])


def explained(state: State, folder: Path, *, all_of_them: bool = False) -> list[Explanation]:
    """Explain each required proof that failed (or each that ran), with reproductions in `folder`."""
    proven, found = state.need(Proven), []
    for proof in proven.proofs:
        # The network as it is has no other way to be run.
        is_plain = proof.variant.artifact is None and not backends()[proof.variant.backend].ladder
        speaks = proof.variant.artifact in state.need(Truth).own  # a search holds a file against the network's modules
        if is_plain or speaks or proof.status not in {"pass", "fail"}:
            continue
        # Outputs that are right have no culprit: it is the device, or the file by its audit, that failed.
        if all_of_them or not all(each.passed for each in proof.findings):
            shutil.rmtree(folder / proof.variant.name, ignore_errors=True)  # what an earlier run reproduced
            explanation = explain.explain(
                proof,
                conditions_of(state),
                state.need(Truth),
                names=proven.names.get(proof.variant.name),
                examples=examples(state.plan).inputs,
                seed=state.plan.config.parity.seed,
                folder=folder / proof.variant.name,
            )
            script = folder / proof.variant.name / "culprit.py"
            found.append(_reproduced(explanation, str(script) if script.exists() else None))
    return found


def _reproduced(explanation: Explanation, script: str | None) -> Explanation:
    """Return an explanation with the script that reproduces it."""
    return explanation.model_copy(update={"reproduction": script})


def _beside_report(explanation: Explanation) -> Explanation:
    """Return an explanation whose reproduction is named as it lies in a report."""
    script = f"{CULPRITS}/{explanation.backend}/culprit.py"
    return _reproduced(explanation, explanation.reproduction and script)


def _files_below(folder: Path, root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


PROVE = Stage(
    "parity",
    "hold every backend against the float64 network",
    (Inputs, Exported, Rebuilt, Truth),
    (Exported, Proven, Truth, Judged),
    _run,
)
