"""The process of a worker: started afresh, or forked from one that has imported torch already."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from pipeline import errors
from pipeline.worker import template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.worker.crash import Start

SHARED = frozenset({"onnx", "onnxscript", "pipeline", "torch"})
"""What a template may import: packages that start no thread and touch no device when they are imported."""
_READ_AT_IMPORT = ("ATEN_", "CUDA", "DNNL_", "GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "PYTORCH_", "TORCH")  # fmt: skip
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What a forked worker sets by itself."""
_START_S, _END_S = 300.0, 2.0


class Process(Protocol):
    """What is needed of a process that was started, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its number, which is that of its process group too."""

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status when it has ended; raises subprocess.TimeoutExpired."""


def process(start: Start, channel: int, alive: int) -> tuple[Process, IO[bytes]]:
    """Start the process of a worker with two files of ours; return it and what it prints.

    It is forked where the same modules are imported for all and nothing that they read at their import differs; otherwise, and where
    that does not work, it is a fresh one.
    """
    if not start.fresh and start.above is None and sys.platform.startswith("linux"):
        with contextlib.suppress(_NoTemplateError):
            return _forked(start, channel, alive)
    safe_path = [] if start.above is None else ["-P"]  # or a folder of the working directory came before all packages
    command = [sys.executable, *safe_path, "-m", "pipeline.worker.child"]
    command += [str(channel), str(alive), str(start.memory_bytes or "")]
    fresh = subprocess.Popen(
        [*command, *start.packages],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(channel, alive),
        env=_environment(start.threads) | ({} if start.above is None else below(start.above)) | start.environment,
        start_new_session=True,
    )
    assert fresh.stdout is not None  # noqa: S101 - opened as a pipe above
    return fresh, fresh.stdout


def expect(modules: Sequence[str]) -> None:
    """Have what workers will need imported beside what else goes on, where they are forked. Waits for nothing."""
    global _template  # noqa: PLW0603 - see _forked
    if not sys.platform.startswith("linux"):
        return
    with _one_at_a_time, contextlib.suppress(OSError):
        if not errors.STOPPING.is_set():
            used = _template = _template or _Template()
            used.expect(_shared(modules))


def stop_template() -> None:
    """End the template now, and with it the workers that it forked; the next one gets a new template. Takes no lock."""
    global _template  # noqa: PLW0603 - see _forked
    if _template is not None:
        _template.send_kill()
        _stopped.append(_template)
        _template = None


class _NoTemplateError(Exception):
    """A worker cannot be forked here."""


class _Template:
    """The parent's side of a template."""

    def __init__(self) -> None:
        environment = _environment(threads=1)
        self._read_at_import = _read_at_import(environment)
        self.was_asked = self.has_forked = False
        self._control, theirs = socket.socketpair()
        alive, self._alive_write = os.pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.worker.template", str(theirs.fileno()), str(alive)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), alive),
                # Workers run beside each other: a thread that waits must not take the processor from one that has work.
                env={"OMP_WAIT_POLICY": "PASSIVE"} | environment,
                cwd="/",  # the working directory of whoever came first may be gone before it is up, or later
                start_new_session=True,
            )
        os.close(alive)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether it lives, and what libraries read when they are imported is the same in this environment."""
        return self.alive and self._read_at_import == _read_at_import(environment)

    def send(self, order: template.Order, files: tuple[int, ...]) -> None:
        """Have a worker forked."""
        try:
            self.was_asked = True
            order.send(self._control, files)
        except OSError as error:
            raise _NoTemplateError from error

    def expect(self, modules: tuple[str, ...]) -> None:
        """Have modules imported when it has nothing else to do."""
        template.expect(self._control, modules)

    def end(self) -> None:
        """Let it end by itself; kill it if it does not, or if it still imports what nobody came for."""
        self._control.close()
        if not self.was_asked:
            self.send_kill()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send_kill(self) -> None:
        """Have the kernel end it; do not wait for that."""
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.kill(self._process.pid, signal.SIGKILL)


_template: _Template | None = None
_stopped: list[_Template] = []
"""Not waited for, as that takes a lock; when this process ends, they are."""
_one_at_a_time = threading.Lock()


def _forget_template() -> None:
    """Leave the template to the process that started it."""
    global _template  # noqa: PLW0603 - see _forked
    _template = None
    _stopped.clear()


os.register_at_fork(after_in_child=_forget_template)


@atexit.register
def _end_template() -> None:
    """Let the template end, and wait for it: its time and that of its workers then counts as this process's."""
    for each in (*_stopped, *([_template] if _template else [])):
        each.end()


