"""onnxruntime's other providers: what is asked of each, what is refused, and real sessions where the build has one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from pydantic import ValidationError

from pipeline.backends import onnxruntime_providers as providers
from pipeline.backends import onnxruntime_session, placement, probe
from pipeline.backends.backend import Source
from pipeline.backends.onnxruntime_session import Asked, open_on
from pipeline.backends.table import backends
from pipeline.errors import UnavailableError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from tests.formats.test_exporters import expected, export

INTERFACE = Interface(
    (InputSpec("x", "float32", ("batch", "width")), InputSpec("scale", "float32", ())),
    (Dimension("batch", 1, 8), Dimension("width", 4, 12, multiple_of=4)),
    ("y",),
)

REASON = providers.ONNXRUNTIME_OPENVINO.probe()


@pytest.fixture
def file(tmp_path):
    """Relu(x) * scale, of two dynamic sizes and an input without axes."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "scale"], ["y"], name="mul"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, ["batch", "width"]), value("scale", TensorProto.FLOAT, [])],
        [value("y", TensorProto.FLOAT, ["batch", "width"])],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def asked(backend, **options):
    """Return what a backend asks onnxruntime for, with its options as text."""
    return backend.provider(backend.options(**options))


def test_each_is_asked_to_compute_in_float32():
    _, openvino = asked(providers.ONNXRUNTIME_OPENVINO)
    assert openvino["precision"] == "FP32"
    _, tensorrt = asked(providers.ONNXRUNTIME_TENSORRT)
    assert {tensorrt[name] for name in ("trt_fp16_enable", "trt_int8_enable", "trt_engine_cache_enable")} == {"0"}
    _, coreml = asked(providers.ONNXRUNTIME_COREML)
    assert (coreml["AllowLowPrecisionAccumulationOnGPU"], coreml["MLComputeUnits"]) == ("0", "CPUAndGPU")
    dnnl = providers._dnnl(providers.DnnlOptions(), None)
    assert dnnl.environment == {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}


@pytest.mark.parametrize(
    ("tf32", "environment", "behind"), [(False, {"NVIDIA_TF32_OVERRIDE": "0"}, "0"), (True, {}, "1")]
)
def test_tensorrt_and_the_cuda_provider_behind_it_are_told_the_same_of_tf32(tf32, environment, behind):
    found = providers._tensorrt(providers.TensorRtOptions(tf32=tf32), INTERFACE)
    assert found.environment == environment
    ((name, options),) = found.behind
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", behind)
    assert [each if isinstance(each, str) else each[0] for each in found.providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]


def test_tensorrt_builds_for_the_declared_range_and_not_anew_for_each_size():
    options = providers._tensorrt(providers.TensorRtOptions(), INTERFACE).here
    assert options["trt_profile_min_shapes"] == "x:1x4"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "x:8x12"


