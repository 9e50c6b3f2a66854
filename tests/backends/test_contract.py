"""One contract for every backend in the table; what cannot run here skips with the backend's own reason."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import psutil
import pytest
import torch

from pipeline.backends.backend import Source
from pipeline.backends.onnxruntime_session import bind_on_device
from pipeline.backends.table import BUILT_IN, backends
from pipeline.formats.artifact import Artifact
from pipeline.formats.format import FromArtifact
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from pipeline.rebuild.network import Network
from tests import compiled
from tests.formats.test_exporters import export

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 10)),), (Dimension("batch", 1, 8),), ("logits",))
WEIGHTS = "configs/weights/simplenet.pth"


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Return a function that gives the network's file in a format, made once; skips with the format's reason why it cannot be made here."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def file(name):
        if name not in made:
            made[name] = made_in(formats()[name], folder / name)
        return made[name].files[0]

    def made_in(format_, target):
        if reason := format_.probe():
            pytest.skip(f"{format_.name}: {reason}")
        if format_.derived_from is None:
            return export(_Loaded(torch.load(WEIGHTS, weights_only=True)), INTERFACE, format_.name, target)
        target.mkdir()
        file(format_.derived_from)
        source = Artifact(format_.derived_from, format_.derived_from, made[format_.derived_from])
        origin = FromArtifact(
            source, INTERFACE, target / format_.file, {"name": "contract", "weights_sha256": "0" * 64}
        )
        return format_.derive(origin, format_.options())

    return file


class _Loaded(torch.nn.Module):
    """SimpleNet's weights in a module whose parameters `made` does not overwrite."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(torch.nn.functional.linear(x, self.fc1_weight, self.fc1_bias))
        return torch.nn.functional.linear(hidden, self.fc2_weight, self.fc2_bias)


@pytest.fixture(params=[each.name for each in BUILT_IN])
def session(request, file_of):
    backend = backends()[request.param]
    if reason := backend.probe():
        pytest.skip(reason)
    compiled.skip_unless_asked(request.param)
    network = Network(
        "pipeline.architectures.simplenet:SimpleNet",
        {},
        WEIGHTS,
        ("pipeline.architectures",),
        {"model.arguments": "simplenet.yaml:8:14"},
    )
    source = Source(INTERFACE, file_of(backend.format) if backend.format else None, None if backend.format else network)
    return backend.open(source, backend.options())


def reference(inputs):
    state = {name: value.double().numpy() for name, value in torch.load(WEIGHTS, weights_only=True).items()}
    hidden = np.maximum(inputs.astype(np.float64) @ state["fc1.weight"].T + state["fc1.bias"], 0)
    return hidden @ state["fc2.weight"].T + state["fc2.bias"]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_results_equal_the_reference(session, size):
    case = cases.make(INTERFACE, {"batch": size}, seed=0, name="contract")
    got = session.run(case.inputs)["logits"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference(case.inputs["x"]), rtol=1e-5, atol=1e-5)


def test_outputs_are_not_overwritten_by_the_next_call(session):
    first, second = (cases.make(INTERFACE, {"batch": 3}, seed=seed, name="alias") for seed in (0, 1))
    kept = session.run(first.inputs)["logits"]
    copy = kept.copy()
    session.run(second.inputs)
    np.testing.assert_array_equal(kept, copy)


def test_inputs_are_left_as_they_were(session):
    case = cases.make(INTERFACE, {"batch": 3}, seed=0, name="inputs")
    before = case.inputs["x"].copy()
    session.run(case.inputs)
    np.testing.assert_array_equal(case.inputs["x"], before)


def test_the_bound_call_computes_on_the_bound_inputs(session):
    case = cases.make(INTERFACE, {"batch": 4}, seed=0, name="bound")
    result = session.bind(case.inputs)()
    value = result[0] if isinstance(result, list | tuple) else result
    np.testing.assert_allclose(np.asarray(value), reference(case.inputs["x"]), rtol=1e-5, atol=1e-5)


