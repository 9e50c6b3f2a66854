"""A part of a report, whatever it is written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; `charts` name the plots that HTML shows above the table, `code` what can be run."""

    title: str
    text: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    charts: tuple[str, ...] = ()
    code: str = ""
