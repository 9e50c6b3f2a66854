"""An exported ONNX file, run by onnxruntime."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.backends import placement, probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.errors import InputError, UnavailableError
from pipeline.formats.onnx.session import LEVELS, USUAL_LEVEL, Level, session_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.interface import Arrays


class CpuOptions(Options):
    """Options of onnxruntime's CPU provider."""

    intra_op_num_threads: int | None = Field(
        None, ge=1, le=1024, description="threads of one operator; default: the run's"
    )
    graph_optimization_level: Level = Field("all", description="how far the graph is rewritten before it runs")


class CudaOptions(Options):
    """Options of onnxruntime's CUDA provider."""

    graph_optimization_level: Level = Field("all", description="how far the graph is rewritten before it runs")
    device_id: int = Field(0, ge=0, description="which GPU")
    cudnn_conv_algo_search: Literal["exhaustive", "heuristic", "default"] = Field(
        "exhaustive",
        description="how an algorithm is found for each convolution whenever sizes change: timed, estimated, or always the same",
    )
    tf32: bool = Field(
        default=False, description="allow TF32 in matrix products and convolutions (errors of about 1e-3)"
    )


def cpu_provider(options: Options) -> tuple[str, dict[str, str]] | None:
    """Return onnxruntime's CPU provider and its options; None where a session needs more said than that."""
    assert isinstance(options, CpuOptions)  # noqa: S101 - the table pairs them
    return ("CPUExecutionProvider", {}) if options.graph_optimization_level == USUAL_LEVEL else None


def cuda_provider(options: Options) -> tuple[str, dict[str, str]] | None:
    """Return onnxruntime's CUDA provider and its options; None where a session needs more said than that."""
    assert isinstance(options, CudaOptions)  # noqa: S101 - the table pairs them
    return (
        ("CUDAExecutionProvider", _cuda_options(options)) if options.graph_optimization_level == USUAL_LEVEL else None
    )


def _cuda_options(options: CudaOptions) -> dict[str, str]:
    return {
        "device_id": str(options.device_id),
        "use_tf32": str(int(options.tf32)),
        "cudnn_conv_algo_search": options.cudnn_conv_algo_search.upper(),
    }


def open_cpu(source: Source, options: Options) -> Session:
    """Open a file with the CPU provider."""
    assert isinstance(options, CpuOptions)  # noqa: S101 - the table pairs them
    return _session(source, options.graph_optimization_level, ["CPUExecutionProvider"], options.intra_op_num_threads)


def open_cuda(source: Source, options: Options) -> Session:
    """Open a file with the CUDA provider.

    Raises:
        UnavailableError: onnxruntime would have run it on the CPU without a word.
    """
    assert isinstance(options, CudaOptions)  # noqa: S101 - the table pairs them
    _load_cuda_libraries()
    cuda = ("CUDAExecutionProvider", _cuda_options(options))
    providers = [cuda, "CPUExecutionProvider"]
    session = _session(source, options.graph_optimization_level, providers, None, device_id=options.device_id)
    if "CUDAExecutionProvider" not in session.facts["providers"]:
        got = ", ".join(session.facts["providers"])
        raise UnavailableError(
            f"asked onnxruntime for CUDAExecutionProvider, got {got}: it fell back to the CPU silently",
            hint="install onnxruntime-gpu with the CUDA and cuDNN versions it was built for, and an NVIDIA driver",
        )
    return replace(session, facts={**session.facts, "tf32": options.tf32})


