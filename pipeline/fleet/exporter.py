"""An export in a process of its own: how one is started, asked, listened to and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from pipeline.errors import WorkerError
from pipeline.fleet.lines import read_lines
from pipeline.worker.job import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GRACE_S = 10.0
_SHOWN_LINES = 6


class Exporter:
    """A process that exports one config after another (`pipeline.fleet.child`), with an environment of its own, and ends with this one.

    What it has imported serves them all.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        alive, self._alive = os.pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it ends
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.fleet.child", str(alive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            pass_fds=(alive,),
            env=environment,
            start_new_session=True,
        )
        os.close(alive)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, order: Mapping[str, Any]) -> None:
        """Say what to do."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe above
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def told(self) -> Iterator[dict[str, Any]]:
        """Yield what it tells until it ends; raises InterruptedRunError once the run is stopped."""
        assert self._process.stdout is not None  # noqa: S101 - as above
        yield from map(json.loads, read_lines(self._process.stdout))

    def lost(self, name: str) -> dict[str, Any]:
        """Return what is said of one that ended without an answer."""
        status = self._process.wait()
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:]
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        told = f"the export of {name} {how}" + "".join(f"\n  | {line[:300]}" for line in lines)
        return {"failure": failure_of(WorkerError(told)).model_dump()}

    def end(self) -> None:
        """Let it end by itself, if it still runs, then make it."""
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._alive)
        for each in (self._process.stdin, self._process.stdout, self._printed):
            if each is not None:
                with contextlib.suppress(OSError):  # what was not read by it any more
                    each.close()
