"""The report as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.report.content import content

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.report.content import Content
    from pipeline.report.document import Documents
    from pipeline.report.section import Section

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def render(name: str, documents: Documents) -> str:
    """Return the report of a run from its two documents."""
    return "\n".join(_lines(content(name, documents))) + "\n"


def summarise(text: str) -> None:
    """Append the report to the summary of the job that runs us, where there is one ($GITHUB_STEP_SUMMARY)."""
    if path := os.environ.get(SUMMARY_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def table(headings: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *body]
    return ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]


def _lines(found: Content) -> Iterator[str]:
    yield f"# {found.name}: {found.headline}"
    yield ""
    yield from (f"- {sentence}" for sentence in found.verdict)
    yield from ("", f"Next: {found.next}.")
    for section in found.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield from ("", f"## {section.title}", "")
    if section.headings:
        yield from (line for sentence in section.text for line in (sentence, ""))
        yield from table(section.headings, _marked(section))
    else:
        yield from (f"- {sentence}" for sentence in section.text)
    if section.code:
        yield from ("", "```sh", section.code, "```")


def _marked(section: Section) -> Iterator[Sequence[str]]:
    """Yield the rows of a table, verdicts that are bad in bold."""
    for index, row in enumerate(section.body):
        yield [f"**{cell}**" if section.tone(index, column) == "bad" else cell for column, cell in enumerate(row)]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
