"""The report of what a run knows so far, and remarks on what failed without ending it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.benchmark.document import UNTIMED, Benchmark
from pipeline.parity.document import Explanation, Parity, Trained
from pipeline.parity.prove import Truth
from pipeline.release import bundle, compose
from pipeline.report import document, html, markdown
from pipeline.run.stages.results import Exported, Inputs, Judged, Proven, Rebuilt
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.report.document import Documents
    from pipeline.run.stages.state import State

CULPRITS = "culprits"
"""The folder of reproductions, beside a report."""


def parity_document(state: State) -> Parity:
    """Return parity.json of what is known so far."""
    exported, proven, rebuilt = state.need(Exported), state.need(Proven), state.need(Rebuilt)
    compared = _compared(state.need(Inputs), rebuilt)
    judged = state.added.get(Judged)  # nobody judges what parity did not let through
    accuracies = judged.accuracies if isinstance(judged, Judged) else {}
    found = document.parity(
        state.need(Truth), proven.proofs, exported.artifacts, proven.audits, exported.refusals, rebuilt.notes, compared
    )
    return document.with_elsewhere(document.with_accuracies(found, accuracies), state.elsewhere)


def _compared(inputs: Inputs, rebuilt: Rebuilt) -> Trained | None:
    """Return what a report says of the comparison with the trained network; None if there was none."""
    recording, agreement = inputs.recording, rebuilt.agreement
    if agreement is None or recording is None:
        return None
    return Trained(
        file=recording.name,
        calls=len(recording.calls),
        recorded=recording.place,
        passed=agreement.passed,
        factor=agreement.deciding.factor,
        limit=agreement.deciding.limit,
        differences=agreement.differences,
    )


def files(state: State, explanations: Sequence[Explanation] = (), benchmark: Benchmark = UNTIMED) -> dict[str, bytes]:
    """Return the report's files for what is known so far."""
    parity = parity_document(state)
    if explanations:
        parity = parity.model_copy(update={"explanations": tuple(explanations)})
    found = document.Documents(parity, benchmark)
    artifacts = state.need(Exported).artifacts
    nodes = {f"{each.name}-nodes": each.written.explanations for each in artifacts if each.written.explanations}
    texts = pages(state.plan.config.name, found)
    markdown.summarise(texts["report.md"])
    return compose.report_files({f"{name}.json": each for name, each in {**found.to_json(), **nodes}.items()}, texts)


def pages(name: str, found: Documents) -> dict[str, str]:
    """Return the report as Markdown, and as HTML where the packages for it are installed."""
    pages = {"report.md": markdown.render(name, found)}
    return pages if html.unavailable() else pages | {"report.html": html.render(name, found)}


def without_release(state: State, report: Mapping[str, bytes]) -> str:
    """Write the report of a run that ends here, and say so."""
    folder = bundle.write_failed(state.plan.config.name, state.settings.out, report)
    return f"no release was written; the report is in {folder}"


def note(state: State, stage: str, failures: Mapping[str, str | None], required: Sequence[str | None]) -> None:
    """Remark on the artifacts and backends that failed without being required; the others end the run."""
    for subject, reason in failures.items():
        if subject not in required:
            state.settings.report(Event(stage, subject, "noted", f"{subject}: {reason}"))
