"""From the training code to a release: the recording travels with it; a wrong rebuild is stopped before anything is exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline import driver, record
from pipeline.architectures.simplenet import SimpleNet
from pipeline.errors import GateError
from pipeline.planning import Settings
from pipeline.release import bundle, standalone

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
    settings = Settings(out=out, benchmark=False, overrides=("exports=[onnx]", "backends=[eager,onnxruntime-cpu]", "require=[onnxruntime-cpu]", *overrides), report=report)  # fmt: skip
    return driver.export(SIMPLENET, settings).release


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
