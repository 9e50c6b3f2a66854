"""The lines of a terminal: a spinner, what is done, a bar by how long it took last time, and how long is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Task

_BAR_WIDTH = 20


class _Bar(ProgressColumn):
    """A bar that goes on with the time, up to what a step took last time; or with the share that is done, where that is told."""

    def render(self, task: Task) -> ProgressBar:
        done = _done(task)
        return ProgressBar(
            total=None if done is None else 1.0, completed=done or 0.0, width=_BAR_WIDTH, pulse=done is None
        )


class _Left(ProgressColumn):
    """How long is left, by what it took last time."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.fields.get("is_share") or not task.elapsed:
            return Text("")
        left_s = task.total - task.elapsed
        return Text(f"about {left_s:.0f} s left" if left_s >= 1 else "", style="dim")


def _done(task: Task) -> float | None:
    if not task.total:
        return None
    if task.fields.get("is_share") or task.completed:
        return task.completed / task.total
    return min((task.elapsed or 0.0) / task.total, 1.0)


def bars() -> Progress:
    """Return the lines, on stderr; they go when the work is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _Bar(), TimeElapsedColumn(), _Left())
    return Progress(*columns, console=Console(stderr=True), transient=True)