def test_a_bound_call_and_a_run_need_the_callers_arrays_no_longer_than_they_say(session):
    case = cases.make(INTERFACE, {"batch": 8}, seed=0, name="kept")
    want = reference(case.inputs["x"])
    call = session.bind({name: value.copy() for name, value in case.inputs.items()})
    for _ in range(50):
        session.run({name: value + 1 for name, value in case.inputs.items()})
        result = call()
    value = result[0] if isinstance(result, list | tuple) else result
    np.testing.assert_allclose(np.asarray(value), want, rtol=1e-5, atol=1e-5)


def test_calls_from_several_threads_do_not_meet(session):
    given = [cases.make(INTERFACE, {"batch": 1 + seed}, seed=seed, name="threads").inputs for seed in range(4)]
    want = [reference(inputs["x"]) for inputs in given]

    def work(index):
        for _ in range(100):
            np.testing.assert_allclose(session.run(given[index])["logits"], want[index], rtol=1e-5, atol=1e-5)

    with ThreadPoolExecutor(len(given)) as pool:
        list(pool.map(work, range(len(given))))


def test_inputs_that_lie_otherwise_in_memory_and_may_not_be_written_to_are_taken(session):
    case = cases.make(INTERFACE, {"batch": 6}, seed=0, name="strided")
    turned = np.asfortranarray(case.inputs["x"])
    turned.flags.writeable = False
    want = reference(case.inputs["x"])
    np.testing.assert_allclose(session.run({"x": turned})["logits"], want, rtol=1e-5, atol=1e-5)


def test_calls_without_host_copies_are_timed_on_what_has_memory_of_its_own(session):
    case = cases.make(INTERFACE, {"batch": 4}, seed=0, name="device")
    on_gpu = (
        "CUDAExecutionProvider" in session.facts.get("providers", ()) or session.facts.get("device", "cpu") != "cpu"
    )
    assert (session.bind_on_device is not None) == on_gpu
    if session.bind_on_device:
        durations_ns = session.bind_on_device(case.inputs)(7)
        assert len(durations_ns) == 7
        assert min(durations_ns) > 0


def test_onnxruntime_computes_on_inputs_that_were_bound_to_a_device(file_of):
    session = onnxruntime.InferenceSession(str(file_of("onnx")), providers=["CPUExecutionProvider"])
    case = cases.make(INTERFACE, {"batch": 4}, seed=0, name="device")
    binding, calls = bind_on_device(session, case.inputs, "cpu", 0)
    assert min(calls(3)) > 0
    (value,) = binding.copy_outputs_to_cpu()
    np.testing.assert_allclose(value, reference(case.inputs["x"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((2, 9), np.float32)},
        {"y": np.zeros((2, 10), np.float32)},
        {"x": np.zeros((2, 10))},
        {},
    ],
    ids=["size", "name", "dtype", "none"],
)
def test_a_wrong_name_shape_or_dtype_raises(session, inputs):
    with pytest.raises(Exception, match=r".+"):
        session.run(inputs)


def test_facts_say_where_it_runs(session):
    assert session.facts
    assert "device" in session.facts or "providers" in session.facts


def test_many_calls_keep_memory_flat(session):
    case = cases.make(INTERFACE, {"batch": 8}, seed=0, name="memory")
    for _ in range(200):
        session.run(case.inputs)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(2000):
        session.run(case.inputs)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 16 << 20


def test_every_unavailable_backend_gives_a_reason_and_what_to_install():
    for backend in backends().values():
        reason = backend.probe()
        assert reason is None or (reason and backend.install)


def test_a_cuda_backend_is_never_available_without_a_device():
    from pipeline.backends import probe

    if probe.cuda_device() is None:
        pytest.skip("there is an NVIDIA device here")
    for backend in backends().values():
        assert backend.device != "cuda" or backend.probe() is not None


def test_asking_the_cpu_build_for_cuda_is_refused_not_run_on_the_cpu(file_of):
    """The session would fall back to the CPU; `open` must notice, whatever the probe says."""
    from pipeline.backends.onnxruntime import CudaOptions, open_cuda
    from pipeline.errors import UnavailableError

    if backends()["onnxruntime-cuda"].probe() is None:
        pytest.skip("CUDA works here")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(UnavailableError, match="fell back to the CPU"),
    ):
        open_cuda(Source(INTERFACE, file_of("onnx")), CudaOptions())
