"""The same config gives the same bytes, wherever and whenever; and what would tell otherwise can."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pytest

from pipeline.errors import GateError
from pipeline.release import bundle
from pipeline.run import plan as planning
from pipeline.run.export import reproduce

SIMPLENET = Path("configs/simplenet.yaml")


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("sweep_reproducible", "scripts/sweep_reproducible.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_directory_hash_seed_time_zone_and_thread_count_give_the_same_bytes_without_traces(
    sweep, built, tmp_path
):
    directory = sweep.DIRECTORIES[1]
    sweep.prepare(tmp_path / directory, names=["simplenet"])
    again = sweep.build(tmp_path, "simplenet", directory, "7", "Asia/Kolkata", 2)
    assert bundle.file_digests(again) == bundle.file_digests(built)
    assert sweep.traces(again, tmp_path) + sweep.traces(built, tmp_path) == []


@pytest.mark.parametrize(
    "leak",
    ["/home/somebody/net.py", "File /tmp/tmp123/model.py", "C:/x /usr/lib/python3", "HOST"],
)
def test_a_trace_of_the_build_machine_is_found(sweep, release, tmp_path, leak):
    assert sweep.traces(release, tmp_path) == []
    text = leak.replace("HOST", socket.gethostname())
    (release / "README.md").write_text(f"built from {text}")
    assert sweep.traces(release, tmp_path)


def test_the_command_builds_twice_and_says_so(built, weighbridge):
    out = built.parent.parent
    arguments = ("export", SIMPLENET, "--out", out, "--no-benchmark", "--check-reproducible", "--json")
    (run,) = json.loads(weighbridge(*arguments).out)["runs"]
    assert {"model.onnx", "model.torchscript", "golden.safetensors", "manifest.json"} <= set(run["reproducible"])
    assert not list(out.glob(".tmp*"))


def test_a_second_build_with_other_bytes_closes_the_gate(built, tmp_path):
    other = shutil.copytree(built, tmp_path / "other")
    (other / "model.onnx").write_bytes((other / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(GateError, match=r"other bytes for model\.onnx$") as caught:
        reproduce(SIMPLENET, planning.Settings(out=tmp_path / "out"), other)
    assert caught.value.exit_code == 1
