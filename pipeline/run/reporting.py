"""The report of what a run knows so far, and remarks on what failed without ending it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.parity.prove import Truth
from pipeline.release import bundle, compose
from pipeline.report import document, html, markdown
from pipeline.run.results import Exported, Inputs, Proven, Rebuilt
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.run.state import State

CULPRITS = "culprits"
"""The folder of reproductions, beside a report."""


def parity_document(state: State) -> dict[str, Any]:
    """Return parity.json of what is known so far."""
    exported, proven, rebuilt = state.need(Exported), state.need(Proven), state.need(Rebuilt)
    found = document.parity(
        state.need(Truth), proven.proofs, exported.artifacts, proven.audits, exported.refusals, rebuilt.notes
    )
    return found | {"reference": _compared(state.need(Inputs), rebuilt)}


def _compared(inputs: Inputs, rebuilt: Rebuilt) -> dict[str, Any] | None:
    """Return what a report says of the comparison with the trained network; None if there was none."""
    recording, agreement = inputs.recording, rebuilt.agreement
    if agreement is None or recording is None:
        return None
    known = {"file": recording.name, "calls": len(recording.calls), "recorded": recording.place}
    return known | agreement.to_json()


def files(
    state: State, explanations: Sequence[Mapping[str, Any]] = (), benchmark: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Return the report's files for what is known so far."""
    artifacts = state.need(Exported).artifacts
    documents = {
        "parity.json": parity_document(state) | ({"explanations": list(explanations)} if explanations else {}),
        "benchmark.json": dict(benchmark or document.benchmark(None)),
        **{f"{each.name}-nodes.json": each.written.explanations for each in artifacts if each.written.explanations},
    }
    texts = pages(state.plan.config.name, documents["parity.json"], documents["benchmark.json"])
    markdown.summarise(texts["report.md"])
    return compose.report_files(documents, texts)


def pages(name: str, parity_: Mapping[str, Any], benchmark_: Mapping[str, Any]) -> dict[str, str]:
    """Return the report as Markdown, and as HTML where the packages for it are installed."""
    pages = {"report.md": markdown.render(name, parity_, benchmark_)}
    return pages if html.unavailable() else pages | {"report.html": html.render(name, parity_, benchmark_)}


def without_release(state: State, report: Mapping[str, bytes]) -> str:
    """Write the report of a run that ends here, and say so."""
    folder = bundle.write_failed(state.plan.config.name, state.settings.out, report)
    return f"no release was written; the report is in {folder}"


def note(state: State, stage: str, failures: Mapping[str, str | None], required: Sequence[str | None]) -> None:
    """Remark on the artifacts and backends that failed without being required; the others end the run."""
    for subject, reason in failures.items():
        if subject not in required:
            state.settings.report(Event(stage, subject, "noted", f"{subject}: {reason}"))
