from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights.confined import require_confined_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

WEIGHT = np.ones((4, 3), np.float32)


def external(location: str, *, offset: int = 0, length: int = 48) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(tensor: TensorProto) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def written(folder: Path, tensor: TensorProto) -> Path:
    (folder / "data.bin").write_bytes(WEIGHT.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(model(tensor).SerializeToString())
    return path


def test_a_model_with_its_data_beside_it_is_allowed_and_its_files_are_named(tmp_path: Path) -> None:
    assert require_confined_onnx(written(tmp_path, external("data.bin"))) == (tmp_path / "data.bin",)


def test_a_model_that_holds_its_own_data_needs_no_other_file(tmp_path: Path) -> None:
    assert require_confined_onnx(written(tmp_path, numpy_helper.from_array(WEIGHT, "w"))) == ()


def test_what_onnx_itself_writes_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(
        model(numpy_helper.from_array(WEIGHT, "w")), path, save_as_external_data=True, location="w.data",
        size_threshold=0,
    )  # fmt: skip
    assert require_confined_onnx(path) == (tmp_path / "w.data",)


@pytest.mark.parametrize(
    "location",
    [
        "../data.bin",
        "/etc/passwd",
        "a/../../data.bin",
        "a\\..\\data.bin",
        "C:data.bin",
        "",
        "a//b",
        "data\n.bin",
        ".",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "data.bin").write_bytes(bytes(48))
    with pytest.raises(UnsafeError):
        require_confined_onnx(written(tmp_path / "in", external(location)))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_data_behind_a_symbolic_or_hard_link_is_refused(link, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in", external("linked.bin"))
    link(tmp_path / "secret", tmp_path / "in" / "linked.bin")
    with pytest.raises(UnsafeError, match=r"link"):
        require_confined_onnx(path)


def test_data_in_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.bin").write_bytes(bytes(48))
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in", external("folder/data.bin"))
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError, match="symbolic link"):
        require_confined_onnx(path)


def test_a_pipe_as_data_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = written(tmp_path, external("pipe"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafeError, match="no regular file"):
        require_confined_onnx(path)


def test_data_past_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="ends at byte 49"):
        require_confined_onnx(written(tmp_path, external("data.bin", offset=1)))


def test_a_tensor_in_a_subgraph_s_attribute_is_seen(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external("../secret"))], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    with pytest.raises(UnsafeError, match="outside its folder"):
        require_confined_onnx(path)


def test_a_tensor_in_a_function_is_seen(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["c"], value=external("../secret"))
    made = helper.make_function("local", "F", [], ["c"], [node], [helper.make_opsetid("", 18)])
    whole = model(numpy_helper.from_array(WEIGHT, "w"))
    whole.functions.append(made)
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(UnsafeError, match="outside its folder"):
        require_confined_onnx(path)


def test_a_sparse_tensor_is_seen(tmp_path: Path) -> None:
    whole = model(numpy_helper.from_array(WEIGHT, "w"))
    whole.graph.sparse_initializer.add().values.CopyFrom(external("../secret"))
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(UnsafeError, match="outside its folder"):
        require_confined_onnx(path)


@pytest.mark.parametrize("extra", [("location", "../other"), ("length", "-1"), ("offset", "x")])
def test_a_reference_with_two_meanings_is_an_error_of_ours(extra: tuple[str, str], tmp_path: Path) -> None:
    tensor = external("data.bin")
    if extra[0] != "location":
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value="data.bin")
    tensor.external_data.add(key=extra[0], value=extra[1])
    with pytest.raises((UnsafeError, WeightsError)):
        require_confined_onnx(written(tmp_path, tensor))


def test_missing_data_and_files_that_are_no_model_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not beside it"):
        require_confined_onnx(written(tmp_path, external("absent.bin")))
    (tmp_path / "text.onnx").write_bytes(b"hello")
    with pytest.raises(WeightsError, match="no ONNX model"):
        require_confined_onnx(tmp_path / "text.onnx")


def test_the_limit_counts_the_data_files(tmp_path: Path) -> None:
    path = written(tmp_path, external("data.bin"))
    with pytest.raises(UnsafeError, match="more than the limit of 100"):
        require_confined_onnx(path, max_bytes=100)
