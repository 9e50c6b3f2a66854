"""The child's side of a worker: `python -m pipeline.worker.child CHANNEL ALIVE MEMORY PACKAGE…` answers calls until its parent is gone."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from pipeline.worker import job, wire
from pipeline.worker.confine import leave_network, limit_memory

_F_SETSIG = 10  # fcntl(2); Python's fcntl module does not name it


def main() -> NoReturn:
    """Answer calls from the channel given as a file descriptor on the command line until it closes, and end this process."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    if sys.argv[3]:
        limit_memory(int(sys.argv[3]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it stops its workers

    leave_network()

    context, packages = job.Context(), frozenset(sys.argv[4:])
    while True:
        try:
            message = wire.receive(wire.read_from(channel))
        except (EOFError, OSError):
            break
        wire.send(channel, job.done(context, message, packages))
    sys.stdout.flush()
    os._exit(0)  # thread pools of torch and onnxruntime can hang or crash in static destructors


def die_with_parent(alive: int) -> None:
    """Have the kernel kill this process and what it forked when the parent's end of the pipe closes, even in native code.

    A parent-death signal (prctl) would fire when the thread that started us ends, which is not what is meant.
    """
    if not sys.platform.startswith("linux"):
        return
    fcntl.fcntl(alive, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(alive, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)
    closed = select.poll()
    closed.register(alive, select.POLLHUP)
    if closed.poll(0):  # before there was anything to be told
        os._exit(1)


if __name__ == "__main__":
    main()
