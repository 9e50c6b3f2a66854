"""What is written down of a crash is enough to repeat it somewhere else, later."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import WorkerError
from pipeline.worker import crash, wire
from pipeline.worker.process import Terms, Worker

SETUP = {"label": "a/worker (1)", "threads": 1, "environment": {}, "memory_bytes": None}


def test_files_are_copied_with_what_lies_beside_them_folders_are_renewed_and_the_rest_stays(tmp_path):
    cached = tmp_path / "cached"
    cached.mkdir()
    for name in ("model.onnx", "model.onnx.data", "answer.message"):
        (cached / name).write_bytes(name.encode())
    arguments = {
        "source": {"file": str(cached / "model.onnx"), "network": {"weights": "weights/own.pth"}},
        "folder": str(tmp_path / "gone"),
        "inputs": {"x": np.arange(3)},
        "file": None,
    }
    script = crash.write(tmp_path / "crashes", 'it said """this\\n"""', SETUP, [crash.Call("open", arguments, 9.0)])
    folder = script.parent
    assert folder.name == "a-worker-1-"
    assert sorted(each.name for each in folder.iterdir()) == [
        "calls.message", "model.onnx", "model.onnx.data", "output", "rerun.py",
    ]  # fmt: skip
    with (folder / crash.CALLS).open("rb") as file:
        (call,) = wire.load(file)["calls"]
    assert call["arguments"]["source"] == {"file": "model.onnx", "network": {"weights": "weights/own.pth"}}
    assert call["arguments"]["inputs"]["x"].tolist() == [0, 1, 2]
    compile(script.read_text(), script.name, "exec")


def test_the_newer_crash_of_a_worker_replaces_the_older(tmp_path):
    for said in ("first", "second"):
        script = crash.write(tmp_path, said, SETUP, [crash.Call("memory", {}, 9.0)])
    assert "second" in script.read_text()
    assert "first" not in script.read_text()


def test_a_crash_is_repeated_from_another_directory_and_a_job_that_succeeds_says_so(tmp_path):
    with (
        Worker("a worker", threads=1, terms=Terms(memory_bytes=700 << 20, crashes=tmp_path)) as worker,
        pytest.raises(WorkerError, match="ran out of memory during 'numpy:ones'") as caught,
    ):
        worker.call("numpy:ones", timeout_s=60, shape=1 << 33)
    script = tmp_path / "a-worker" / "rerun.py"
    assert f"again, by itself: python {script}" in caught.value.message
    again = subprocess.run([sys.executable, script], cwd="/", capture_output=True, text=True, check=False)
    assert again.returncode == 4
    assert "ran out of memory during 'numpy:ones' (limits.memory_bytes is 734,003,200)" in again.stderr

    crash.write(tmp_path, "it was slow", SETUP | {"label": "another"}, [crash.Call("memory", {}, 60.0)])
    again = subprocess.run([sys.executable, tmp_path / "another" / "rerun.py"], capture_output=True, check=False)
    assert (again.returncode, again.stdout) == (0, b"it did not fail this time\n")


def test_what_cannot_be_written_down_does_not_hide_the_crash(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        Worker("a worker", threads=1, terms=Terms(crashes=tmp_path / "file" / "below")) as worker,
        pytest.raises(WorkerError, match="exited with status 3 during 'os:_exit'") as caught,
    ):
        worker.call("os:_exit", timeout_s=60, status=3)
    assert "again" not in caught.value.message
