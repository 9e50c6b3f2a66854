"""An OpenVINO file of a quantised one is held against that: what was rounded there is right here, and nothing else is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pipeline.formats.artifact import Artifact
from pipeline.formats.format import AuditSubject, FromArtifact
from pipeline.formats.onnx.reduce import derive
from pipeline.formats.openvino.audit import audit
from pipeline.formats.openvino.record import OPENVINO
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import jobs
from tests.formats.onnx import small
from tests.formats.openvino import made
from tests.formats.test_exporters import export

pytestmark = pytest.mark.skipif(OPENVINO.probe() is not None, reason=str(OPENVINO.probe()))
INTERFACE = Interface((InputSpec("x", "float32", ("batch", 3, 8, 8)),), (Dimension("batch", 1, 16),), ("y",))
EVERYTHING = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Clip", "GlobalAveragePool", "LeakyRelu", "HardSwish")
BOUNDED = {
    "relu6": nn.functional.relu6,
    "hardswish": nn.functional.hardswish,
    "clamp": lambda x: torch.clamp(x, -1, 4),
    "hardtanh": lambda x: nn.functional.hardtanh(x, -0.7, 2.3),
    "leaky_relu": lambda x: nn.functional.leaky_relu(x, 0.13),
    "scaled": lambda x: torch.relu(x) * 0.37 + 0.11,
}


class Network(nn.Module):
    """Two convolutions and a linear layer, with what bounds or scales what is between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.between = between
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.first(x) * 3)
        return self.head(self.between(self.second(x)).mean((2, 3)))


def _reduced(between, folder, **options):
    """Return the network's tensors, and the artifacts of a reduced file and of the OpenVINO file made from it."""
    torch.manual_seed(3)
    module = Network(between).eval().requires_grad_(False)
    folder.mkdir(exist_ok=True)
    written = export(module, INTERFACE, "onnx", folder / "onnx")
    given = small.samples(INTERFACE) if options["precision"] == "int8" else None
    origin = FromArtifact(
        Artifact("onnx", "onnx", written), INTERFACE, folder / "reduced.onnx", small.IDENTITY, samples=given
    )
    reduced = derive(origin, small.OPTIONS.model_validate(options))
    return jobs.arrays_of(module), reduced, made.derived(reduced, INTERFACE, folder / "ir")


def _audited(state, reduced, file):
    subject = AuditSubject(state, reduced.program, lambda: (None, "not asked"), None, "int8", reduced.files[0])
    return audit(file, subject)


@pytest.fixture(scope="module")
def relu6(tmp_path_factory):
    return _reduced(BOUNDED["relu6"], tmp_path_factory.mktemp("relu6"), precision="int8", operators=EVERYTHING)


@pytest.mark.parametrize("between", BOUNDED)
def test_what_bounds_and_scales_was_rounded_with_its_neighbours_is_no_cause_for_alarm(between, tmp_path):
    state, reduced, derived = _reduced(BOUNDED[between], tmp_path, precision="int8", operators=EVERYTHING)
    found = _audited(state, reduced, derived.files[0])
    assert found["problems"] == []
    assert found["share"] == 0
    assert sum(found["accounted"].values()) == found["elements"] > 800


@pytest.mark.parametrize(
    "options",
    [{"precision": "int8", "weights": "uint8"}, {"precision": "int8", "per_channel": False}, {"precision": "int8", "reduce_range": True},
     {"precision": "float16-weights"}, {"precision": "bfloat16-weights"}, {"precision": "int8", "activations": "int8"}],
    ids=str,
)  # fmt: skip
def test_other_precisions_are_none_either(options, tmp_path):
    state, reduced, derived = _reduced(BOUNDED["relu6"], tmp_path, **options)
    found = _audited(state, reduced, derived.files[0])
    assert found["problems"] == []
    assert found["share"] == 0


def _edited(files, name, dtype, change, folder):
    """Copy a file, change a constant of it (named as its layer is, or by its first user), and return the copy."""
    for each in files:
        shutil.copyfile(each, folder / each.name)
    path = folder / files[0].name
    pattern = rf'name="{re.escape(name)}" type="Const".*?offset="(\d+)" size="(\d+)"'
    match = re.search(pattern, path.read_text(), re.DOTALL)
    assert match, name
    start, size = int(match[1]), int(match[2])
    data = bytearray(path.with_suffix(".bin").read_bytes())
    value = np.frombuffer(bytes(data[start : start + size]), dtype).copy()
    data[start : start + size] = change(value).astype(dtype).tobytes()
    path.with_suffix(".bin").write_bytes(data)
    return path


def _one_step(value):
    value.flat[5] += 1 if value.flat[5] < 100 else -1
    return value


@pytest.mark.parametrize(
    ("name", "dtype", "change", "said"),
    [
        ("second.weight_quantized", np.int8, _one_step, "is not what reduced.onnx has under this name.*: 1 of 576"),
        ("second.weight_scale", np.float32, lambda value: value * 2, "is not what reduced.onnx has under this name"),
        ("x_zero_point", np.uint8, lambda value: value + 1, "is not what reduced.onnx has under this name"),
        ("second.bias_quantized", np.int32, _one_step, "is not what reduced.onnx has under this name"),
        ("Constant_0", np.float32, lambda value: value * 1.02, "no scale and zero point of reduced.onnx"),
    ],
)  # fmt: skip
def test_what_is_not_as_in_the_quantised_file_is_named(name, dtype, change, said, relu6, tmp_path):
    state, reduced, derived = relu6
    found = _audited(state, reduced, _edited(derived.files, name, dtype, change, tmp_path))
    assert re.search(said, found["problems"][0]["problem"]), found["problems"]
    assert found["problems"][0]["where"] == name
    assert not found["passed"]


def test_a_quantised_file_that_is_wrong_itself_makes_what_is_made_of_it_wrong(tmp_path):
    state, reduced, _ = _reduced(BOUNDED["clamp"], tmp_path, precision="int8")
    file = reduced.files[0]
    model = onnx.load(file)
    weight = next(each for each in model.graph.initializer if each.name == "first.weight_scale")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    onnx.save(model, file)
    derived = made.derived(reduced, INTERFACE, Path(tmp_path / "again"))
    found = _audited(state, reduced, derived.files[0])
    assert found["problems"][0]["where"] == "reduced.onnx: first.weight_quantized"
    assert found["problems"][0]["nearest"] == "first.weight"
