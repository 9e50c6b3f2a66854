"""The table of many releases as one HTML file that needs nothing else, and as Markdown.

What is shown comes from reports, which anybody may have written: in HTML it is escaped, and the page's own policy lets it ask for nothing; in
Markdown whatever is no plain word or figure stands between backticks, where nothing has a meaning.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UnavailableError
from pipeline.report import markdown
from pipeline.report.section import VERDICT
from pipeline.report.standings import groups, headline, sections, shifts, shown_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.report.league import League
    from pipeline.report.standings import Column, Group, Line

_TEMPLATE = Path(__file__).with_name("league.html.template")
_PLAIN = re.compile(r"[\w .,;:%×÷∞–—→+=/()\[\]{}?!'-]*")
_ACTIVE = re.compile(r"://|www\.|\]\(|\]\[|\]:|__")
TITLE = "League of releases"
FILTERS = ("verdict", "artifact", "backend", "precision")
"""The columns that a value can be chosen of."""


def render(league: League) -> str:
    """Return the page.

    Raises:
        UnavailableError: the package that fills in the page is not installed.
    """
    if find_spec("jinja2") is None:
        raise UnavailableError(
            "the page cannot be written: jinja2 is not installed", hint="install weighbridge[report]"
        )
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    found = groups(league)
    columns = shown_columns(found)
    headings = [column.heading for column in columns]
    return page.render(
        title=TITLE,
        headline=headline(league),
        against=next(iter(shifts(league.against)), None) if league.against else None,
        closes=bool(league.against and league.against.closes),
        headings=headings,
        numeric=[index for index, column in enumerate(columns) if column.value],
        groups=[
            (each.title, each.text, [(line.tone, list(_cells(line, columns))) for line in each.lines]) for each in found
        ],
        verdict=headings.index(VERDICT),
        filters=[
            (headings.index(name), name, _values(found, columns[headings.index(name)]))
            for name in FILTERS
            if name in headings
        ],
    )


def _cells(line: Line, columns: Sequence[Column]) -> Iterator[tuple[str, float | None]]:
    """Yield what each column shows, and the number that it is sorted by, if it has one."""
    for column in columns:
        value = column.value(line) if column.value else None
        yield column.text(line), value


def _values(found: Sequence[Group], column: Column) -> list[str]:
    return sorted({column.text(line) for group in found for line in group.lines} - {""})


def text(league: League) -> str:
    """Return the table as Markdown."""
    return "\n".join(_lines(league)) + "\n"


def _lines(league: League) -> Iterator[str]:
    yield from (f"# {TITLE}", "", f"{headline(league)}.")
    for section in sections(league):
        yield from ("", f"## {_escaped(section.title)}", "")
        yield from (line for said in section.text for line in (_escaped(said), ""))
        if section.body:
            body = ([_escaped(cell) for cell in row] for row in section.body)
            yield from markdown.table(section.headings, body)


def _escaped(said: str) -> str:
    """Return a text of anybody's in which nothing has a meaning in Markdown."""
    if _PLAIN.fullmatch(said) and not _ACTIVE.search(said):
        return said
    return f"`{said.replace('`', 'ʼ')}`"
