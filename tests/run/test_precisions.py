"""Configs of artifacts in other precisions: what they may be made from, what they need, and one from export to verified release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.release import bundle, standalone
from pipeline.release.load import load_release
from pipeline.release.recommended import is_good_enough
from tests.formats.onnx import small
from tests.release.forgery import forge

SHIPPED = Path("configs/simplenet.yaml").resolve()
HEAD = f"extends: {SHIPPED}\nname: small\n"
WRONG = {
    "exports: [onnx, {name: q, format: onnx, precision: int8-dynamic}]": "made from no other artifact",
    "exports: [onnx, {name: q, format: onnx, from: onnx}]": "nothing says in which precision",
    "exports: [onnx, {name: q, format: onnx, from: onnx, precision: int8}]": "random inputs hide real failures",
    "exports: [onnx, {name: q, format: onnx, from: onnx, precision: int8, calibration: none.npz}]": "has no file",
    "exports: [onnx, {name: q, format: onnx, from: onnx, precision: int8-dynamic, calibration: here.npz}]": "nothing in it is measured",
    "exports: [torchscript, {name: q, format: onnx, from: torchscript, precision: float16}]": "a torchscript artifact",
    "exports: [onnx, {name: h, format: onnx, from: onnx, precision: float16}, {name: q, format: onnx, from: h, precision: int8-dynamic}]": "in float16 already",
    "exports: [onnx, {name: q, format: torchscript, from: onnx}]": "is made from the network",
    "exports: [onnx, {name: q, format: onnx, from: onnx, precision: int9}]": "precision",
}  # fmt: skip


@pytest.fixture
def here(tmp_path):
    np.savez(tmp_path / "here.npz", x=np.random.default_rng(5).standard_normal((200, 10)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("exports", WRONG)
def test_what_cannot_be_made_is_refused_before_any_work(exports, here, weighbridge):
    names = "backends: [eager, onnxruntime-cpu]\nrequire: []\n"
    (here / "c.yaml").write_text(f"{HEAD}{exports}\n{names}")
    done = weighbridge("check", here / "c.yaml")
    assert done.failed_with(2, WRONG[exports]), done.err


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.full((4, 10), np.nan, np.float32)}, "holds NaN"),
        ({"x": np.zeros((0, 10), np.float32)}, "is empty"),
        ({"x": np.zeros((4, 9), np.float32)}, "has size 9 where 10"),
        ({"y": np.zeros((4, 10), np.float32)}, "no array for input 'x'"),
    ],
)
def test_inputs_that_no_range_can_be_measured_on_are_refused(arrays, said, here, weighbridge):
    np.savez(here / "here.npz", **arrays)
    (here / "c.yaml").write_text(CONFIG)
    done = weighbridge("export", here / "c.yaml", "--out", here / "out", "--no-benchmark")
    assert done.failed_with(2, said), done.err


CONFIG = f"""{HEAD}
exports:
  - onnx
  - {{name: onnx-int8, format: onnx, from: onnx, options: {{precision: int8, calibration: here.npz}}}}
  - {{name: half, format: onnx, from: onnx, precision: float16-weights}}
backends:
  - eager
  - onnxruntime-cpu
  - {{name: ort-int8, backend: onnxruntime-cpu, artifact: onnx-int8}}
  - {{name: ort-half, backend: onnxruntime-cpu, artifact: half}}
