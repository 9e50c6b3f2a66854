"""Results kept under the key of everything they depend on; no damaged one is ever believed.

On disk: `<key>/files/…` is the result, `<key>/record.json` says what it is, with the size and digest of each file,
`locks/<key>` is held by whoever builds it, and `.in-use` shared by every run, so that nothing is removed under one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.storage.store import (
    atomic_directory,
    canonical_json,
    digest_file,
    disk_errors,
    list_files,
    lock,
    make_directory,
    private_directory,
    read_json,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECORD = "record.json"
LIMIT_BYTES = 20 << 30
"""What a cache may hold when a run ends; the least recently used results beyond that are removed."""

_KEY = re.compile(r"[0-9a-f]{64}")
_IN_USE = ".in-use"


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept result: its key, what it is, its size, and when it was last used (nanoseconds since the epoch)."""

    key: str
    about: str
    size_bytes: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class Cache:
    """Directories under keys of 64 hex digits; `notice` is told of every damaged entry and of every wait."""

    root: Path
    notice: Callable[[str], None] = field(default=logging.getLogger(__name__).warning)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep every entry from being pruned while the block runs."""
        with _held(self.root, fcntl.LOCK_SH):
            yield

    def has(self, key: str) -> bool:
        """Whether something is stored under the key; whether it is whole is for `get` to say."""
        return (self.root / key).is_dir()

    def get(self, key: str) -> Path | None:
        """Return the directory stored under the key, its digests checked now; a damaged one is removed and said."""
        entry = self.root / key
        if not entry.is_dir():
            return None
        damage = _damage(entry)
        if damage is not None:
            self.notice(f"{_about(entry) or 'a result'} in the cache is damaged ({damage}): it is made again")
            self._remove(key)
            return None
        with suppress(OSError):  # a read-only cache serves hits too
            os.utime(entry / RECORD)
        return entry / "files"

    def put(self, key: str, fill: Callable[[Path], None], about: str = "") -> Path:
        """Return the directory under the key, built by `fill(directory)` unless another process has just done so."""
        with lock(
            self.root / "locks" / key, f"waiting for another process that makes {about or key[:12]}", self.notice
        ):
            existing = self.get(key)
            if existing is not None:
                return existing
            with atomic_directory(self.root / key) as temporary:
                files = temporary / "files"
                files.mkdir()
                fill(files)
                (temporary / RECORD).write_bytes(_recorded(key, about, files))
        return self.root / key / "files"

    def remove(self, key: str) -> None:
        """Forget what is stored under the key, if anything is."""
        if self.has(key):
            self._remove(key)

    def entries(self) -> tuple[Entry, ...]:
        """Return what is kept, the least recently used first."""
        if not self.root.is_dir():
            return ()
        found = (_entry(path) for path in self.root.iterdir() if _KEY.fullmatch(path.name))
        return tuple(sorted((entry for entry in found if entry), key=lambda entry: (entry.used_ns, entry.key)))

    def prune(self, max_bytes: int) -> tuple[Entry, ...]:
        """Remove the least recently used entries until the rest holds at most `max_bytes`; return the removed ones.

        Raises:
            InputError: a run uses the cache now.
        """
        if not self.root.is_dir():
            return ()
        with _held(self.root, fcntl.LOCK_EX | fcntl.LOCK_NB):
            sweep(self.root)
            entries = self.entries()
            excess_bytes = sum(entry.size_bytes for entry in entries) - max_bytes
            removed = []
            for entry in entries:
                if excess_bytes <= 0:
                    break
                self._remove(entry.key)
                (self.root / "locks" / entry.key).unlink(missing_ok=True)
                removed.append(entry)
                excess_bytes -= entry.size_bytes
            return tuple(removed)

    def _remove(self, key: str) -> None:
        with private_directory(self.root) as aside, suppress(FileNotFoundError):
            (self.root / key).rename(aside / "old")


@contextmanager
def _held(root: Path, how: int) -> Iterator[None]:
    with disk_errors(root):
        make_directory(root)
        descriptor = os.open(root / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise InputError(f"{root} is in use by a run", hint="prune it when that has ended") from None
        yield
    finally:
        os.close(descriptor)


def _recorded(key: str, about: str, files: Path) -> bytes:
    described = {
        name: {"sha256": digest_file(files / name), "size_bytes": (files / name).stat().st_size}
        for name in list_files(files)
    }
    return canonical_json({"about": about, "files": described, "key": key})


def _damage(entry: Path) -> str | None:
    try:
        record = _record(entry)
        if record["key"] != entry.name or (entry / "files").is_symlink():
            return "it belongs to another key"
        recorded, present = record["files"], list_files(entry / "files")
        if not isinstance(recorded, dict) or sorted(recorded) != present:
            return "its list of files differs from the recorded one"
        for name in present:
            path = entry / "files" / name
            if path.is_symlink() or path.stat().st_size != recorded[name]["size_bytes"]:
                return f"{name} has another size"
            if digest_file(path) != recorded[name]["sha256"]:
                return f"{name} has another digest"
    except (OSError, ValueError, KeyError, TypeError):
        return "its record cannot be read"
    return None


def _record(entry: Path) -> dict[str, Any]:
    record = read_json(entry / RECORD)
    if not isinstance(record, dict):
        raise TypeError(record)
    return record


def _about(entry: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(_record(entry)["about"])
    return ""


def _entry(path: Path) -> Entry | None:
    try:
        used_ns = (path / RECORD).stat().st_mtime_ns
        size_bytes = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    except OSError:
        return None
    return Entry(path.name, _about(path), size_bytes, used_ns)
