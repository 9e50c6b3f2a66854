"""What a file with a precision of its own is held against: itself, and how far a healthy runtime may be from that."""

import numpy as np
import pytest

from pipeline.backends.variant import Variant
from pipeline.formats.format import Product
from pipeline.formats.onnx.exact import read
from pipeline.parity import budget, products, reduced
from pipeline.parity.oracle import Reference
from pipeline.parity.prove import Proof
from pipeline.parity.truth import truth
from pipeline.rebuild import cases
from tests.formats.onnx import small
from tests.formats.onnx.test_exact import ran

OK = Product("node_linear_quant", "MatMulInteger", 0.4, 140.0, 0.4, 140.0)
CUT = Product("node_linear_1_quant", "MatMulInteger", 0.4, 140.0, 4e5, 13.8)
WRONG = Product("node_linear_1_quant", "MatMulInteger", 4e5, 13.8, 4e5, 13.8, ("this", "that"))
PROOF = Proof(Variant("ort-int8", "onnxruntime-cpu", "onnx-int8", required=True), "pass", None, (), {"threads": 1})


def known_of(sampled):
    values = [{"y": np.zeros((len(each.inputs["x"]), 7))} for each in sampled]
    return [Reference(each, each, {"y": "float32"}, responses={"y": 99.0}) for each in values]


@pytest.fixture(scope="module", params=["int8", "int8-dynamic", "int4-weights", "float16", "bfloat16-weights"])
def evaluated(request, tmp_path_factory):
    written, interface = small.reduced("products", tmp_path_factory.mktemp("reduced"), precision=request.param)
    sampled = cases.sample(interface, seed=0, cap_elements=4000)
    references = reduced.references(read(written.files[0]), sampled, known_of(sampled), seed=0)
    return written.files[0], sampled, references


def test_onnxruntime_is_within_the_noise_of_what_the_file_says_in_every_case(evaluated):
    file, sampled, references = evaluated
    floors = budget.floors([each.values["y"] for each in references], [each.noise["y"] for each in references])
    for case, reference, floor in zip(sampled, references, floors, strict=True):
        assert reference.values["y"].dtype == np.float64
        assert reference.responses == {"y": 99.0}
        assert (np.abs(ran(file, case.inputs) - reference.values["y"]) <= 16 * floor).all()


def test_a_file_with_one_other_number_is_far_outside_it(evaluated, tmp_path):
    """Its own word is the measure: the same inputs through a file of other weights leave it."""
    file, sampled, references = evaluated
    import onnx

    made = onnx.load(file)
    bias = next(
        each for each in made.graph.initializer if "first.bias" in each.name and each.data_type in {1, 6, 10, 16}
    )
    values = onnx.numpy_helper.to_array(bias).copy()
    values[:4] = values[:4] * 2 + 1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(made, tmp_path / "other.onnx")
    floors = budget.floors([each.values["y"] for each in references], [each.noise["y"] for each in references])
    errors = [
        np.abs(ran(tmp_path / "other.onnx", case.inputs) - each.values["y"]) / floor
        for case, each, floor in zip(sampled, references, floors, strict=True)
    ]
    assert max(each.max() for each in errors) > 100


def test_a_truth_gives_an_artifact_what_it_says_itself_and_all_others_the_networks(evaluated):
    _, sampled, references = evaluated
    known = known_of(sampled)
    found = truth(sampled, known, None, {"y": budget.Rule()})
    from dataclasses import replace

    both = replace(found, own={"onnx-int8": references})
    assert both.of("onnx-int8").references == references
    assert both.of("onnx").references == tuple(known)
    assert both.of(None).references == tuple(known)


def test_products_that_are_right_here_and_cut_off_elsewhere_pass_and_say_so():
    found = products.judged(PROOF, [OK, CUT], {"node_linear_1": "encoder.fc2", "node_linear": "encoder.fc1"})
    assert found.status == "pass"
    assert found.facts["processors"] == {
        "this one": "all 2 products are right",
        "AVX2 or AVX-512 without VNNI": "1 of 2 products would be cut off, the worst MatMulInteger node_linear_1_quant, of encoder.fc2 to 13.8 dB",
    }
    said = products.note(found)
    assert "for this class of processors alone" in said
    assert "reduce_range" in said


def test_products_that_fit_everywhere_are_worth_no_remark():
    found = products.judged(PROOF, [OK], {})
    assert found.facts["processors"]["AVX2 or AVX-512 without VNNI"] == "all 1 products fit into 16 bits"
    assert products.note(found) is None


def test_a_runtime_that_is_wrong_here_fails_and_the_file_is_not_blamed():
    found = products.judged(PROOF, [OK, WRONG], {})
    assert found.status == "fail"
    assert "the file is right, and this runtime is not on this processor: 1 of 2 products are wrong" in found.reason
    assert "cut off at 16 bits (tried, and right: this and that)" in found.reason
    assert products.note(found) is None


def test_without_products_nothing_changes():
    assert products.judged(PROOF, [], {}) is PROOF
