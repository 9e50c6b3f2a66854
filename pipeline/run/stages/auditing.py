"""Account for every constant and number of the exported files, beside whatever else of a run still has to be done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.formats.table import formats
from pipeline.parity import prove
from pipeline.parity.document import Audit
from pipeline.run import keys
from pipeline.run.stages import kept
from pipeline.run.stages.network import conditions_of
from pipeline.run.stages.results import Exported
from pipeline.run.stages.sampling import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from pipeline.formats.artifact import Artifact
    from pipeline.run.stages.state import State


@dataclass(frozen=True, slots=True)
class Auditing:
    """An audit of artifacts that was begun; `result` waits for what was found by artifact, and raises what it raised."""

    artifacts: tuple[Artifact, ...]
    result: Callable[[], Mapping[str, Audit]]


def of_exported(state: State, only: Collection[str] | None = None) -> Auditing:
    """Return the audit of the exported artifacts, or those of some names: one that was begun before if it is of the same ones."""
    artifacts = [each for each in state.need(Exported).artifacts if only is None or each.name in only]
    begun = state.added.get(Auditing)
    if isinstance(begun, Auditing) and [*map(id, artifacts)] == [*map(id, begun.artifacts)]:
        return begun
    pool = ThreadPoolExecutor(1, "audit")
    result = pool.submit(_audits, state, artifacts).result
    pool.shutdown(wait=False)
    return Auditing(tuple(artifacts), result)


def _audits(state: State, artifacts: Sequence[Artifact]) -> dict[str, Audit]:
    audited = {f"{each.name} audit": each for each in artifacts if formats()[each.format].audit}
    every = state.need(Exported).artifacts
    sources = {each.name: each for each in every}
    by_name = {
        name: keys.of_audit(state.plan, artifact, sources.get(artifact.made_from or ""))
        for name, artifact in audited.items()
    }
    with kept.known(state, by_name) as known:
        waiting = [artifact for name, artifact in audited.items() if name not in known]
        made = prove.audit(waiting, conditions_of(state), examples(state.plan).inputs, every)
        for artifact, found in made.items():
            if found.passed:
                kept.keep(state, by_name[f"{artifact} audit"], f"{artifact} audit", found.to_json())
    return {audited[name].name: Audit.from_json(answer) for name, answer in known.items()} | made
