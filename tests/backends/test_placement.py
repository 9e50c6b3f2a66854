"""Where a graph really ran, judged on profiles of real sessions; what a GPU would have run is relabelled by name."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.backends import onnxruntime as backend
from pipeline.backends import onnxruntime_session, placement
from pipeline.backends.backend import Source
from pipeline.backends.onnxruntime_session import Asked
from pipeline.interface import Dimension, InputSpec, Interface

CUDA = "CUDAExecutionProvider"
# What onnxruntime's CUDA provider leaves on the CPU of the graph below: sizes made of the input's, one by way of a float.
BOOKKEEPING = {"shape", "batch", "as_float", "halved", "as_size", "target"}
INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 8),), ("y",))
COMPUTE = {"product", "activation", "reshaped"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A product, an activation, and a reshape to a size computed from the input's: [batch, 4] to [batch / 2, 32]."""
    rng = np.random.default_rng(0)
    constants = {
        "weight": rng.normal(size=(4, 16)).astype(np.float32),
        "zero": np.array([0], np.int64),
        "half": np.array([0.5], np.float32),
        "rest": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["p"], name="product"),
        helper.make_node("Tanh", ["p"], ["a"], name="activation"),
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["b"], name="batch"),
        helper.make_node("Cast", ["b"], ["f"], name="as_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "half"], ["h"], name="halved"),
        helper.make_node("Cast", ["h"], ["c"], name="as_size", to=TensorProto.INT64),
        helper.make_node("Concat", ["c", "rest"], ["t"], name="target", axis=0),
        helper.make_node("Reshape", ["a", "t"], ["y"], name="reshaped"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "sized",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["half", 32])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path_factory.mktemp("placement") / "sized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def profile(file, tmp_path_factory):
    """What a real session on the CPU recorded of two calls, without optimisation, so that all nodes keep their names."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path_factory.mktemp("profile") / "profile")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(file), options, providers=[placement.CPU])
    for batch in (2, 6):
        session.run(None, {"x": np.ones((batch, 4), np.float32)})
    return Path(session.end_profiling()).read_bytes()


def on_gpu(profile, *, but):
    """Return the profile as a GPU's would be: every node there except those named."""
    events = json.loads(profile)
    for event in events:
        if event["cat"] == "Node" and event["name"].removesuffix("_kernel_time") not in but:
            event["args"]["provider"] = CUDA
    return json.dumps(events).encode()


def judged(file, profile):
    kept = placement.kept_on_cpu(onnx.load(file).graph)
    return placement.summary(placement.read(profile), kept)


def test_a_session_on_the_cpu_runs_all_of_its_nodes_there_and_that_is_no_problem(file, profile):
    found = judged(file, profile)
    (only,) = found["providers"].values()
    assert list(found["providers"]) == [placement.CPU]
    assert (only["nodes"], only["node_share"], only["time_share"]) == (9, 1.0, 1.0)
    assert placement.problems(found) == []


def test_size_arithmetic_beside_a_gpu_is_where_onnxruntime_keeps_it(file, profile):
    found = judged(file, on_gpu(profile, but=BOOKKEEPING))
    assert {name: each["nodes"] for name, each in found["providers"].items()} == {placement.CPU: 6, CUDA: 3}
    assert sum(each["time_share"] for each in found["providers"].values()) == pytest.approx(1)
    assert placement.problems(found) == []


@pytest.mark.parametrize("victim", sorted(COMPUTE))
def test_a_node_that_computes_on_the_cpu_beside_a_gpu_is_named(file, profile, victim):
    found = judged(file, on_gpu(profile, but={*BOOKKEEPING, victim}))
    assert [each["node"] for each in found["left_on_cpu"]] == [victim]
    (said,) = placement.problems(found)
    assert said.startswith(f"1 of its nodes computed on the CPU: {victim} (")


def test_a_session_that_ran_all_of_its_nodes_elsewhere_than_it_was_asked_to_is_no_pass(profile):
    ran = placement.read(profile)
    for takes_part in (False, True):
        found = placement.summary(ran, BOOKKEEPING, CUDA, takes_part=takes_part)
        assert found["idle"] == CUDA
        (said,) = placement.problems(found)
        assert said.startswith("none of its 9 nodes ran on CUDA: CPU 9 nodes (100%)")


def test_what_a_provider_on_the_host_leaves_to_the_cpu_is_told_and_no_fault(profile):
    """XNNPACK, say, takes the products; a GPU that left the rest on the CPU would be at fault."""
    ran = placement.read(on_gpu(profile, but={*BOOKKEEPING, "activation"}))
    found = placement.summary(ran, set(), CUDA, takes_part=True)
    assert {name: each["nodes"] for name, each in found["providers"].items()} == {placement.CPU: 7, CUDA: 2}
    assert placement.problems(found) == []
    assert placement.problems(placement.summary(ran, set(), CUDA)) != []


def test_arithmetic_on_a_weight_of_more_than_a_hundred_elements_is_no_bookkeeping():
    """GetCpuPreferredNodes lets initializers of up to 100 elements pass; a table of 512 positions is looked up on the GPU."""
    for elements, kept in ((100, {"shape", "slice"}), (101, {"shape"})):
        graph = helper.make_graph(
            [
                helper.make_node("Shape", ["x"], ["s"], name="shape"),
                helper.make_node("Slice", ["table", "zero", "s"], ["y"], name="slice"),
            ],
            "sliced",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
            [
                numpy_helper.from_array(np.zeros(elements, np.float32), "table"),
                numpy_helper.from_array(np.array([0], np.int64), "zero"),
            ],
        )
        assert placement.kept_on_cpu(graph) == kept


def test_what_reads_the_input_alone_is_no_bookkeeping():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    assert placement.kept_on_cpu(graph) == set()


def test_copies_between_devices_count_as_neither_provider(profile):
    ran = [*placement.read(profile), placement.Ran("Memcpy", "MemcpyToHost", CUDA, 10_000)]
    found = placement.summary(ran, set())
    assert list(found["providers"]) == [placement.CPU]
    assert found["copies"] == 1
    assert placement.problems(found) == []


def test_the_graph_that_ran_names_the_nodes_of_the_profile(file, tmp_path):
    """Optimisation renames and adds nodes: what is kept on the CPU is told from the graph that onnxruntime made."""
    source = Source(INTERFACE, file, profile=tmp_path)
    session = backend.open_cpu(source, backend.CpuOptions(intra_op_num_threads=1))
    session.run({"x": np.ones((2, 4), np.float32)})
    ran = session.placement()["providers"][placement.CPU]["nodes"]
    kept = onnxruntime_session._kept_on_cpu(source, "all", Asked(placement.CPU, ""))
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    assert ran == len(optimised.node)
    assert kept
    assert kept <= {node.name for node in optimised.node}
    assert not kept & COMPUTE


def test_a_session_that_is_not_watched_writes_nothing(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = backend.open_cpu(Source(INTERFACE, file), backend.CpuOptions())
    session.run({"x": np.ones((2, 4), np.float32)})
    assert session.placement is None
    assert list(tmp_path.iterdir()) == []
