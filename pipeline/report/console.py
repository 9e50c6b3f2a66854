"""What a person sees in a terminal: progress on stderr while a run works, a table on stdout when it is done."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rich import filesize
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.backends import placement
from pipeline.parity.document import Exported
from pipeline.report.log import print_line
from pipeline.report.measured import besides_latency
from pipeline.report.proven import explanations, findings
from pipeline.report.section import VERDICT, Section
from pipeline.report.summary import HEADINGS, lines, reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipeline.benchmark.document import Benchmark
    from pipeline.parity.document import Parity
    from pipeline.report.compare import Change, Comparison
    from pipeline.report.document import Documents
    from pipeline.report.section import Tone
    from pipeline.storage.cache import Entry
    from pipeline.worker.event import Event

    Begin = Callable[[str], AbstractContextManager[Callable[[Event], None]]]

_TONES: Mapping[Tone, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "neutral": ""}
_OUTCOMES: Mapping[str, Tone] = {"regression": "bad", "undecided": "warn", "improvement": "good", "same": "neutral"}
_PIPE_WIDTH = 240
_UNFOLDED = 10_000
_ON_THE_RIGHT = {"× noise floor", "size"}
_PROBLEMS = 10  # of an audit, before the rest is counted
_HEARTBEAT_S = 10.0


@contextmanager
def progress(name: str, *, as_lines: bool = False) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows a run's events on stderr: live on a terminal, else a line a stage, or JSON lines."""
    with board(as_lines=as_lines) as begin, begin(name) as show:
        yield show


@contextmanager
def board(total: int = 1, *, as_lines: bool = False) -> Iterator[Begin]:
    """Yield a function that begins to show one of `total` runs, by name, as `progress` does."""
    console = Console(stderr=True)
    if as_lines:
        yield lambda name: nullcontext(partial(print_line, name))
    elif not console.is_terminal:
        yield _plain
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            overall = bar.add_task(f"{total} configs", total=total) if total > 1 else None
            yield partial(_live, bar, overall)


def print_run(name: str, documents: Documents) -> None:
    """Print the table of a run to stdout, and the reasons of verdicts that have one to tell."""
    found = lines(documents.parity, documents.benchmark)
    body = tuple(each.cells for each in found)
    _print_section(Section(name, headings=HEADINGS, body=body, tones=tuple(each.tone for each in found)))
    for said in reasons(found):
        print(said)


def print_figures(benchmark: Benchmark) -> None:
    """Print what was measured besides latencies: starting, memory, throughput, and what of the machine is reached."""
    for section in besides_latency(benchmark):
        print()
        _print_section(section)


def print_parity(parity: Parity) -> None:
    """Print parity.json to stdout: every output of every case, what the table cannot say, and where errors begin."""
    _print_section(replace(findings(parity), title=""))
    for said in remarks(parity):
        print(said)
    for section in explanations(parity):
        print("\n".join(section.text))
        _print_section(replace(section, title=""))


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
    said += [f"output '{name}': no case would show a defect ({why})" for name, why in parity.silent.items()]
    said += [f"{each.name}: {each.status}: {each.reason}" for each in parity.backends if each.reason]
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
    _print_section(Section(f"candidate against base, margin {comparison.margin:.1%}", (), headings, body, tones=tones))
    for note in comparison.notes:
        print(f"note: {note}")
    print(
        f"{len(comparison.regressions)} regressions, {len(comparison.undecided)} undecided, of {len(changes)} figures"
    )


def print_cache(root: Path, entries: Sequence[Entry], removed: Sequence[Entry]) -> None:
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
        _print_section(Section(str(root), (), ("result", "size", "last used"), body))
    total = filesize.decimal(sum(each.size_bytes for each in entries))
    print(f"{root}: {len(entries)} results, {total}" if entries else f"{root}: nothing is kept")
    if removed:
        print(f"removed {len(removed)} results, {filesize.decimal(sum(each.size_bytes for each in removed))}")


def _change(change: Change) -> str:
    shown = f"{change.ratio - 1:+.1%}"
    return (
        shown if change.interval is None else f"{shown} [{change.interval[0] - 1:+.1%}, {change.interval[1] - 1:+.1%}]"
    )


def _print_section(section: Section) -> None:
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


@contextmanager
def _live(bar: Progress, overall: TaskID | None, name: str) -> Iterator[Callable[[Event], None]]:
    task = bar.add_task(name, total=None)
    working: dict[str, None] = {}
    lock = threading.Lock()

    def show(event: Event) -> None:
        if event.status == "noted":
            bar.console.print(f"{name}: {event.detail}", markup=False, highlight=False)
            return
        with lock:
            _note(working, event)
            doing = ", ".join(working) or event.subject
            text = f"{name} · {event.stage} · {doing}" + (f" · {event.detail}" if event.status == "working" else "")
            bar.update(task, description=text, total=1.0 if event.done is not None else None, completed=event.done or 0)

    try:
        yield show
    finally:
        bar.remove_task(task)
        if overall is not None:
            bar.advance(overall)


@contextmanager
def _plain(name: str) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that prints a line when a stage begins and, while it works, every few seconds."""
    began_s = time.monotonic()
    working: dict[str, None] = {}
    stage, done = "", None
    lock, ended = threading.Lock(), threading.Event()

    def say(detail: str) -> None:
        text = f"{name}: {stage} {detail}".rstrip()
        print(f"{text} ({time.monotonic() - began_s:.0f} s)", file=sys.stderr, flush=True)

    def show(event: Event) -> None:
        nonlocal stage, done
        with lock:
            if event.status == "noted":
                print(f"{name}: {event.detail}", file=sys.stderr, flush=True)
                return
            _note(working, event)
            done = event.done
            if event.stage != stage:
                stage = event.stage
                say(event.detail)

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            with lock:
                left = [f"{done:.0%}"] if done is not None else []
                say(", ".join([*(each for each in working if each != name), *left]))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join()


def _note(working: dict[str, None], event: Event) -> None:
    if event.status == "started":
        working[event.subject] = None
    elif event.status != "working":
        working.pop(event.subject, None)
