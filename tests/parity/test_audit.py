"""The audit must account for all of a healthy file, and object to what outputs cannot show."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from pipeline.formats import program
from pipeline.formats.onnx import export as exporter
from pipeline.formats.onnx.audit import audit_graph
from pipeline.formats.onnx.export import captured
from pipeline.formats.onnx.graph import Graph
from pipeline.formats.torchscript import audit as scripted
from pipeline.formats.torchscript.export import TorchScriptOptions, export
from pipeline.parity import jobs
from tests.parity.networks import audited, job


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    module = audited()
    artifact = exporter.export(job(module, tmp_path_factory.mktemp("audit")), exporter.OnnxOptions())
    return onnx.load(str(artifact.files[0])), jobs.arrays_of(module), artifact.program


@pytest.fixture
def proto(exported):
    copied = onnx.ModelProto()
    copied.CopyFrom(exported[0])
    return copied


@pytest.fixture
def audit(exported):
    return lambda changed: audit_graph(Graph(changed), exported[1], exported[2])


def change(proto, name, edit):
    tensor = next(each for each in proto.graph.initializer if each.name == name)
    value = edit(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def weight_named(proto, shape):
    return next(each.name for each in proto.graph.initializer if tuple(each.dims) == shape)


def test_every_element_of_our_own_export_is_accounted_for(proto, audit):
    found = audit(proto)
    assert found["passed"]
    assert found["share"] == 0
    assert found["unaccounted_count"] == 0
    assert sum(found["accounted"].values()) == found["elements"]


def test_a_batch_norm_folded_into_a_convolution_is_recomputed(proto, audit):
    found = audit(proto)
    assert found["accounted"]["batch norm folded"] == 6 * 3 * 3 + 6


def test_a_weight_behind_a_dead_unit_fails_with_the_number_of_differing_elements(proto, audit):
    def scale_dead(value):
        value[:, 3] *= 1.02
        return value

    change(proto, "fc2.weight", scale_dead)
    (problem,) = audit(proto)["problems"]
    assert problem["nearest"] == "fc2.weight"
    assert problem["differing"] == 16
    assert "16 of 256 elements differ" in problem["problem"]


def test_one_element_of_a_folded_weight_fails(proto, audit):
    def nudge(value):
        value.reshape(-1)[5] *= 1.0001
        return value

    change(proto, weight_named(proto, (6, 3, 3)), nudge)
    (problem,) = audit(proto)["problems"]
    assert problem["differing"] == 1
    assert problem["nearest"].startswith("batch norm folded")


@pytest.mark.parametrize("rounding", [np.float16, "bfloat16"])
def test_weights_rounded_to_another_type_fail(proto, audit, rounding):
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if rounding == "bfloat16" else rounding
    change(proto, "fc1.weight", lambda value: value.astype(dtype).astype(np.float32))
    assert not audit(proto)["passed"]


def test_a_square_weight_the_wrong_way_round_fails_although_it_is_bit_equal(proto, audit):
    change(proto, "fc2.weight", lambda value: value.T)
    (problem,) = audit(proto)["problems"]
    assert problem["problem"] == "is transposed, where it should be equal"


def test_a_bias_that_is_missing_is_named(proto, audit):
    node = next(each for each in proto.graph.node if "head.bias" in each.input)
    node.input.remove("head.bias")
    proto.graph.initializer.remove(next(each for each in proto.graph.initializer if each.name == "head.bias"))
    (problem,) = audit(proto)["problems"]
    assert problem["where"] == "head.bias"
    assert "is not in the file" in problem["problem"]


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [
        ("LayerNormalization", "epsilon", 2e-12),
        ("LayerNormalization", "axis", 0),
        ("Gelu", "approximate", "tanh"),
        ("Conv", "pads", [2, 0]),
        ("Gemm", "alpha", 1.01),
    ],
)
def test_a_number_that_the_network_does_not_say_fails(proto, audit, operator, name, value):
    node = next(each for each in proto.graph.node if each.op_type == operator)
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    (problem,) = audit(proto)["problems"]
    assert problem["where"] == f"{node.name} ({operator}).{name}"


def test_an_epsilon_left_out_is_its_default_and_not_the_networks(proto, audit):
    node = next(each for each in proto.graph.node if each.op_type == "LayerNormalization")
    node.attribute.remove(next(each for each in node.attribute if each.name == "epsilon"))
    (problem,) = audit(proto)["problems"]
    assert "is 9.99999975e-06, and the network says 1e-12" in problem["problem"]


def test_a_constant_from_nowhere_is_listed_with_its_share(proto, audit):
    stranger = np.random.default_rng(0).normal(size=7).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(stranger, "stranger"))
    found = audit(proto)
    assert found["passed"]
    assert found["unaccounted"][0]["name"] == "stranger"
    assert found["share"] == pytest.approx(7 / found["elements"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    module = audited()
    work = job(module, tmp_path_factory.mktemp("script"))
    artifact = export(work, TorchScriptOptions())
    return artifact.files[0], jobs.arrays_of(module), program.as_values(captured(work))


def test_a_healthy_archive_passes_whole(archive):
    file, state, steps = archive
    found = scripted.audit_module(scripted.read(file), state, steps)
    assert found["passed"]
    assert found["share"] == 0


def test_an_archive_with_a_weight_behind_a_dead_unit_changed_fails(archive):
    file, state, steps = archive
    module = scripted.read(file)
    with torch.no_grad():
        module.fc2.weight[:, 3] *= 1.02
    (problem,) = scripted.audit_module(module, state, steps)["problems"]
    assert problem["differing"] == 16


def test_an_archive_made_with_another_epsilon_fails(archive, tmp_path):
    _, state, steps = archive
    module = audited()
    module.norm.eps = 1e-6
    file = export(job(module, tmp_path), TorchScriptOptions()).files[0]
    found = scripted.audit_module(scripted.read(file), state, steps)
    assert not found["passed"]
    assert any(each["where"].startswith("layer_norm(eps=1e-12") for each in found["problems"])
