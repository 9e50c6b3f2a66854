"""What findings show by themselves is said; what they suggest is only suspected."""

import warnings

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from pipeline.formats import accounting
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx import audit
from pipeline.formats.onnx.graph import Graph
from pipeline.formats.torchscript import audit as scripted
from pipeline.formats.torchscript.export import TorchScriptOptions, export
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import behaviour, budget, jobs, oracle
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare
from pipeline.rebuild import cases

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 9),), ("y",))
CASES = cases.sample(INTERFACE, seed=0, cap_elements=1000)


class MeanOfBatch(nn.Module):
    """Bakes the batch size in when traced: a Python number divides."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0, keepdim=True).expand_as(x) / int(x.shape[0])


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.abs().max()) < 20 else x


def traced(module, tmp_path):
    examples = cases.make(INTERFACE, cases.example_sizes(INTERFACE), seed=0, name="exporter").inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        work = FromNetwork(module, INTERFACE, examples, tmp_path / "model.torchscript", {})
        file = export(work, TorchScriptOptions(method="trace")).files[0]
    return torch.jit.load(str(file))


def judged(module, run):
    references, _ = oracle.evaluate(module, INTERFACE, [case.inputs for case in CASES], seed=0)
    floors = budget.floors([each.values["y"] for each in references], [each.noise["y"] for each in references])
    return [
        finding
        for case, reference, floor in zip(CASES, references, floors, strict=True)
        for finding in compare(case.name, reference, {"y": floor}, run(case), {"y": Rule()})
    ]


def outputs_of(loaded):
    return lambda case: {"y": loaded(torch.from_numpy(case.inputs["x"])).numpy()}


def test_a_trace_that_fixed_a_size_is_suspected_of_it_and_nothing_is_said(tmp_path):
    findings = judged(MeanOfBatch().eval(), outputs_of(traced(MeanOfBatch().eval(), tmp_path)))
    assert behaviour.suspected(findings, CASES) == [behaviour.Suspicion("batch", 2)]
    assert behaviour.recognise(findings, CASES) == []


def test_a_file_that_is_wrong_for_one_kind_of_values_is_suspected_of_no_size(tmp_path):
    findings = judged(Branch().eval(), outputs_of(traced(Branch().eval(), tmp_path)))
    assert behaviour.suspected(findings, CASES) == []
    assert behaviour.recognise(findings, CASES) == []


def test_dropout_in_training_mode_comes_out_differently_twice():
    module = nn.Dropout(0.5)
    findings = judged(nn.Dropout(0.5).eval(), lambda case: {"y": module(torch.from_numpy(case.inputs["x"])).numpy()})
    again = judged(nn.Dropout(0.5).eval(), lambda case: {"y": module(torch.from_numpy(case.inputs["x"])).numpy()})
    changed = [new for new, old in zip(again, findings, strict=True) if behaviour.differs(new, old)]
    assert changed
    assert behaviour.recognise([behaviour.as_random(each) for each in changed], CASES) == [behaviour.RANDOM]


def test_a_file_that_is_wrong_everywhere_specialised_nothing():
    findings = judged(nn.Identity().eval(), lambda case: {"y": case.inputs["x"] + 1})
    assert behaviour.suspected(findings, CASES) == behaviour.recognise(findings, CASES) == []


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x))


@pytest.mark.parametrize(("part", "words"), [("norm", accounting.BATCH_STATISTICS), ("drop", accounting.DROPS_OUT)])
def test_a_trace_made_in_training_mode_is_said_to_use_batch_statistics_or_to_drop_out(part, words):
    module = Training().eval()
    getattr(module, part).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(module, torch.ones(3, 4), check_trace=False)
    state = jobs.arrays_of(module)
    found = scripted.audit_module(made, state, None)
    assert [each["problem"] for each in found["problems"]] == [words]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        healthy = torch.jit.trace(module.eval(), torch.ones(3, 4), check_trace=False)
    assert scripted.audit_module(healthy, state, None)["passed"]


def test_an_onnx_file_that_drops_out_or_draws_is_said_to():
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "training"], ["d"], name="drop"),
        helper.make_node("RandomNormalLike", ["d"], ["n"], name="noise"),
        helper.make_node("Add", ["d", "n"], ["y"], name="add"),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["batch", 4])], [value("y", 1, ["batch", 4])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    problems = audit.audit_graph(Graph(model), {}, None)["problems"]
    assert [(each["where"], each["problem"]) for each in problems] == [
        ("drop (Dropout)", accounting.DROPS_OUT),
        ("noise (RandomNormalLike)", "draws random numbers, which the network does not"),
    ]
    constants[1].CopyFrom(numpy_helper.from_array(np.array(False), "training"))
    del nodes[1:]
    nodes[0].output[0] = "y"
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["batch", 4])], [value("y", 1, ["batch", 4])], constants)
    assert audit.audit_graph(Graph(helper.make_model(graph)), {}, None)["passed"]
