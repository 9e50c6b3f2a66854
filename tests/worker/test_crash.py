"""What is written down of a crash is enough to repeat it somewhere else, later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends.backend import Source
from pipeline.errors import WorkerError
from pipeline.interface import Interface
from pipeline.parity.jobs import Audit, Exported
from pipeline.rebuild.network import Network
from pipeline.worker import crash, job
from pipeline.worker.process import LocalRunner
from pipeline.worker.session import Open, ReadMemory
from tests.worker import jobs

START = crash.Start(label="a/worker (1)", threads=1, environment={})
NOTHING = Interface((), (), ())


def network(folder):
    return Network("none:None", {}, "weights/own.pth", (), {}, folder=str(folder))


def written(folder, *requests):
    return crash.write(
        folder / "crashes", 'it said """this\\n"""', START, [crash.Call.of(each, 9.0) for each in requests]
    )


def test_files_are_copied_with_what_lies_beside_them_folders_are_renewed_and_the_network_stays(tmp_path):
    cached = tmp_path / "cached"
    cached.mkdir()
    for name in ("model.onnx", "model.onnx.data", "answer.message"):
        (cached / name).write_bytes(name.encode())
    opened = Open(backend="eager", source=Source(NOTHING, cached / "model.onnx", network(tmp_path)), options={"x": 1})
    echo = jobs.Echo(values={"x": np.arange(3)})
    script = written(tmp_path, opened, echo)
    folder = script.parent
    assert folder.name == "a-worker-1-"
    assert sorted(each.name for each in folder.rglob("*") if each.is_file()) == [
        "calls.message", "model.onnx", "model.onnx.data", "rerun.py",
    ]  # fmt: skip
    for name in ("model.onnx", "model.onnx.data"):
        (cached / name).unlink()
    found = crash.read(folder)
    assert found.start == START
    first, second = (job.request_from(each.message, ("tests",)) for each in found.calls)
    assert first.source.file.read_bytes() == b"model.onnx"
    assert first == opened.model_copy(update={"source": Source(NOTHING, first.source.file, network(tmp_path))})
    assert second.values["x"].tolist() == [0, 1, 2]
    compile(script.read_text(), script.name, "exec")


def test_files_of_one_name_stay_apart(tmp_path):
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        files.append(Exported(format="onnx", file=tmp_path / name / "model.onnx", program=None))
        files[-1].file.write_text(name)
    audit = Audit(network=network(tmp_path), interface=NOTHING, examples={}, files=tuple(files))
    (call,) = crash.read(written(tmp_path, audit).parent).calls
    found = job.request_from(call.message)
    assert [each.file.read_text() for each in found.files] == ["one", "other"]
    assert not any(each.file.is_relative_to(tmp_path / folder) for each in found.files for folder in ("one", "other"))


def test_a_folder_to_write_to_is_a_new_one_and_the_networks_own_is_not(tmp_path):
    from pipeline.run.jobs import Export

    export = Export(
        network=network(tmp_path), interface=NOTHING, examples={}, format="onnx", options={}, folder=Path("/gone"), file_name="model.onnx", identity={}
    )  # fmt: skip
    folder = written(tmp_path, export).parent
    (call,) = crash.read(folder).calls
    found = job.request_from(call.message)
    assert found.folder == folder / "output"
    assert found.folder.is_dir()
    assert found.network == export.network


def test_the_newer_crash_of_a_worker_replaces_the_older(tmp_path):
    for said in ("first", "second"):
        script = crash.write(tmp_path, said, START, [crash.Call.of(ReadMemory(), 9.0)])
    assert "second" in script.read_text()
    assert "first" not in script.read_text()


def test_a_crash_is_repeated_from_another_directory_after_what_it_needs_and_a_job_that_succeeds_says_so(tmp_path):
    with LocalRunner(700 << 20, tmp_path, ("tests",)).start("a worker", threads=1) as worker:
        worker.call(jobs.Remember(word="before"), timeout_s=60)
        with pytest.raises(WorkerError, match="ran out of memory during 'exhaust memory'") as caught:
            worker.call(jobs.ExhaustMemory(), timeout_s=60)
    script = tmp_path / "a-worker" / "rerun.py"
    assert f"again, by itself: python {script}" in caught.value.message
    assert [each.message["job"] for each in crash.read(script.parent).calls] == [
        "tests.worker.jobs:Remember", "tests.worker.jobs:ExhaustMemory",
    ]  # fmt: skip
    again = subprocess.run([sys.executable, script], cwd="/", capture_output=True, text=True, check=False)
    assert again.returncode == 4
    assert "ran out of memory during 'exhaust memory' (limits.memory_bytes is 734,003,200)" in again.stderr

    requests = [crash.Call.of(each, 60.0) for each in (jobs.Remember(word="before"), jobs.Recall())]
    start = START.model_copy(update={"packages": ("tests",)})
    script = crash.write(tmp_path, "it was slow", start, requests)
    for here in ([], ["--here"]):
        again = subprocess.run([sys.executable, script, *here], cwd="/", capture_output=True, check=False)
        assert (again.returncode, again.stdout) == (0, b"it did not fail this time\n"), again.stderr


def test_what_cannot_be_written_down_does_not_hide_the_crash(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    runner = LocalRunner(crashes=tmp_path / "file" / "below", packages=("tests",))
    with (
        runner.start("a worker", threads=1) as worker,
        pytest.raises(WorkerError, match="exited with status 3 during 'leave'") as caught,
    ):
        worker.call(jobs.Leave(status=3), timeout_s=60)
    assert "again" not in caught.value.message
