"""What artifacts of a precision of their own say: each is evaluated exactly, and held against that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import WorkerError
from pipeline.parity import oracle
from pipeline.parity.file_jobs import EvaluateFile, FileEvaluation
from pipeline.run import cached, keys, precisions
from pipeline.run.plan import at_once
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.formats.artifact import Artifact
    from pipeline.parity.oracle import Reference
    from pipeline.parity.truth import Truth
    from pipeline.run.stages.results import Exported
    from pipeline.run.stages.state import State


def added(exported: Exported, known: Truth, state: State) -> tuple[Exported, Truth]:
    """Return the artifacts and the truth with what those of a precision of their own should give, or why that cannot be told."""
    own, refused = _of_reduced(state, exported, known)
    return replace(exported, refusals={**exported.refusals, **refused}), replace(known, own=own)


def _of_reduced(
    state: State, exported: Exported, known: Truth
) -> tuple[dict[str, tuple[Reference, ...]], dict[str, str]]:
    speaks = precisions.speaking(state.plan.config)
    artifacts = [each for name in dict.fromkeys(speaks.values()) if (each := exported.named(name)) is not None]
    with ThreadPoolExecutor(at_once(state.plan, state.settings)) as pool:
        found = dict(
            zip(
                [each.name for each in artifacts],
                pool.map(lambda each: _evaluated(state, each, known), artifacts),
                strict=True,
            )
        )
    own = {name: found[source] for name, source in speaks.items() if source in found}
    return (
        {name: each for name, each in own.items() if not isinstance(each, str)},
        {name: each for name, each in own.items() if isinstance(each, str)},
    )


def _evaluated(state: State, artifact: Artifact, known: Truth) -> tuple[Reference, ...] | str:
    """Return what an artifact should give in each case, or why that cannot be told."""
    planned, report = state.plan, state.settings.report
    label = f"{artifact.name} oracle"
    report(Event("export", label, "started"))

    def work(_: Any) -> Mapping[str, Any]:
        request = EvaluateFile(
            format=artifact.format,
            file=artifact.files[0],
            cases=known.cases,
            known=known.references,
            seed=planned.config.parity.seed,
        )
        with oracle.started(state.runner) as worker:
            answer = worker.call(request, timeout_s=planned.config.limits.run_seconds)
        return answer.model_dump()

    try:
        found = cached.get_or_make(
            state.cache, keys.of_evaluation(planned, artifact), f"{planned.config.name}: {label}", work
        )
    except WorkerError as error:
        report(Event("export", label, "failed", error.message))
        return error.message
    report(cached.ended("export", label, found))
    return FileEvaluation.model_validate(found.answer).references
