"""A process that has imported what many workers need, and forks them: `python -m pipeline.worker.template CONTROL ALIVE`.

Importing torch takes seconds, and a run starts half a dozen workers. One process imports it, without starting a thread or touching a
device, and every worker that is forked from it has it already. What is measured (imports, memory of its own) belongs into a fresh
process instead, see `pipeline.worker.start`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
from collections import deque
from dataclasses import asdict, dataclass
from typing import NoReturn

from pipeline.worker import child

LENGTH = struct.Struct("!Q")
FILES = 4
"""What comes with an order: the worker's channel, the pipe that closes with its parent, its output, and where its end is told."""


@dataclass(frozen=True, slots=True)
class Order:
    """A worker that is to be forked: `modules` are imported before, for all that follow as well; a "module:function" is called."""

    threads: int
    environment: dict[str, str]
    path: tuple[str, ...]
    directory: str
    memory_bytes: int | None
    packages: tuple[str, ...]
    modules: tuple[str, ...]

    def send(self, control: socket.socket, files: tuple[int, ...]) -> None:
        """Send it with the files that the worker is to have."""
        body = json.dumps(asdict(self)).encode()
        socket.send_fds(control, [LENGTH.pack(len(body))], list(files))
        control.sendall(body)


def expect(control: socket.socket, modules: tuple[str, ...]) -> None:
    """Have modules imported when there is nothing else to do: workers that are forked later will need them."""
    body = json.dumps(modules).encode()
    control.sendall(LENGTH.pack(len(body)) + body)


def main() -> None:
    """Fork workers until the process that asks for them is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    child.die_with_parent(int(sys.argv[2]))
    woken, wake = os.pipe()
    for each in (woken, wake):
        os.set_blocking(each, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    told: dict[int, int] = {}
    expected: deque[str] = deque()
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [], 0 if expected else None)
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 1 << 12)
            _tell(told)
        if control.fileno() in ready:
            received = _received(control)
            if received is None:
                break
            order, files = received
            if isinstance(order, Order):
                _fork(order, files, told, (control.fileno(), int(sys.argv[2]), woken, wake))
            else:
                expected.extend(order)
        elif expected:
            with contextlib.suppress(Exception):  # the worker that needs it will say so
                load(expected.popleft())
    os._exit(0)


def _fork(order: Order, files: list[int], told: dict[int, int], own: tuple[int, ...]) -> None:
    """Fork a worker, and remember where its end is to be told; it goes on without the `own` files of the template."""
    for module in order.modules:
        load(module)
    gc.collect()
    gc.freeze()  # a worker that looks for cycles would copy every page of what it shares
    process = os.fork()
    if not process:
        _become(order, *files, others=(*own, *told.values()))
    told[process] = files[-1]
    for each in files[:-1]:
        os.close(each)


def load(name: str) -> None:
    """Import a module, and where a function of it is named ("module:function"), call that."""
    module, _, function = name.partition(":")
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()


def _received(control: socket.socket) -> tuple[Order | list[str], list[int]] | None:
    """Return an order with its files, or the names of modules that are expected; None when nobody is there any more."""
    head, files, _, _ = socket.recv_fds(control, LENGTH.size, FILES)
    if len(head) < LENGTH.size:
        return None
    length, body = LENGTH.unpack(head)[0], bytearray()
    while len(body) < length:
        if not (piece := control.recv(length - len(body))):
            return None
        body += piece
    fields = json.loads(body)
    if isinstance(fields, list):
        return fields, []
    return Order(**fields | {name: tuple(fields[name]) for name in ("path", "packages", "modules")}), files


def _tell(told: dict[int, int]) -> None:
    """Say of every worker that has ended how it did."""
    while told:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            break
        file = told.pop(process)
        with contextlib.suppress(OSError):
            os.write(file, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(file)


def _become(order: Order, channel: int, alive: int, output: int, told: int, *, others: tuple[int, ...]) -> NoReturn:
    """Be the worker that was asked for, as if it had been started afresh, without the `others` of the template's files."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in others:
            os.close(each)
        os.setsid()
        os.write(told, f"{os.getpid()}\n".encode())
        os.close(told)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        os.chdir(order.directory)
        os.environ.clear()
        os.environ.update(order.environment)
        sys.path[:] = order.path
        importlib.invalidate_caches()
        _like_fresh(order.threads)
        sys.argv[1:] = [str(channel), str(alive), str(order.memory_bytes or ""), *order.packages]
        child.main()
    except BaseException:  # noqa: BLE001 - what it says is shown as the worker's last words
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _like_fresh(threads: int) -> None:
    """Undo what a forked process has of its template and a fresh one would not: its threads, and the state of random numbers."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


if __name__ == "__main__":
    main()
