"""`weighbridge` for whoever runs it a dozen times: each call is done by a child forked from a process that has what it needs imported.

A page's commands find it on their PATH. It is the real command line in a process of its own, which shares its imports, and the process
that its workers are forked from, with the calls before it: seconds of each call. What starting by itself means is tested elsewhere. What is timed is forked as well: words of a timing do not depend
on it, and each process that is timed would import torch otherwise.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("!I")
_NEEDED = tuple(
    f"pipeline.{each}"
    for each in (
        *("commands.app", "release.load", "release.predict", "report.console", "report.inspection"),
        *("run.benchmark", "run.check", "run.init", "run.parity", "run.report", "run.stages.table", "run.verify"),
    )
)
_CALL = """\
#!{python} -SE
import json, os, socket, struct, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    said = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [struct.pack("!I", len(said))], [0, 1, 2])
    server.sendall(said)
    code = server.recv(4)
sys.exit(int(code) if code else 70)
"""


@contextlib.contextmanager
def served(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield variables with which `weighbridge` is what is served, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:  # a socket's name has to be short
        yield from _served(Path(folder), environment)


def _served(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    address, call = folder / "served", folder / "weighbridge"
    call.write_text(_CALL.format(python=sys.executable, address=str(address)), "utf-8")
    call.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        command = [sys.executable, "-m", "tests.served", str(listening.fileno())]
        serving = subprocess.Popen(
            command, env=environment, cwd=Path(__file__).parents[1], pass_fds=(listening.fileno(),)
        )
    try:
        yield environment | {"PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
    finally:
        serving.terminate()
        serving.wait()


class _Lent:
    """The process of a template that this one's parent has started: it lasts as long as that does."""

    returncode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> None:
        """Say that it runs."""


def main() -> None:
    """Serve one call after the other, each in a child, and have the children's workers forked from a template of this process."""
    for each in _NEEDED:
        importlib.import_module(each)
    from pipeline.formats.onnx.record import ONNX
    from pipeline.worker import start

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # and wait for the template
    listening = socket.socket(fileno=int(sys.argv[1]))
    while True:
        call, _ = listening.accept()
        start.expect(["torch", *ONNX.modules])
        template = start._template
        child = os.fork()
        if not child:
            start._template = template
            assert template
            template._process = _Lent(template._process.pid)  # type: ignore[assignment]
            _answer(call)
        call.close()
        os.waitpid(child, 0)


def _answer(call: socket.socket) -> NoReturn:
    """Be the command that was called, with its files, folder and variables; say how it ended."""
    from pipeline.commands.app import main as weighbridge

    head, files, _, _ = socket.recv_fds(call, _LENGTH.size, 3)
    said = b""
    while len(said) < _LENGTH.unpack(head)[0]:
        said += call.recv(1 << 16)
    sys.argv, folder, variables = json.loads(said)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    added = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [each for each in added if each and each not in sys.path]
    _fork_what_is_timed()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    code = 70
    try:
        weighbridge()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - this process must end here
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    call.sendall(str(code).encode())
    os._exit(0)


def _fork_what_is_timed() -> None:
    """Have workers that are timed share the imports too."""
    from pipeline.worker.process import LocalRunner, WorkerProcess

    start = LocalRunner.start

    def shared(self: LocalRunner, label: str, *, fresh: bool = False, **options: Any) -> WorkerProcess:
        del fresh
        return start(self, label, **options)

    LocalRunner.start = shared  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
