"""What stands behind `next:` can be pasted as it stands: it is run, from the place where it was printed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.benchmark.document import Benchmark
from pipeline.run.benchmark import deciding_s

SIMPLENET = Path("configs/simplenet.yaml").resolve()
WEIGHTS = Path("configs/weights/simplenet.pth").resolve()
PLACEHOLDERS = {"CONFIG", "RELEASE", "MODULE:CLASS", "OWNER/NAME"}


def steps(done):
    """Return the words of each command behind `next:`; every one must be one that a shell takes, and explain its placeholders."""
    found = []
    for line in re.findall(r"^(?:next|then): (.*)$", done.out + done.err, re.MULTILINE):
        subprocess.run(["bash", "-n", "-c", line], check=True)
        words = shlex.split(line, comments=True)
        assert words[0] == "weighbridge"
        unsaid = {word for word in PLACEHOLDERS & set(words) if word not in line.partition("#")[2]}
        assert unsaid <= {"MODULE:CLASS"}
        found.append(words[1:])
    return found


@pytest.fixture
def spaced(tmp_path, monkeypatch):
    """A folder with spaces in its name to work in."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_verify_leads_to_a_prediction(pristine, spaced, weighbridge):
    shutil.copytree(pristine, spaced / "my release")
    (step,) = steps(weighbridge("verify", "my release"))
    done = weighbridge(*step)
    assert done.code == 0
    assert done.out.startswith("{")


@pytest.mark.usefixtures("spaced")
def test_inspect_leads_to_a_config_and_that_to_a_check(weighbridge):
    shutil.copyfile(WEIGHTS, "my weights.pth")
    ours, yours = steps(weighbridge("inspect", "my weights.pth"))
    assert yours[-4:] == ["--architecture", "MODULE:CLASS", "--trust", "MODULE"]
    (written,) = steps(weighbridge(*ours))
    (checked,) = steps(weighbridge(*written))
    assert checked == ["check", "my-weights.yaml"]
    assert weighbridge(*checked).code == 0


@pytest.mark.usefixtures("spaced")
def test_record_leads_to_a_check_with_its_overrides(weighbridge):
    (step,) = steps(weighbridge("record", SIMPLENET, "--set", "parity.seed=1"))
    assert step == ["check", str(SIMPLENET), "--set", "parity.seed=1"]
    (unknown,) = steps(weighbridge("record"))
    assert unknown == ["check", "CONFIG"]


@pytest.mark.usefixtures("spaced")
def test_keygen_leads_to_signing_and_to_verifying(weighbridge):
    sign, verify = steps(weighbridge("keygen", "my key"))
    assert sign == ["export", "CONFIG", "--sign", "my key.pem"]
    assert verify == ["verify", "RELEASE", "--key", "my key.pub.pem"]


def test_what_is_kept_can_be_removed_where_it_is(built, weighbridge, spaced):
    out = Path(shutil.copytree(built.parents[1], spaced / "my artifacts"))
    (step,) = steps(weighbridge("cache", "--out", out))
    assert step == ["cache", "--prune", "--out", str(out)]
    assert weighbridge(*step).out.count("removed") == 1
    assert steps(weighbridge("cache", "--out", out)) == []


@pytest.mark.usefixtures("spaced")
def test_a_failed_comparison_leads_to_its_explanation_with_every_option(built, weighbridge):
    model = shutil.copyfile(built / "model.onnx", "my model.onnx")
    options = ["--candidate", model, "--set", "parity.limit=0.01", "--out", "my artifacts"]
    done = weighbridge("parity", SIMPLENET, *options)
    assert done.code == 1
    (step,) = steps(done)
    assert step[:2] == ["parity", str(SIMPLENET)]
    assert step[2:] == ["--candidate", model, "--explain", "--set", "parity.limit=0.01", "--out", "my artifacts"]


def test_what_is_undecided_is_timed_for_as_long_as_it_is_known_to_take():
    row = {
        "name": "onnx", "ratio": 1.0, "interval": (0.97, 1.06), "verdict": "undecided", "reason": "", "p_value": 0.2,
        "median_ms": 1.0, "median_interval_ms": None, "p50": None, "p90": None, "p95": None, "p99": None,
        "calls": 9, "rounds": 3, "launches": 3, "settled": True,
    }  # fmt: skip
    plan = {
        "seconds": 38.0, "launches": 6, "min_launches": 3, "min_rounds": 3, "block_ms": 60.0, "max_calls": 20000,
        "warm_up_s": 1.0, "window_ms": 20.0, "agreeing": 3, "tolerance": 0.05, "concurrent_starts": 2, "reserve_s": 4.0,
    }  # fmt: skip
    samples = {
        "reference": "eager", "control": "eager (A/A)", "arms": [], "plan": plan, "launches": [], "elapsed_s": 40.0,
        "failures": {}, "notes": [], "schema": 1,
    }  # fmt: skip

    def benchmark(**more):
        size = {
            "sizes": {}, "reference": "eager", "control": "eager (A/A)", "margin": 0.03, "confidence": 0.95,
            "can_tell": True, "reason": "", "rows": [{**row, **more}], "samples": samples,
        }  # fmt: skip
        return Benchmark.from_json({"schema_version": 1, "sizes": [size], "machine": None, "budget_s": 40.0})

    assert deciding_s(benchmark()) == 80
    assert deciding_s(benchmark(decides_in_s=110.0)) == 112
