"""What a worker answered, with the files it wrote, in the cache."""

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
class Cached:
    """An answer (JSON values and arrays), the folder with the files that belong to it, and whether it was there already."""

    answer: Any
    folder: Path
    reused: bool


def get_or_make(cache: Cache, key: str, about: str, work: Callable[[Path], Any]) -> Cached:
    """Return what the cache holds under the key, or let `work(folder)` write files and answer, and keep both.

    Raises whatever `work` raises; nothing is kept then.
    """
    found = cache.get(key)
    folder = found or cache.put(key, partial(_fill, work), about)
    return Cached(_answer(folder), folder, reused=found is not None)


def get(cache: Cache, key: str) -> Any:
    """Return the answer under the key, or None."""
    folder = cache.get(key)
    return None if folder is None else _answer(folder)


def _answer(folder: Path) -> Any:
    with (folder / ANSWER).open("rb") as file:
        return wire.load(file)


def ended(stage: str, subject: str, found: Cached, detail: str = "", peaks: Sequence[int | None] = ()) -> Event:
    """Return the event of a result that was made, or found; `peaks`: the most memory its process had, if it ran."""
    return Event(stage, subject, "reused" if found.reused else "ended", detail, peak_bytes=peaks[0] if peaks else None)


def _fill(work: Callable[[Path], Any], folder: Path) -> None:
    answer = work(folder)
    with (folder / ANSWER).open("wb") as file:
        wire.dump(file, answer)
