import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.formats.onnx import counts as graph


def save(tmp_path, nodes, inputs, outputs, weights):
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return str(file)


def test_a_product_counts_two_operations_for_each_weight_and_row(tmp_path):
    file = save(tmp_path, [helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 10]}, ["y"], {"w": (10, 20)})
    found = graph.count(file, {"one": {"x": [1, 10]}, "many": {"x": [32, 10]}})
    assert found["flops"] == {"one": 2 * 10 * 20, "many": 32 * 2 * 10 * 20}
    assert found["weight_bytes"] == 800
    assert found["operators"] == {"Gemm": 1}


def test_a_convolution_counts_its_kernel_for_every_output_element(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2])
    file = save(tmp_path, [node], {"x": ["n", 4, 9, 9]}, ["y"], {"w": (6, 2, 3, 3)})
    # 4×4 positions of 6 channels, each a sum of 2×3×3 products
    assert graph.count(file, {"one": {"x": [1, 4, 9, 9]}})["flops"] == {"one": 2 * 6 * 16 * 18}


def test_shapes_that_only_follow_from_other_shapes_are_found(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["table", "zero", "length", "axis"], ["rows"]),
        helper.make_node("MatMul", ["x", "rows"], ["y"]),
    ]
    file = save(tmp_path, nodes, {"x": ["n", "length"]}, ["y"], {"table": (512, 8)})
    model = onnx.load(file)
    for name in ("zero", "axis"):
        model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), name))
    onnx.save(model, file)
    assert graph.count(file, {"one": {"x": [3, 100]}})["flops"] == {"one": 2 * 3 * 100 * 8}


def test_what_cannot_be_counted_is_named_and_nothing_is_claimed(tmp_path):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    file = save(tmp_path, [node], {"x": ["n", 10]}, ["y"], {"w": (10, 20)})
    found = graph.count(file, {"one": {"x": [1, 10]}})
    assert found["flops"] == {"one": None}
    assert found["uncounted"] == ["Einsum"]


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_a_recurrent_layer_counts_both_weights_at_every_step(tmp_path, kind, gates):
    node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=5)
    weights = {"w": (1, gates * 5, 7), "r": (1, gates * 5, 5)}
    file = save(tmp_path, [node], {"x": ["steps", "n", 7]}, ["y"], weights)
    assert graph.count(file, {"one": {"x": [11, 2, 7]}})["flops"] == {"one": 2 * 11 * 2 * gates * 5 * 12}
