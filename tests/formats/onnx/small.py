"""Small ONNX models of every kind of product, written by hand, and the artifacts that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.format import FromArtifact
from pipeline.formats.onnx.reduce import derive
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface

if TYPE_CHECKING:
    from pathlib import Path

BATCH = Dimension("batch", 1, 64)
IDENTITY = {"name": "small", "weights_sha256": "0" * 64}
OPTIONS = formats()["onnx"].options


def model(nodes, inputs, outputs, weights, opset=20):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _normal(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def products():
    """Return a network of two layers: a product with a bias, and a plain one. Its weights by the names a state dict would have."""
    weights = {
        "first.weight": _normal(24, 33, seed=1),
        "first.bias": _normal(24, seed=2),
        "second.weight": _normal(24, 7, seed=3),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["hidden"], "first", transB=1),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "second.weight"], ["y"], "second"),
    ]
    return model(nodes, {"x": ["batch", 33]}, {"y": ["batch", 7]}, weights), Interface(
        (InputSpec("x", "float32", ("batch", 33)),), (BATCH,), ("y",)
    )


def convolutions():
    """Return convolutions of every kind: plain with a stride and uneven padding, grouped, depthwise, of one place."""
    weights = {
        "plain.weight": _normal(8, 3, 3, 3, seed=1), "plain.bias": _normal(8, seed=2),
        "grouped.weight": _normal(8, 4, 3, 3, seed=3), "deep.weight": _normal(8, 1, 3, 3, seed=4),
        "point.weight": _normal(6, 8, 1, 1, seed=5),
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "Conv", ["x", "plain.weight", "plain.bias"], ["a"], "plain", strides=[2, 2], pads=[0, 1, 1, 0]
        ),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "grouped.weight"], ["c"], "grouped", group=2, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "deep.weight"], ["d"], "deep", group=8, dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Conv", ["d", "point.weight"], ["y"], "point"),
    ]
    interface = Interface((InputSpec("x", "float32", ("batch", 3, 9, 11)),), (BATCH,), ("y",))
    return model(nodes, {"x": ["batch", 3, 9, 11]}, {"y": ["batch", 6, None, None]}, weights), interface


def side_paths(sides):
    """Return two layers in a row, `main.0` and `main.1`, and layers beside them with an outlier each, of which a thousandth is added."""
    weights = {"main.0.weight": 2 * _normal(16, 16, seed=1), "main.1.weight": 2 * _normal(16, 16, seed=2)}
    nodes = [
        helper.make_node("MatMul", ["x", "main.0.weight"], ["hidden"], "main.0"),
        helper.make_node("Tanh", ["hidden"], ["active"], "tanh"),
        helper.make_node("MatMul", ["active", "main.1.weight"], ["sum.0"], "main.1"),
    ]
    weights["little"] = np.array(1e-3, np.float32)
    for index in range(sides):
        weight = _normal(16, 16, seed=3 + index)
        weight[0, index] = 100.0
        weights[f"side.{index}.weight"] = weight
        nodes += [
            helper.make_node("MatMul", ["x", f"side.{index}.weight"], [f"beside.{index}"], f"side.{index}"),
            helper.make_node("Mul", [f"beside.{index}", "little"], [f"scaled.{index}"], f"scale.{index}"),
            helper.make_node(
                "Add",
                [f"sum.{index}", f"scaled.{index}"],
                ["y" if index == sides - 1 else f"sum.{index + 1}"],
                f"add.{index}",
            ),
        ]
    return model(nodes, {"x": ["batch", 16]}, {"y": ["batch", 16]}, weights), Interface(
        (InputSpec("x", "float32", ("batch", 16)),), (BATCH,), ("y",)
    )


NETWORKS = {"products": products, "convolutions": convolutions}


def state(made):
    return {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}


def samples(interface, rows=48, seed=5):
    rng = np.random.default_rng(seed)
    return {each.name: rng.standard_normal((rows, *each.shape[1:])).astype(np.float32) for each in interface.inputs}


def artifact(made, folder: Path, explanations=None):
    file = folder / "model.onnx"
    onnx.save(made, file)
    return Artifact("onnx", "onnx", Written((file,), explanations=explanations or {}))


def reduced(network, folder: Path, explanations=None, calibrated=True, **options):
    """Return what is written of a network in a precision, and the network's interface."""
    made, interface = NETWORKS[network]()
    folder.mkdir(parents=True, exist_ok=True)
    source = artifact(made, folder, explanations)
    given = samples(interface) if options.get("precision") == "int8" and calibrated else None
    origin = FromArtifact(source, interface, folder / "reduced.onnx", IDENTITY, given)
    return derive(origin, OPTIONS.model_validate(options)), interface