def _load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from where pip puts them, where no linker looks; what is missing shows when the session opens.

    Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, "Preload DLLs"
    """
    import onnxruntime as ort

    with redirect_stdout(StringIO()):  # it prints what it could not find
        ort.preload_dlls()


def _session(
    source: Source, level: str, providers: list[Any], threads: int | None, device_id: int | None = None
) -> Session:
    """Open a file; `device_id` is the GPU it is meant to run on, None for the CPU."""
    import os

    import onnxruntime as ort

    if source.file is None:
        raise InputError("onnxruntime runs an exported file, and none was exported", hint="add `onnx` to `exports`")
    options = session_options(level, threads or int(os.environ.get("OMP_NUM_THREADS", "0")), source.custom_ops)
    if source.profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(source.profile / "profile")
    # Workers take turns: threads that spin after a call would slow whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(str(source.file), options, providers=providers)
    # All the file has, not what the config expects: a missing or an extra output is for the comparison to judge.
    names = [each.name for each in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    def bind(arrays: Arrays) -> Callable[[], object]:
        feed = dict(arrays)
        return lambda: session.run(names, feed)

    facts = {
        "providers": session.get_providers(),
        "onnxruntime": ort.__version__,
        "threads": options.intra_op_num_threads,
        "graph_optimization_level": level,
    }

    def placed() -> placement.Placement:
        assert source.profile  # noqa: S101 - only a watched session has it
        ran = placement.read(Path(session.end_profiling()).read_bytes())
        watched = session.get_providers()[0] != placement.CPU and any(each.provider == placement.CPU for each in ran)
        kept = _kept_on_cpu(source, level, providers) if watched else set()
        return placement.summary(ran, kept)

    def bind_on_gpu(arrays: Arrays) -> Callable[[int], list[int]]:
        return bind_on_device(session, arrays, "cuda", device_id or 0)[1]

    return Session(run, bind, facts, placed if source.profile else None, None if device_id is None else bind_on_gpu)


def bind_on_device(session: Any, arrays: Arrays, device: str, device_id: int) -> tuple[Any, Callable[[int], list[int]]]:
    """Keep the inputs and outputs of an onnxruntime session on a device; return the binding, and a function that times calls.

    onnxruntime shows no events of the device: a call is timed by the host's clock, until the device has done its work.
    Source: https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html
    """
    import time

    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, device_id))
    for each in session.get_outputs():
        binding.bind_output(each.name, device, device_id)

    def call_ns() -> int:
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter_ns() - start

    return binding, lambda count: [call_ns() for _ in range(count)]


def _kept_on_cpu(source: Source, level: str, providers: list[Any]) -> set[str]:
    """Return the nodes that belong on the CPU in the graph that runs: the optimised one, which only onnxruntime can tell."""
    import onnx
    import onnxruntime as ort

    assert source.profile  # noqa: S101 - there is a profile to judge
    optimised = source.profile / "optimised.onnx"
    options = session_options(level, 1, source.custom_ops)
    options.optimized_model_filepath = str(optimised)
    # One protobuf message holds at most 2 GiB, and of the weights only the shapes are wanted.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    ort.InferenceSession(str(source.file), options, providers=providers)
    return placement.kept_on_cpu(onnx.load(str(optimised), load_external_data=False).graph)


_LADDER = tuple((f"onnxruntime, optimisation {level}", {"graph_optimization_level": level}) for level in LEVELS)

ONNXRUNTIME_CPU = Backend(
    name="onnxruntime-cpu",
    summary="an exported ONNX file, run by onnxruntime on the CPU",
    format="onnx",
    device="cpu",
    install="weighbridge[cpu] or weighbridge[runtime]",
    options=CpuOptions,
    probe=lambda: probe.package("onnxruntime"),
    open=open_cpu,
    modules=("onnxruntime",),
    distributions=("onnxruntime", "onnxruntime-gpu"),
    ladder=_LADDER,
    provider=cpu_provider,
)

ONNXRUNTIME_CUDA = Backend(
    name="onnxruntime-cuda",
    summary="an exported ONNX file, run by onnxruntime on an NVIDIA GPU",
    format="onnx",
    device="cuda",
    install="weighbridge[cuda] (onnxruntime-gpu instead of onnxruntime) and an NVIDIA driver",
    options=CudaOptions,
    probe=probe.onnxruntime_cuda,
    device_facts=probe.cuda_facts,
    open=open_cuda,
    modules=("onnxruntime",),
    distributions=("onnxruntime-gpu",),
    ladder=_LADDER,
    provider=cuda_provider,
)
