"""What a worker answered, with the files it wrote, in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.run.sharing import in_words
from pipeline.worker import wire
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.storage.cache import Cache
    from pipeline.storage.origin import Origin

ANSWER = "answer.message"


@dataclass(frozen=True, slots=True)
class Cached:
    """An answer (JSON values and arrays), the folder with the files that belong to it, whether it was there already, and who made it elsewhere."""

    answer: Any
    folder: Path
    reused: bool
    origin: Origin | None = None


def get_or_make(cache: Cache, key: str, about: str, work: Callable[[Path], Any]) -> Cached:
    """Return what the cache holds under the key, or let `work(folder)` write files and answer, and keep both.

    Raises whatever `work` raises; nothing is kept then.
    """
    found = get(cache, key)
    if found is not None:
        return found
    made = []

    def fill(folder: Path) -> None:
        made.append(folder)
        _fill(work, folder)

    folder = cache.put(key, fill, about)
    return Cached(_answer(folder), folder, reused=not made, origin=cache.origin(key))


def keep(cache: Cache, key: str, about: str, answer: Any) -> Cached:
    """Keep an answer that was found, unless somebody else has just done so; return what is kept."""
    folder = cache.put(key, partial(_fill, lambda _: answer), about, made=True)
    return Cached(_answer(folder), folder, reused=False)


def get(cache: Cache, key: str) -> Cached | None:
    """Return what is kept under the key, if anything is."""
    folder = cache.get(key)
    return None if folder is None else Cached(_answer(folder), folder, reused=True, origin=cache.origin(key))


def _answer(folder: Path) -> Any:
    with (folder / ANSWER).open("rb") as file:
        return wire.load(file)


def ended(stage: str, subject: str, found: Cached, detail: str = "", peaks: Sequence[int | None] = ()) -> Event:
    """Return the event of a result that was made, or found; `peaks`: the most memory its process had, if it ran."""
    told = "; ".join(each for each in (in_words(found.origin), detail) if each)
    return Event(stage, subject, "reused" if found.reused else "ended", told, peak_bytes=peaks[0] if peaks else None)


def _fill(work: Callable[[Path], Any], folder: Path) -> None:
    answer = work(folder)
    with (folder / ANSWER).open("wb") as file:
        wire.dump(file, answer)
