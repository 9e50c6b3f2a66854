"""A second try where a file is wrong: the format's other way, exported and proven like the first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import WorkerError
from pipeline.formats.table import formats
from pipeline.parity.truth import Truth
from pipeline.run.stages import evaluating
from pipeline.run.stages.exporting import export
from pipeline.run.stages.results import Exported, Proven

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pipeline.config.models import ExportConfig
    from pipeline.formats.artifact import Artifact
    from pipeline.formats.format import Options
    from pipeline.parity.prove import Proof
    from pipeline.run.stages.state import State

    Prove = Callable[[State, Collection[str]], State]


def tried(state: State, prove: Prove) -> State:
    """Return the state with what became of artifacts whose files are wrong.

    Where the format has another way and its file is right, that one is taken, with a note; where there is none left, and
    the first was refused by its exporter, the artifact counts as refused. `prove(state, names)` adds the proofs of some artifacts.
    """
    for wanted in state.plan.config.exports:
        artifact = state.need(Exported).named(wanted.name)
        if artifact is None or wanted.made_from is not None or not (wrong := _wrong(state.need(Proven), {wanted.name})):
            continue
        reason = next(iter(wrong.values()))
        other = formats()[wanted.format].alternative(_options(wanted), artifact.written)
        if other is not None:
            state = _by_another_way(state, wanted, artifact, other, prove)
        elif artifact.written.refused:
            state = _refused(
                state, artifact, f"{artifact.written.refused}; {_way(artifact)}: its file is wrong: {reason}"
            )
    return state


def _by_another_way(
    state: State, wanted: ExportConfig, first: Artifact, other: Mapping[str, object], prove: Prove
) -> State:
    """Export an artifact with other options, and what is made from it; take it where fewer backends fail on it than before."""
    family = _family(state, first.name)
    before = _wrong(state.need(Proven), family)
    reason = next(iter(before.values()))
    try:
        made = _exported(state, wanted, first, other, reason)
    except WorkerError as error:
        return _told(state, family, f"the other way is refused: {error.message}")
    proven = prove(with_artifacts(state, made), family)
    found = proven.need(Proven)
    after = _wrong(found, family)
    if not after.keys() < before.keys():
        second = made[first.name]
        return _told(state, family, f"by {_way(second)} too: {next(iter(after.values()))}")
    return proven.adding(merged(state.need(Proven), found))


def with_artifacts(state: State, made: Mapping[str, Artifact]) -> State:
    """Return the state with other artifacts in place of those of the same names, and with what these should give."""
    exported = state.need(Exported)
    artifacts = tuple(made.get(each.name, each) for each in exported.artifacts)
    return state.adding(*evaluating.added(replace(exported, artifacts=artifacts), state.need(Truth), state))


def _exported(
    state: State, wanted: ExportConfig, first: Artifact, other: Mapping[str, object], reason: str
) -> dict[str, Artifact]:
    """Return the artifact made with other options, and those that are made from it, by name."""
    changed = wanted.model_copy(update={"options": {**wanted.options, **other}})
    made = export(state, changed)
    note = f"made by {_way(made)}: the file by {_way(first)} was wrong ({reason})"
    made = replace(made, written=replace(made.written, notes=(note, *made.written.notes)))
    return with_descendants(state, made)


def with_descendants(state: State, made: Artifact) -> dict[str, Artifact]:
    """Return an artifact and what is made from it anew, by name."""
    found = {made.name: made}
    for each in state.plan.config.exports:
        if each.made_from in found and state.need(Exported).named(each.name):
            found[each.name] = export(state, each, found[each.made_from])
    return found


def _refused(state: State, artifact: Artifact, reason: str) -> State:
    """Return the state in which an artifact, and what was made from it, was refused."""
    gone = _family(state, artifact.name)
    exported, proven = state.need(Exported), state.need(Proven)
    refusals = {**exported.refusals, **dict.fromkeys(gone, reason)}
    left = tuple(each for each in exported.artifacts if each.name not in gone)
    proofs = tuple(_unproven(each, reason) if each.variant.artifact in gone else each for each in proven.proofs)
    audits = {name: each for name, each in proven.audits.items() if name not in gone}
    return state.adding(Exported(left, refusals), replace(proven, proofs=proofs, audits=audits))


def _unproven(proof: Proof, reason: str) -> Proof:
    variant = replace(proof.variant, file=None, unavailable=reason)
    return replace(proof, variant=variant, status="unavailable", reason=reason, findings=(), facts={})


def _told(state: State, family: Collection[str], more: str) -> State:
    """Return the state with what became of the second try beside the reason of every proof that failed."""
    proven = state.need(Proven)
    wrong = _wrong(proven, family)
    proofs = (
        replace(each, reason=f"{each.reason}; {more}") if each.variant.name in wrong else each for each in proven.proofs
    )
    return state.adding(replace(proven, proofs=tuple(proofs)))


def merged(before: Proven, found: Proven) -> Proven:
    """Return all proofs and audits, the newer ones in place of the older."""
    newer = {each.variant.name: each for each in found.proofs}
    proofs = tuple(newer.get(each.variant.name, each) for each in before.proofs)
    return replace(before, proofs=proofs, audits={**before.audits, **found.audits})


def _wrong(proven: Proven, names: Collection[str]) -> dict[str, str]:
    """Return why backends cannot be trusted with files of some artifacts, by backend; where they ran is none of these."""
    audits = {name for name in names if name in proven.audits and not proven.audits[name].passed}
    return {
        each.variant.name: each.reason or ""
        for each in proven.proofs
        if each.variant.artifact in names
        and (
            each.status == "crashed"
            or (
                each.status == "fail"
                and (each.variant.artifact in audits or not all(finding.passed for finding in each.findings))
            )
        )
    }


def _family(state: State, name: str) -> set[str]:
    """Return the names of an artifact and of those that are made from it, directly or not."""
    found = {name}
    for each in state.plan.config.exports:  # what an artifact is made from stands before it
        if each.made_from in found:
            found.add(each.name)
    return found


def _way(artifact: Artifact) -> str:
    return f"`method: {artifact.written.facts.get('method', 'another')}`"


def _options(wanted: ExportConfig) -> Options:
    return formats()[wanted.format].options.model_validate(wanted.options)
