"""A part of a report, whatever it is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "warn", "neutral"]
"""What a verdict means, whatever its word is: colours follow it."""

VERDICT = "verdict"
"""The heading of the column whose cells have their row's tone."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; `charts` name the plots that HTML shows above the table, `code` what can be run.

    `tones` are the rows', of a table with a column of verdicts.
    """

    title: str
    text: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    charts: tuple[str, ...] = ()
    code: str = ""
    tones: tuple[Tone, ...] = ()

    def tone(self, row: int, column: int) -> Tone:
        """Return the tone of a cell: its row's where it is the verdict."""
        is_verdict = self.tones and self.headings[column] == VERDICT
        return self.tones[row] if is_verdict else "neutral"
