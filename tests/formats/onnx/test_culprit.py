"""The node that is named must be the one that is wrong."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from pipeline.formats import forward
from pipeline.formats.format import CulpritSearch, FromNetwork
from pipeline.formats.onnx import culprit, truths
from pipeline.formats.onnx import export as exporter
from pipeline.formats.onnx.graph import Graph
from pipeline.formats.onnx.reproduction import write_reproduction
from pipeline.formats.torchscript import audit as scripted
from pipeline.formats.torchscript import culprit as scripted_culprit
from pipeline.formats.torchscript.export import TorchScriptOptions, export
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import budget
from pipeline.rebuild import cases
from tests.parity.networks import INTERFACE, audited, job

CASE = cases.make(INTERFACE, {"batch": 3}, seed=1, name="case").inputs


def searched(work, file=None, inputs=CASE):
    """Return what a search for a culprit is given, of a file that calls everything as the config does."""
    interface, folder = work.interface, work.target.parent
    inputs_by_name = {spec.name: spec.name for spec in interface.inputs}
    outputs = {name: name for name in interface.outputs}
    return CulpritSearch(
        work.module,
        interface,
        work.examples,
        inputs,
        file or work.target,
        inputs_by_name,
        outputs,
        {},
        None,
        budget.floors,
        folder,
    )


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    work = job(audited(), tmp_path_factory.mktemp("culprit"))
    artifact = exporter.export(work, exporter.OnnxOptions())
    return onnx.load(str(artifact.files[0])), truths.truths(searched(work))


@pytest.fixture
def proto(healthy):
    copied = onnx.ModelProto()
    copied.CopyFrom(healthy[0])
    return copied


def scaled(proto, name, factor):
    tensor = next(each for each in proto.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))


def test_a_healthy_graph_has_no_culprit_among_whole_tensors(healthy):
    found = culprit.find(Graph(healthy[0]), CASE, healthy[1], level="disable")
    assert found is None or not found.certain


@pytest.mark.parametrize("name", ["fc1.weight", "fc2.bias", "head.weight"])
def test_the_node_with_the_changed_weight_is_named_with_module_and_line(healthy, proto, name):
    scaled(proto, name, 1.01)
    found = culprit.find(Graph(proto), CASE, healthy[1], level="disable")
    assert found.certain
    assert found.module == name.partition(".")[0]
    assert "networks.py:" in found.source
    assert found.got == pytest.approx(found.expected * 1.01, rel=0.05) or name.endswith("bias")


def test_an_approximate_gelu_is_named(healthy, proto):
    node = next(each for each in proto.graph.node if each.op_type == "Gelu")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("approximate", "tanh"))
    found = culprit.find(Graph(proto), CASE, healthy[1], level="disable")
    assert (found.node, found.attributes["approximate"]) == (node.name, "tanh")


def test_the_reproduction_runs_alone_and_shows_both_values(healthy, proto, tmp_path):
    scaled(proto, "fc1.weight", 1.5)
    graph = Graph(proto)
    found = culprit.find(graph, CASE, healthy[1], level="disable")
    write_reproduction(graph, found, CASE, healthy[1], tmp_path, level="disable")
    ran = subprocess.run([sys.executable, tmp_path / "culprit.py"], capture_output=True, text=True, check=True)
    assert f"output {found.output}: largest difference" in ran.stdout


class Pooled(torch.nn.Module):
    """The mean over a length that only the convolution before it knows: another length goes unnoticed."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 6, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x)).mean(-1)


