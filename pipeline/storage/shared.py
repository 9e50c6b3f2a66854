"""Results that others may use, behind the cache of a machine: blobs by their digest, and signed records of what a result is.

At a place of objects: `blobs/<aa>/<sha256>` is a file's content; `actions/<key>/<writer>.json` says which files a result has and
who made it, signed by that writer. Both are made once and never changed. A writer has a slot of its own: nobody else's record is ever in
its way. What is read is believed for its signature and digests alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.errors import STOPPING, InterruptedRunError
from pipeline.storage.claims import Claims, Patience
from pipeline.storage.objects import CHUNK_BYTES, insisting
from pipeline.storage.origin import Origin
from pipeline.storage.store import canonical_json, digest_file, list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.storage.objects import Objects

    Notice = Callable[[str], None]

_MOST_RECORD_BYTES = 1 << 20
_MOST_FILES = 10_000
_AT_ONCE = 8
_AGAIN_S = (0.2, 0.6)
"""Pauses before what was read badly is read again: what a connection cut short comes whole then."""
_LATE_S = (0.2, 0.6, 1.2)
"""Pauses before a blob that a record names and that is not there is looked for again."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Writer:
    """Whose records are added: a key's id, and what signs a payload and returns its envelope."""

    key_id: str
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """What a result is: its files with digest and size in bytes, what it is about, and who made it."""

    key: str
    about: str
    files: Mapping[str, tuple[str, int]]
    origin: Origin


class _BadError(Exception):
    """What was read is not what it must be."""


