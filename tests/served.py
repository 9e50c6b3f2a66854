"""`weighbridge` for a page that runs it a dozen times: one process that has what it needs imported does what each call says.

A page's commands find it on their PATH. It is the real command line in a real process, which shares its imports, and the process that
its workers are forked from, with the calls before it: seconds of each call. What starting by itself means is tested elsewhere. What is timed is forked as well: words of a timing do not depend
on it, and each process that is timed would import torch otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.worker.process import LocalWorker

_LENGTH = struct.Struct("!I")
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


def fork_what_is_timed() -> None:
    """Have every worker of this process share its imports, those that are timed too."""
    from pipeline.worker.process import LocalRunner

    start = LocalRunner.start

    def shared(self: LocalRunner, label: str, *, fresh: bool = False, **options: Any) -> LocalWorker:
        del fresh
        return start(self, label, **options)

    LocalRunner.start = shared  # type: ignore[method-assign]


def main() -> None:
    """Serve one call after the other."""
    from pipeline.commands.app import main as weighbridge

    fork_what_is_timed()
    listening = socket.socket(fileno=int(sys.argv[1]))
    while True:
        call, _ = listening.accept()
        with call:
            head, files, _, _ = socket.recv_fds(call, _LENGTH.size, 3)
            said = b""
            while len(said) < _LENGTH.unpack(head)[0]:
                said += call.recv(1 << 16)
            sys.argv, folder, variables = json.loads(said)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(variables)
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            code = 70
            try:
                weighbridge()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.flush()
            for number in range(3):  # or whoever reads to the end of the output would wait for the next call
                with Path(os.devnull).open("r+b") as nothing:
                    os.dup2(nothing.fileno(), number)
            call.sendall(str(code).encode())


if __name__ == "__main__":
    main()
