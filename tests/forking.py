"""Work in children forked from this process, which have everything imported already."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Ended:
    """How a child ended (a negative code is a signal), and what it printed."""

    code: int
    err: str


@dataclass(frozen=True)
class Child:
    """A forked child that is ready: it works when told to begin, and says what it printed when it ends."""

    pid: int
    channel: socket.socket

    @classmethod
    def ready(cls, work: Callable[[], int]) -> Child:
        """Fork a child whose exit code will be what `work` returns; 99 where it raises."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _work(work, theirs)
        theirs.close()
        ours.recv(1)
        return cls(pid, ours)

    def begin(self) -> None:
        self.channel.sendall(b"x")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> Ended:
        """Wait for its end; a child that was never told to begin does nothing."""
        with self.channel:
            self.channel.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: self.channel.recv(1 << 16), b""))
        return Ended(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), said.decode(errors="replace"))


def forked(work: Callable[[], int]) -> Ended:
    """Run `work` in a forked child to its end."""
    return together([work])[0]


def together(works: list[Callable[[], int]]) -> list[Ended]:
    """Run several at the same time, each in a forked child, to their ends."""
    children = [Child.ready(work) for work in works]
    for child in children:
        child.begin()
    return [child.end() for child in children]


def _work(work: Callable[[], int], channel: socket.socket) -> None:
    code = 99
    sys.stdout = sys.stderr = said = io.StringIO()  # told by other means than `write`, which may be made to fail
    try:
        channel.sendall(b"x")
        if channel.recv(1):
            code = work()
    except BaseException:  # noqa: BLE001 - whatever it was, this process must end here
        traceback.print_exc()
    finally:
        channel.sendall(said.getvalue().encode())
        os._exit(code)
