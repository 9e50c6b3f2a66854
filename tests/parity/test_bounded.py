"""A small probability may be off by what a sigmoid is; what enters the sigmoid may not."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.backends.variant import Variant
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx.export import OnnxOptions, export
from pipeline.parity import oracle, prove
from pipeline.parity.budget import Rule
from pipeline.rebuild import cases, model
from pipeline.rebuild.network import Network
from pipeline.release import compose, standalone
from pipeline.worker.inprocess import InProcessRunner
from tests.parity.networks import RARE, Rare


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """The network, its healthy file, and what its outputs should be."""
    folder = tmp_path_factory.mktemp("rare")
    torch.manual_seed(0)
    made = Rare()
    with torch.no_grad():
        made.head.bias.copy_(torch.linspace(-11, -9, 12))
    torch.save(made.state_dict(), folder / "rare.pth")
    network = Network("tests.parity.networks:Rare", {}, str(folder / "rare.pth"), ("tests.parity.networks",), {})
    examples = cases.make(RARE, cases.example_sizes(RARE), seed=0, name="exporter").inputs
    module = model.load(network).module
    file = export(FromNetwork(module, RARE, examples, folder / "model.onnx", {}), OnnxOptions()).files[0]
    # Large inputs make large probabilities, which say it without a look at what enters the sigmoid.
    sampled = [each for each in cases.sample(RARE, seed=0, cap_elements=1000) if each.name != "large"]
    found = oracle.evaluate(module, RARE, [case.inputs for case in sampled], seed=0)
    return network, file, prove.truth(sampled, *found, {"probability": Rule()})


def proof_of(rare, file):
    network, _, known = rare
    variant = Variant("ort", "onnxruntime-cpu", "onnx", required=True, file=file)
    (found,) = prove.prove([variant], prove.Conditions(RARE, network, 1, 60, runner=InProcessRunner()), known)
    return found


def test_a_healthy_file_passes_and_says_what_it_was_forgiven(rare):
    proof = proof_of(rare, rare[1])
    assert proof.status == "pass"
    forgiven = [each for each in proof.findings if each.forgiven]
    assert forgiven
    assert all(each.factor <= 16 for each in forgiven)


def scaled(array, factor):
    return array * np.float32(factor)


def one_element(array, factor):
    changed = array.copy()
    changed.reshape(-1)[5] *= factor
    return changed


CHANGES = {
    "all weights of the head": ("head.weight", lambda array: scaled(array, 1.0001)),
    "all weights before it": ("hidden.weight", lambda array: scaled(array, 1.0001)),
    "one weight of the head": ("head.weight", lambda array: one_element(array, 1.02)),
    "one weight before it": ("hidden.weight", lambda array: one_element(array, 1.02)),
    "two biases swapped": ("head.bias", lambda array: array[[1, 0, *range(2, 12)]]),
    "weights in float16": ("head.weight", lambda array: array.astype(np.float16).astype(np.float32)),
    "GELU by tanh": (None, None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_defect_that_looks_like_a_sigmoids_accuracy_is_found_before_the_sigmoid(rare, change, tmp_path):
    name, changed = CHANGES[change]
    proto = onnx.load(rare[1])
    for each in proto.graph.initializer:
        if each.name == name:
            each.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed(numpy_helper.to_array(each))), name))
    if name is None:
        (gelu,) = [node for node in proto.graph.node if node.op_type == "Gelu"]
        del gelu.attribute[:]
        gelu.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    onnx.save(proto, tmp_path / "model.onnx")
    proof = proof_of(rare, tmp_path / "model.onnx")
    assert proof.status == "fail"


def test_of_a_shift_of_one_logit_by_a_thousandth_it_is_said_that_what_enters_the_sigmoid_is_wrong(rare, tmp_path):
    proto = onnx.load(rare[1])
    (bias,) = [each for each in proto.graph.initializer if each.name == "head.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(2e-4), "head.bias"))
    onnx.save(proto, tmp_path / "model.onnx")
    proof = proof_of(rare, tmp_path / "model.onnx")
    assert "what enters its last sigmoid or softmax is wrong: -" in proof.reason


def test_where_what_enters_it_cannot_be_looked_at_nothing_is_forgiven_and_the_ways_out_are_named(rare, tmp_path):
    proto = onnx.load(rare[1])
    for node in proto.graph.node:  # the same function under another name
        if node.op_type == "Sigmoid":
            tanh = [
                onnx.helper.make_node("Mul", [node.input[0], "half"], ["h"]),
                onnx.helper.make_node("Tanh", ["h"], ["t"]),
                onnx.helper.make_node("Mul", ["t", "half"], ["u"]),
                onnx.helper.make_node("Add", ["u", "half"], [node.output[0]]),
            ]
            proto.graph.node.remove(node)
            proto.graph.node.extend(tanh)
            break
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    onnx.save(proto, tmp_path / "model.onnx")
    proof = proof_of(rare, tmp_path / "model.onnx")
    assert proof.status == "fail"
    assert "has no Sigmoid or Softmax that probability ends in" in proof.reason
    assert "parity: {outputs: {probability: {atol: 1e-6, rtol: 0}}}" in proof.reason


def test_golden_cases_allow_what_parity_did(rare):
    session = standalone.open_onnx(rare[1], "onnxruntime-cpu")
    golden = compose.golden_of(rare[2])
    assert [problem for case in golden.cases for problem in standalone.judge(golden, case, session(case.inputs))] == []
    wrong = {"probability": session(golden.cases[0].inputs)["probability"] + np.float32(1e-6)}
    assert standalone.judge(golden, golden.cases[0], wrong)


def test_without_what_a_sigmoid_excuses_the_healthy_file_would_fail(rare):
    network, file, known = rare
    strict = replace(known, references=tuple(replace(each, slack={}) for each in known.references))
    assert proof_of((network, file, strict), file).status == "fail"
