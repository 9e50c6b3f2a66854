"""A run makes what is missing, says why, keeps what it finished, and writes down how it went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import driver
from pipeline.errors import GateError
from pipeline.planning import Settings, results
from pipeline.release import bundle
from pipeline.release.verify import check

SIMPLENET = Path("configs/simplenet.yaml")
KEPT = {
    ("export", "torchscript"),
    ("export", "onnx"),
    ("export", "oracle"),
    ("parity", "eager"),
    ("parity", "torchscript"),
    ("parity", "onnxruntime-cpu"),
    ("parity", "torchscript audit"),
    ("parity", "onnx audit"),
}


def run_log(out):
    return json.loads((out / "simplenet" / "run.json").read_bytes())


def steps(out, status):
    """Return the jobs of a run that ended with a status."""
    return {(each["stage"], each["step"]) for each in run_log(out)["steps"] if each["status"] == status} & KEPT


@pytest.fixture
def out(built):
    """The folder that `built` lies in, with everything that was kept."""
    return built.parent.parent


def test_a_second_run_has_nothing_to_do_and_says_so_in_its_log(out, built):
    outcome = driver.export(SIMPLENET, Settings(out=out, benchmark=False))
    assert outcome == driver.Outcome(built, up_to_date=True, why="nothing changed")
    log = run_log(out)
    assert (log["exit_code"], log["up_to_date"], log["why"], log["steps"]) == (0, True, "nothing changed", [])


def test_a_run_after_a_change_makes_only_what_that_touches_and_gives_the_bytes_of_a_fresh_one(out, tmp_path):
    overrides = ("parity.limit=20",)
    fresh = driver.export(SIMPLENET, Settings(out=tmp_path, benchmark=False, overrides=overrides)).release
    assert steps(tmp_path, "ended") == KEPT
    assert all(each["peak_bytes"] > 50e6 for each in run_log(tmp_path)["steps"] if each["step"] in {"onnx", "oracle"})

    again = driver.export(SIMPLENET, Settings(out=out, benchmark=False, overrides=overrides))
    assert again.why == "config: parity.limit changed: 16 → 20"
    assert steps(out, "reused") == {each for each in KEPT if each[0] == "export" or "audit" in each[1]}
    assert bundle.file_digests(again.release) == bundle.file_digests(fresh)


def test_rebuild_uses_nothing_that_was_kept(out, built):
    before = results(Settings(out=out)).entries()
    outcome = driver.export(SIMPLENET, Settings(out=out, benchmark=False, rebuild=True))
    assert (outcome.release, outcome.up_to_date, outcome.why) == (built, False, "asked for")
    assert steps(out, "reused") == set()
    assert {each.key for each in results(Settings(out=out)).entries()} == {each.key for each in before}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _swap(path):
    other = next(each for each in path.parents[2].glob("*/files/*") if each.read_bytes() != path.read_bytes())
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _swap_entries(path):
    """Exchange a whole result with another, records included."""
    entry = path.parents[1]
    other = next(each for each in entry.parent.glob("*/record.json")).parent
    other = next(each.parent for each in entry.parent.glob("*/record.json") if each.parent != entry)
    entry.rename(entry.with_name("aside"))
    other.rename(entry)
    entry.with_name("aside").rename(other)


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda path: os.truncate(path, 3), _swap, _swap_entries],
    ids=["flip", "truncate", "swap", "swap all"],
)
def test_every_damaged_file_of_the_cache_is_noticed_and_made_again(tmp_path, damage):
    settings = Settings(out=tmp_path, benchmark=False)
    first = bundle.file_digests(driver.export(SIMPLENET, settings).release)
    files = sorted((tmp_path / ".cache" / "results").glob("*/files/*"))
    assert len(files) >= len(KEPT) + 2
    for file in files:
        if damage in {_flip, _swap} or file.stat().st_size > 3:
            damage(file)
    (tmp_path / "simplenet" / "latest").unlink()

    again = driver.export(SIMPLENET, settings)
    assert bundle.file_digests(again.release) == first
    assert steps(tmp_path, "ended") == KEPT
    assert len([note for note in run_log(tmp_path)["notes"] if "damaged" in note]) >= len(KEPT)


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, built):
    command = [sys.executable, "-m", "pipeline.cli", "export", str(SIMPLENET), "--out", str(tmp_path), "--no-benchmark"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while "simplenet: parity" not in process.stderr.readline():
            assert process.poll() is None
        process.kill()
    outcome = driver.export(SIMPLENET, Settings(out=tmp_path, benchmark=False))
    assert steps(tmp_path, "reused") >= {each for each in KEPT if each[0] == "export"}
    assert bundle.file_digests(outcome.release) == bundle.file_digests(built)
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_a_closed_gate_is_logged_with_its_reason_and_what_failed_is_tried_again(tmp_path):
    settings = Settings(out=tmp_path, benchmark=False, overrides=("parity={atol: 0, rtol: 0}",))
    for _ in range(2):
        with pytest.raises(GateError):
            driver.export(SIMPLENET, settings)
        log = run_log(tmp_path)
        assert log["exit_code"] == 1
        assert "left its error budget" in log["error"]
        assert ("parity", "onnxruntime-cpu") in steps(tmp_path, "failed")


def test_two_that_export_the_same_at_once_build_it_once(tmp_path):
    outcomes, notes = [], []

    def one():
        settings = Settings(out=tmp_path, benchmark=False, report=lambda event: notes.append(event))
        outcomes.append(driver.export(SIMPLENET, settings))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.up_to_date for each in outcomes) == [False, True]
    assert outcomes[0].release == outcomes[1].release
    assert any("waiting for another process that exports simplenet" in each.detail for each in notes)
    assert check(outcomes[0].release) == []
