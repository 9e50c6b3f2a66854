"""From the training code to a release: the recording travels with it; a wrong rebuild is stopped before anything is exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import record
from pipeline.architectures.simplenet import SimpleNet
from pipeline.errors import GateError, MisfitError
from pipeline.release import bundle, standalone
from pipeline.run.check import check
from pipeline.run.export import export
from pipeline.run.plan import Settings
from pipeline.worker.inprocess import InProcessRunner

SIMPLENET = Path("configs/simplenet.yaml")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """What SimpleNet gave for two inputs, where it was trained."""
    network = SimpleNet()
    network.load_state_dict(torch.load("configs/weights/simplenet.pth", weights_only=True))
    file = tmp_path_factory.mktemp("trained") / "recorded.npz"
    for rows in (2, 5):
        record(file, network, torch.randn(rows, 10), append=True)
    return file


def exported(out: Path, *overrides: str, report=lambda _: None):
    settings = Settings(out=out, benchmark=False, overrides=("exports=[onnx]", "backends=[eager,onnxruntime-cpu]", "require=[onnxruntime-cpu]", *overrides), report=report, runner=InProcessRunner())  # fmt: skip
    return export(SIMPLENET, settings).release


def test_a_recording_travels_in_the_release_and_the_card_says_so(recorded, tmp_path, weighbridge) -> None:
    release = exported(tmp_path, f"reference={recorded}")
    manifest = standalone.read_manifest(release)
    assert manifest["reference"]["path"] == "reference.npz"
    assert manifest["reference"]["calls"] == 2
    assert (release / "reference.npz").read_bytes() == recorded.read_bytes()
    assert {each["path"]: each["role"] for each in manifest["files"]}["reference.npz"] == "reference"
    assert (
        "gives what was recorded of the trained network in `reference.npz` (2 calls"
        in (release / "README.md").read_text()
    )
    found = json.loads((release / "report" / "parity.json").read_text())["reference"]
    assert found["passed"]
    assert found["factor"] <= 16
    assert "the trained network's, 2 calls" in (release / "report" / "report.md").read_text()
    assert weighbridge("verify", release).code == 0
    (release / "reference.npz").write_bytes(recorded.read_bytes()[:-1])
    assert weighbridge("verify", release).failed_with(1, "reference.npz: its digest differs")


def test_without_one_every_page_says_that_it_was_not_compared(built, weighbridge) -> None:
    """Table, manifest, card and report."""
    assert standalone.read_manifest(built)["reference"] is None
    assert "was not compared with the trained network" in (built / "README.md").read_text()
    assert "not compared with the trained network" in (built / "report" / "report.md").read_text()
    assert "not compared with the trained network" in weighbridge("report", built).out
    assert (
        "not compared: nothing tells whether this is the network that was trained"
        in weighbridge("check", SIMPLENET).out
    )


def test_a_wrong_rebuild_ends_before_the_export_begins_with_what_differs(recorded, tmp_path) -> None:
    weights = torch.load("configs/weights/simplenet.pth", weights_only=True)
    torch.save({**weights, "fc2.bias": weights["fc2.bias"].flip(0)}, tmp_path / "wrong.pth")
    events = []
    with pytest.raises(GateError, match=r"is not the one that was recorded in recorded\.npz") as caught:
        exported(tmp_path / "out", f"reference={recorded}", f"model.weights={tmp_path / 'wrong.pth'}", "model.sha256=null", report=events.append)  # fmt: skip
    assert caught.value.exit_code == 1
    assert "1 of 4 tensors have other values than were recorded (fc2.bias)" in caught.value.message
    assert "the first module that differs is fc2 (Linear)" in caught.value.message
    assert not [event for event in events if (event.stage, event.subject) == ("export", "onnx")]
    assert not (tmp_path / "out" / "simplenet" / bundle.LATEST).exists()


def test_check_holds_the_network_against_the_recording_as_export_does(recorded, weighbridge, tmp_path) -> None:
    done = weighbridge("check", SIMPLENET, "--set", f"reference={recorded}")
    assert done.code == 0
    assert "the same in 2 recorded calls of recorded.npz (torch " in done.out
    missing = weighbridge("check", SIMPLENET, "--set", f"reference={tmp_path / 'none.npz'}")
    assert missing.failed_with(2, "none.npz is not a file", "from pipeline import record")


def test_the_line_to_record_with_has_the_names_of_the_config(weighbridge) -> None:
    done = weighbridge("record", SIMPLENET)
    assert done.code == 0
    assert 'record("reference.npz", model, x=x)' in done.out
    assert "reference: reference.npz" in done.out
    assert f"next: weighbridge check {SIMPLENET}" in done.out


TWINS = """
import torch
from torch import nn


