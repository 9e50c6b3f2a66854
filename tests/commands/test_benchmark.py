"""`weighbridge benchmark`, `compare` and `report` on a real release."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.run.export import export
from pipeline.run.plan import Settings


@pytest.fixture(scope="module")
def release(built, tmp_path_factory):
    """A copy that may be changed, in a folder of its name."""
    return shutil.copytree(built, tmp_path_factory.mktemp("artifacts") / "simplenet" / built.name)


@pytest.fixture
def timed(weighbridge, release, tmp_path, monkeypatch):
    """What a benchmark said, and the folder that it wrote its report into, with a summary beside it."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    folder = tmp_path / "a" / "report"
    # Each process that times TorchScript imports torch, and the reference is timed twice.
    overrides = ("--set", "benchmark.threads=1", "--set", "benchmark.reference=onnxruntime-cpu")
    settings = ("--seconds", "2", *overrides, "--report", folder)
    done = weighbridge("benchmark", release, *settings)
    assert done.code == 0, done.err
    return done, folder


def test_a_release_is_timed_without_the_networks_code_and_its_report_is_written_where_it_is_told(timed, tmp_path):
    done, folder = timed
    assert str(folder / "report.html") in done.out
    assert done.out.splitlines()[-1].startswith("next: ")
    assert "Latency, batch=32" in (folder / "report.md").read_text()
    assert (tmp_path / "summary.md").read_text() == (folder / "report.md").read_text()
    document = json.loads((folder / "benchmark.json").read_bytes())
    assert document["budget_s"] == 2
    assert [each["sizes"] for each in document["sizes"]] == [{"batch": 1}, {"batch": 32}]
    for size in document["sizes"]:
        # The network itself is not in a release.
        assert {row["name"] for row in size["rows"]} == {"torchscript", "onnxruntime-cpu", "onnxruntime-cpu (A/A)"}
        assert all({"name", "ratio", "interval", "verdict"} <= row.keys() for row in size["rows"])
    figures = document["figures"]
    assert figures["graph"]["flops"] == {"batch=1": 480, "batch=32": 32 * 480}
    for each in figures["backends"]:
        assert each["peak_bytes"] >= each["steady_bytes"] * 0.9 > 1_000_000
        assert all(value > 0 for value in (each["import_ms"], each["load_ms"], *each["first_call_ms"].values()))
    ours, theirs = ({each["name"]: each["peak_bytes"] for each in figures["backends"]}[name]
                    for name in ("onnxruntime-cpu", "torchscript"))  # fmt: skip
    assert ours < theirs


def test_a_report_that_cannot_be_written_is_one_error_before_anything_is_timed(weighbridge, release, tmp_path):
    (tmp_path / "file").write_text("")
    done = weighbridge("benchmark", release, "--report", tmp_path / "file")
    assert done.failed_with(2, "a file is in the way")
    assert "launch" not in done.err


def test_numbers_of_threads_are_timed_against_each_other_in_the_same_rounds(weighbridge, built, tmp_path):
    out = shutil.copytree(built.parent.parent, tmp_path / "out")  # with what was exported
    # Each process that is timed would import torch otherwise.
    chosen = {"exports": "onnx", "backends": "onnxruntime-cpu", "require": "onnxruntime-cpu"}
    only = (*(f"{name}=[{each}]" for name, each in chosen.items()), "benchmark.reference=onnxruntime-cpu")
    settings = Settings(out=out, overrides=only, benchmark=False)
    release = export(Path("configs/simplenet.yaml"), settings).release
    done = weighbridge("benchmark", release, "--seconds", "2", "--set", "benchmark.threads=[1,2]", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    names = {"onnxruntime-cpu, 1 thread", "onnxruntime-cpu, 2 threads"}
    assert document["arms"]["onnxruntime-cpu, 2 threads"] == {"variant": "onnxruntime-cpu", "threads": 2}
    for size in document["sizes"]:
        assert size["reference"] == "onnxruntime-cpu, 1 thread"
        assert {row["name"] for row in size["rows"]} == {*names, "onnxruntime-cpu, 1 thread (A/A)"}
        for name in names:
            threads = {launch["arms"][name]["facts"]["threads"] for launch in size["samples"]["launches"]}
            assert threads == {document["arms"][name]["threads"]}


@pytest.mark.parametrize(
    "setting", ["threads=[0]", "threads=two", "threads=[", "seconds=-1", "margin={}", "reference=[]"]
)
def test_a_setting_that_cannot_be_is_refused_by_name(weighbridge, release, setting):
    found = weighbridge("benchmark", release, "--set", f"benchmark.{setting}")
    assert found.failed_with(2, f"benchmark.{setting.partition('=')[0]}")


def test_a_release_that_was_changed_is_not_run(weighbridge, release, tmp_path):
    copy = shutil.copytree(release, tmp_path / "copy")
    with (copy / "model.torchscript").open("ab") as file:
        file.write(b"!")
    assert weighbridge("benchmark", copy, "--seconds", "1").failed_with(1, "model.torchscript", "fetch the release")


def test_what_a_release_cannot_override_is_named(weighbridge, release):
    assert weighbridge("benchmark", release, "--set", "inputs.x=3").failed_with(2, "inputs.x", "benchmark.seconds")


def test_a_release_is_no_worse_than_itself(weighbridge, release):
    done = weighbridge("compare", release, release, "--strict", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["passed"] is True


def test_a_proven_regression_exits_with_1_and_names_it(weighbridge, release, tmp_path):
    worse = shutil.copytree(release, tmp_path / "worse")
    manifest = json.loads((worse / "manifest.json").read_bytes())
    next(each for each in manifest["files"] if each["path"] == "model.onnx")["size_bytes"] *= 2
    (worse / "manifest.json").write_text(json.dumps(manifest))
    done = weighbridge("compare", release, worse)
    assert done.code == 1
    assert "regression" in done.out
    assert "+100.0%" in done.out
    assert weighbridge("compare", worse, release).code == 0
    assert weighbridge("compare", release, worse, "--margin", "1.5").code == 0


def test_a_report_is_written_again_and_the_release_still_holds(weighbridge, release):
    page = release / "report" / "report.html"
    page.write_text("gone")
    done = weighbridge("report", release)
    assert done.code == 0, done.err
    assert "report.html" in done.out
    assert page.stat().st_size > 500_000
    assert weighbridge("verify", release, "--backend", "onnxruntime-cpu").code == 0


@pytest.mark.parametrize("command", ["benchmark", "compare", "report"])
def test_the_commands_are_found_and_a_missing_release_is_one_error(weighbridge, tmp_path, command):
    assert command in weighbridge("--help").out
    missing = [tmp_path / "none"] * (2 if command == "compare" else 1)
    assert weighbridge(command, *missing).failed_with(2, "holds no release")
