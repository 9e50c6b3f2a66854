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
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import errors
from pipeline.worker import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TAIL_BYTES = 16 << 10
_CLOSE_GRACE_S = 5.0
_SHOWN_LINES = 6


_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


def stop_all() -> None:
    """End every worker now and start no more: the run was interrupted. Safe to call from a signal handler."""
    errors.STOPPING.set()
    for worker in list(_alive):
        worker.kill()


class Worker:
    """A child process that answers calls one at a time; use it as a context manager.

    `label` names it in messages; `threads` bounds the thread pools of the libraries in it.
    """

    def __init__(self, label: str, *, threads: int, environment: Mapping[str, str] | None = None) -> None:
        if errors.STOPPING.is_set():
            raise errors.InterruptedRunError("the run was interrupted")
        self.label = label
        self._doing = "starting"
        ours, theirs = socket.socketpair()
        alive_read, self._alive_write = os.pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker.child", str(theirs.fileno()), str(alive_read)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), alive_read),
                env=_environment(threads) | dict(environment or {}),
                start_new_session=True,
            )
        os.close(alive_read)
        _alive.add(self)
        self._channel = ours
        self._tail = _Tail(self._process)
        self._lock = threading.Lock()

    def call(self, job: str, *, timeout_s: float, **arguments: Any) -> Any:
        """Run a job in the worker and return its answer (JSON values and arrays).

        Raises:
            WeighbridgeError: what the job raised, with its own class, message and hint.
            WorkerError: it crashed, hung past `timeout_s` or answered garbage; the worker is gone then.
        """
        with self._lock:
            self._doing = job
            try:
                wire.send(self._channel, {"job": job, "arguments": arguments})
                reply = wire.receive(self._reader(time.monotonic() + timeout_s))
            except TimeoutError:
                self.kill()
                raise errors.WorkerError(
                    f"{self.label} did not finish '{job}' within {timeout_s:g} s and was stopped",
                    hint="raise limits.export_seconds or limits.run_seconds in the config if this much work is expected",
                ) from None
            except (EOFError, OSError):
                raise self._crash() from None
            except errors.WorkerError as error:
                self.kill()
                raise errors.WorkerError(f"{self.label}: {error.message}", hint=error.hint) from None
        if "error" in reply:
            raise _revive(reply["error"], self.label)
        return reply["answer"]

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

    def close(self) -> None:
        """Let the worker end by itself; kill it if it does not."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_GRACE_S)
        self.kill()
        with contextlib.suppress(OSError):
            os.close(self._alive_write)

    def kill(self) -> None:
        """End the worker and everything it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.close()

    def _reader(self, deadline: float) -> Callable[[int], bytearray]:
        return wire.read_from(_Deadline(self._channel, deadline))

    def _crash(self) -> errors.WorkerError:
        try:
            status = self._process.wait(_CLOSE_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        last = self._tail.lines()[-_SHOWN_LINES:]
        shown = "".join(f"\n  | {line}" for line in last)
        return errors.WorkerError(
            f"{self.label} {how} during '{self._doing}'" + (f"; its last words:{shown}" if last else "")
        )


class _Deadline:
    """A socket whose reads all together end at one moment."""

    def __init__(self, channel: socket.socket, deadline: float) -> None:
        self._channel = channel
        self._deadline = deadline

    def recv_into(self, buffer: memoryview, nbytes: int, /) -> int:
        self._channel.settimeout(max(self._deadline - time.monotonic(), 0.001))
        try:
            return self._channel.recv_into(buffer, nbytes)
        finally:
            self._channel.settimeout(None)


class _Tail:
    """The last bytes of what a process prints, read so that it never blocks on a full pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._chunks: deque[bytes] = deque()
        self._thread = threading.Thread(target=self._drain, args=(process,), daemon=True)
        self._thread.start()

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - opened as a pipe above
        with process.stdout as stream:
            while chunk := os.read(stream.fileno(), 4096):
                self._chunks.append(chunk)
                while len(self._chunks) * 4096 > TAIL_BYTES:
                    self._chunks.popleft()

    def lines(self) -> list[str]:
        self._thread.join(1.0)
        text = b"".join(self._chunks)[-TAIL_BYTES:].decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]


def _environment(threads: int) -> dict[str, str]:
    """The caller's environment, with what decides bytes and timings fixed."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    fixed = {
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TORCH_SHOW_CPP_STACKTRACES": "0",
    }
    return os.environ | pools | fixed


def _revive(error: Mapping[str, Any], label: str) -> errors.WeighbridgeError:
    """Turn a reported error back into one of ours; anything that is not one is a crash of that worker."""
    kind = getattr(errors, str(error["kind"]), None)
    if isinstance(kind, type) and issubclass(kind, errors.WeighbridgeError):
        return kind(error["message"], hint=error["hint"])
    failure = errors.WorkerError(f"{label} failed: {error['kind']}: {error['message']}", hint=error["hint"])
    failure.add_note(str(error["trace"]))
    return failure
