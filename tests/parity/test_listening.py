"""A small excess is no defect before more noise was heard; what is one stays one."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.backends.variant import Variant
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx.export import OnnxOptions, export
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import listening, oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import Finding
from pipeline.rebuild import cases, model, trust
from pipeline.rebuild.network import Network
from pipeline.worker.inprocess import InProcessRunner

SIMPLENET = Interface((InputSpec("x", "float32", ("batch", 10)),), (Dimension("batch", 1, 16),), ("logits",))
NETWORK = Network(
    "pipeline.architectures.simplenet:SimpleNet", {}, "configs/weights/simplenet.pth", (trust.ALWAYS_TRUSTED,), {}
)
CONDITIONS = prove.Conditions(SIMPLENET, NETWORK, 1, 60, runner=InProcessRunner())


def finding(factor, *, case="odd", problem=None):
    passed = factor <= 16 and problem is None
    return Finding(case, "logits", passed=passed, factor=factor, limit=16.0, problem=problem)


def failed(*findings):
    return prove.Proof(Variant("ort", "onnxruntime-cpu", "onnx", required=True), "fail", "far off", findings, {})


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([finding(1), finding(20, case="tiny")], {"tiny"}),
        ([finding(20), finding(200, case="tiny")], {"odd", "tiny"}),
        ([finding(20), finding(300, case="tiny")], set()),
        ([finding(20), finding(np.inf, case="tiny", problem="shape [3] instead of [2]")], set()),
        ([finding(1)], set()),
    ],
)
def test_only_a_small_excess_alone_is_in_doubt(findings, expected):
    assert listening.in_doubt([failed(*findings)]) == expected


@pytest.fixture(scope="module")
def simplenet(tmp_path_factory):
    """What SimpleNet's outputs should be, as it was heard and heard longer, and its file with one weight changed."""
    module = model.load(NETWORK).module
    examples = cases.make(SIMPLENET, cases.example_sizes(SIMPLENET), seed=0, name="exporter").inputs
    folder = tmp_path_factory.mktemp("simplenet")
    file = export(FromNetwork(module, SIMPLENET, examples, folder / "model.onnx", {}), OnnxOptions()).files[0]
    changed = onnx.load(file)
    weight = next(each for each in changed.graph.initializer if each.name == "fc1.weight")
    array = numpy_helper.to_array(weight).copy()
    array.reshape(-1)[3] *= 1.001
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(changed, folder / "changed.onnx")
    sampled = cases.sample(SIMPLENET, seed=0, cap_elements=1000)
    found = oracle.evaluate(module, SIMPLENET, [case.inputs for case in sampled], seed=0)
    known = prove.truth(sampled, *found, {"logits": Rule()})
    named = {case.name for case in sampled} - {"maximum"}
    return known, listening.heard_longer(known, named, CONDITIONS, 0), folder / "changed.onnx"


def test_noise_without_tails_grows_little_and_never_shrinks(simplenet):
    known, longer, _ = simplenet
    for before, after in zip(known.references, longer.references, strict=True):
        assert (after.noise["logits"] >= before.noise["logits"]).all()
    ratios = [
        (after["logits"] / before["logits"]).max() for before, after in zip(known.floors, longer.floors, strict=True)
    ]
    assert np.median(ratios) < 1.2


def test_only_the_cases_in_doubt_are_heard_again(simplenet):
    known, longer, _ = simplenet
    index = next(index for index, case in enumerate(known.cases) if case.name == "maximum")
    np.testing.assert_array_equal(longer.references[index].noise["logits"], known.references[index].noise["logits"])


def test_a_weight_that_is_a_thousandth_off_stays_a_defect(simplenet):
    _, longer, changed = simplenet
    variant = Variant("ort", "onnxruntime-cpu", "onnx", required=True, file=changed)
    (proof,) = prove.prove([variant], CONDITIONS, longer)
    assert proof.status == "fail"