class Twins(nn.Module):
    def __init__(self, names=("left_half", "right_half")):
        super().__init__()
        self.names = names
        for name in names:
            setattr(self, name, nn.Linear(6, 6))

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return first(x) - torch.tanh(second(x))
"""
CONFIG = """
name: twins
model:
  architecture: nets_of_trained:Twins
  weights: w.pth
inputs:
  x: {dtype: float32, shape: [batch, 6]}
outputs: [y]
dimensions:
  batch: {min: 1, max: 4}
exports: [onnx]
backends: [eager, onnxruntime-cpu]
"""


@pytest.fixture
def twins(tmp_path, monkeypatch) -> Path:
    """A config whose file calls two layers of one shape by names that tell nothing, and what the network gave."""
    (tmp_path / "nets_of_trained.py").write_text(TWINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    from nets_of_trained import Twins

    torch.manual_seed(0)
    network = Twins(names=("alpha", "omega"))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    for rows in (1, 3):
        record(tmp_path / "made.npz", network, torch.randn(rows, 6), append=True)
    (tmp_path / "twins.yaml").write_text(CONFIG)
    return tmp_path


def checked(folder: Path, *overrides: str) -> dict:
    return check(folder / "twins.yaml", Settings(out=folder / "out", trust=("nets_of_trained",), overrides=overrides))["plan"]  # fmt: skip


def test_a_recording_tells_which_of_two_layers_is_which(twins) -> None:
    """Nothing else does: without it nothing is proposed, and with it the rename that agrees, which then passes."""
    with pytest.raises(MisfitError, match="nothing decides which of these is which") as caught:
        checked(twins)
    assert "give a reference" in caught.value.hint
    with pytest.raises(MisfitError, match=r"of 2 ways to name them, one gives what made\.npz recorded") as caught:
        checked(twins, "reference=made.npz")
    assert caught.value.hint == "set model.rename to {alpha: left_half, omega: right_half}"
    plan = checked(twins, "reference=made.npz", "model.rename={alpha: left_half, omega: right_half}")
    assert "the same in 2 recorded calls" in plan["trained network"]


def test_no_rename_is_proposed_where_none_gives_what_was_recorded(twins) -> None:
    from nets_of_trained import Twins

    record(twins / "other.npz", Twins(names=("alpha", "omega")), torch.randn(2, 6))
    with pytest.raises(MisfitError, match=r"none of the 2 ways to name them gives what other\.npz recorded"):
        checked(twins, "reference=other.npz")


def test_several_renames_that_give_what_was_recorded_are_told_apart_by_nobody(twins) -> None:
    """An input of zeros, and biases of zero: both layers give zero, whichever is which."""
    state = {
        name: tensor * name.endswith("weight")
        for name, tensor in torch.load(twins / "w.pth", weights_only=True).items()
    }
    torch.save(state, twins / "w.pth")
    np.savez(twins / "zero.npz", x=np.zeros((1, 6), np.float32), y=np.zeros((1, 6), np.float32))
    with pytest.raises(MisfitError, match=r"2 of 2 ways to name them give what zero\.npz recorded") as caught:
        checked(twins, "reference=zero.npz")
    assert "record outputs that tell them apart" in caught.value.hint