def _forked(start: Start, channel: int, alive: int) -> tuple[Process, IO[bytes]]:
    """Have the template fork a worker; raises _NoTemplateError where it cannot."""
    global _template  # noqa: PLW0603 - one for all runs of this process: that is its use
    environment = _environment(start.threads)
    order = template.Order(
        threads=start.threads,
        environment=environment | start.environment,
        path=(str(Path.cwd()), *(each for each in sys.path if each)),
        directory=str(Path.cwd()),
        memory_bytes=start.memory_bytes,
        packages=start.packages,
        modules=_shared(start.modules),
    )
    output, output_write = os.pipe()
    told, told_write = os.pipe()
    try:
        with _one_at_a_time:
            if errors.STOPPING.is_set():
                raise errors.InterruptedRunError
            if _template is not None and _template.has_forked and not _template.alive:
                stop_template()  # something ended it; one that has never forked would not the next time either
            # By a name of our own: a signal may end the template, and forget it, at any time.
            used = _template = _template or _Template()
            if not used.serves(environment):
                raise _NoTemplateError
            used.send(order, (channel, alive, output_write, told_write))
    except BaseException:
        os.close(output)
        os.close(told)
        raise
    finally:
        os.close(output_write)
        os.close(told_write)
    try:
        forked = Forked(told)
        used.has_forked = True
        return forked, os.fdopen(output, "rb", 0)
    except _NoTemplateError:
        os.close(output)
        raise


class Forked:
    """A process that a template forked, and whose end it tells."""

    def __init__(self, told: int) -> None:
        self._told = os.fdopen(told, "rb", 0)
        self._status: int | None = None
        self._lock = threading.Lock()
        first = self._line(_START_S)
        if first is None:
            stop_template()  # or it would start the worker after all
        if not first:
            self._told.close()
            raise _NoTemplateError
        self.pid = int(first)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status when it has ended; raises subprocess.TimeoutExpired."""
        with self._lock:
            if self._status is None:
                line = self._line(timeout)
                if line is None:
                    raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
                self._status = int(line) if line else -9  # its template was killed: nobody can tell any more
                self._told.close()
            return self._status

    def _line(self, timeout: float | None) -> bytes | None:
        """Return the next line that is told, b"" where nobody can tell any more, None if it takes longer than `timeout`."""
        waiting = select.poll()
        waiting.register(self._told, select.POLLIN)
        ready = waiting.poll(None if timeout is None else timeout * 1000)
        return self._told.readline() if ready else None


def _shared(modules: Sequence[str]) -> tuple[str, ...]:
    return tuple(each for each in modules if each.partition(".")[0] in SHARED)


def _read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT) and name not in _POOLS
    }


def below(above: Sequence[str]) -> dict[str, str]:
    """Return the variables with which folders come before everything that is installed, and Python's own modules before them."""
    standard = Path(sysconfig.get_path("stdlib"))
    own = [path for path in sys.path if path and _is_below(Path(path), standard)]
    others = [path for path in sys.path if path and path not in own]
    return {"PYTHONPATH": os.pathsep.join([*own, *above, *others]), "PYTHONDONTWRITEBYTECODE": "1"}


def _is_below(path: Path, standard: Path) -> bool:
    return path.is_relative_to(standard) and not {"site-packages", "dist-packages"} & set(path.parts)


def _environment(threads: int) -> dict[str, str]:
    """The caller's environment, with what decides bytes and timings fixed."""
    pools = dict.fromkeys(_POOLS, str(threads))
    fixed = {
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path or str(Path.cwd()) for path in sys.path)),
        "TORCH_SHOW_CPP_STACKTRACES": "0",
    }
    return os.environ | pools | fixed