require: [onnxruntime-cpu, ort-half]
"""


@pytest.fixture(scope="module")
def built(once):
    def make(folder):
        np.savez(folder / "here.npz", x=np.random.default_rng(5).standard_normal((200, 10)).astype(np.float32))
        (folder / "c.yaml").write_text(CONFIG)
        command = [
            sys.executable,
            "-m",
            "pipeline.commands",
            "export",
            folder / "c.yaml",
            "--out",
            folder / "out",
            "--no-benchmark",
        ]
        subprocess.run(command, check=True, capture_output=True)

    return bundle.find(once("reduced release", make) / "out" / "small")


@pytest.mark.slow
def test_a_release_holds_each_artifact_to_its_own_word(built, weighbridge):
    manifest = json.loads((built / "manifest.json").read_bytes())
    models = {each["name"]: each for each in manifest["models"]}
    assert {name: each.get("golden") for name, each in models.items()} == {
        "onnx": None, "onnx-int8": "golden.onnx-int8.safetensors", "half": "golden.half.safetensors",
    }  # fmt: skip
    assert models["onnx-int8"]["facts"]["precision"] == "int8"
    assert manifest["backends"]["ort-int8"]["processors"]["this one"]
    assert str(built.parents[2]) not in (built / "manifest.json").read_text()
    done = weighbridge("verify", built)
    assert done.code == 0, done.err
    ran = subprocess.run([sys.executable, built / "verify.py"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_shipped_verifier_adds_products_as_they_were_proven(tmp_path, monkeypatch):
    import onnxruntime

    seen = []

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, name, value):
            seen.append((name, value))
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    made, _ = small.products()
    onnx.save(made, tmp_path / "model.onnx")
    backend = {
        "backend": "onnxruntime-cpu",
        "format": "onnx",
        "artifact": "onnx",
        "options": {"precise_products": True},
    }
    manifest = {"models": [{"name": "onnx", "format": "onnx", "path": "model.onnx"}], "backends": {"ort": backend}}
    for options, wanted in (({"precise_products": True}, [("session.x64quantprecision", "1")]), ({}, [])):
        seen.clear()
        manifest["backends"]["ort"] = backend | {"options": options}
        monkeypatch.setattr(standalone, "read_manifest", lambda _: manifest)
        (tmp_path / "manifest.json").write_text("{}")
        standalone.open_onnx(tmp_path / "model.onnx", "onnxruntime-cpu")
        assert seen == wanted


@pytest.mark.slow
def test_the_float32_file_is_what_predict_takes_until_the_others_accuracy_is_shown(built):
    model = load_release(built)
    inputs = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    float32 = load_release(built, backend="onnxruntime-cpu")(x=inputs)["logits"]
    np.testing.assert_array_equal(model(x=inputs)["logits"], float32)
    reduced = load_release(built, backend="ort-int8")(x=inputs)["logits"]
    assert 0 < np.abs(reduced - float32).max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the float32 file in its place", "the golden cases of the network", "a scale changed"])
def test_another_file_than_the_one_that_was_proven_fails_whoever_verifies(way, built, tmp_path, weighbridge):
    import shutil

    release = tmp_path / "release"
    shutil.copytree(built, release)
    if way == "the float32 file in its place":
        shutil.copyfile(release / "model.onnx", release / "onnx-int8.onnx")
    elif way == "the golden cases of the network":
        shutil.copyfile(release / "golden.safetensors", release / "golden.onnx-int8.safetensors")
    else:
        made = onnx.load(release / "onnx-int8.onnx")
        scale = next(each for each in made.graph.initializer if each.name.endswith("weight_scale"))
        scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 2, scale.name))
        onnx.save(made, release / "onnx-int8.onnx")
    forge(release)
    done = weighbridge("verify", release)
    assert done.failed_with(1, "onnxruntime-cpu"), done.out + done.err
    ran = subprocess.run([sys.executable, release / "verify.py"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1


JUDGED = """{head}
exports:
  - onnx
  - {{name: onnx-int8, format: onnx, from: onnx, options: {{precision: int8, calibration: {calibration}, reduce_range: true, leave_out: {leave_out}}}}}
backends:
  - eager
  - onnxruntime-cpu
  - {{name: ort-int8, backend: onnxruntime-cpu, artifact: onnx-int8}}
require: [onnxruntime-cpu, ort-int8]
gates:
  onnx-int8: {{accuracy: {{samples: evaluation.npz, sqnr_db: {sqnr_db}, top1_agreement: 0.9}}}}
"""


@pytest.fixture
def judged(tmp_path, weighbridge):
    """Return what exports with calibration data of some size, beside evaluation data of the size that the network meets."""
    rng = np.random.default_rng(7)
    np.savez(tmp_path / "evaluation.npz", x=rng.standard_normal((400, 10)).astype(np.float32))

    def run(size, sqnr_db=20, leave_out="[]"):
        rows = np.random.default_rng(8).standard_normal((200, 10))
        np.savez(tmp_path / "cal.npz", x=(size * rows).astype(np.float32))
        (tmp_path / "c.yaml").write_text(
            JUDGED.format(head=HEAD, calibration="cal.npz", sqnr_db=sqnr_db, leave_out=leave_out)
        )
        return weighbridge("export", tmp_path / "c.yaml", "--out", tmp_path / "out", "--no-benchmark")

    return run


@pytest.mark.slow
def test_a_reduced_artifact_that_is_good_enough_is_what_a_release_may_run_by_itself(judged, tmp_path):
    done = judged(1.0)
    assert done.code == 0, done.err
    manifest = json.loads((bundle.find(tmp_path / "out" / "small") / "manifest.json").read_bytes())
    model = next(each for each in manifest["models"] if each["name"] == "onnx-int8")
    assert [each["criterion"] for each in model["accuracy"]["claims"]] == ["sqnr_db", "top1_agreement"]
    assert is_good_enough(model)
    assert not is_good_enough(model | {"accuracy": None})


@pytest.mark.slow
def test_calibration_on_another_distribution_computes_what_the_file_says_and_is_not_good_enough(judged, tmp_path):
    """Ranges twenty times too small: nothing is wrong with the runtime, and the second gate closes."""
    done = judged(0.05)
    assert done.failed_with(1, "an artifact is not good enough", "set `leave_out: auto` of onnx-int8"), done.err
    parity = json.loads(next((tmp_path / "out" / "small" / "failed").rglob("parity.json")).read_bytes())
    assert {each["name"]: each["status"] for each in parity["backends"]}["ort-int8"] == "pass"


@pytest.mark.slow
def test_samples_it_was_calibrated_on_do_not_judge_it(judged, tmp_path, weighbridge):
    judged(1.0)
    with np.load(tmp_path / "cal.npz") as known, np.load(tmp_path / "evaluation.npz") as other:
        np.savez(tmp_path / "evaluation.npz", x=np.concatenate([known["x"][:3], other["x"]]))
    done = weighbridge("export", tmp_path / "c.yaml", "--out", tmp_path / "out", "--no-benchmark")
    assert done.failed_with(2, "3 of 403 samples to judge onnx-int8 on are in cal.npz too"), done.err


DEEP = """
import torch