@pytest.mark.parametrize(("given", "threads"), [({}, "3"), ({"threads": 2}, "2")])
def test_threads_are_those_of_the_run_unless_told(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    openvino = providers._openvino(providers.OpenVinoOptions(**given), None)
    assert openvino.here == {"num_of_threads": threads}
    xnnpack = providers._xnnpack(providers.XnnpackOptions(**given), None)
    assert (xnnpack.here, xnnpack.threads) == ({"intra_op_num_threads": threads}, 1)


def test_what_follows_from_a_machine_is_not_said_to_others(monkeypatch):
    said = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        said.append([asked(each) for each in providers.PROVIDERS])
    assert said[0] == said[1]


def test_an_npu_is_not_said_to_compute_in_float32():
    with pytest.raises(ValidationError, match="an NPU computes in float16"):
        providers.OpenVinoOptions(device_type="NPU")
    assert asked(providers.ONNXRUNTIME_OPENVINO, device_type="NPU", precision="ACCURACY")[1]["precision"] == "ACCURACY"


def test_a_level_that_a_package_cannot_say_is_not_said_to_be_the_usual_one():
    for each in (backends()["onnxruntime-cpu"], *providers.PROVIDERS):
        assert each.provider(each.options()) is not None
        assert each.provider(each.options(graph_optimization_level="basic")) is None


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("backend", providers.PROVIDERS, ids=lambda each: each.name)
def test_a_session_that_fell_back_to_the_cpu_is_refused_with_what_was_asked_and_got(backend, file):
    provider = backend.provider(backend.options())[0]
    if provider in ort.get_available_providers():
        pytest.skip(f"{provider} is built in here")
    wanted = f"asked onnxruntime for {provider}, got CPUExecutionProvider"
    with pytest.raises(UnavailableError, match=wanted) as caught:
        backend.open(Source(INTERFACE, file), backend.options())
    assert caught.value.hint


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
class TestOpenVino:
    @pytest.mark.parametrize("options", [{"device_type": "GPU"}, {"device_type": "NPU", "precision": "ACCURACY"}])
    def test_a_device_that_is_not_here_is_refused_where_onnxruntime_goes_on_with_the_cpu(self, file, options):
        backend = providers.ONNXRUNTIME_OPENVINO
        with pytest.raises(UnavailableError, match=r"asked onnxruntime for OpenVINOExecutionProvider, got CPUExec"):
            backend.open(Source(INTERFACE, file), backend.options(**options))

    def test_an_option_that_it_does_not_know_is_refused_where_onnxruntime_goes_on_with_the_cpu(self, file):
        unknown = Asked("OpenVINOExecutionProvider", "", {"device_type": "CPU", "unheard": "1"})
        with pytest.raises(UnavailableError, match="fell back"):
            open_on(Source(INTERFACE, file), "all", unknown)

    def test_it_computes_both_dynamic_sizes_and_its_profile_says_so(self, file, tmp_path):
        backend = providers.ONNXRUNTIME_OPENVINO
        session = backend.open(Source(INTERFACE, file, profile=tmp_path), backend.options(threads=1))
        for batch, width in ((1, 4), (8, 12), (3, 8)):
            x = np.random.default_rng(batch).normal(size=(batch, width)).astype(np.float32)
            got = session.run({"x": x, "scale": np.array(2.5, np.float32)})["y"]
            np.testing.assert_allclose(got, np.maximum(x, 0) * np.float32(2.5), rtol=1e-6)
        placed = session.placement()
        assert list(placed["providers"]) == ["OpenVINOExecutionProvider"]
        assert placement.problems(placed) == []
        assert session.facts["provider_options"]["num_of_threads"] == "1"


class Recurrent(torch.nn.Module):
    """Tokens and a state in; scores by name and the next state out; batch and length are any."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cell = torch.nn.Embedding(50, 8), torch.nn.GRU(8, 8, batch_first=True)
        self.head = torch.nn.Linear(8, 50)

    def forward(self, ids, mask, state):
        steps, state = self.cell(self.embedding(ids) * mask.unsqueeze(-1), state)
        return {"scores": self.head(steps), "next_state": state, "best": self.head(steps).argmax(-1)}


class Pyramid(torch.nn.Module):
    """A picture of any height and width, halved and put back, beside a second one."""

    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm, self.up = torch.nn.BatchNorm2d(8), torch.nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, picture, other):
        coarse = torch.nn.functional.silu(self.norm(self.down(picture)))
        return {"joined": torch.cat([self.up(coarse), other], 1), "mean": coarse.mean((2, 3))}


class Attending(torch.nn.Module):
    """Softmax over positions that a boolean mask leaves, of any batch and length."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(6, 18)

    def forward(self, x, allowed):
        query, key, value = self.project(x).chunk(3, -1)
        scores = (query @ key.transpose(1, 2)).masked_fill(~allowed.unsqueeze(1), -1e4)
        return {"y": torch.softmax(scores, -1) @ value}


BATCH, LENGTH = Dimension("batch", 1, 6), Dimension("length", 1, 12)
SIDES = (Dimension("height", 4, 16, multiple_of=2), Dimension("width", 4, 16, multiple_of=2))
KINDS = {
    Recurrent: Interface(
        (
            InputSpec("ids", "int64", ("batch", "length"), low=0, high=49),
            InputSpec("mask", "float32", ("batch", "length"), values="uniform"),
            InputSpec("state", "float32", (1, "batch", 8)),
        ),
        (BATCH, LENGTH),
        ("scores", "next_state", "best"),
    ),
    Pyramid: Interface(
        tuple(InputSpec(name, "float32", ("batch", 3, "height", "width")) for name in ("picture", "other")),
        (BATCH, *SIDES),
        ("joined", "mean"),
    ),
    Attending: Interface(
        (InputSpec("x", "float32", ("batch", "length", 6)), InputSpec("allowed", "bool", ("batch", "length"))),
        (BATCH, LENGTH),
        ("y",),
    ),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("backend", providers.PROVIDERS, ids=lambda each: each.name)
def test_a_provider_computes_what_the_network_does_at_every_notable_size(backend, kind, tmp_path):
    if reason := backend.probe():
        pytest.skip(reason)
    interface = KINDS[kind]
    file = export(kind(), interface, "onnx", tmp_path / "onnx").files[0]
    session = backend.open(Source(interface, file, profile=tmp_path), backend.options())
    for case in cases.sample(interface, seed=3, cap_elements=4000):
        got, want = session.run(case.inputs), expected(kind(), interface, dict(case.inputs))
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert got[name].dtype == value.dtype
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-4 * max(1, np.abs(value).max()))
    assert placement.problems(session.placement()) == []


# What the probe says, of folders laid out as the builds are


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that puts an onnxruntime with some files, of some distributions, where Python looks for it."""

    def put(files, **versions):
        folder = tmp_path / "onnxruntime" / "capi"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        named = {name.replace("_", "-"): each for name, each in versions.items()}
        monkeypatch.setattr(probe, "installed_version", named.get)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.delitem(sys.modules, "onnxruntime")

    return put


def test_a_provider_in_a_library_of_its_own_is_found_by_its_name(installed):
    installed({"libonnxruntime_providers_openvino.so": b"\x7fELF"}, onnxruntime_openvino="1.24.1")
    assert probe.onnxruntime_provider("openvino") is None
    assert probe.onnxruntime_provider("dnnl") == "onnxruntime-openvino 1.24.1 has no such provider"


def test_a_provider_that_is_built_in_is_found_by_the_places_its_messages_name(installed):
    source = b"\0/src/onnxruntime/core/providers/coreml/model/model.mm\0"
    installed({"onnxruntime_pybind11_state.so": b"\x7fELF" + source}, onnxruntime="1.32.0")
    assert probe.onnxruntime_provider("coreml") is None
    assert probe.onnxruntime_provider("xnnpack") == "onnxruntime 1.32.0 has no such provider"


def test_tensorrt_is_there_only_in_the_version_that_the_provider_was_linked_with(installed, tmp_path, monkeypatch):
    library = b"\x7fELF\0libnvinfer_plugin.so.10\0libnvinfer.so.10\0"
    installed({"libonnxruntime_providers_tensorrt.so": library}, onnxruntime_gpu="1.31.1")
    monkeypatch.setattr(probe, "cuda_device", lambda: "no GPU")
    told = "onnxruntime's TensorRT provider needs libnvinfer.so.10, which is not installed"
    assert probe.onnxruntime_tensorrt() == told
    (tmp_path / "tensorrt_libs").mkdir()
    (tmp_path / "tensorrt_libs" / "__init__.py").touch()
    (tmp_path / "tensorrt_libs" / "libnvinfer.so.11").touch()
    assert probe.onnxruntime_tensorrt() == told
    (tmp_path / "tensorrt_libs" / "libnvinfer.so.10").touch()
    assert probe.onnxruntime_tensorrt() == "no GPU"


def test_two_builds_that_overwrite_each_other_are_named_whichever_provider_is_asked_for(installed):
    installed({"libonnxruntime_providers_openvino.so": b""}, onnxruntime="1.32.0", onnxruntime_openvino="1.24.1")
    told = "onnxruntime and onnxruntime-openvino are both installed; they overwrite each other"
    assert told in probe.onnxruntime_provider("openvino")
    assert told in probe.onnxruntime_cuda()


def test_the_probe_imports_nothing():
    code = "import sys; from pipeline.backends.table import backends; [each.probe() for each in backends().values()];"
    code += "sys.exit(any(name in sys.modules for name in ('onnxruntime', 'torch', 'tensorrt', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_probe_and_build_say_agree():
    built_in = ort.get_available_providers()
    found = {"openvino": "OpenVINO", "dnnl": "Dnnl", "tensorrt": "Tensorrt", "coreml": "CoreML", "xnnpack": "Xnnpack"}
    for library, name in found.items():
        assert (probe.onnxruntime_provider(library) is None) == (f"{name}ExecutionProvider" in built_in)


@pytest.mark.filterwarnings("ignore:Duplicate provider")
def test_where_nodes_stay_on_the_cpu_is_asked_of_those_behind_a_provider_that_compiles(file, tmp_path):
    """What TensorRT compiled can be written to no file: the CPU stands for the CUDA provider behind it here."""
    source = Source(INTERFACE, file, profile=tmp_path)
    compiling = Asked("TensorrtExecutionProvider", "", behind=((placement.CPU, {}),))
    assert onnxruntime_session._kept_on_cpu(source, "all", compiling) == set()
    assert Path(tmp_path / "optimised.onnx").is_file()