class Shared:
    """A place of results, for a process whose threads may all use it.

    `readers`: by the id of each key whose records are used, what returns the payload of an envelope or raises ValueError.
    `writer`: who signs what is added; None where nothing is. `processor`, `weighbridge`: what is said of where a result was made.
    """

    def __init__(
        self,
        objects: Objects,
        readers: Mapping[str, Callable[[bytes], bytes]],
        writer: Writer | None,
        made_on: tuple[str, str],
        patience: Patience | None = None,
    ) -> None:
        self.objects, self.readers, self.writer = objects, dict(readers), writer
        self._made_on = made_on
        self.claims = Claims(objects, patience or Patience(), writer.key_id if writer else "", self.readers)
        self._ill: set[str] = set()
        self._said: set[str] = set()
        self._lock = threading.Lock()

    @property
    def mark(self) -> str:
        """A name for the place and the writer together."""
        return hashlib.sha256(f"{self.objects.url} {self.writer and self.writer.key_id}".encode()).hexdigest()[:16]

    def records(self, key: str, notice: Notice, *, again: bool = False) -> Iterator[Record]:
        """Yield the believed records of a key, that of the own writer first; say what is not believed, each once.

        `again`: somebody looks until there is one.
        """
        own = self.writer.key_id if self.writer else ""
        count = 0
        for reader in sorted(self.readers, key=lambda each: (each != own, each)):
            record = self._record(key, reader, notice)
            if record is not None:
                count += 1
                yield record
        if not count and not again:
            self._say_foreign(key, notice)

    def fill(self, record: Record, folder: Path, notice: Notice) -> bool:
        """Write a record's files into a folder, their digests checked; say and heal what is wrong, and return whether all is well."""
        targets = {name: folder / name for name in record.files}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(min(_AT_ONCE, len(targets)) or 1) as pool:
            fetched = {
                name: pool.submit(self._fetched, *record.files[name], target) for name, target in targets.items()
            }
        for name, found in fetched.items():
            problem = found.result()
            if problem is not None:
                what = (
                    f"{record.about or record.key[:12]} in the shared cache is not used: the bytes of {name} {problem}"
                )
                digest = record.files[name][0]
                self._tell(notice, f"{record.key}/{digest}", f"{what}; it is made again")
                self._heal(record.key, _blob(digest), _slot(record.key, record.origin.writer))
                return False
        return True

    def store(self, key: str, about: str, files: Path) -> None:
        """Add a result, if there is a writer: its blobs first, then the record; what is there already stays, unless it was found bad."""
        if self.writer is None:
            return
        described = {}
        for name in list_files(files):
            path = files / name
            digest = digest_file(path)
            self._put(_blob(digest), path)
            described[name] = {"sha256": digest, "size_bytes": path.stat().st_size}
        made = {"processor": self._made_on[0], "weighbridge": self._made_on[1]}
        payload = canonical_json({"about": about, "files": described, "key": key, "made": made})
        self._put(_slot(key, self.writer.key_id), self.writer.sign(payload))
        self.claims.done(key)

    def _put(self, name: str, content: bytes | Path) -> None:
        with self._lock:
            is_ill = name in self._ill
        if is_ill or (
            not insisting(self.objects.url, partial(self.objects.create, name, content)) and self._lacks(name)
        ):
            insisting(self.objects.url, partial(self.objects.replace, name, content))
        with self._lock:
            self._ill.discard(name)

    def _lacks(self, name: str) -> bool:
        """Whether an object that could not be made, as if it were there, is not there: an answer may belong to another try."""
        for pause_s in (*_LATE_S, None):
            if insisting(self.objects.url, partial(self.objects.read, name, 0, 1)) is not None:
                return False
            if pause_s is not None:
                _wait(pause_s)
        return True

    def _record(self, key: str, writer: str, notice: Notice) -> Record | None:
        name = _slot(key, writer)
        for pause_s in (*_AGAIN_S, None):
            envelope = insisting(self.objects.url, lambda: self.objects.read(name, 0, _MOST_RECORD_BYTES))
            if envelope is None:
                return None
            try:
                return _parsed(self.readers[writer](envelope), key, writer)
            except (ValueError, _BadError) as error:
                problem = str(error)
            if pause_s is not None:
                _wait(pause_s)
        said = f"a record in the shared cache, {name}, is not used: {problem}; what it is about is made again"
        self._tell(notice, name, said)
        self._heal(key, name)
        return None

    def _fetched(self, digest: str, size_bytes: int, target: Path) -> str | None:
        """Write a blob's bytes into a file; return what is wrong with them, after more than one look."""
        late, again = iter(_LATE_S), iter(_AGAIN_S)
        while True:
            found = self._downloaded(digest, size_bytes, target)
            if found == digest:
                return None
            pause_s = next(late if found is None else again, None)
            if pause_s is None:
                return "are not there" if found is None else "have another digest"
            _wait(pause_s)

    def _downloaded(self, digest: str, size_bytes: int, target: Path) -> str | None:
        """Write a blob's bytes, no more than it must have, into a file; return their digest, None where there is no blob."""
        hashed, position = hashlib.sha256(), 0
        with target.open("wb") as file:
            while position < size_bytes:
                read = partial(self.objects.read, _blob(digest), position, min(position + CHUNK_BYTES, size_bytes))
                part = insisting(self.objects.url, read)
                if part is None:
                    return None
                if not part:
                    break
                hashed.update(part)
                file.write(part)
                position += len(part)
        return hashed.hexdigest()

    def _heal(self, key: str, *names: str) -> None:
        """Remove what is bad and may be removed, with the claims of what was done; the next build replaces the rest."""
        if self.writer is None:
            return
        mine = [each for each in names if each.startswith("blobs/") or each == _slot(key, self.writer.key_id)]
        with self._lock:
            self._ill |= set(mine)
        for name in mine:
            insisting(self.objects.url, partial(self.objects.remove, name))
        self.claims.forget(key)

    def _say_foreign(self, key: str, notice: Notice) -> None:
        """Say whose records of a key there are that are not used, each writer once."""
        for name in insisting(self.objects.url, lambda: self.objects.names(f"actions/{key}")):
            writer = name.removesuffix(".json")
            if writer not in self.readers:
                said = f"the shared cache has results by {writer[:16]}, whose key is not trusted: they are not used"
                self._tell(notice, f"foreign {writer}", said)

    def _tell(self, notice: Notice, about: str, text: str) -> None:
        with self._lock:
            if about in self._said:
                return
            self._said.add(about)
        notice(text)


def _parsed(payload: bytes, key: str, writer: str) -> Record:
    """Return the record that a payload is, whose signature was found good; raises _BadError for what is none."""
    try:
        value = json.loads(payload)
        files = {_inside(name): (str(each["sha256"]), int(each["size_bytes"])) for name, each in value["files"].items()}
        made = value["made"]
        record = Record(
            str(value["key"]),
            str(value["about"])[:200],
            files,
            Origin(writer, str(made["processor"])[:200], str(made["weighbridge"])[:40]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _BadError(f"it is no record ({type(error).__name__})") from None
    if record.key != key:
        raise _BadError("it is another result's")
    if len(files) > _MOST_FILES or any(size < 0 or not _DIGEST.fullmatch(digest) for digest, size in files.values()):
        raise _BadError("its list of files is none")
    return record


def _inside(name: str) -> str:
    """Return a file's name; raises ValueError for one that may lie outside its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or {"..", "/"} & set(parts) or "\\" in name or "\0" in name:
        raise ValueError(name)
    return name


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _slot(key: str, writer: str) -> str:
    return f"actions/{key}/{writer}.json"


def _wait(seconds: float) -> None:
    if STOPPING.wait(seconds):
        raise InterruptedRunError
