"""A stranger's file is matched by name, else by order and shape, and never loaded where that runs its code."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from pipeline.commands.app import app
from pipeline.errors import InputError, UnsafeError
from pipeline.formats.format import FromNetwork, Signature
from pipeline.formats.onnx import export as exporter
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity.candidate import format_of, match
from pipeline.rebuild import model
from pipeline.run import plan as planning
from tests.weights.corpus import require_refused

INTERFACE = Interface(
    (InputSpec("image", "float32", ("batch", 3)), InputSpec("ids", "int64", ("batch", 3), 0, 5)),
    (Dimension("batch", 1, 8),),
    ("boxes", "scores"),
)
BATCH = ("n", 3)


def declared(*inputs, outputs=("boxes", "scores")):
    return Signature(inputs, tuple((name, "float32", ("n", 4)) for name in outputs))


def test_names_that_agree_decide_whatever_the_order():
    found = match(
        declared(("ids", "int64", BATCH), ("image", "float32", BATCH), outputs=("scores", "boxes")), INTERFACE
    )
    assert found.inputs == {"image": "image", "ids": "ids"}
    assert found.how == "inputs matched by name, outputs by name"


def test_other_names_are_matched_by_dtype_and_order_and_it_is_said():
    found = match(declared(("a", "int64", BATCH), ("b", "float32", BATCH), outputs=("p", "q", "r")), INTERFACE)
    assert found.inputs == {"image": "b", "ids": "a"}
    assert found.outputs == {"p": "boxes", "q": "scores", "r": ""}
    assert found.how == "inputs matched by order and shape, outputs by order"


def test_a_size_that_the_file_fixes_is_said_in_words():
    found = match(declared(("image", "float32", (2, 3)), ("ids", "int64", BATCH)), INTERFACE)
    assert found.problems == ("batch is fixed to 2 in input image; the config declares 1 to 8",)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((("image", "float32", BATCH),), "takes 1 inputs"),
        ((("image", "float16", BATCH), ("ids", "int64", BATCH)), "image is float16 in the candidate"),
        ((("image", "float32", ("n", 3, 3)), ("ids", "int64", BATCH)), r"\['n', 3, 3\] in the candidate"),
        ((("image", "float32", ("n", 4)), ("ids", "int64", BATCH)), "a size of 4 where image has 3"),
    ],
)
def test_what_cannot_be_the_same_network_is_refused_with_both_sides(inputs, words):
    with pytest.raises(InputError, match=words):
        match(declared(*inputs), INTERFACE)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "theirs.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    return path


def test_torchscript_is_refused_unless_somebody_vouches_for_it(archive):
    with pytest.raises(UnsafeError, match="runs code") as caught:
        format_of(archive, trusted=False)
    assert "--trust-candidate" in caught.value.hint
    assert format_of(archive, trusted=True).name == "torchscript"


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_onnx_file_whose_weights_lie_elsewhere_is_refused(link, tmp_path):
    secret = tmp_path / "elsewhere" / "secret.bin"
    secret.parent.mkdir()
    secret.write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    getattr(folder / "weights.bin", link)(secret)
    tensor = onnx.TensorProto(name="w", dims=[16], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [16])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [16])
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out], [tensor]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeError, match=r"weights\.bin"):
        format_of(folder / "model.onnx", trusted=False)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "weights.npy"
    np.save(path, np.ones(3))
    with pytest.raises(InputError, match="a candidate is a TorchScript program or an ONNX model"):
        format_of(path, trusted=True)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simplenet")
    planned = planning.plan(Path("configs/simplenet.yaml"), planning.Settings(out=folder))
    module = model.load(planned.network).module
    work = FromNetwork(module, planned.interface, {"x": np.ones((2, 10), np.float32)}, folder / "model.onnx", {})
    return exporter.export(work, exporter.OnnxOptions()).files[0]


@pytest.fixture
def exported(untouched):
    """Return simplenet as an ONNX model to change."""
    return onnx.load(str(untouched))


@pytest.fixture
def simplenet(exported, tmp_path):
    """Return simplenet as somebody else may have exported it: other names, and one element of a weight changed."""
    proto = exported
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "theirs"
    tensor = next(each for each in proto.graph.initializer if each.name == "fc2.weight")
    value = numpy_helper.to_array(tensor).copy()
    value[1, 7] *= 1.02
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(proto, tmp_path / "theirs.onnx")
    return tmp_path / "theirs.onnx"


def test_the_command_fails_names_the_layer_and_writes_junit(simplenet, tmp_path):
    command = ["parity", "configs/simplenet.yaml", "--candidate", str(simplenet), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*command, "--explain", "--json", "--junit", str(tmp_path / "junit.xml")])
    document = json.loads(ran.stdout)
    assert ran.exit_code == 1
    assert document["candidate"]["matched"] == "inputs matched by order and shape, outputs by name"
    (explanation,) = document["explanations"]
    assert explanation["broke"] == "onnxruntime, optimisation disable"
    assert explanation["culprit"]["module"] == "fc2"
    assert explanation["case"]["sizes"] == {"batch": 1}
    (problem,) = document["exports"][0]["audit"]["suspects"]  # outputs show it, so that they decide
    assert problem["differing"] == 1
    assert b"<failure" in (tmp_path / "junit.xml").read_bytes()


IN_A_PROCESS_OF_ITS_OWN = """
import sys
from pipeline.commands.app import main
sys.argv = ["weighbridge", "parity", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print(end.code, sorted({"onnx", "onnxruntime", "torch"} & set(sys.modules)))
"""


@pytest.fixture
def with_custom_operator(exported, tmp_path):
    """Return a comparison with simplenet whose ReLU is an operator of onnxruntime-extensions: its second output is max(x, 0)."""
    proto = exported
    relu = next(each for each in proto.graph.node if each.op_type == "Relu")
    relu.op_type, relu.domain = "NegPos", "ai.onnx.contrib"
    relu.output.insert(0, "negative")
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.contrib", 1))
    onnx.save(proto, tmp_path / "theirs.onnx")
    files = {"--candidate": tmp_path / "theirs.onnx", "--out": tmp_path / "out"}
    return ["parity", "configs/simplenet.yaml", *(str(word) for pair in files.items() for word in pair)]


def test_operators_come_from_a_library_that_the_command_line_names(with_custom_operator):
    from onnxruntime_extensions import get_library_path

    without = CliRunner().invoke(app, [*with_custom_operator, "--json"])
    assert without.exit_code == 1
    ran = CliRunner().invoke(app, [*with_custom_operator, "--json", "--custom-ops", get_library_path()])
    assert ran.exit_code == 0, ran.output
    (row,) = json.loads(ran.stdout)["backends"]
    assert row["status"] == "pass"
    assert row["worst"]["factor"] < 16


def test_the_culprit_is_found_among_operators_of_a_library_too(with_custom_operator, tmp_path):
    from onnxruntime_extensions import get_library_path

    proto = onnx.load(str(tmp_path / "theirs.onnx"))
    tensor = next(each for each in proto.graph.initializer if each.name == "fc2.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(proto, tmp_path / "theirs.onnx")
    command = [*with_custom_operator, "--explain", "--json", "--custom-ops", get_library_path()]
    (explanation,) = json.loads(CliRunner().invoke(app, command).stdout)["explanations"]
    assert explanation["culprit"]["module"] == "fc2"


@pytest.mark.parametrize(
    ("library", "code", "words"),
    [("none.so", 2, "there is no file"), ("theirs.onnx", 1, "Failed to load library")],
)
def test_a_library_that_is_none_is_said_to_be_none(with_custom_operator, weighbridge, tmp_path, library, code, words):
    done = weighbridge(*with_custom_operator, "--custom-ops", tmp_path / library)
    assert done.code == code
    assert words in done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_a_library_is_for_an_onnx_candidate(weighbridge, tmp_path):
    done = weighbridge("parity", "configs/simplenet.yaml", "--custom-ops", tmp_path / "ops.so", "--out", tmp_path)
    assert done.failed_with(2, "--candidate")


def test_a_model_is_checked_by_onnx_before_anything_runs_it_and_in_a_worker(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 10])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])
    node = onnx.helper.make_node("MatMul", ["x", "nowhere"], ["logits"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out]))
    (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
    command = ["configs/simplenet.yaml", "--candidate", tmp_path / "theirs.onnx", "--out", tmp_path / "out"]
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, *command], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "2 []"
    assert "theirs.onnx is not a valid ONNX model" in ran.stderr


def test_no_library_of_operators_is_loaded_for_a_model_or_a_config(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 10])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])
    node = onnx.helper.make_node("Thing", ["x"], ["logits"], domain="theirs")
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("theirs", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out]), opset_imports=opsets)
    (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
    command = ["parity", "configs/simplenet.yaml", "--candidate", str(tmp_path / "theirs.onnx"), "--json"]
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 1
    (row,) = json.loads(ran.stdout)["backends"]
    assert row["status"] == "crashed"
    assert "theirs:Thing" in row["reason"]
    library = {"name": "mine", "backend": "onnxruntime-cpu", "options": {"custom_ops_library": "libtheirs.so"}}
    ran = CliRunner().invoke(app, ["check", "configs/simplenet.yaml", "--set", f"backends={json.dumps([library])}"])
    assert ran.exit_code == 2


@pytest.mark.parametrize(("suffix", "every"), [(".onnx", 1), (".pth", 7), (".torchscript", 8), (".pt", 9)])
def test_a_hostile_candidate_is_refused_whatever_its_name_even_if_trusted(suffix, every, tmp_path):
    require_refused(tmp_path, suffix, lambda path: format_of(path, trusted=True), every=every)