def test_a_node_whose_output_has_another_shape_is_named_and_not_the_first_of_the_right_shape(tmp_path):
    interface = Interface((InputSpec("x", "float32", ("batch", 3, 8)),), (Dimension("batch", 1, 16),), ("y",))
    examples = cases.make(interface, {"batch": 2}, seed=0, name="exporter").inputs
    work = FromNetwork(Pooled().eval(), interface, examples, tmp_path / "model.onnx", {})
    proto = onnx.load(str(exporter.export(work, exporter.OnnxOptions()).files[0]))
    known = truths.truths(searched(work))
    convolution = next(each for each in proto.graph.node if each.op_type == "Conv")
    next(each for each in convolution.attribute if each.name == "dilations").ints[:] = [2]
    del proto.graph.value_info[:]
    found = culprit.find(Graph(proto), CASE, known, level="disable")
    assert (found.node, found.module, found.factor) == (convolution.name, "conv", np.inf)
    assert found.problem == "shape [3, 6, 6] instead of [3, 6, 8]"
    write_reproduction(Graph(proto), found, CASE, known, tmp_path, level="disable")
    ran = subprocess.run([sys.executable, tmp_path / "culprit.py"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"output {found.output}: {found.problem}\n"


def test_the_module_of_an_archive_is_named(tmp_path):
    module = audited()
    file = export(job(module, tmp_path), TorchScriptOptions()).files[0]
    loaded = scripted.read(file)
    assert scripted_culprit.culprit(module, loaded, INTERFACE, CASE) is None
    with torch.no_grad():
        loaded.fc2.weight.mul_(1.01)
    found = scripted_culprit.culprit(module, loaded, INTERFACE, CASE)
    assert (found["module"], found["operator"]) == ("fc2", "Linear")


class Named(torch.nn.Module):
    """Its parameters have other names than the inputs; one output is of integers, and one step wants float32."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 6)
        self.second = torch.nn.Linear(6, 3)

    def forward(self, hidden, *, gain):
        hidden = torch.matmul(self.first(hidden).relu().to(torch.float32), torch.eye(6, dtype=torch.float32)) * gain
        return {"scores": self.second(hidden), "label": hidden.argmax(-1) + 1}


NAMED = Interface(
    (InputSpec("hidden", "float32", ("batch", 4)), InputSpec("gain", "float32", ("batch", 1))),
    (Dimension("batch", 1, 16),),
    ("scores", "label"),
)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Return a search in such a network, with our own export of it and one by torch's older exporter."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("named")
    examples = cases.make(NAMED, {"batch": 2}, seed=0, name="exporter").inputs
    work = FromNetwork(Named().eval().requires_grad_(False), NAMED, examples, folder / "model.onnx", {})
    ours = onnx.load(str(exporter.export(work, exporter.OnnxOptions()).files[0]))
    prepared = forward.prepare(work.module, NAMED, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            prepared.module, prepared.tensors, str(folder / "older.onnx"), dynamo=False,
            input_names=list(prepared.names), output_names=list(NAMED.outputs), opset_version=17,
            dynamic_axes={name: {0: "batch"} for name in (*prepared.names, *NAMED.outputs)},
        )  # fmt: skip
    work = searched(work, inputs=cases.make(NAMED, {"batch": 3}, seed=1, name="case").inputs)
    return work, ours, onnx.load(str(folder / "older.onnx")), truths.truths(work)


def with_change(named, which, change):
    """Return what a search says of a changed copy of one of the files; what the network's steps give is the same for all."""
    work, changed = named[0], onnx.ModelProto()
    changed.CopyFrom(named[which])
    change(changed)
    onnx.save(changed, work.folder / "changed.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(culprit, "truths", lambda _: named[3])
        return culprit.search(replace(work, file=work.folder / "changed.onnx")).culprit


@pytest.mark.parametrize("which", [1, 2], ids=["our export", "another exporter's"])
@pytest.mark.parametrize("name", ["first", "second"])
def test_the_module_is_named_whatever_inputs_are_called_and_whoever_exported(named, which, name):
    found = with_change(named, which, lambda proto: scaled(proto, f"{name}.weight", 1.02))
    assert found["module"] == name
    assert "test_culprit.py:" in found["source"]


def test_a_wrong_integer_is_named_where_it_is_made(named):
    def subtract(proto):
        node = next(each for each in proto.graph.node if "label" in each.output)
        node.op_type = "Sub"

    found = with_change(named, 1, subtract)
    assert (found["operator"], found["output"]) == ("Sub", "label")


def test_a_healthy_file_of_another_exporter_has_no_culprit(named):
    assert with_change(named, 2, lambda _: None) is None
