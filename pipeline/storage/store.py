"""What is written to disk whole or not at all: atomic directories, locks, canonical JSON."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import STOPPING, InputError, InterruptedRunError, UnavailableError, WeighbridgeError

_log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"(\.tmp-\d+-[0-9a-f]{16})(?:\.lock)?")
_LARGEST_EXACT_INTEGER = 2**53
_STOP_CHECK_S = 0.5
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
# Both bound what parsing takes to some 150 MB: an empty list is 2 characters of text and 64 bytes of memory.
_MAX_JSON_BYTES = 16 * 2**20
_MAX_JSON_CONTAINERS = 400_000

_DISK_FAULTS: Mapping[int, tuple[type[WeighbridgeError], str, str]] = {
    errno.ENOSPC: (UnavailableError, "no space left on the disk", "free some space, or write to another place"),
    errno.EDQUOT: (UnavailableError, "the disk quota is used up", "free some space, or write to another place"),
    errno.EIO: (UnavailableError, "the disk reports an input/output error", "check the disk, or use another one"),
    errno.EFBIG: (
        UnavailableError,
        "the file is larger than allowed here",
        "raise `ulimit -f`, or write to another place",
    ),
    errno.EACCES: (InputError, "permission denied", "grant access to it, or write to another place"),
    errno.EPERM: (InputError, "operation not permitted", "grant access to it, or write to another place"),
    errno.EROFS: (InputError, "the file system is read-only", "write to another place"),
    errno.ENAMETOOLONG: (InputError, "the path is too long", "use a shorter name, or a place with a shorter path"),
    errno.ENOTDIR: (InputError, "a part of the path is not a directory", "remove that file, or write to another place"),
    errno.EEXIST: (InputError, "a file is in the way", "remove that file, or write to another place"),
}


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what a disk can do to us into one clear error; other exceptions pass.

    Raises UnavailableError for a full or failing disk, InputError for permissions, read-only and too long paths.
    """
    try:
        yield
    except OSError as error:
        fault = _DISK_FAULTS.get(error.errno or 0)
        if fault is None:
            raise
        kind, what, hint = fault
        raise kind(f"cannot write {_shortened(error.filename or place)}: {what}", hint=hint) from error


def _shortened(path: object, limit: int = 300) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 :]}"


# Canonical JSON and digests


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value (RFC 8785): sorted keys, ECMAScript numbers, UTF-8.

    Raises InputError for what has no such text: NaN, infinities, integers no double holds, lone surrogates.
    """
    try:
        return "".join(_json_parts(value)).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{error.object[:80]!r} is not valid Unicode, so JSON cannot hold it",
            hint="write it without that character",
        ) from error


def read_json(path: Path) -> Any:
    """Return the value in a JSON file that anybody may have written.

    Raises OSError, and ValueError for one that is malformed, or would take more memory or stack than a record of ours.
    """
    try:
        return json.loads(json_text(path))
    except RecursionError as error:
        raise ValueError(f"{path.name} nests without end") from error


def json_text(path: Path) -> bytes:
    """Return the text of a JSON file that anybody may have written.

    Raises OSError, and ValueError for one that would take more memory than a record of ours.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is no plain file")  # what is none may never end
    if found.st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_JSON_BYTES:,} bytes")
    text = path.read_bytes()
    if text.count(b"[") + text.count(b"{") > _MAX_JSON_CONTAINERS:
        raise ValueError(f"{path.name} holds more than {_MAX_JSON_CONTAINERS:,} lists and tables")
    return text


def key(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_parts(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool | str):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, int | float):
        yield _json_number(value)
    elif isinstance(value, Mapping):
        yield "{"
        for position, name in enumerate(sorted(value, key=_utf16)):
            yield f"{',' if position else ''}{json.dumps(name, ensure_ascii=False)}:"
            yield from _json_parts(value[name])
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        yield "["
        for position, item in enumerate(value):
            yield "," if position else ""
            yield from _json_parts(item)
        yield "]"
    else:
        raise TypeError(f"{type(value).__name__} has no JSON form")


def _utf16(name: Any) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a JSON key is a string, not {name!r}")
    return name.encode("utf-16-be", "surrogatepass")


