"""A run makes what is missing, says why, keeps what it finished, and writes down how it went."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.errors import GateError, InputError
from pipeline.release import bundle
from pipeline.release.verify import check
from pipeline.run.export import Outcome, export, export_several
from pipeline.run.plan import Settings, results
from pipeline.worker.inprocess import InProcessRunner

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

# What needs no process of its own is done in this one. Bytes do: what TorchScript calls its classes depends on what was compiled before.
HERE = InProcessRunner()


def run_log(out):
    return json.loads((out / "simplenet" / "run.json").read_bytes())


def steps(out, status):
    """Return the jobs of a run that ended with a status."""
    return {(each["stage"], each["step"]) for each in run_log(out)["steps"] if each["status"] == status} & KEPT


@pytest.fixture
def out(built, tmp_path):
    """A copy of the folder that `built` lies in, with everything that was kept."""
    return Path(shutil.copytree(built.parent.parent, tmp_path / "copied"))


def test_a_second_run_has_nothing_to_do_and_says_so_in_its_log(out, built):
    outcome = export(SIMPLENET, Settings(out=out, benchmark=False))
    assert outcome == Outcome(out / "simplenet" / built.name, up_to_date=True, why="nothing changed")
    log = run_log(out)
    assert (log["exit_code"], log["up_to_date"], log["why"], log["steps"]) == (0, True, "nothing changed", [])


def test_a_run_after_a_change_makes_only_what_that_touches_and_gives_the_bytes_of_a_fresh_one(out, tmp_path):
    overrides = ("parity.limit=20",)
    fresh = export(SIMPLENET, Settings(out=tmp_path, benchmark=False, overrides=overrides)).release
    assert steps(tmp_path, "ended") == KEPT
    made = [each for each in run_log(tmp_path)["steps"] if (each["stage"], each["step"]) in KEPT]
    assert all(each["peak_bytes"] > 50e6 for each in made)

    again = export(SIMPLENET, Settings(out=out, benchmark=False, overrides=overrides))
    assert again.why == "config: parity.limit changed: 16 → 20"
    assert steps(out, "reused") == {each for each in KEPT if each[0] == "export" or "audit" in each[1]}
    assert bundle.file_digests(again.release) == bundle.file_digests(fresh)


def test_rebuild_uses_nothing_that_was_kept(out, built):
    before = results(Settings(out=out)).entries()
    outcome = export(SIMPLENET, Settings(out=out, benchmark=False, rebuild=True))
    assert outcome == Outcome(out / "simplenet" / built.name, up_to_date=False, why="asked for")
    assert steps(out, "reused") == set()
    assert {each.key for each in results(Settings(out=out)).entries()} == {each.key for each in before}


def _flip(results):
    for path in results.glob("*/files/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def _truncate(results):
    for path in results.glob("*/files/*"):
        os.truncate(path, path.stat().st_size // 2)


def _rotate(paths):
    """Move what is at each path to the next one."""
    names = sorted(paths)
    for path in names:
        path.rename(path.with_name(f"{path.name}.aside"))
    for path, after in zip(names, names[1:] + names[:1], strict=True):
        path.with_name(f"{path.name}.aside").rename(after)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        _truncate,
        lambda results: _rotate(results.glob("*/files/answer.message")),
        lambda results: _rotate(path.parent for path in results.glob("*/record.json")),
    ],
    ids=["flip", "truncate", "swap answers", "swap entries, records included"],
)
def test_every_damaged_file_of_the_cache_is_noticed_and_made_again(out, built, damage):
    kept = out / ".cache" / "results"
    assert len(list(kept.glob("*/files/*"))) >= len(KEPT) + 2
    damage(kept)
    (out / "simplenet" / "latest").unlink()

    again = export(SIMPLENET, Settings(out=out, benchmark=False))
    assert bundle.file_digests(again.release) == bundle.file_digests(built)
    assert steps(out, "ended") == KEPT
    assert len([note for note in run_log(out)["notes"] if "damaged" in note]) >= len(KEPT)


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, built):
    command = [
        sys.executable,
        "-m",
        "pipeline.commands",
        "export",
        str(SIMPLENET),
        "--out",
        str(tmp_path),
        "--no-benchmark",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while "simplenet: parity" not in process.stderr.readline():
            assert process.poll() is None
        process.kill()
    outcome = export(SIMPLENET, Settings(out=tmp_path, benchmark=False))
    assert steps(tmp_path, "reused") >= {each for each in KEPT if each[0] == "export"}
    assert bundle.file_digests(outcome.release) == bundle.file_digests(built)
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_a_closed_gate_is_logged_with_its_reason_and_what_failed_is_not_kept(out):
    before = results(Settings(out=out)).entries()
    settings = Settings(out=out, benchmark=False, overrides=("parity={atol: 0, rtol: 0}",), runner=HERE)
    with pytest.raises(GateError):
        export(SIMPLENET, settings)
    log = run_log(out)
    assert log["exit_code"] == 1
    assert "left its error budget" in log["error"]
    assert ("parity", "onnxruntime-cpu") in steps(out, "failed")
    assert {each["status"] for each in log["steps"]} <= {"ended", "failed", "reused", "interrupted"}
    explained = [each for each in log["steps"] if each["stage"] == "explain"]
    assert {each["status"] for each in explained} == {"ended"}
    made = {each.key for each in results(settings).entries()} - {each.key for each in before}
    assert not [each for each in results(settings).entries() if each.key in made and "onnxruntime" in each.about]


def test_two_that_export_the_same_at_once_build_it_once(tmp_path):
    outcomes, notes = [], []

    def one():
        settings = Settings(out=tmp_path, benchmark=False, report=notes.append, runner=HERE)
        outcomes.append(export(SIMPLENET, settings))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.up_to_date for each in outcomes) == [False, True]
    assert outcomes[0].release == outcomes[1].release
    assert any("waiting for another process that exports simplenet" in each.detail for each in notes)
    assert check(outcomes[0].release) == []


def test_results_come_in_order_and_an_error_stops_only_its_own_config(tmp_path):
    configs = []
    for name in ("first", "second", "third"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"extends: {SIMPLENET.resolve()}\nname: {name}\n\n")
        configs.append(path)
    configs[1].write_text("name: [")
    running, most = set(), []

    def show(name):
        def note(event):
            (running.discard if event.stage == "release" and event.status == "ended" else running.add)(name)
            most.append((len(running), event.stage, frozenset(running)))

        return note

    settings = Settings(out=tmp_path / "out", benchmark=False, runner=HERE)
    first, second, third = export_several(configs, settings, 3, lambda name: nullcontext(show(name)))
    assert isinstance(second.outcome, InputError)
    assert second.config == configs[1]
    for each, name in ((first, "first"), (third, "third")):
        assert each.outcome.release.parent.name == name
        assert check(each.outcome.release) == []
    assert max(count for count, *_ in most) == 2
