"""What a person sees in a terminal: progress on stderr while a run works, a table on stdout when it is done."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.report.content import figures
from pipeline.report.rows import HEADINGS, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipeline.benchmark.compare import Change, Comparison
    from pipeline.types import Event

_TONES = {"good": "green", "bad": "bold red", "neutral": ""}
_HEARTBEAT_S = 10.0


@contextmanager
def progress(name: str) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows a run's events on stderr: live on a terminal, else a line a stage."""
    console = Console(stderr=True)
    with _live(name, console) if console.is_terminal else _plain(name) as show:
        yield show


def print_run(name: str, parity: Mapping[str, Any], benchmark: Mapping[str, Any]) -> None:
    """Print the table of a run to stdout."""
    table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in {"× noise floor", "size"} else "left")
    for row in rows(parity, benchmark):
        cells = [Text(cell) for cell in row.cells]
        cells[2].stylize(_TONES[row.tone])
        table.add_row(*cells)
    # A pipe has no width: do not fold what is written to it.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def print_figures(benchmark: Mapping[str, Any]) -> None:
    """Print what was measured besides latencies: starting, memory, throughput, and what of the machine is reached."""
    for section in figures(benchmark):
        print()
        _print_table(section.title, section.headings, section.body)


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


def _change(change: Change) -> str:
    shown = f"{change.ratio - 1:+.1%}"
    return (
        shown if change.interval is None else f"{shown} [{change.interval[0] - 1:+.1%}, {change.interval[1] - 1:+.1%}]"
    )


def _print_table(title: str, headings: Iterable[str], body: Iterable[Iterable[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading)
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def _live(name: str, console: Console) -> Iterator[Callable[[Event], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        working: dict[str, None] = {}
        lock = threading.Lock()

        def show(event: Event) -> None:
            with lock:
                _note(working, event)
                doing = ", ".join(working) or event.subject
                text = f"{name} · {event.stage} · {doing}" + (f" · {event.detail}" if event.status == "working" else "")
                bar.update(
                    task, description=text, total=1.0 if event.done is not None else None, completed=event.done or 0
                )

        yield show


@contextmanager
def _plain(name: str) -> Iterator[Callable[[Event], None]]:
    began_s = last_s = time.monotonic()
    stage = ""

    def show(event: Event) -> None:
        nonlocal last_s, stage
        now_s = time.monotonic()
        if event.stage != stage or (event.status == "working" and now_s - last_s > _HEARTBEAT_S):
            left = f", {event.done:.0%}" if event.done is not None else ""
            print(
                f"{name}: {event.stage} {event.detail}{left} ({now_s - began_s:.0f} s)".replace("  ", " "),
                file=sys.stderr,
            )
            stage, last_s = event.stage, now_s

    yield show


def _note(working: dict[str, None], event: Event) -> None:
    if event.status == "started":
        working[event.subject] = None
    elif event.status != "working":
        working.pop(event.subject, None)
