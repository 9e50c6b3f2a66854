"""What a person sees while a run works: on a terminal a line a stage and a line a step, else a line when there is something to say."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from pipeline.report.log import print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.progress import Progress, TaskID

    from pipeline.worker.event import Event

    Begin = Callable[[str], AbstractContextManager[Callable[[Event], None]]]

_SILENCE_S, _LONGEST_SILENCE_S = 2.0, 10.0
"""A line is due after so long; after each that had nothing new to say the next is due later, up to the longest."""


@contextmanager
def progress(name: str, *, as_lines: bool = False) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows a run's events on stderr: live on a terminal, else as lines, or as JSON lines."""
    with board(as_lines=as_lines) as begin, begin(name) as show:
        yield show


@contextmanager
def board(total: int = 1, *, as_lines: bool = False) -> Iterator[Begin]:
    """Yield a function that begins to show one of `total` runs, by name, as `progress` does."""
    if as_lines:
        yield lambda name: nullcontext(partial(print_line, name))
    elif not sys.stderr.isatty():
        yield _plain
    else:
        from pipeline.report.live import bars  # rich: what a pipe, and a run with nothing to do, can do without

        with bars() as bar:
            overall = bar.add_task(f"{total} configs", total=total) if total > 1 else None
            yield partial(_live, bar, overall)


class _Rows:
    """The rows of one run on a terminal: one of its stage, and one of each step that is being made."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar, self._name = bar, name
        self._run = bar.add_task(name, total=None)
        self._steps: dict[str, TaskID] = {}

    def note(self, event: Event) -> None:
        """Take in what a run tells."""
        if event.status == "noted":
            self._bar.console.print(f"{self._name}: {event.detail}", markup=False, highlight=False)
        elif event.is_stage:
            if event.status == "started":
                self._bar.reset(self._run, total=event.usual_s, description=f"{self._name} · {event.stage}")
        elif event.status in {"started", "working"}:
            self._go_on(event)
        elif event.subject in self._steps:
            self._bar.remove_task(self._steps.pop(event.subject))

    def _go_on(self, event: Event) -> None:
        text = f"  {event.subject}" + (f" · {event.detail}" if event.detail else "")
        if event.subject not in self._steps:
            self._steps[event.subject] = self._bar.add_task(text, total=event.usual_s)
        if event.done is not None:
            row = self._steps[event.subject]
            self._bar.update(row, description=text, total=1.0, completed=event.done, is_share=True)

    def remove(self) -> None:
        """Take the rows away."""
        for each in (*self._steps.values(), self._run):
            self._bar.remove_task(each)


@contextmanager
def _live(bar: Progress, overall: TaskID | None, name: str) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that shows what is made, and how long it still takes by the last run."""
    rows, lock = _Rows(bar, name), threading.Lock()

    def show(event: Event) -> None:
        with lock:
            rows.note(event)

    try:
        yield show
    finally:
        rows.remove()
        if overall is not None:
            bar.advance(overall)


class _Lines:
    """What was said of one run, and what it is doing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began_s = self._stage_began_s = self.said_s = time.monotonic()
        self._stage, self._is_in_stage = "", False
        self._usual_s: float | None = None
        self._done: float | None = None
        self._working: dict[str, None] = {}
        self.has_news = False

    def say(self, *parts: str) -> None:
        """Print a line with the time that the run has taken."""
        self.said_s = time.monotonic()
        text = " · ".join([f"{self._name}: {self._stage}", *(each for each in parts if each)])
        print(f"{text} ({self.said_s - self._began_s:.0f} s)", file=sys.stderr, flush=True)

    def note(self, event: Event) -> None:
        """Take in what a run tells, and print what is worth a line at once."""
        self.has_news = True
        if event.status == "noted":
            print(f"{self._name}: {event.detail}", file=sys.stderr, flush=True)
            return
        if event.is_stage:
            self._is_in_stage = event.status == "started"
        elif event.status in {"started", "working"}:
            self._working[event.subject] = None
        else:
            self._working.pop(event.subject, None)
        self._done = event.done
        begins = event.is_stage or not self._is_in_stage
        if begins and event.status in {"started", "working"} and event.stage != self._stage:
            self._stage, self._stage_began_s, self._usual_s = event.stage, time.monotonic(), event.usual_s
            self.say(event.detail, self._left())

    def go_on(self) -> None:
        """Say what is being done."""
        self.has_news = False
        self.say(", ".join(self._working), "" if self._done is None else f"{self._done:.0%}", self._left())

    def _left(self) -> str:
        """Return how long the stage still takes, if it takes as long as it took last time."""
        if self._usual_s is None:
            return ""
        left_s = self._usual_s - (time.monotonic() - self._stage_began_s)
        return f"about {left_s:.0f} s left" if left_s >= 1 else ""


@contextmanager
def _plain(name: str) -> Iterator[Callable[[Event], None]]:
    """Yield a callback that prints a line when a stage begins, and where it takes longer what it is doing, at growing intervals."""
    lines, lock, ended = _Lines(name), threading.Lock(), threading.Event()

    def show(event: Event) -> None:
        with lock:
            lines.note(event)

    def beat() -> None:
        silence_s = _SILENCE_S
        while not ended.wait(max(lines.said_s + silence_s - time.monotonic(), 0)):
            with lock:
                if time.monotonic() - lines.said_s < silence_s:
                    continue
                silence_s = _SILENCE_S if lines.has_news else min(2 * silence_s, _LONGEST_SILENCE_S)
                lines.go_on()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join()
