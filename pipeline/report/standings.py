"""The table of many releases as it is shown, whatever it is shown in: its columns, and a table a kind of node."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from pipeline.benchmark.machine import Machine, comparable
from pipeline.interface import in_words
from pipeline.report.league import Row
from pipeline.report.section import VERDICT, Section
from pipeline.report.words import factor, in_units, milliseconds, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.report.league import Against, Entry, League, Outcome, Shift, Timing
    from pipeline.report.section import Tone

_OUTCOMES: Mapping[Outcome, tuple[str, Tone]] = {
    "worse": ("proven worse", "bad"),
    "undecided": ("undecided", "warn"),
    "better": ("proven better", "good"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table with the entry that it is of."""

    entry: Entry
    row: Row

    @property
    def tone(self) -> Tone:
        """What its verdict means."""
        if self.row.verdict == "pass":
            return "good"
        return "warn" if not self.row.required and self.row.verdict in {"unavailable", "not released"} else "bad"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, what a line shows in it, and by what it is sorted, None where nothing is known."""

    heading: str
    text: Callable[[Line], str]
    value: Callable[[Line], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that may stand in one table: of one kind of node, or of none."""

    title: str
    text: str
    lines: tuple[Line, ...]


def _timings(line: Line, shown: Callable[[Timing], str]) -> str:
    many = len(line.row.timings) > 1
    found = [(in_words(each.sizes), shown(each)) for each in line.row.timings]
    return "\n".join(f"{where}: {each}" if many and where else each for where, each in found if each)


def _ratio(timing: Timing) -> str:
    if timing.ratio is None or timing.interval is None:
        return timing.verdict
    ratio, low, high = (f"{each:.2f}" if each >= 0.1 else f"{each:.2g}" for each in (timing.ratio, *timing.interval))
    return f"{ratio} [{low}, {high}] {timing.verdict}"


def _first(line: Line, of: Callable[[Timing], float | None]) -> float | None:
    return next((value for each in line.row.timings if (value := of(each)) is not None), None)