class Deep(torch.nn.Sequential):
    def __init__(self):
        layers = [torch.nn.Linear(10, 64), *(torch.nn.Linear(64, 64) for _ in range(4)), torch.nn.Linear(64, 8)]
        super().__init__(*(each for layer in layers for each in (layer, torch.nn.Tanh())))
"""
DEEP_CONFIG = """
name: deep
model: {architecture: "deep_network:Deep", weights: deep.pth}
inputs: {x: {dtype: float32, shape: [batch, 10]}}
dimensions: {batch: {min: 1, max: 16}}
outputs: [y]
exports:
  - onnx
  - {name: small, format: onnx, from: onnx, precision: int8-dynamic, weights: uint8, per_channel: false, leave_out: auto}
backends: [eager, onnxruntime-cpu, {name: ort-small, backend: onnxruntime-cpu, artifact: small}]
require: [onnxruntime-cpu, ort-small]
gates: {small: {accuracy: {samples: rows.npz, sqnr_db: 20}}}
"""


@pytest.fixture
def deep(tmp_path, monkeypatch, weighbridge):
    """Return what exports a network of six layers, in two of which one weight is so large that one scale leaves nothing of the others."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "deep_network.py").write_text(DEEP)
    (tmp_path / "deep.yaml").write_text(DEEP_CONFIG)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(10, 64), *(torch.nn.Linear(64, 64) for _ in range(4)), torch.nn.Linear(64, 8)]
    for index in (2, 4):
        with torch.no_grad():
            layers[index].weight[3, 5] = 40.0
    state = {
        f"{2 * index}.{name}": each for index, layer in enumerate(layers) for name, each in layer.state_dict().items()
    }
    torch.save(state, tmp_path / "deep.pth")
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(7).standard_normal((400, 10)).astype(np.float32))

    def run(*changes):
        sets = [each for change in changes for each in ("--set", change)]
        return weighbridge("export", "deep.yaml", "--out", "out", "--no-benchmark", "--trust", "deep_network", *sets)

    return run


@pytest.mark.slow
def test_as_few_layers_are_left_out_as_make_it_good_enough(deep, tmp_path):
    done = deep()
    assert done.code == 0, done.err
    manifest = json.loads((bundle.find(tmp_path / "out" / "deep") / "manifest.json").read_bytes())
    model = next(each for each in manifest["models"] if each["name"] == "small")
    assert len(model["facts"]["left_out"]) == 2
    assert "2 of 6 layers are left as they were: node_linear_" in done.err
    tensors = onnx.load(tmp_path / "out" / "deep" / manifest["version"] / "small.onnx").graph.initializer
    left = [onnx.numpy_helper.to_array(each) for each in tensors if each.data_type == 1 and len(each.dims) == 2]
    assert [each.max() for each in left] == [40, 40]
    assert is_good_enough(model)


ASIDE = """
import torch

class Aside(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.main = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=False) for _ in range(2))
        self.side = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=False) for _ in range(5))

    def forward(self, x):
        found = self.main[1](torch.tanh(self.main[0](x)))
        for each in self.side:
            found = found + 1e-3 * each(x)
        return found
"""


@pytest.mark.slow
def test_layers_whose_error_does_not_come_out_are_not_left_out(tmp_path, monkeypatch, weighbridge):
    """In each of five layers beside the main two, one weight leaves nothing of the others: by themselves they are the worst."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "aside_network.py").write_text(ASIDE)
    text = DEEP_CONFIG.replace("deep", "aside").replace("aside_network:Deep", "aside_network:Aside")
    (tmp_path / "aside.yaml").write_text(
        text.replace("[batch, 10]", "[batch, 16]").replace("sqnr_db: 20", "sqnr_db: 55")
    )
    generator = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": torch.randn(16, 16, generator=generator) / 2 for name in ("main.0", "main.1")}
    for index in range(5):
        state[f"side.{index}.weight"] = torch.randn(16, 16, generator=generator) / 4
        state[f"side.{index}.weight"][index, 2 * index] = 10.0
    torch.save(state, tmp_path / "aside.pth")
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(7).standard_normal((400, 16)).astype(np.float32))
    done = weighbridge("export", "aside.yaml", "--out", "out", "--no-benchmark", "--trust", "aside_network")
    assert done.code == 0, done.err
    assert "2 of 7 layers are left as they were" in done.err, done.err


@pytest.mark.slow
def test_where_no_number_of_layers_helps_the_gate_stays_closed_and_that_is_said(deep):
    done = deep("gates.small.accuracy.sqnr_db=110")
    assert done.failed_with(1, "leaving out up to 5 of its 6 layers did not make it good enough", "at least 110 dB"), (
        done.err
    )
