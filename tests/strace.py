"""Fail, or kill, the nth system call of a process: strace's fault injection, on a child forked from this one.

strace counts calls by name and thread from when it attaches, so that a child of one thread that starts only then makes the
same calls each time, and none of them is the interpreter's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WRITING = ("write", "pwrite64", "writev", "sendfile", "copy_file_range")
SYNCING = ("fsync", "fdatasync", "sync_file_range")
RENAMING = ("rename", "renameat", "renameat2")
MUTATING = (
    *WRITING, *SYNCING, *RENAMING, "openat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "truncate", "ftruncate",
    "fallocate", "link", "linkat", "symlink", "symlinkat", "utimensat", "chmod", "fchmod", "fchmodat", "flock",
)  # fmt: skip
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclass(frozen=True)
class Point:
    """A system call of a run: the nth of its name, and what strace says of it."""

    call: str
    nth: int
    text: str

    def __str__(self) -> str:
        return f"{self.call}-{self.nth}"


@dataclass(frozen=True)
class Traced:
    """How a traced child ended (a negative code is a signal), what it printed, and the calls it made."""

    code: int
    err: str
    points: tuple[Point, ...]


@cache
def unavailable() -> str | None:
    """Return why nothing can be injected here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        run(lambda: 0, "fsync:error=EIO:when=1")
    except OSError as error:
        return f"strace cannot attach to a process here: {error}"
    return None


def run(work: Callable[[], int], inject: str | None = None) -> Traced:
    """Run `work` in a forked child under strace, with `inject` as strace words it; its result is the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        said, log = Path(folder, "said"), Path(folder, "log")
        child, start = _fork(work, said)
        command = [
            "strace",
            "-f",
            "-y",
            "-s",
            "8",
            "-p",
            str(child),
            "-o",
            str(log),
            "-e",
            f"trace={','.join(MUTATING)}",
        ]
        command += ["-e", f"inject={inject}"] if inject else []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            answer = tracer.stderr.readline()
            os.write(start, b"x" if "attached" in answer else b"")
            os.close(start)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if "attached" not in answer:
            raise OSError(answer.strip())
        return Traced(code, said.read_text(errors="replace"), points_of(log.read_text(errors="replace")))


def forked(work: Callable[[], int]) -> Traced:
    """Run `work` in a forked child, not traced."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said")
        child, start = _fork(work, said)
        os.write(start, b"x")
        os.close(start)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Traced(code, said.read_text(errors="replace"), ())


def _fork(work: Callable[[], int], said: Path) -> tuple[int, int]:
    """Fork a child that is ready to begin; return its id, and the pipe on which a byte lets it."""
    start_read, start_write = os.pipe()
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(start_write)
        _be_the_child(work, start_read, ready_write, said)
    os.close(start_read)
    os.close(ready_write)
    os.read(ready_read, 1)
    os.close(ready_read)
    return child, start_write


def _be_the_child(work: Callable[[], int], start: int, ready: int, said: Path) -> None:
    code = 99
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stderr = sys.stdout = os.fdopen(2, "w", buffering=1)
        os.write(ready, b"x")
        if os.read(start, 1):
            code = work()
    except BaseException:  # noqa: BLE001 - whatever it was, this process must end here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def points_of(log: str) -> tuple[Point, ...]:
    """Return the calls that a log of `strace -f` states, counted by name and thread."""
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in log.splitlines():
        if match := _LINE.fullmatch(line):
            thread, call, rest = match.groups()
            counts[thread, call] = counts.get((thread, call), 0) + 1
            found.append(Point(call, counts[thread, call], rest))
    return tuple(found)


def below(points: tuple[Point, ...], root: Path) -> tuple[Point, ...]:
    """Return the calls that change something below a folder; opening a file is one if it creates it."""
    return tuple(
        each
        for each in points
        if str(root) in each.text and (each.call != "openat" or "O_CREAT" in each.text or "O_TRUNC" in each.text)
    )
