"""What was proven, as sections of a report: every output of every case, where errors begin, where nodes ran."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.backends.placement import problems
from pipeline.interface import in_words
from pipeline.report.section import VERDICT, Section
from pipeline.report.summary import status
from pipeline.report.words import factor, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.parity.compare import Finding
    from pipeline.parity.document import BackendResult, Parity
    from pipeline.report.section import Tone

WRONG = "Where it goes wrong"
_HEADINGS = (
    *("backend", "output", "case", "sizes", VERDICT, "factor", "largest error", "rms error", "at", "passes at atol"),
    "problem",
)


def findings(parity: Parity) -> Section:
    """Return the table of every output of every case: backends that failed first, and of each backend the worst first."""
    sizes = {each.name: in_words(each.sizes) for each in parity.cases}
    order = sorted(parity.backends, key=lambda each: each.status not in {"fail", "crashed"})
    rows: list[tuple[Tone, tuple[str, ...]]] = []
    for backend in order:
        rows += _otherwise_failed(backend, len(parity.cases))
        rows += [
            (
                "good" if each.passed else "bad",
                (backend.name, each.output, each.case, sizes.get(each.case, ""), *_cells(each)),
            )
            for each in sorted(backend.findings, key=_rank)
        ]
    body, tones = tuple(each for _, each in rows), tuple(tone for tone, _ in rows)
    text = (_held_against(parity), "Backends that failed come first, and of each backend what is worst.")
    charts = ("parity",) if any(each.findings for each in order) else ()
    return Section("Parity, every output of every case", text, _HEADINGS, body, charts, tones=tones)


def _rank(finding: Finding) -> tuple[bool, float]:
    """Order findings, the worst first."""
    return finding.passed, -(finding.factor / finding.limit) if finding.limit else -math.inf


def _otherwise_failed(backend: BackendResult, cases: int) -> Iterator[tuple[Tone, tuple[str, ...]]]:
    """Yield a row for a backend that failed for something else than the outputs below it, which may all be right."""
    if backend.status not in {"fail", "crashed"} or any(not each.passed for each in backend.findings):
        return
    ran = len({each.case for each in backend.findings})
    word, tone = status(backend)
    problem = f"not for its outputs, which are right in the {ran} of {cases} cases that it ran: {backend.reason or ''}"
    yield tone, (backend.name, "", "", "", word, "", "", "", "", "", problem)


def _held_against(parity: Parity) -> str:
    if fallback := parity.oracle.fallback:
        return f"The reference is float32 eager, because float64 is not possible here: {fallback}."
    explicit = [name for name, rule in parity.rules.items() if rule.explicit]
    said = "The reference is the network itself in float64; a factor is the largest error ÷ the noise floor of float32"
    return said + (f", and of {', '.join(explicit)} ÷ what atol and rtol allow." if explicit else ".")


def _cells(finding: Finding) -> tuple[str, ...]:
    return (
        _passed(finding),
        f"{factor(finding.factor)} of {finding.limit:g}",
        f"{finding.max_error:.2e}",
        f"{finding.rms_error:.2e}",
        str(list(finding.worst_index)),
        "none" if finding.would_pass is None else f"{finding.would_pass:.2e}",
        finding.problem or ("" if finding.passed else f"{finding.got:.9g} instead of {finding.expected:.9g}"),
    )


def _passed(finding: Finding) -> str:
    """Return the word for a finding, with the number of elements that float32 cannot decide."""
    said = [f"{finding.ties} ties"] if finding.ties else []
    said += ["by the accuracy of its last sigmoid or softmax"] if finding.forgiven else []
    return ("pass" if finding.passed else "FAIL") + (f" ({', '.join(said)})" if said else "")


def processors(parity: Parity) -> Iterator[Section]:
    """Yield for which processors the products of whole numbers are right, where a file has any."""
    body = tuple(
        (each.name, processor, found) for each in parity.backends for processor, found in each.facts.processors.items()
    )
    text = (
        "Each run alone, on what reaches it in a call, and held against what the file says; for other processors as they would add it.",
    )
    if body:
        yield Section("Products of whole numbers", text, ("backend", "processor", "what became of them"), body)


def placement(parity: Parity) -> Iterator[Section]:
    """Yield on which device how many nodes ran, where a backend can tell."""
    found = [(each.name, each.facts.placement) for each in parity.backends if each.facts.placement]
    body = tuple(
        (
            name,
            provider,
            f"{each['nodes']:,} ({each['node_share']:.0%})",
            f"{milliseconds(each['ms'])} ({each['time_share']:.0%})",
        )
        for name, placed in found
        for provider, each in placed["providers"].items()
    )
    text = ["From onnxruntime's own profile of every case; of a GPU's nodes, the time that starting them took."]
    text += [f"{name}: {said}." for name, placed in found for said in problems(placed)]
    text += [f"{name}: {placed['copies']} copies between devices." for name, placed in found if placed["copies"]]
    if body:
        yield Section("Where nodes ran", tuple(text), ("backend", "provider", "nodes", "time"), body)


def explanations(parity: Parity) -> Iterator[Section]:
    """Yield where errors begin, if that was looked for: a sentence a backend, and how far each rung of its ladder is off."""
    text = [each.in_words() + "." for each in parity.explanations]
    text += [f"To see it alone: python {each.reproduction}" for each in parity.explanations if each.reproduction]
    body = tuple(
        (each.backend, rung.rung, "pass" if rung.passed else "FAIL", factor(rung.factor), rung.reason or "")
        for each in parity.explanations
        for rung in each.ladder
    )
    tones: tuple[Tone, ...] = tuple(
        "good" if rung.passed else "bad" for each in parity.explanations for rung in each.ladder
    )
    if text:
        headings = ("backend", "rung", VERDICT, "factor", "reason")
        yield Section(WRONG, tuple(text), headings if body else (), body, tones=tones)
