"""A worker's answer, and the files it wrote, kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.worker import wire
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.storage.cache import Cache

ANSWER = "answer.message"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer (JSON values and arrays), the folder with the files that belong to it, and whether it was there already."""

    answer: Any
    folder: Path
    reused: bool


def keep(cache: Cache, key: str, about: str, work: Callable[[Path], Any]) -> Kept:
    """Return what the cache holds under the key, or let `work(folder)` write files and answer, and keep both.

    Raises whatever `work` raises; nothing is kept then.
    """
    found = cache.get(key)
    folder = found or cache.put(key, partial(_fill, work), about)
    with (folder / ANSWER).open("rb") as file:
        return Kept(wire.load(file), folder, reused=found is not None)


def recall(cache: Cache, key: str) -> Any:
    """Return the answer under the key, or None."""
    folder = cache.get(key)
    if folder is None:
        return None
    with (folder / ANSWER).open("rb") as file:
        return wire.load(file)


def ended(stage: str, subject: str, found: Kept, detail: str = "", peaks: Sequence[int | None] = ()) -> Event:
    """Return the event of a result that was made, or found; `peaks`: the most memory its process had, if it ran."""
    return Event(stage, subject, "reused" if found.reused else "ended", detail, peak_bytes=peaks[0] if peaks else None)


def _fill(work: Callable[[Path], Any], folder: Path) -> None:
    answer = work(folder)
    with (folder / ANSWER).open("wb") as file:
        wire.dump(file, answer)
