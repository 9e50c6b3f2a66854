"""What the audits of the files found, as a section of a report: what is wrong, and what nothing accounts for, each by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.parity.document import Exported
from pipeline.report.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.parity.document import Audit, Parity


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
