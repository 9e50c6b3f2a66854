"""What a person sees on stdout when a run is done: tables, and what they cannot say."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import filesize
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.backends import placement
from pipeline.parity.document import Exported
from pipeline.report.chosen import section as choice
from pipeline.report.measured import besides_latency
from pipeline.report.proven import explanations, findings
from pipeline.report.section import VERDICT, Section
from pipeline.report.summary import HEADINGS, lines, reasons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.benchmark.document import Benchmark
    from pipeline.benchmark.recommended import Recommended
    from pipeline.parity.document import Parity
    from pipeline.report.compare import Change, Comparison
    from pipeline.report.document import Documents
    from pipeline.report.section import Tone
    from pipeline.storage.cache import Entry

_TONES: Mapping[Tone, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "neutral": ""}
_OUTCOMES: Mapping[str, Tone] = {"regression": "bad", "undecided": "warn", "improvement": "good", "same": "neutral"}
_PIPE_WIDTH = 240
_UNFOLDED = 10_000
_ON_THE_RIGHT = {"× noise floor", "size"}
_PROBLEMS = 10  # of an audit, before the rest is counted


def print_run(name: str, documents: Documents) -> None:
    """Print the table of a run to stdout, and the reasons of verdicts that have one to tell."""
    found = lines(documents.parity, documents.benchmark)
    body = tuple(each.cells for each in found)
    print_section(Section(name, headings=HEADINGS, body=body, tones=tuple(each.tone for each in found)))
    for said in reasons(found):
        print(said)


def print_figures(benchmark: Benchmark) -> None:
    """Print what was measured besides latencies: starting, memory, throughput, and what of the machine is reached."""
    for section in besides_latency(benchmark):
        print()
        print_section(section)


def print_recommended(found: Recommended) -> None:
    """Print what was recommended to stdout: every candidate, and why."""
    shown = choice(found)
    short = shown.headings.index("95 % interval")
    print_section(replace(shown, headings=shown.headings[:short], body=tuple(row[:short] for row in shown.body)))
    for said in shown.text:
        print(said)


def print_parity(parity: Parity) -> None:
    """Print parity.json to stdout: every output of every case, what the table cannot say, and where errors begin."""
    print_section(replace(findings(parity), title=""))
    for said in remarks(parity):
        print(said)
    for section in explanations(parity):
        print("\n".join(section.text))
        print_section(replace(section, title=""))


def remarks(parity: Parity) -> list[str]:
    """Return what the table cannot say: how a candidate was matched, the audits, reasons, and where nodes ran."""
    said = []
    if reason := parity.oracle.fallback:
        said.append(f"the reference is float32 eager, because float64 is not possible here: {reason}")
    if candidate := parity.candidate:
        said.append(f"candidate {candidate.file}: {candidate.format}, {candidate.matched}")
    for each in parity.exports:
        if isinstance(each, Exported) and (audit := each.audit):
            said.append(f"audit of {each.artifact}: {'ok' if audit.passed else 'FAILED'}: {audit.in_words()}")
            said += [f"  {problem.in_words()}" for problem in audit.problems[1:_PROBLEMS]]
            if (more := audit.problem_count - _PROBLEMS) > 0:
                said.append(f"  and {more} more in parity.json")
            said += [f"  outputs would show: {problem.in_words()}" for problem in audit.suspects[:_PROBLEMS]]
            if audit.unchecked:
                said.append(f"  operators were not checked: {audit.unchecked}")
        if isinstance(each, Exported) and (judged := each.accuracy):
            said.append(f"accuracy of {each.artifact}: {judged.verdict}: {judged.in_words()}")
    said += [f"output '{name}': no case would show a defect ({why})" for name, why in parity.silent.items()]
    said += [f"{each.name}: {each.status}: {each.reason}" for each in parity.backends if each.reason]
    said += [
        f"{each.name}, {processor}: {found}"
        for each in parity.backends
        for processor, found in each.facts.processors.items()
    ]
    placed = [(each.name, each.facts.placement) for each in parity.backends]
    return said + [f"{name} ran on {placement.in_words(where)}" for name, where in placed if where]


def print_comparison(comparison: Comparison) -> None:
    """Print what changed from one release to another, the worst first, and what follows from it."""
    order = ("regression", "undecided", "improvement", "same")
    changes = sorted(comparison.changes, key=lambda each: (order.index(each.outcome), each.what, each.where))
    body = tuple(
        (each.what, each.where, f"{each.base:.6g}", f"{each.candidate:.6g}", _change(each), each.outcome, each.reason)
        for each in changes
    )
    headings = ("figure", "of", "base", "candidate", "change", VERDICT, "how sure")
    tones = tuple(_OUTCOMES[each.outcome] for each in changes)
    print_section(Section(f"candidate against base, margin {comparison.margin:.1%}", (), headings, body, tones=tones))
    for note in comparison.notes:
        print(f"note: {note}")
    print(
        f"{len(comparison.regressions)} regressions, {len(comparison.undecided)} undecided, of {len(changes)} figures"
    )


def print_league(sections: Sequence[Section]) -> None:
    """Print the tables of many releases to stdout."""
    for section in sections:
        print_section(section)
        for said in section.text:
            print(said)


def print_cache(root: Path, entries: Sequence[Entry], removed: Sequence[Entry], what: str = "results") -> None:
    """Print what a cache holds, the least recently used first, its size, and what was removed from it."""
    if entries:
        body = tuple(
            (
                each.about,
                filesize.decimal(each.size_bytes),
                f"{datetime.fromtimestamp(each.used_ns / 1e9, tz=UTC).astimezone():%Y-%m-%d %H:%M}",
            )
            for each in entries
        )
        print_section(Section(str(root), (), (what.removesuffix("s"), "size", "last used"), body))
    total = filesize.decimal(sum(each.size_bytes for each in entries))
    print(f"{root}: {len(entries)} {what}, {total}" if entries else f"{root}: nothing is kept")
    if removed:
        print(f"removed {len(removed)} {what}, {filesize.decimal(sum(each.size_bytes for each in removed))}")


def _change(change: Change) -> str:
    shown = f"{change.ratio - 1:+.1%}"
    return (
        shown if change.interval is None else f"{shown} [{change.interval[0] - 1:+.1%}, {change.interval[1] - 1:+.1%}]"
    )


def print_section(section: Section) -> None:
    """Print the table of a section, or, on a terminal that is narrower than it, each row as a few lines."""
    # A pipe has no width: do not fold what is written to it.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    table = _table(section)
    if console.measure(table, options=console.options.update(max_width=_UNFOLDED)).maximum <= console.width:
        console.print(table)
        return
    if section.title:
        console.print(Text(section.title, style="bold"))
    for index in range(len(section.body)):
        about, others = _card(section, index)
        if len(about) + len(others) + 3 <= console.width:
            console.print(Text(" · ").join(each for each in (about, others) if each))
        else:
            console.print(about)
            console.print(Padding(others, (0, 0, 0, 4), expand=False))


def _cell(section: Section, row: int, column: int) -> Text:
    return Text(section.body[row][column], _TONES[section.tone(row, column)])


def _table(section: Section) -> Table:
    table = Table(
        title=section.title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for heading in section.headings:
        table.add_column(heading, justify="right" if heading in _ON_THE_RIGHT else "left")
    for row, cells in enumerate(section.body):
        table.add_row(*(_cell(section, row, column) for column in range(len(cells))))
    return table


def _card(section: Section, row: int) -> tuple[Text, Text]:
    """Return what a row is about, its verdict with it, and its other cells, each behind its heading."""
    first = section.headings.index(VERDICT) + 1 if VERDICT in section.headings else 1
    about = [_cell(section, row, column) for column in range(first) if section.body[row][column]]
    cells = zip(section.headings[first:], section.body[row][first:], strict=True)
    others = " · ".join(f"{heading} {cell}" for heading, cell in cells if cell)
    return Text("  ").join(about), Text(others)
