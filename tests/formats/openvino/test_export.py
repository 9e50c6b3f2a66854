"""OpenVINO's files: the names of the config, the same bytes wherever they are made, nobody told."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pipeline.backends.backend import Source
from pipeline.backends.openvino import OPENVINO_CPU
from pipeline.errors import ExportError
from pipeline.formats.artifact import Written
from pipeline.formats.openvino import library
from pipeline.formats.openvino.export import reason
from pipeline.formats.openvino.record import OPENVINO
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from tests.formats import networks
from tests.formats.openvino.made import derived, made
from tests.formats.test_exporters import ONE, TWO, NamedThree, expected, export

pytestmark = pytest.mark.skipif(OPENVINO.probe() is not None, reason=str(OPENVINO.probe()))


class Tagger(torch.nn.Module):
    """Whole numbers, a mask and a scale in, a dict out, two sizes that vary, a sum along one of them."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 12)
        self.norm = torch.nn.LayerNorm(12)
        self.head = torch.nn.Linear(12, 3)

    def forward(self, tokens, mask, scale):
        hidden = torch.tanh(self.embedding(tokens).cumsum(1))
        scores = self.head(self.norm(hidden * scale[:, None, None]))
        return {"scores": scores.masked_fill(~mask[..., None], 0.0), "best": scores.argmax(-1), "mask": mask}


class Step(torch.nn.Module):
    """A state that grows, in and out, from nothing on."""

    def __init__(self):
        super().__init__()
        self.key = torch.nn.Linear(6, 6)

    def forward(self, x, past):
        present = torch.cat([past, self.key(x)], 1)
        return {"y": torch.softmax(present.mean(1), -1), "present": present}


class Picture(torch.nn.Module):
    """Height and width that vary, a transposed and a grouped convolution, one value under two names."""

    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.group = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up = torch.nn.ConvTranspose2d(8, 2, 2, stride=2)

    def forward(self, image):
        y = self.up(torch.nn.functional.silu(self.group(self.norm(self.down(image)))))
        return {"map": y, "again": y, "peak": y.amax((2, 3))}


