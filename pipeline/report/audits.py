"""What was found of the files themselves, as sections of a report: what an audit names, and how good what they give is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.parity.document import Exported
from pipeline.report.section import VERDICT, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.parity.claims import Claim
    from pipeline.parity.document import Audit, Parity
    from pipeline.report.section import Tone

_TONES: Mapping[str, Tone] = {"pass": "good", "fail": "bad", "undecided": "warn"}
_CLAIMS = ("file", "claim", VERDICT, "seen", "at least", "at most", "limit", "samples", "what it is")


def audits(parity: Parity) -> Iterator[Section]:
    """Return the section, if there is anything to name."""
    audited = [(each.artifact, each.audit) for each in parity.exports if isinstance(each, Exported) and each.audit]
    body = tuple((artifact, *row) for artifact, audit in audited for row in _rows(audit))
    if body:
        text = tuple(f"{artifact}: {audit.in_words()}." for artifact, audit in audited)
        yield Section("Audit", text, ("file", "where", "what", "used by"), body)


def _rows(audit: Audit) -> Iterator[tuple[str, str, str]]:
    for each in audit.problems:
        yield each.where, each.problem, each.module or ""
    for each in audit.suspects:
        yield each.where, f"{each.problem}; outputs would show it, and parity judges them", each.module or ""
    for left in audit.unaccounted:
        what = "attribute" if left.dtype == "attribute" else f"{left.dtype} {list(left.shape)}"
        yield left.name, f"{what}, not accounted for", left.used_by


def accuracies(parity: Parity) -> Iterator[Section]:
    """Return the section of what was claimed of the files' outputs, if anything was."""
    judged = parity.accuracies
    body = tuple((artifact, *_claim(claim)) for artifact, found in judged.items() for claim in found.claims)
    tones = tuple(_TONES[claim.verdict] for found in judged.values() for claim in found.claims)
    text = tuple(
        f"{artifact}: {found.problem or found.verdict}, run by {found.variant} on {found.file}; each bound holds with "
        f"{found.confidence:.0%} confidence."
        for artifact, found in judged.items()
    )
    if judged:
        yield Section("Accuracy, against the float64 network", text, _CLAIMS if body else (), body, tones=tones)


def _claim(claim: Claim) -> tuple[str, ...]:
    name = claim.criterion if claim.output is None else f"{claim.criterion} of {claim.output}"
    word = "FAIL" if claim.verdict == "fail" else claim.verdict
    figures = (claim.value, claim.lower, claim.upper, claim.limit)
    said = claim.in_words() + (f"; {advice}" if (advice := claim.advice()) else "")
    return (name, word, *(f"{each:.4g}" for each in figures), f"{claim.samples:,}", said)