def _peak(row: Row) -> int | None:
    return sorted(row.peak_bytes)[len(row.peak_bytes) // 2] if row.peak_bytes else None


COLUMNS = (
    Column("model", lambda line: line.entry.name),
    Column("version", lambda line: line.entry.version),
    Column("artifact", lambda line: line.row.artifact),
    Column("backend", lambda line: line.row.backend),
    Column("verdict", lambda line: line.row.verdict),
    Column("× noise floor", lambda line: factor(line.row.factor), lambda line: line.row.factor),
    Column("ratio", lambda line: _timings(line, _ratio), lambda line: _first(line, lambda each: each.ratio)),
    Column(
        "latency",
        lambda line: _timings(line, lambda each: milliseconds(each.median_ms)),
        lambda line: _first(line, lambda each: each.median_ms),
    ),
    Column("size", lambda line: in_units(line.row.size_bytes), lambda line: line.row.size_bytes),
    Column("memory", lambda line: in_units(_peak(line.row)), lambda line: _peak(line.row)),
    Column("precision", lambda line: line.row.precision),
    Column("accuracy", lambda line: line.row.accuracy),
    Column("recommended", lambda line: line.row.recommended),
    Column("why", lambda line: line.row.reason),
)


_KEYS = 5
"""The first columns, which every table has."""


def lines(entry: Entry) -> Iterator[Line]:
    """Yield the lines of an entry, what is wrong with all of it first."""
    if entry.problem:
        word = "no release" if entry.state == "failed" else "damaged"
        yield Line(entry, Row(artifact="", backend="", required=True, verdict=word, reason=entry.problem))
    yield from (Line(entry, each) for each in entry.rows)


def groups(league: League) -> list[Group]:
    """Return the tables of a league: one a kind of node, and one of what was not timed. Timings of two kinds are never in one."""
    order = [*range(len(league.machines)), None]
    found = {node: [line for each in league.entries if each.node == node for line in lines(each)] for node in order}
    return [Group(*_titled(node, league.machines), tuple(each)) for node, each in found.items() if each]


def shown_columns(found: Sequence[Group]) -> list[Column]:
    """Return the columns that say something of any line, in their order; those that tell lines apart are always there."""
    said = [line for group in found for line in group.lines]
    return [column for index, column in enumerate(COLUMNS) if index < _KEYS or any(column.text(line) for line in said)]


def _titled(node: int | None, machines: Sequence[Machine]) -> tuple[str, str]:
    if node is None:
        return "Not timed", "Released with --no-benchmark, or not released."
    said = kind(machines[node])
    others = len(machines) - 1
    return f"Timed on {said}", "Timings of other kinds of nodes are in tables of their own." if others else ""


def kind(of: Machine) -> str:
    """Return what decides latencies of a machine, in a line."""
    cores = f"{of.usable_cores} of {of.logical_cores} processors" if of.usable_cores is not None else None
    found = [
        of.cpu_model or of.architecture,
        cores,
        f"quota {of.quota_cores:g}" if of.quota_cores is not None else None,
        f"up to {of.max_frequency_mhz:g} MHz" if of.max_frequency_mhz is not None else None,
        f"governor {of.governor}" if of.governor else None,
        of.gpus,
        of.system,
        *(f"{name}={value}" for name, value in sorted(of.thread_variables.items())),
    ]
    return printable(", ".join(each for each in found if each))


def nodes(machines: Sequence[Machine | None]) -> tuple[list[Machine], list[int | None]]:
    """Return the kinds of nodes among machines, and of which each is."""
    kinds: list[Machine] = []
    places: list[int | None] = []
    known: dict[tuple[str, ...], int | None] = {}
    for each in machines:
        key = tuple(str(getattr(each, field.name)) for field in fields(Machine)) if each else ()
        if key not in known:
            known[key] = None if each is None else _place(each, kinds)
        places.append(known[key])
    return kinds, places


def _place(one: Machine, kinds: list[Machine]) -> int:
    for index, each in enumerate(kinds):
        if not comparable(one, each):
            return index
    kinds.append(one)
    return len(kinds) - 1


def headline(league: League) -> str:
    """Say in a line what a league holds."""
    count = {state: sum(each.state == state for each in league.entries) for state in ("released", "failed", "damaged")}
    said = f"{_many(count['released'], 'release')}, {_many(sum(len(each.rows) for each in league.entries), 'row')}"
    said += f", {count['failed']} without a release" if count["failed"] else ""
    return said + (f", {count['damaged']} that cannot be read" if count["damaged"] else "")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def sections(league: League) -> list[Section]:
    """Return the tables as sections, what is held against an older table first."""
    found = list(shifts(league.against)) if league.against else []
    tables = groups(league)
    columns = shown_columns(tables)
    for group in tables:
        body = tuple(tuple(column.text(line).replace("\n", "; ") for column in columns) for line in group.lines)
        headings = tuple(column.heading for column in columns)
        text = (group.text,) if group.text else ()
        found.append(Section(group.title, text, headings, body, tones=tuple(line.tone for line in group.lines)))
    return found


def shifts(found: Against) -> Iterator[Section]:
    """Yield what is not as in the older table: what is proven first, and of that what is required."""
    rows = [(each, outcome) for outcome in _OUTCOMES for each in found.of(outcome)]
    body = tuple(_shifted(each, _OUTCOMES[outcome][0]) for each, outcome in rows)
    counts = ", ".join(f"{len(found.of(outcome))} {word}" for outcome, (word, _) in _OUTCOMES.items())
    text = (f"{counts}, {found.same} the same, margin {found.margin:.1%}.", *found.notes)
    headings = ("model", "figure", "of", VERDICT, "required", "before", "now", "change", "how sure") if body else ()
    tones = tuple(_OUTCOMES[outcome][1] for _, outcome in rows)
    yield Section("Against the older table", text, headings, body, tones=tones)


def _shifted(each: Shift, word: str) -> tuple[str, ...]:
    figures = ("" if value is None else f"{value:.6g}" for value in (each.base, each.candidate))
    change = "" if each.ratio is None else f"{each.ratio - 1:+.1%}"
    if each.interval is not None:
        change += f" [{each.interval[0] - 1:+.1%}, {each.interval[1] - 1:+.1%}]"
    return (each.name, each.what, each.where, word, "yes" if each.required else "", *figures, change, each.reason)
