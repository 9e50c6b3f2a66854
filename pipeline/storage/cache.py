"""Results kept under the key of everything they depend on; no damaged one is ever believed.

On disk: `<key>/files/…` is the result, `<key>/record.json` says what it is, with the size and digest of each file,
`locks/<key>` is held by whoever builds it, and `.in-use` shared by every run, so that nothing is removed under one.
Behind it there may be a place that machines share (`pipeline.storage.shared`): what is found there is kept here too, and its
record has an `origin`, who made it elsewhere. One by whom this run does not trust is none.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.storage.origin import Origin, origin_of, origin_to_json
from pipeline.storage.store import (
    atomic_directory,
    canonical_json,
    digest_file,
    disk_errors,
    list_files,
    lock,
    make_directory,
    private_directory,
    publish,
    read_json,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.storage.shared import Shared

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
    """Directories under keys of 64 hex digits; `notice` is told of every damaged entry and of every wait.

    `shared`: where machines share results, if they do. `used` is told what each result that is got from here is about and who made it
    elsewhere.
    """

    root: Path
    notice: Callable[[str], None] = field(default=logging.getLogger(__name__).warning)
    shared: Shared | None = None
    used: Callable[[str, Origin], None] = field(default=lambda _about, _origin: None)

    @property
    def local(self) -> Cache:
        """The same, of this machine alone: for what holds nowhere else."""
        return replace(self, shared=None)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep every entry from being pruned while the block runs."""
        with _held(self.root, fcntl.LOCK_SH):
            yield

    def has(self, key: str) -> bool:
        """Whether something is stored under the key; whether it is whole is for `get` to say."""
        return self._is_usable(key) or (self.shared is not None and self._brought(key))

    def get(self, key: str) -> Path | None:
        """Return the directory stored under the key, its digests checked now; a damaged one is removed and said."""
        found = self._kept(key)
        if found is None and self.shared is not None and self._brought(key):
            found = self._kept(key)
        if found is not None:
            self._share(key)
            if (origin := self.origin(key)) is not None:
                self.used(_about(self.root / key), origin)
        return found

    def origin(self, key: str) -> Origin | None:
        """Return who made what is stored under the key; None where it was made here."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return origin_of(_record(self.root / key))
        return None

    def put(self, key: str, fill: Callable[[Path], None], about: str = "", *, made: bool = False) -> Path:
        """Return the directory under the key, built by `fill(directory)` unless somebody else has just done so.

        `made`: there is nothing to build, `fill` only writes; no other machine is waited for.
        """
        waiting = f"waiting for another process that makes {about or key[:12]}"
        with lock(self.root / "locks" / key, waiting, self.notice):
            existing = self._kept(key)
            if existing is None:
                with self._turn(key, about, made=made, locked=True) as is_there:
                    existing = self._kept(key) if is_there else None
                    if existing is None:
                        existing = self._built(key, fill, about)
                    self._share(key)
        return existing

    @contextmanager
    def held(self, wanted: Mapping[str, str]) -> Iterator[None]:
        """Let no other machine make these results while the block runs, given what each is about by its key.

        Those that one makes now are waited for: afterwards they are there. Where nothing is shared, or nothing is added to it,
        nobody is waited for.
        """
        with ExitStack() as stack:
            if self.shared is not None and self.shared.writer is not None:
                for key in sorted(wanted):  # in one order, so that no two wait for each other
                    waiting = f"waiting for another process that makes {wanted[key] or key[:12]}"
                    stack.enter_context(lock(self.root / "locks" / f"{key}.turn", waiting, self.notice))
                    if not self.has(key):
                        stack.enter_context(self._turn(key, wanted[key]))
            yield

    @contextmanager
    def _turn(self, key: str, about: str, *, made: bool = False, locked: bool = False) -> Iterator[bool]:
        """Yield whether another machine has made the result, after waiting for one that makes it now."""
        shared = self.shared
        if shared is None or shared.writer is None or made or shared.claims.is_held(key):
            yield False
            return
        look = partial(self._brought, key, locked=locked, again=True)
        with shared.claims.turn(key, about, look, self.notice) as is_there:
            yield is_there

    def _built(self, key: str, fill: Callable[[Path], None], about: str) -> Path:
        if self._exists(key):
            self._remove(key)  # by somebody whom this run does not trust
        with atomic_directory(self.root / key) as temporary:
            files = temporary / "files"
            files.mkdir()
            fill(files)
            (temporary / RECORD).write_bytes(_recorded(key, about, files))
        return self.root / key / "files"

    def _kept(self, key: str) -> Path | None:
        """Return what this machine has under the key, as `get` does."""
        entry = self.root / key
        if not self._is_usable(key):
            return None
        damage = _damage(entry)
        if damage is not None:
            self.notice(f"{_about(entry) or 'a result'} in the cache is damaged ({damage}): it is made again")
            self._remove(key)
            return None
        with suppress(OSError):  # a read-only cache serves hits too
            os.utime(entry / RECORD)
        return entry / "files"

    def _exists(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def _is_usable(self, key: str) -> bool:
        """Whether there is something under the key that was made here, or by somebody whom this run trusts."""
        if not self._exists(key):
            return False
        origin = self.origin(key)
        return origin is None or (self.shared is not None and origin.writer in self.shared.readers)

    def _brought(self, key: str, *, locked: bool = False, again: bool = False) -> bool:
        """Whether the shared place has a result that is whole and trusted, which is then kept here too."""
        shared = self.shared
        assert shared is not None  # noqa: S101 - the callers asked
        for record in shared.records(key, self.notice, again=again):
            with ExitStack() as stack:
                if not locked:
                    waiting = f"waiting for another process that fetches {record.about or key[:12]}"
                    stack.enter_context(lock(self.root / "locks" / key, waiting, self.notice))
                if self._is_usable(key):
                    return True
                temporary = stack.enter_context(private_directory(self.root))
                files = temporary / "files"
                files.mkdir()
                if not shared.fill(record, files, self.notice):
                    continue
                (temporary / RECORD).write_bytes(_recorded(key, record.about, files, record.origin))
                if self._exists(key):
                    self._remove(key)
                publish(temporary, self.root / key)
                return True
        return False

    def _share(self, key: str) -> None:
        """Let other machines have what was made here, once."""
        if self.shared is None or self.shared.writer is None or self.origin(key) is not None:
            return
        entry = self.root / key
        mark = entry / f"shared-{self.shared.mark}"
        if not mark.exists():
            self.shared.store(key, _about(entry), entry / "files")
            with suppress(OSError):  # of a cache that cannot be written to: it is asked for again
                mark.touch()

    def remove(self, key: str) -> None:
        """Forget what is stored here under the key, if anything is."""
        if self._exists(key):
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


def _recorded(key: str, about: str, files: Path, origin: Origin | None = None) -> bytes:
    described = {
        name: {"sha256": digest_file(files / name), "size_bytes": (files / name).stat().st_size}
        for name in list_files(files)
    }
    made = {"origin": origin_to_json(origin)} if origin else {}
    return canonical_json({"about": about, "files": described, "key": key, **made})


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
