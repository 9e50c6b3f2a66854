"""The audit accuses no file of what an exporter or optimiser may rightly do, and still sees what outputs cannot show."""

import contextlib
import io
import random
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from pipeline.formats import program
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx import export as exporter
from pipeline.formats.onnx.audit import audit_graph
from pipeline.formats.onnx.graph import Graph
from pipeline.formats.torchscript import audit as scripted
from pipeline.formats.torchscript.export import TorchScriptOptions, export
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import jobs
from pipeline.parity.effect import Effect
from pipeline.rebuild import cases

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute.* assigned during export:UserWarning"),
]
INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4, 12)),), (Dimension("batch", 1, 8),), ("y",))
EXAMPLES = cases.make(INTERFACE, cases.example_sizes(INTERFACE), seed=0, name="exporter").inputs


class Kinds(nn.Module):
    """Weights that are computed from others, a factor of 1, a block used with other numbers each time, a single output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = weight_norm(nn.ConvTranspose1d(4, 6, 4, 2, padding=1))
        self.normed = parametrizations.weight_norm(nn.Conv1d(6, 6, 3, padding=1, bias=False))
        self.bn = nn.BatchNorm1d(6)
        self.spectral = spectral_norm(nn.Conv1d(6, 6, 1))
        self.shared = nn.Parameter(torch.randn(6, 1, 3))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.mixture = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.signs = nn.Parameter(torch.tensor([-1.0, 0.5]))
        self.bias_table = nn.Parameter(torch.randn(47, 2))
        self.register_buffer("index", (torch.arange(24)[:, None] - torch.arange(24)[None] + 23).flatten())
        self.norm = nn.LayerNorm(6, eps=1e-12)
        self.qkv = nn.Linear(6, 18)
        self.before = nn.Linear(6, 6)
        self.hidden = nn.Linear(6, 6)
        self.behind = nn.Linear(6, 6)
        self.head = nn.Linear(6, 1)
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)
            self.norm.weight.normal_()
            self.hidden.bias.fill_(-1000.0)  # every unit is off: nothing before or behind it can be seen in outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2).unfold(1, 3, 3).transpose(1, 2).contiguous().flatten(2)  # has a transpose of its own
        x = self.spectral(torch.relu(self.bn(self.normed(self.up(x)))))
        for dilation in (1, 2, 4):
            padded = nn.functional.pad(nn.functional.pad(x, [dilation, 0]), [dilation, 0])  # both become one's own pads
            x = x + torch.tanh(nn.functional.conv1d(padded, self.shared, dilation=dilation, groups=6))
        x = x.permute(2, 0, 1).permute(1, 0, 2)
        # Whatever they are, the norm behind them hides it: what is left of them in a file is a number, or nothing.
        x = self.norm(self.mixture[0] * x + self.mixture[1] * x)
        x = self.norm(self.signs[0] * x + self.signs[1] * x)
        q, k, v = self.qkv(x).reshape(x.shape[0], 24, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind()
        bias = self.bias_table[self.index].view(24, 24, 2).permute(2, 0, 1)
        x = (torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v).transpose(1, 2).flatten(2)
        x = x + torch.relu(self.behind(torch.relu(self.hidden(self.before(x)))))
        return self.head(x) * self.temperature


def kinds() -> Kinds:
    torch.manual_seed(5)
    return Kinds().eval().requires_grad_(False)


def origin(module, folder):
    return FromNetwork(module, INTERFACE, EXAMPLES, folder / "model.onnx", {"name": "kinds"})


@pytest.fixture(scope="module")
def state():
    return jobs.arrays_of(kinds())


@pytest.fixture(scope="module")
def effect():
    return Effect(kinds, INTERFACE, EXAMPLES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    artifact = exporter.export(origin(kinds(), tmp_path_factory.mktemp("kinds")), exporter.OnnxOptions())
    return onnx.load(str(artifact.files[0])), artifact.program


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    return program.as_values(exporter.captured(origin(kinds(), tmp_path_factory.mktemp("captured"))))


def by_tracing(module, inputs):
    """Return a network as torch's older exporter writes it: nodes have no names of the program's."""
    target = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and says so of much that it traces
        torch.onnx.export(
            module, inputs, target, dynamo=False, input_names=["x"], output_names=["y"], opset_version=20,
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return onnx.load_from_string(target.getvalue())


@pytest.fixture(scope="module")
def traced():
    return by_tracing(kinds(), (torch.from_numpy(EXAMPLES["x"]),))


@pytest.fixture(params=["exported", "traced"])
def file(request, exported, traced, captured):
    proto = exported[0] if request.param == "exported" else traced
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied, exported[1] if request.param == "exported" else captured


def test_what_was_folded_merged_or_left_out_is_no_problem(file, state, effect):
    proto, steps = file
    found = audit_graph(Graph(proto), state, steps, effect)
    assert found["problems"] == []
    assert found["suspects"] == []
    assert [each for each in found["unaccounted"] if each["dtype"].startswith("float")] == []


def test_a_folded_weight_accounts_for_the_tensors_it_follows_from(exported):
    keys = {key for each in exported[1]["folded_keys"].values() for key in each}
    assert {"up.weight_g", "up.weight_v", "spectral.weight_orig", "bias_table"} <= keys


def test_a_trace_of_it_is_no_problem_either(state, captured, effect, tmp_path):
    target = export(origin(kinds(), tmp_path), TorchScriptOptions(method="trace")).files[0]
    found = scripted.audit_module(scripted.read(target), state, captured, effect)
    assert found["problems"] == []
    assert found["share"] == 0


def initializer(proto, state, key):
    """Return the initializer that holds a tensor of the state dict, as it is or transposed."""
    for each in proto.graph.initializer:
        value = numpy_helper.to_array(each)
        if any(np.array_equal(value.reshape(-1), form.reshape(-1)) for form in (state[key], state[key].T)):
            return each
    raise KeyError(key)


def test_one_element_behind_a_unit_that_is_off_is_a_problem(file, state, effect):
    proto, steps = file
    tensor = initializer(proto, state, "behind.weight")
    value = numpy_helper.to_array(tensor).copy()
    value.reshape(-1)[7] *= 1.02
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    (problem,) = audit_graph(Graph(proto), state, steps, effect)["problems"]
    assert problem["nearest"] == "behind.weight"
    assert problem["differing"] == 1


def test_a_tensor_that_is_missing_behind_a_unit_that_is_off_is_a_problem(file, state, effect):
    proto, steps = file
    name = initializer(proto, state, "before.bias").name
    node = next(each for each in proto.graph.node if name in each.input)
    assert node.op_type == "Add"
    kept = next(each for each in node.input if each != name)
    node.CopyFrom(helper.make_node("Identity", [kept], list(node.output), name=node.name))
    proto.graph.initializer.remove(next(each for each in proto.graph.initializer if each.name == name))
    (problem,) = audit_graph(Graph(proto), state, steps, effect)["problems"]
    assert problem["where"] == "before.bias"
    assert "is not in the file" in problem["problem"]


def test_a_tensor_whose_absence_outputs_would_show_is_theirs_to_judge(exported, state, effect):
    proto, steps = onnx.ModelProto(), exported[1]
    proto.CopyFrom(exported[0])
    tensor = initializer(proto, state, "head.weight")
    other = np.random.default_rng(0).normal(size=tuple(tensor.dims)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    if tensor.name in state:
        pytest.skip("named as the state dict's own")
    found = audit_graph(Graph(proto), state, steps, effect)
    assert found["passed"]
    assert tensor.name in [each["name"] for each in found["unaccounted"]]


def test_a_difference_that_outputs_would_show_is_a_suspect_and_without_a_trial_a_problem(exported, state, effect):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported[0])
    tensor = initializer(proto, state, "qkv.weight")
    value = numpy_helper.to_array(tensor) * np.float32(1.1)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    tried, untried = (audit_graph(Graph(proto), state, exported[1], each) for each in (effect, None))
    assert tried["passed"]
    assert [each["nearest"] for each in tried["suspects"]] == ["qkv.weight"]
    assert [each["nearest"] for each in untried["problems"]] == ["qkv.weight"]


def test_an_epsilon_is_held_against_the_step_it_belongs_to(file, state, effect):
    proto, steps = file
    node = next(each for each in proto.graph.node if each.op_type == "LayerNormalization")
    next(each for each in node.attribute if each.name == "epsilon").f *= 2
    (problem,) = audit_graph(Graph(proto), state, steps, effect)["problems"]
    assert problem["where"] == f"{node.name} (LayerNormalization).epsilon"


def test_a_dilation_that_the_block_never_has_is_a_problem_and_another_call_of_its_own_is_not(exported, state, effect):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported[0])
    node = next(each for each in proto.graph.node if any(a.name == "group" and a.i == 6 for a in each.attribute))
    next(each for each in node.attribute if each.name == "dilations").ints[:] = [3]
    (problem,) = audit_graph(Graph(proto), state, exported[1], effect)["problems"]
    assert problem["where"] == f"{node.name} (Conv).dilations"


def test_what_is_left_over_says_which_operator_uses_it(exported, state):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported[0])
    stranger = np.random.default_rng(1).normal(size=9).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(stranger, "stranger"))
    proto.graph.node.append(helper.make_node("Sin", ["stranger"], ["nowhere"], name="wave"))
    found = audit_graph(Graph(proto), state, exported[1])
    assert {"name": "stranger", "shape": [9], "elements": 9, "dtype": "float32", "used_by": "Sin wave"} in (
        found["unaccounted"]
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 5, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


def test_recurrent_weights_are_known_by_their_names_without_a_step_of_the_program():
    torch.manual_seed(0)
    module = Recurrent().eval().requires_grad_(False)
    proto = by_tracing(module, (torch.randn(2, 4, 12),))
    found = audit_graph(Graph(proto), jobs.arrays_of(module), None)
    assert found["passed"]
    assert found["accounted"]["gates reordered"] == sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(
    "value",
    [np.zeros((0, 3), np.float32), np.array(["a", "b"], object), np.ones(3, np.complex64), np.ones((), np.float16)],
)
def test_constants_of_every_kind_are_looked_at(exported, state, value):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported[0])
    proto.graph.initializer.append(numpy_helper.from_array(value, "odd"))
    assert audit_graph(Graph(proto), state, exported[1])["passed"]


def test_constants_of_less_than_a_byte_are_left_over(exported, state):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported[0])
    proto.graph.initializer.append(helper.make_tensor("narrow", onnx.TensorProto.INT4, [4], [1, 2, 3, 4]))
    assert "narrow" in [each["name"] for each in audit_graph(Graph(proto), state, exported[1])["unaccounted"]]


@pytest.mark.parametrize("value", [np.float32(1).reshape(()), np.arange(3.0)])
def test_a_folded_array_of_any_rank_reaches_the_audit(tmp_path, value):
    exported = jobs.Exported(format="onnx", file=tmp_path, program={"folded": {"x": value}})
    assert np.array_equal(exported.program["folded"]["x"], value)


def test_other_orders_of_axes_are_found_and_other_values_are_not():
    from pipeline.formats.known import in_another_order

    value = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    assert in_another_order(np.ascontiguousarray(value.transpose(2, 0, 1)).reshape(8, 3), value, 0.0)
    shuffled = value.reshape(-1).copy()
    random.Random(0).shuffle(shuffled)
    assert not in_another_order(shuffled.reshape(4, 2, 3), value, 0.0)
