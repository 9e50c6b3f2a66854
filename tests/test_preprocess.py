"""Preprocessing from a config to a release: every artifact takes what arrives, and is proven with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from pipeline import load_release, record
from pipeline.errors import GateError
from pipeline.release.verify import verify
from pipeline.run import keys
from pipeline.run import record as recording
from pipeline.run.check import check
from pipeline.run.plan import Settings, plan
from tests.rebuild import pictures
from tests.test_export import edit_onnx, proven, released, sabotaged, until

CONFIG = """
name: picture
model: {architecture: "tests.rebuild.pictures:Picture", weights: picture.pth}
inputs:
  image:
    dtype: float32
    shape: [batch, 3, 8, 8]
    preprocess:
      dtype: uint8
      layout: NHWC
      resize: [height, width]
      divide_by: 255
      mean: [0.485, 0.456, 0.406]
      scale: [0.229, 0.224, 0.225]
dimensions: {batch: {max: 3}, height: {min: 3, max: 20}, width: {min: 3, max: 30}}
outputs: [logits]
exports: [torchscript, onnx]
backends: [eager, torchscript, onnxruntime-cpu]
require: [torchscript, onnxruntime-cpu]
"""
TRUST = ("tests.rebuild.pictures",)
SAID = "channels first, resized to 8 × 8, / 255, − [0.485, 0.456, 0.406], / [0.229, 0.224, 0.225] → float32 [batch, 3, 8, 8]"


def network():
    torch.manual_seed(0)
    return pictures.Picture().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picture")
    torch.save(network().state_dict(), folder / "picture.pth")
    (folder / "picture.yaml").write_text(CONFIG)
    return folder / "picture.yaml"


@pytest.fixture(scope="module")
def exported(config, tmp_path_factory):
    return until("export", config, tmp_path_factory.mktemp("out"), trust=TRUST, benchmark=False)


def test_a_release_takes_what_arrives_and_gives_what_preprocessing_by_hand_gives(exported):
    release = released(exported)
    assert verify(release).problems == ()
    images = np.random.default_rng(0).integers(0, 256, (2, 13, 29, 3)).astype(np.uint8)
    wanted = pictures.Deployed(network())(torch.from_numpy(images)).numpy()
    for backend in ("torchscript", "onnxruntime-cpu"):
        found = load_release(release, backend=backend)(image=images)["logits"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    manifest = json.loads((release / "manifest.json").read_bytes())
    (stated,) = manifest["inputs"]
    assert (stated["dtype"], stated["shape"], stated["low"], stated["high"]) == ("uint8", ["batch", "height", "width", 3], 0, 256)  # fmt: skip
    assert stated["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert manifest["config"]["inputs"]["image"]["preprocess"]["resize"] == ["height", "width"]
    assert manifest["weights"]["parameters"] == sum(each.numel() for each in network().parameters())
    assert f"- `image`: {SAID}" in (release / "README.md").read_text()


def test_every_number_of_the_artifacts_is_accounted_for_and_every_size_passes(exported):
    found = proven(exported)
    assert all(audit.passed and not audit.problems for audit in found.audits.values())
    assert {finding.case for proof in found.proofs for finding in proof.findings} >= {"minimum", "longest width"}


def moved_mean(model):
    tensor = next(each for each in model.graph.initializer if "mean" in each.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.001), tensor.name))


def whole_pixels(model):
    node = next(each for each in model.graph.node if each.op_type == "Resize")
    next(each for each in node.attribute if each.name == "coordinate_transformation_mode").s = b"asymmetric"


@pytest.mark.parametrize("change", [moved_mean, whole_pixels], ids=lambda each: each.__name__)
def test_other_preprocessing_in_an_onnx_file_closes_the_gate(exported, change):
    with pytest.raises(GateError, match=r"onnxruntime-cpu: .*logits"):
        proven(sabotaged(exported, "onnx", edit_onnx(change)))


def test_other_preprocessing_in_a_torchscript_file_closes_the_gate(exported):
    def change(path):
        module = torch.jit.load(str(path))
        next(each for name, each in module.named_buffers() if "scale" in name).mul_(1.01)
        module.save(str(path))

    with pytest.raises(GateError, match=r"torchscript: .*logits"):
        proven(sabotaged(exported, "torchscript", change))


def test_a_recording_is_of_the_network_itself_and_compared_without_preprocessing(config, tmp_path):
    right, wrong = network(), network()
    wrong.fc.bias += 0.01
    for name, each in (("right", right), ("wrong", wrong)):
        record(tmp_path / f"{name}.npz", each, image=torch.randn(2, 3, 8, 8))
    settings = Settings(out=tmp_path, trust=TRUST, overrides=(f"reference={tmp_path / 'right.npz'}",))
    plan_ = check(config, settings)["plan"]
    assert "the same in 1 recorded call of right.npz" in plan_["trained network"]
    assert plan_["inputs"] == ["image: uint8 ['batch', 'height', 'width', 3]"]
    assert plan_["preprocessed"] == [f"image: {SAID}"]
    assert not any("reference" in each for each in plan_["parity cases"])
    overrides = (f"reference={tmp_path / 'wrong.npz'}",)
    with pytest.raises(GateError, match=r"not the one that was recorded in wrong\.npz") as caught:
        until("export", config, tmp_path / "wrong", trust=TRUST, overrides=overrides)
    assert "the first module that differs is fc (Linear)" in caught.value.message


def test_what_is_to_be_recorded_is_said_to_be_preprocessed(config):
    lines = recording.lines(config, ())["python"]
    assert "# image as the network takes it, float32 [batch, 3, 8, 8]: preprocessed" in lines


def test_kept_results_are_of_one_preprocessing(config, tmp_path):
    def key(*overrides):
        return keys.of_oracle(plan(config, Settings(out=Path(tmp_path), trust=TRUST, overrides=overrides)))

    assert key() == key()
    assert key() != key("inputs.image.preprocess.divide_by=256")
