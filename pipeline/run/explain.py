"""What weighbridge says, by name: the sections of explained.md, which docs/explained.md is a copy of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import InputError, suggestion

PAGE = Path(__file__).with_name("explained.md")
_SEEN = "*Seen as:* "


@dataclass(frozen=True, slots=True)
class Section:
    """What is said of one verdict or kind of error; `seen` are the words that tables and messages have for it."""

    name: str
    group: str
    text: str
    seen: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What it is, in its first paragraph."""
        return self.text.partition("\n\n")[0]


@cache
def sections() -> dict[str, Section]:
    """Return every section by its name, in the page's order."""
    _, *groups = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for group in groups:
        title, *parts = re.split(r"^### ", group, flags=re.MULTILINE)
        for part in parts:
            name, _, text = part.partition("\n")
            line = next((each for each in text.splitlines() if each.startswith(_SEEN)), "")
            found[name] = Section(name, title.strip(), text.strip(), tuple(re.findall(r"`([^`]+)`", line)))
    return found


def explain(given: str) -> Section:
    """Return the section of that name, or of a word that a table has for it: `not compared`, `up to date`, `FAILED`.

    Raises InputError, with the nearest name, where there is none.
    """
    known = sections()
    name = re.sub(r"[\s_]+", "-", given.strip()).lower()
    section = known.get(name) or next((each for each in known.values() if given.strip() in each.seen), None)
    if section is None:
        raise InputError(
            f"nothing is called {given!r}{suggestion(name, known)}", hint="weighbridge explain lists the names"
        )
    return section
