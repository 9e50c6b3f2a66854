from __future__ import annotations

import socket
import subprocess
import sys

import pytest

LEAVE = (
    "import socket\n"
    "from pipeline.worker.confine import leave_network\n"
    "left = leave_network()\n"
    "try:\n    socket.create_connection(('127.0.0.1', {port}), timeout=5)\n    reached = True\n"
    "except OSError:\n    reached = False\n"
    "print(left, reached, len(open('/etc/hostname').read()) >= 0)"
)


def test_a_worker_reaches_nobody_and_still_reads_files() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = LEAVE.format(port=port)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left, reached, reads = ran.stdout.split()
    if left == "False":
        pytest.skip("this kernel gives processes no network namespace of their own")
    assert (reached, reads) == ("False", "True")