def _json_number(value: float) -> str:
    """Format a number as ECMAScript's Number::toString does (ECMA-262, 6.1.6.1.20)."""
    if isinstance(value, int):
        # Beyond ±2^53 only what such a double is itself written as, so that what was read back is written the same.
        if abs(value) <= _LARGEST_EXACT_INTEGER or (abs(value) < 10**21 and _json_number(float(value)) == str(value)):
            return str(value)
        raise InputError(f"{value} is beyond ±2^53, where JSON numbers are not exact", hint="write it as a string")
    if not math.isfinite(value):
        raise InputError(f"{value} has no JSON form", hint="use a finite number, or a string")
    if value == 0:
        return "0"  # also for -0.0, as RFC 8785 asks
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    stripped = "".join(map(str, digit_tuple)).rstrip("0")
    point = len(digit_tuple) + int(exponent)  # the value is 0.DIGITS × 10^point
    count = len(stripped)
    if count <= point <= 21:
        text = stripped + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{stripped[:point]}.{stripped[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{stripped}"
    else:
        fraction = f".{stripped[1:]}" if count > 1 else ""
        text = f"{stripped[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text


# Locks and atomic writes


def make_directory(path: Path, marker: Path | None = None) -> None:
    """Make a directory with its parents, and in it an empty file `marker`, if given.

    Raises OSError, and InputError for a place where nothing can be made, as under /proc.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if marker:
            marker.touch()
    except FileNotFoundError as error:
        raise InputError(f"cannot write {path}: it cannot be made there", hint="write to another place") from error


@contextmanager
def lock(path: Path, message: str, say: Callable[[str], None] = _log.warning) -> Iterator[None]:
    """Hold the lock file while the block runs; `say` the message if that means waiting. The kernel releases a dead holder's.

    Raises InterruptedRunError when the run is stopped while it waits.
    """
    with disk_errors(path):
        make_directory(path.parent)
        held = FileLock(path)
        try:
            held.acquire(timeout=0)
        except Timeout:
            say(message)
            _wait_for(held)
    try:
        yield
    finally:
        held.release()


def _wait_for(held: FileLock) -> None:
    while not STOPPING.is_set():
        with suppress(Timeout):
            held.acquire(timeout=_STOP_CHECK_S)
            return
    raise InterruptedRunError


@contextmanager
def private_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory in `parent` that nobody else touches, removed at the end unless it was moved away.

    Its lock, beside it, tells `sweep` that the owner lives: a process id alone does not, ids being reused.
    Raises what `disk_errors` raises, also for what the block writes.
    """
    with disk_errors(parent):
        temporary = parent / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
        lock_file = _lock_of(temporary)
        make_directory(parent, lock_file)  # where the lock cannot be made, FileLock would try for ever
        holder = FileLock(lock_file)
        try:
            holder.acquire()
        except OSError:
            _remove(temporary, lock_file)  # which make_directory has made
            raise
        try:
            temporary.mkdir()
            yield temporary
        finally:
            _remove(temporary, lock_file)
            holder.release()


@contextmanager
def atomic_directory(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a private directory that becomes `final` when the block succeeds, and vanishes when it raises.

    An existing `final` of the same content stays; another one is an InputError unless `replace`.
    """
    with private_directory(final.parent) as temporary:
        yield temporary
        publish(temporary, final, replace=replace)


def publish(temporary: Path, final: Path, *, replace: bool = False) -> None:
    """Sync a private directory and rename it to `final` on the same file system (see `atomic_directory`)."""
    _sync_tree(temporary)
    if not _renamed(temporary, final) and not same_tree(temporary, final):
        if not replace:
            raise InputError(f"{final} exists and holds something else", hint="remove it, or choose another name")
        with lock(final.parent / f".{final.name}.lock", f"waiting for another process to replace {final}"):
            _replace(temporary, final)
    _sync(final.parent)


def exchange(temporary: Path, final: Path, aside: Path) -> None:
    """Sync a private directory and let it take the place of `final`, which moves to `temporary`, or to `aside`.

    Linux exchanges the two in one call, so that whoever is killed leaves the one or the other. Elsewhere there is none for an instant,
    never a part of one, and the old one comes back where the new one cannot take its place. The caller holds a lock.
    """
    _sync_tree(temporary)
    if not _exchanged(temporary, final):
        final.rename(aside)
        try:
            temporary.rename(final)
        except OSError:
            aside.rename(final)
            raise
    _sync(final.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one call (renameat2); return whether this system and its file system have that."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.ENOSYS, errno.EINVAL}:
        return False
    raise OSError(number, os.strerror(number), str(other))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of the old bytes or all of the new ones, even after a crash."""
    with atomic_file(path) as whole:
        whole.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` when the block ends well; until then a reader sees what was there."""
    with private_directory(path.parent) as temporary:
        whole = temporary / "content"
        yield whole
        _sync(whole)
        whole.replace(path)
        _sync(path.parent)


def sweep(root: Path) -> tuple[Path, ...]:
    """Remove the private directories that dead processes left in `root`; return them. Raises what `disk_errors` raises."""
    with disk_errors(root):
        if not root.is_dir():
            return ()
        names = sorted({match[1] for entry in root.iterdir() if (match := _TEMPORARY.fullmatch(entry.name))})
    return tuple(root / name for name in names if _swept(root / name))


def same_tree(first: Path, second: Path) -> bool:
    """Say whether two directories hold the same files with the same bytes."""
    names = list_files(first)
    return names == list_files(second) and all(
        filecmp.cmp(first / name, second / name, shallow=False) for name in names
    )


def _swept(temporary: Path) -> bool:
    lock_file = _lock_of(temporary)
    with suppress(Timeout, OSError), FileLock(lock_file, timeout=0):
        existed = temporary.exists()
        _remove(temporary, lock_file)
        return existed
    return False


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _remove(temporary: Path, lock_file: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):  # an error on the way out must not hide the one that brought us here
        lock_file.unlink(missing_ok=True)


def _renamed(source: Path, final: Path) -> bool:
    try:
        source.rename(final)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            return False
        raise
    return True


def _replace(temporary: Path, final: Path) -> None:
    # No portable call exchanges two directories: for an instant there is none, never a part of one.
    with private_directory(final.parent) as aside:
        with suppress(FileNotFoundError):
            final.rename(aside / "old")
        temporary.rename(final)


def list_files(root: Path) -> list[str]:
    """Return the files below a directory, symbolic links included, as relative names in order."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or path.is_file())


def _sync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            _sync(Path(directory, name))
        _sync(Path(directory))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
