"""The parent's side of a worker: start it, call it, time it out, reap it.

Every job that touches torch, an exporter or a backend runs in a process of its own. A segmentation fault is then a
reported failure, a hang is a time-out, what libraries print cannot reach stdout, hash seeds are fixed so that exported
bytes are reproducible, and peak memory and timings belong to one backend.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from pipeline import errors
from pipeline.worker import crash, job, wire
from pipeline.worker import start as starting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from pipeline.worker.job import Request

A = TypeVar("A")

TAIL_BYTES = 16 << 10
_CLOSE_GRACE_S = 5.0
_LIVENESS_CHECK_S = 0.5
_SHOWN_LINES = 6
_SHOWN_COLUMNS = 300

_alive: set[WorkerProcess] = set()


def stop_all() -> None:
    """End every worker now and start no more: the run was interrupted. Safe to call from a signal handler: takes no lock."""
    errors.STOPPING.set()
    starting.stop_template()
    for worker in list(_alive):
        worker.send_kill()


@dataclass(frozen=True, slots=True)
class LocalRunner:
    """Starts workers that are processes of this machine.

    `memory_bytes` is the most private memory that each may have; what ends one is written down below `crashes`. `packages`
    bring jobs of their own, beside weighbridge's and those of its plugins. `above` are folders whose packages stand in place of those
    that are installed here: a worker is a fresh process then, which writes nothing into either; None is this environment, as it is.
    """

    memory_bytes: int | None = None
    crashes: Path | None = None
    packages: tuple[str, ...] = ()
    above: tuple[str, ...] | None = None

    def start(
        self,
        label: str,
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = (),
        fresh: bool = False,
    ) -> WorkerProcess:
        """Start a process whose libraries use up to `threads` threads, with further environment variables; see `Runner.start`.

        Raises:
            InterruptedRunError: the run was interrupted.
        """
        start = crash.Start(
            label=label,
            threads=threads,
            environment=dict(environment or {}),
            memory_bytes=self.memory_bytes,
            packages=self.packages,
            modules=tuple(modules),
            fresh=fresh,
            above=self.above,
        )
        return WorkerProcess(start, self.crashes)

    def expect(self, modules: Sequence[str]) -> None:
        """Have them imported once for all workers; waits for nothing."""
        if self.above is None:
            starting.expect(modules)


LOCAL = LocalRunner()
"""Without limits of its own."""


class WorkerProcess:
    """A child process that answers requests one at a time; use it as a context manager."""

    def __init__(self, start: crash.Start, crashes: Path | None) -> None:
        if errors.STOPPING.is_set():
            raise errors.InterruptedRunError
        self.label = start.label
        self._start = start
        self._crashes = crashes
        self._lasting: list[crash.Call] = []
        self._failure: errors.WorkerError | None = None
        ours, theirs = socket.socketpair()
        alive_read, self._alive_write = os.pipe()
        with theirs:
            self._process, output = starting.process(start, theirs.fileno(), alive_read)
        os.close(alive_read)
        self._channel = ours
        self._tail = _Tail(output)
        self._lock = threading.Lock()
        _alive.add(self)
        if errors.STOPPING.is_set():  # it was not among those that were ended
            self.kill()
            self.end()
            raise errors.InterruptedRunError

    def call(self, request: Request[A], *, timeout_s: float) -> A:
        """Have a request answered by the worker.

        Raises:
            WeighbridgeError: what the job raised, with its own class, message and hint.
            WorkerError: it crashed, hung past `timeout_s` or answered garbage; the worker is gone then, and every later
                call raises the same.
        """
        with self._lock:
            if self._failure:
                raise self._failure
            call, name = crash.Call.of(request, timeout_s), job.title(request)
            channel = _Deadline(self._channel, self._process, time.monotonic() + timeout_s)
            try:
                wire.send(channel, job.message_of(request))
                reply = _reply(request, wire.receive(wire.read_from(channel)))
            except TimeoutError:
                hint = "raise limits.export_seconds or limits.run_seconds in the config if this much work is expected"
                raise self._failed(
                    f"did not finish '{name}' within {timeout_s:g} s and was stopped", call, hint
                ) from None
            except (EOFError, OSError):
                raise self._failed(f"{self._ended()} during '{name}'", call) from None
            except errors.WorkerError as error:
                raise self._failed(f"answered '{name}' with garbage: {error.message}", call) from None
            if isinstance(reply, job.Failure):
                if reply.kind == MemoryError.__name__:
                    raise self._failed(f"ran out of memory during '{name}'", call)
                raise job.raised(reply, self.label, self._allowance)
            if request.is_lasting:
                self._lasting.append(call)
            return reply.answer

    @property
    def alive(self) -> bool:
        """Whether the worker can still be called."""
        return self._process.poll() is None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has had resident, in bytes; None where the system does not tell, or it is gone."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None

    def end(self) -> None:
        """Let the worker end by itself; kill it if it does not."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_GRACE_S)
        self.kill()
        with contextlib.suppress(OSError):
            os.close(self._alive_write)
        _alive.discard(self)

    def kill(self) -> None:
        """End the worker and everything it started, now."""
        self.send_kill()
        self._process.wait()

    def send_kill(self) -> None:
        """Have the kernel end the worker and everything it started; do not wait for that."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.end()

    @property
    def _allowance(self) -> str:
        return f" (limits.memory_bytes is {self._start.memory_bytes:,})" if self._start.memory_bytes else ""

    def _ended(self) -> str:
        """Wait for a worker that answers no more, and say how it ended."""
        try:
            status = self._process.wait(_CLOSE_GRACE_S)
        except subprocess.TimeoutExpired:
            return "closed its channel"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"

    def _failed(self, how: str, call: crash.Call, hint: str | None = None) -> errors.WorkerError:
        """End the worker and return the error that says how it failed, its last words, and what repeats that."""
        self.kill()
        if errors.STOPPING.is_set():  # it was not the worker that failed
            raise errors.InterruptedRunError
        message = f"{self.label} {how}{self._allowance}"
        if last := self._tail.last_words():
            message += "; its last words:" + "".join(f"\n  | {line[:_SHOWN_COLUMNS]}" for line in last)
        if self._crashes:
            # What failed matters more than how to repeat it.
            with contextlib.suppress(errors.WeighbridgeError, OSError):
                script = crash.write(self._crashes, message, self._start, [*self._lasting, call])
                message += f"\n  again, by itself: python {script}"
        self._failure = errors.WorkerError(message, hint=hint)
        return self._failure


def _reply(request: Request[A], message: object) -> job.Answer[A] | job.Failure:
    """Return the reply that a message carries; raises WorkerError if it is none to this request."""
    try:
        if isinstance(message, dict) and "failure" in message:
            return job.Failure.model_validate(message["failure"])
        return job.answer_from(request, message)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise errors.WorkerError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}") from None


class _Deadline:
    """A worker's socket whose reads and writes all together end at one moment, or soon after the worker has ended."""

    def __init__(self, channel: socket.socket, process: starting.Process, deadline: float) -> None:
        self._channel = channel
        self._process = process
        self._deadline = deadline

    def sendall(self, data: bytes | memoryview, /) -> None:
        self._channel.settimeout(max(self._deadline - time.monotonic(), 0.001))
        self._channel.sendall(data)

    def recv_into(self, buffer: memoryview, nbytes: int, /) -> int:
        while (left_s := self._deadline - time.monotonic()) > 0:
            ended = self._process.poll() is not None
            self._channel.settimeout(min(left_s, _LIVENESS_CHECK_S))
            try:
                return self._channel.recv_into(buffer, nbytes)
            except TimeoutError:
                if ended:  # what it started may hold the other end open
                    return 0
        raise TimeoutError


class _Tail:
    """The last bytes of what a process prints, read so that it never blocks on a full pipe."""

    def __init__(self, output: IO[bytes]) -> None:
        self._last = bytearray()
        self._thread = threading.Thread(target=self._drain, args=(output,), daemon=True)
        self._thread.start()

    def _drain(self, output: IO[bytes]) -> None:
        with output as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._last += chunk
                del self._last[:-TAIL_BYTES]

    def last_words(self) -> list[str]:
        """Return the lines that tell most of how the process ended."""
        self._thread.join(1.0)
        lines = [line.rstrip() for line in self._last.decode(errors="replace").splitlines() if line.strip()]
        fatal = [index for index, line in enumerate(lines) if line.startswith("Fatal Python error")]
        # Of a fault handler's report the innermost frames come first, and what follows them says little.
        return lines[fatal[-1] :][:_SHOWN_LINES] if fatal else lines[-_SHOWN_LINES:]
