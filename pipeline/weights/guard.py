"""A second line of defence while a library reads a weights file: no process, no network, no writing, bounded memory.

The first is that headers are checked and loaders are asked for plain data only. What happens here would mean that both
failed, so that it ends the run. Audit events: docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPARE_BYTES = 1 << 30
# Reading weights needs none of these. `pickle.find_class` is the C unpickler looking up a global.
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "subprocess.", "pty.",
    "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "ctypes.dlopen", "pickle.find_class",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "os.putenv",
    "os.kill", "shutil.", "sys.addaudithook", "sys.settrace", "sys.setprofile", "code.__new__", "gc.",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch(threading.local):
    """What was forbidden and happened in this thread; None while nothing is guarded."""

    seen: list[str] | None = None


_watch = _Watch()
_installed = threading.Event()


class ForbiddenError(RuntimeError):
    """Stops a forbidden event where it happens."""


@contextmanager
def guarded(declared_bytes: int, name: str) -> Iterator[None]:
    """Let the block read `name`, whose headers declare tensors of `declared_bytes`, and do nothing else.

    Memory may grow by twice what is declared and 1 GiB (Linux; other systems have no such limit). Raises UnsafeError if
    the block started a process, opened a connection, wrote a file or ran code from a text, even if it went on after
    being stopped there, and where memory ran out.
    """
    if not _installed.is_set():
        sys.addaudithook(_hook)  # hooks cannot be taken away: this one sleeps outside of the block
        _installed.set()
    seen: list[str] = []
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with _limited(2 * declared_bytes + _SPARE_BYTES):
            _watch.seen = seen
            yield
    except MemoryError as error:
        raise UnsafeError(f"{name} took more memory than it declares", hint="do not load it") from error
    except Exception:
        # What a forbidden event led to is told below.
        if not seen:
            raise
    finally:
        _watch.seen = None
        sys.dont_write_bytecode = writes_bytecode
    if seen:
        raise UnsafeError(
            f"{name} tried to do more than hold weights while it was read: {', '.join(dict.fromkeys(seen))[:300]}",
            hint="it was stopped; do not load this file anywhere, and report it",
        )


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    seen = _watch.seen
    if seen is None:
        return
    what = _forbidden(event, arguments)
    if what is not None:
        seen.append(what)
        raise ForbiddenError(f"{what} is forbidden while weights are read")


def _forbidden(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event.startswith(_FORBIDDEN):
        return event
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        return f"open {str(arguments[0])[:80]!r} for writing"
    if event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith("<string"):
        return "run code made of a text"
    return None


@contextmanager
def _limited(allowance_bytes: int) -> Iterator[None]:
    """Let this process's data grow by so much and no more."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + allowance_bytes
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line of the kernel's
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
