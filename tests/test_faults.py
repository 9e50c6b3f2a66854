"""Whatever becomes of one export or backend, it is reported by name, the others finish, and a script repeats it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import faults, tiny


def survive_a_fault(folder, out, fault, place, *, required, limit_s):
    """Run a pipeline in which one thing fails; hold it against the claims; return how long the time limits were overrun."""
    ended = faults.export(folder, out, fault, place, required=required, limit_s=limit_s)
    assert ended.code == (4 if required else 0), ended.err
    assert ended.orphans == ()
    assert tiny.temporaries(out) == []
    tiny.versions(out)
    said = faults.SAID[fault]
    assert said in ended.err
    assert "Traceback" not in ended.err
    report = out / "simplenet" / ("failed" if required else tiny.latest_of(out)) / "report"
    require_reported(report, said, place)
    script = Path(ended.err.partition("again, by itself: python ")[2].splitlines()[0])
    again_s = require_repeated(script, said)
    return max(_overruns(out, place, limit_s, again_s)) if fault in faults.TIMED else 0.0


def require_reported(report, said, place):
    """Fail unless a report says of the broken backend what became of it, and of the other that it passed."""
    backends = {each["name"]: each for each in json.loads((report / "parity.json").read_bytes())["backends"]}
    assert backends["onnxruntime-cpu"]["status"] == "pass"
    if place == "benchmark":
        (size,) = json.loads((report / "benchmark.json").read_bytes())["sizes"]
        assert said in size["samples"]["failures"]["broken"]
        assert next(each for each in size["rows"] if each["name"] == "onnxruntime-cpu")["median_ms"] > 0
    else:
        assert backends["broken"]["status"] == ("unavailable" if place == "export" else "crashed")
        assert said in backends["broken"]["reason"]


def require_repeated(script, said):
    """Fail unless the script that was left ends in the same way; return how long that took."""
    began_s = time.monotonic()
    again = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 4, again.stdout + again.stderr
    assert said in again.stderr
    return time.monotonic() - began_s


def _overruns(out, place, limit_s, again_s):
    """Return by how much a job that was stopped took longer than it might, by the run's own log and by the script's time."""
    yield again_s - limit_s
    subject = {"export": "faulty", "parity": "broken"}.get(place)
    steps = json.loads((out / "simplenet" / "run.json").read_bytes())["steps"]
    yield from (each["seconds"] - limit_s for each in steps if each["step"] == subject)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder whose cache holds everything that does not fail."""
    out = tmp_path_factory.mktemp("faults") / "out"
    ended = faults.export(out.parent, out)
    assert ended.code == 0, ended.err
    return out


@pytest.mark.parametrize(
    ("fault", "place", "required", "limit_s"),
    [
        ("SIGSEGV", "export", False, 60),
        ("fork and crash", "parity", False, 60),
        ("garbage", "parity", True, 60),
        ("hang", "parity", True, 3),
        ("SIGABRT", "benchmark", True, 60),
    ],
)
def test_one_fault_is_reported_by_name_can_be_repeated_and_stops_nothing_else(
    tmp_path, out, fault, place, required, limit_s
):
    survive_a_fault(tmp_path, out, fault, place, required=required, limit_s=limit_s)


def test_the_script_that_a_crash_leaves_also_runs_in_its_own_process_for_a_debugger(tmp_path, out):
    faults.export(tmp_path, out, "SIGFPE", "parity")
    script = out / "simplenet" / "crashes" / "broken" / "rerun.py"
    here = subprocess.run([sys.executable, str(script), "--here"], capture_output=True, check=False)
    assert here.returncode == -8
