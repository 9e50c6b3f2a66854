"""Whatever becomes of one export or backend, it is reported by name, the others finish, and a script repeats it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests import faults, tiny


def survive_faults(folder, out, broken, *, required=False, limit_s=600, serving=None):
    """Run a pipeline in which something fails in each place of `broken`, and hold it against the claims.

    Returns by how many seconds the time limits were overrun.
    """
    ended = faults.export(folder, out, broken, required=required, limit_s=limit_s, serving=serving)
    assert ended.code == (4 if required else 0), ended.err
    assert ended.orphans == ()
    assert tiny.temporaries(out) == []
    tiny.versions(out)
    assert "Traceback" not in ended.err
    report = out / "simplenet" / ("failed" if required else tiny.latest_of(out)) / "report"
    overruns_s = []
    for place, fault in broken.items():
        said = faults.SAID[fault]
        assert said in ended.err
        require_reported(report, said, place)
        again_s = require_repeated(script_of(out, place), said)
        overruns_s += [*_overruns(out, place, limit_s), again_s - limit_s] if fault in faults.TIMED else []
    return max(overruns_s, default=0.0)


def survive_a_fault_in_a_race(folder, out, fault, *, limit_s, alone=False):
    """Tune a release of which one backend commits a fault as soon as it is timed; return how the command ended."""
    written = faults.config(folder, {"benchmark": fault}, limit_s=limit_s)
    if alone:
        written.write_text(
            written.read_text()
            .replace("[onnxruntime-cpu, {", "[{")
            .replace("require: [onnxruntime-cpu", "require: [broken-benchmark")
        )
    ended = faults.weighbridge(
        "tune",
        written,
        "--out",
        out,
        "--seconds",
        2,
        "--set",
        "benchmark.reference=broken-benchmark" if alone else "benchmark.seconds=1",
    )
    said = faults.SAID[fault]
    assert "Traceback" not in ended.err
    assert ended.orphans == ()
    assert tiny.temporaries(out) == []
    tiny.versions(out)
    if alone:
        assert ended.code == 4, ended.err
        assert "no candidate could be timed" in ended.err
        assert said in ended.err
        return ended
    assert ended.code == 0, ended.err
    found = json.loads((out / "simplenet" / tiny.latest_of(out) / "report" / "recommended.json").read_bytes())
    assert found["choice"]["variant"] == "onnxruntime-cpu"
    left = [each["left"] for each in found["candidates"] if each["choice"]["variant"] == "broken-benchmark"]
    assert left
    assert all(said in each for each in left), left
    return ended


def script_of(out, place):
    worker = "the-faulty-exporter" if place == "export" else f"broken-{place}"
    return out / "simplenet" / "crashes" / worker / "rerun.py"


def require_reported(report, said, place):
    """Fail unless a report says what became of the broken backend, and that the other passed."""
    backends = {each["name"]: each for each in json.loads((report / "parity.json").read_bytes())["backends"]}
    assert backends["onnxruntime-cpu"]["status"] == "pass"
    if place == "benchmark":
        (size,) = json.loads((report / "benchmark.json").read_bytes())["sizes"]
        assert said in size["samples"]["failures"]["broken-benchmark"]
        assert next(each for each in size["rows"] if each["name"] == "onnxruntime-cpu")["median_ms"] > 0
    else:
        broken = backends[f"broken-{place}"]
        assert broken["status"] == ("unavailable" if place == "export" else "crashed")
        assert said in broken["reason"]


def require_repeated(script, said):
    """Fail unless the script that was left ends in the same way; return how long that took."""
    began_s = time.monotonic()
    again = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 4, again.stdout + again.stderr
    assert said in again.stderr
    return time.monotonic() - began_s


def _overruns(out, place, limit_s):
    """Yield by how much a job that was stopped took longer than it might, by the run's own log."""
    subject = {"export": "faulty", "parity": "broken-parity"}.get(place)
    steps = json.loads((out / "simplenet" / "run.json").read_bytes())["steps"]
    yield from (each["seconds"] - limit_s for each in steps if each["step"] == subject)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("faults") / "out"


def test_faults_in_optional_backends_are_reported_by_name_can_be_repeated_and_stop_nothing_else(tmp_path, out, serving):
    survive_faults(tmp_path, out, {"export": "SIGSEGV", "parity": "garbage", "benchmark": "SIGABRT"}, serving=serving)
    here = subprocess.run([sys.executable, script_of(out, "benchmark"), "--here"], capture_output=True, check=False)
    assert here.returncode == -6  # in its own process, as a debugger would want it


def test_a_required_backend_that_hangs_is_stopped_and_ends_the_run_when_the_others_are_done(tmp_path, out, serving):
    # First without a fault, so that nothing else has to be done within the limit.
    assert faults.export(tmp_path, out, {}, serving=serving).code == 0
    survive_faults(tmp_path, out, {"parity": "fork and hang"}, required=True, limit_s=3, serving=serving)