OWN = {
    "tagger": (
        Tagger,
        Interface(
            (
                InputSpec("tokens", "int64", ("batch", "length"), 0, 30),
                InputSpec("mask", "bool", ("batch", "length")),
                InputSpec("scale", "float32", ("batch",)),
            ),
            (Dimension("batch", 1, 6), Dimension("length", 1, 20)),
            ("scores", "best", "mask"),
        ),
    ),
    "step": (
        Step,
        Interface(
            (InputSpec("x", "float32", ("batch", "new", 6)), InputSpec("past", "float32", ("batch", "past", 6))),
            (Dimension("batch", 1, 4), Dimension("new", 1, 3), Dimension("past", 0, 12)),
            ("y", "present"),
        ),
    ),
    "picture": (
        Picture,
        Interface(
            (InputSpec("image", "float32", ("batch", 3, "height", "width")),),
            (Dimension("batch", 1, 3), Dimension("height", 8, 32, 2), Dimension("width", 8, 32, 2)),
            ("map", "again", "peak"),
        ),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_file_computes_what_the_network_does_at_both_ends_of_every_declared_range(name, tmp_path):
    network, interface = OWN[name]
    file = made(network(), interface, tmp_path).files[0]
    session = OPENVINO_CPU.open(Source(interface, file), OPENVINO_CPU.options())
    ends = [{each.name: getattr(each, end) for each in interface.dimensions} for end in ("min", "max")]
    mixed = [{each.name: (each.min, each.max)[index % 2] for index, each in enumerate(interface.dimensions)}]
    for sizes in (*ends, *mixed):
        case = cases.make(interface, sizes, seed=1, name="ends")
        want, got = expected(network(), interface, dict(case.inputs)), session.run(case.inputs)
        assert got.keys() == want.keys()
        for output in want:
            assert got[output].dtype == want[output].dtype
            np.testing.assert_allclose(got[output], want[output], rtol=1e-4, atol=1e-5)


def test_inputs_and_outputs_are_found_by_name_in_whatever_order_the_file_has_them(tmp_path):
    written = export(NamedThree(), TWO, "onnx", tmp_path / "onnx")
    model = onnx.load(written.files[0])
    for part in (model.graph.input, model.graph.output):
        kept = list(part)
        del part[:]
        part.extend(reversed(kept))
    onnx.save(model, written.files[0])
    file = derived(written, TWO, tmp_path).files[0]
    session = OPENVINO_CPU.open(Source(TWO, file), OPENVINO_CPU.options())
    case = cases.make(TWO, {"batch": 5}, seed=2, name="order")
    want, got = expected(NamedThree(), TWO, dict(case.inputs)), session.run(case.inputs)
    for name in TWO.outputs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_an_input_that_the_file_lacks_is_named(tmp_path):
    written = export(networks.Norm(), ONE, "onnx", tmp_path / "onnx")
    other = replace(ONE, inputs=(replace(ONE.inputs[0], name="z"),))
    with pytest.raises(ExportError, match=r"openvino has no inputs z in what it made of onnx: it has x") as caught:
        derived(written, other, tmp_path)
    assert "exports" in caught.value.hint


def test_an_operator_that_openvino_has_no_translation_of_is_told_in_its_own_words_in_a_line(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Twist", ["x"], ["y"], domain="own")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    with pytest.raises(ExportError) as caught:
        derived(Written((tmp_path / "model.onnx",)), ONE, tmp_path / "ir")
    assert caught.value.message == "openvino: No conversion rule found for operations: own.Twist"
    assert "leave `openvino` out of `exports`" in caught.value.hint


def test_of_a_message_that_is_new_some_line_is_told():
    assert reason(RuntimeError("Exception from a.cpp:1:\n\nthe shape is odd\n")) == "the shape is odd"
    assert reason(RuntimeError("Exception from a.cpp:1:")) == "Exception from a.cpp:1:"
    assert reason(RuntimeError("")) == "RuntimeError"


def test_files_hold_who_they_are_and_no_path_of_this_machine(tmp_path):
    files = made(networks.Norm(), ONE, tmp_path).files
    assert [each.name for each in files] == ["model.xml", "model.bin"]
    data = b"".join(each.read_bytes() for each in files)
    for trace in (str(tmp_path), sys.prefix, __file__, os.uname().nodename):
        assert trace.encode() not in data
    text = files[0].read_text()
    assert '<net name="test"' in text
    assert f'<weights_sha256 value="{"ab" * 32}"' in text


_AGAIN = """
import sys
from pathlib import Path
from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.format import FromArtifact
from pipeline.formats.openvino import library
from pipeline.formats.openvino.record import OPENVINO
from pipeline.interface import Dimension, InputSpec, Interface
openvino = library.load()
for _ in range(int(sys.argv[3])):  # what it numbers is numbered on
    openvino.opset13.constant(1.0)
interface = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 16),), ("y",))
source = Artifact("onnx", "onnx", Written((Path(sys.argv[1]),)))
Path(sys.argv[2]).mkdir(parents=True)
OPENVINO.derive(FromArtifact(source, interface, Path(sys.argv[2], "model.xml"), {"name": "test"}), OPENVINO.options())
"""


def test_two_folders_two_hash_seeds_and_two_counts_give_the_same_bytes(tmp_path):
    written = export(networks.Norm(), ONE, "onnx", tmp_path / "onnx")
    found = []
    for folder, seed, count in (("a", "1", "0"), ("b/c", "2", "777")):
        command = [sys.executable, "-c", _AGAIN, str(written.files[0]), str(tmp_path / folder), count]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        found.append([(tmp_path / folder / name).read_bytes() for name in ("model.xml", "model.bin")])
    assert found[0] == found[1]


def test_weights_that_lie_beside_the_onnx_file_are_taken_from_there(tmp_path):
    wide = torch.nn.Sequential(torch.nn.Linear(4, 300), torch.nn.Linear(300, 2))
    written = export(wide, ONE, "onnx", tmp_path / "onnx", external_data=True)
    assert len(written.files) == 2
    file = derived(written, ONE, tmp_path).files[0]
    case = cases.make(ONE, {"batch": 2}, seed=0, name="external")
    got = OPENVINO_CPU.open(Source(ONE, file), OPENVINO_CPU.options()).run(case.inputs)["y"]
    np.testing.assert_allclose(got, expected(wide, ONE, dict(case.inputs))["y"], rtol=1e-4, atol=1e-4)


_QUIET = """
import socket, sys
from pathlib import Path
def refused(*_, **__):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = refused
{}
import time
time.sleep(0.5)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")], "it was imported"
assert not (Path.home() / "intel").exists(), "it wrote into the home directory"
import importlib.util
assert importlib.util.find_spec("openvino_telemetry"), "it is not there, so that nothing was shown"
"""


@pytest.mark.parametrize(
    "code",
    [
        "from pipeline.formats.openvino import library; library.load(); library.load()",
        "from pipeline.worker.template import load\nfrom pipeline.backends.openvino import OPENVINO_CPU\nfor each in OPENVINO_CPU.modules: load(each)",
    ],
)
def test_whoever_imports_openvino_through_us_tells_its_makers_nothing(code, tmp_path):
    """Its own package sends an event at its import, and writes a number of the client below ~/intel."""
    subprocess.run([sys.executable, "-c", _QUIET.format(code)], check=True, env={**os.environ, "HOME": str(tmp_path)})


def test_the_stand_in_for_telemetry_is_gone_once_openvino_is_there():
    library.load()
    assert sys.modules.get("openvino_telemetry", "absent") is not None
