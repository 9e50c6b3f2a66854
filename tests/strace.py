"""Fail, or kill, the nth system call of a process: strace's fault injection, on a child forked from this one.

strace counts calls by name and thread from when it attaches, so that a child of one thread that starts only then makes the
same calls each time, and none of them is the interpreter's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.forking import Child, Ended

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


@dataclass(frozen=True)
class Traced(Ended):
    """How a traced child ended, and the calls it made."""

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
        log = Path(folder, "log")
        child = Child.ready(work)
        command = ["strace", "-f", "-y", "-s", "8", "-p", str(child.pid), "-o", str(log)]
        command += ["-e", f"trace={','.join(MUTATING)}", *(["-e", f"inject={inject}"] if inject else [])]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            answer = tracer.stderr.readline()
            if is_attached := "attached" in answer:
                child.begin()
            ended = child.end()
        if not is_attached:
            raise OSError(answer.strip())
        return Traced(ended.code, ended.err, points_of(log.read_text(errors="replace")))


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
