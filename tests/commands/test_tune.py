"""`weighbridge tune` as a person runs it."""

import json
import shutil
import sys
from dataclasses import replace

import pytest

from pipeline.commands import app
from pipeline.worker.inprocess import InProcessRunner

assert app
command = sys.modules["pipeline.commands.tune"]  # the package has the function under this name
SIMPLENET = "configs/simplenet.yaml"
ONLY = (
    "exports=[onnx]",
    "backends=[onnxruntime-cpu]",
    "require=[onnxruntime-cpu]",
    "benchmark.reference=onnxruntime-cpu",
)
OVERRIDES = [word for each in ONLY for word in ("--set", each)]


@pytest.fixture(scope="module")
def out(built, tmp_path_factory):
    """A folder with everything that was kept."""
    return shutil.copytree(built.parent.parent, tmp_path_factory.mktemp("commands") / "out")


@pytest.fixture
def quick(monkeypatch):
    """Have the command work in this process and with one thread: what is timed says nothing then."""
    real = command.settings_of
    monkeypatch.setattr(
        command,
        "settings_of",
        lambda *given, **named: replace(real(*given, **named), runner=InProcessRunner(), threads=1),
    )


@pytest.mark.usefixtures("quick")
def test_it_makes_the_release_names_what_to_run_and_goes_on_with_more_time(out, weighbridge):
    left = [place / ".tmp-999999999-0123456789abcdef" for place in (out, out / "simplenet", out / ".cache" / "results")]
    for each in left:  # by a run that was killed
        (each / "files").mkdir(parents=True)
    done = weighbridge("tune", SIMPLENET, *OVERRIDES, "--out", out, "--seconds", "2")
    assert done.code == 0, done.err
    assert not any(each.exists() for each in left)
    assert "The choice" in done.out
    assert "recommended" in done.out
    last = done.out.splitlines()[-1]
    assert last.startswith(("next: weighbridge tune", "next: weighbridge predict"))
    again = weighbridge("tune", SIMPLENET, *OVERRIDES, "--out", out, "--seconds", "2", "--json")
    found = json.loads(again.out)
    assert found["recommended"]["chosen"] in done.out
    assert found["recommended"]["budget_s"] == 2
    model = weighbridge("predict", found["release"], "--example")
    assert model.code == 0
    assert model.err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--objective", "speed"], ["tune.objective", "'latency', 'memory', 'size', 'throughput'"]),
        (["--set", "tune.size={x: 1}"], ["tune.size.x", "not in dimensions"]),
        (["--set", "tune.p99=5"], ["tune.p99"]),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_done(weighbridge, tmp_path, options, words):
    done = weighbridge("tune", SIMPLENET, "--out", tmp_path, *options)
    assert done.failed_with(2, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_nothing_keeps_ends_with_1_and_what_each_has(out, weighbridge):
    done = weighbridge("tune", SIMPLENET, *OVERRIDES, "--out", out, "--set", "tune.bytes=100")
    assert done.failed_with(1, "its files hold", "tune.bytes is 100", "raise the limits")


def test_help_says_what_is_chosen_and_that_it_goes_on(weighbridge):
    said = weighbridge("tune", "--help").out
    for word in ("--objective", "--seconds", "--again", "proven", "predict", "goes on"):
        assert word in said
