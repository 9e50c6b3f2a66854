"""What a person sees in a terminal: progress on stderr while a run works, a table on stdout when it is done."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.backends import placement
from pipeline.parity.document import Exported
from pipeline.report.content import besides_latency, explanations, findings
from pipeline.report.log import print_line
from pipeline.report.summary import HEADINGS, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipeline.benchmark.document import Benchmark
    from pipeline.parity.document import Parity
    from pipeline.report.compare import Change, Comparison
    from pipeline.report.document import Documents
    from pipeline.storage.cache import Entry
    from pipeline.worker.event import Event

    Begin = Callable[[str], AbstractContextManager[Callable[[Event], None]]]

_TONES = {"good": "green", "bad": "bold red", "neutral": ""}
_VERDICTS = {"pass": "green", "FAIL": "bold red"}
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
    """Print the table of a run to stdout."""
    body = []
    for line in lines(documents.parity, documents.benchmark):
        cells = [Text(cell) for cell in line.cells]
        cells[2].stylize(_TONES[line.tone])
        body.append(cells)
    _print_table(name, HEADINGS, body)


def print_figures(benchmark: Benchmark) -> None:
    """Print what was measured besides latencies: starting, memory, throughput, and what of the machine is reached."""
    for section in besides_latency(benchmark):
        print()
        _print_table(section.title, section.headings, section.body)


def print_parity(parity: Parity) -> None:
    """Print parity.json to stdout: every output of every case, what the table cannot say, and where errors begin."""
    section = findings(parity)
    body = [[Text(cell, _VERDICTS.get(cell[:4], "")) for cell in row[:-1]] for row in section.body]
    _print_table("", section.headings[:-1], body)
    for said in remarks(parity):
        print(said)
    for section in explanations(parity):
        print("\n".join(section.text))
        _print_table("", section.headings, section.body)


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
    body = [
        (each.what, each.where, f"{each.base:.6g}", f"{each.candidate:.6g}", _change(each), each.outcome, each.reason)
        for each in changes
    ]
    headings = ("figure", "of", "base", "candidate", "change", "outcome", "how sure")
    _print_table(f"candidate against base, margin {comparison.margin:.1%}", headings, body)
    for note in comparison.notes:
        print(f"note: {note}")
    print(
        f"{len(comparison.regressions)} regressions, {len(comparison.undecided)} undecided, of {len(changes)} figures"
    )


def print_cache(root: Path, entries: Sequence[Entry], removed: Sequence[Entry]) -> None:
    """Print what a cache holds, the least recently used first, its size, and what was removed from it."""
    if entries:
        body = [
            (
                each.about,
                filesize.decimal(each.size_bytes),
                f"{datetime.fromtimestamp(each.used_ns / 1e9, tz=UTC).astimezone():%Y-%m-%d %H:%M}",
            )
            for each in entries
        ]
        _print_table(str(root), ("result", "size", "last used"), body)
    total = filesize.decimal(sum(each.size_bytes for each in entries))
    print(f"{root}: {len(entries)} results, {total}" if entries else f"{root}: nothing is kept")
    if removed:
        print(f"removed {len(removed)} results, {filesize.decimal(sum(each.size_bytes for each in removed))}")
    elif entries:
        print("next: weighbridge cache --prune [--keep-bytes N]")


def _change(change: Change) -> str:
    shown = f"{change.ratio - 1:+.1%}"
    return (
        shown if change.interval is None else f"{shown} [{change.interval[0] - 1:+.1%}, {change.interval[1] - 1:+.1%}]"
    )


def _print_table(title: str, headings: Iterable[str], body: Iterable[Iterable[str | Text]]) -> None:
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _ON_THE_RIGHT else "left")
    for row in body:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    # A pipe has no width: do not fold what is written to it.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 240).print(table)


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
