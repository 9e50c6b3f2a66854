"""onnxruntime's other execution providers, where the installed build has them: the same ONNX file, computed by somebody else.

Options and what they mean: https://onnxruntime.ai/docs/execution-providers/ (OpenVINO, oneDNN, TensorRT, CoreML, XNNPACK). Each is
told to compute in float32. onnxruntime goes on with the CPU provider where a provider has no device or does not know an option:
such a session is refused (see `onnxruntime_session.open_on`), and where nodes ran is read from its profile.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipeline.backends import probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.onnxruntime import CUDA, OrtOptions, load_cuda_libraries, said
from pipeline.backends.onnxruntime_session import LADDER, Asked, open_on
from pipeline.formats.tensorrt import profiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.interface import Interface

_THREADS = "threads of one operator; default: the run's"


class ThreadOptions(OrtOptions):
    """Options of a provider that computes with threads of its own."""

    threads: int | None = Field(None, ge=1, le=1024, description=_THREADS)


class OpenVinoOptions(ThreadOptions):
    """Options of onnxruntime's OpenVINO provider."""

    device_type: Literal["CPU", "GPU", "NPU"] = Field("CPU", description="what OpenVINO computes on")
    precision: Literal["FP32", "ACCURACY"] = Field(
        "FP32",
        description="FP32: float32 throughout; ACCURACY: as precisely as the device can, which on an NPU is float16",
    )

    @model_validator(mode="after")
    def _has_precision(self) -> OpenVinoOptions:
        if self.device_type == "NPU" and self.precision == "FP32":
            raise ValueError(
                "an NPU computes in float16: say `precision: ACCURACY` and give the artifact a gate of its own"
            )
        return self


class TensorRtOptions(OrtOptions):
    """Options of onnxruntime's TensorRT provider."""

    device_id: int = Field(0, ge=0, description="which GPU")
    tf32: bool = Field(
        default=False, description="allow TF32 in matrix products and convolutions (errors of about 1e-3)"
    )


class CoreMlOptions(OrtOptions):
    """Options of onnxruntime's Core ML provider."""

    model_format: Literal["MLProgram", "NeuralNetwork"] = Field("MLProgram", description="what Core ML is given")
    compute_units: Literal["CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine", "ALL"] = Field(
        "CPUAndGPU", description="what may compute; the neural engine computes in float16"
    )


class XnnpackOptions(ThreadOptions):
    """Options of onnxruntime's XNNPACK provider."""


class DnnlOptions(ThreadOptions):
    """Options of onnxruntime's oneDNN provider."""


def _threads(options: ThreadOptions) -> int:
    """Return how many threads a provider gets: its own default would be another number than everybody else's."""
    return options.threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1


def _openvino(options: Options, _: Interface | None) -> Asked:
    assert isinstance(options, OpenVinoOptions)  # noqa: S101 - the table pairs them
    threads = _threads(options)
    chosen = {"device_type": options.device_type, "precision": options.precision, "num_streams": "1"}
    return Asked(
        "OpenVINOExecutionProvider",
        f"install onnxruntime-openvino instead of onnxruntime, on a machine where OpenVINO has the device {options.device_type}",
        chosen,
        {"num_of_threads": str(threads)} if options.device_type == "CPU" else {},
        threads=threads,
        takes_part=options.device_type == "CPU",
    )


def _dnnl(options: Options, _: Interface | None) -> Asked:
    assert isinstance(options, DnnlOptions)  # noqa: S101 - the table pairs them
    return Asked(
        "DnnlExecutionProvider",
        "build onnxruntime with oneDNN",
        {"use_arena": "1"},
        threads=_threads(options),
        takes_part=True,
        # Otherwise the environment may tell oneDNN to round to bfloat16 or TF32.
        environment={"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"},
    )


def _tensorrt(options: Options, interface: Interface | None) -> Asked:
    assert isinstance(options, TensorRtOptions)  # noqa: S101 - the table pairs them
    chosen = {
        "device_id": str(options.device_id),
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
    }
    sizes = {}
    if interface is not None and interface.dimensions:
        ranges = profiles.profile(interface)
        for name, which in (("min", "least"), ("opt", "best"), ("max", "most")):
            shapes = profiles.in_words((each, getattr(ranges[each], which)) for each in ranges)
            sizes[f"trt_profile_{name}_shapes"] = shapes
    behind = {"device_id": str(options.device_id), "use_tf32": str(int(options.tf32))}
    return Asked(
        "TensorrtExecutionProvider",
        "install onnxruntime-gpu, the TensorRT that it was built for, and an NVIDIA driver",
        chosen,
        sizes,
        behind=((CUDA, behind),),
        device_id=options.device_id,
        # The provider has no option for TF32, which TensorRT allows itself; it reads this when it builds an engine.
        environment={} if options.tf32 else {"NVIDIA_TF32_OVERRIDE": "0"},
    )


def _coreml(options: Options, _: Interface | None) -> Asked:
    assert isinstance(options, CoreMlOptions)  # noqa: S101 - the table pairs them
    chosen = {
        "ModelFormat": options.model_format,
        "MLComputeUnits": options.compute_units,
        "RequireStaticInputShapes": "0",
        "EnableOnSubgraphs": "0",
        "AllowLowPrecisionAccumulationOnGPU": "0",
    }
    return Asked("CoreMLExecutionProvider", "install onnxruntime on macOS", chosen, takes_part=True)


def _xnnpack(options: Options, _: Interface | None) -> Asked:
    assert isinstance(options, XnnpackOptions)  # noqa: S101 - the table pairs them
    # Its threads are its own: those of the CPU provider would only compete with them.
    threads = {"intra_op_num_threads": str(_threads(options))}
    install = "build onnxruntime with XNNPACK"
    return Asked("XnnpackExecutionProvider", install, here=threads, threads=1, takes_part=True)


def _probe_coreml() -> str | None:
    if platform.system() != "Darwin":
        return f"Core ML is a part of macOS, and this is {platform.system()}"
    return probe.onnxruntime_provider("coreml")


def _load_tensorrt() -> None:
    """Load CUDA, cuDNN and TensorRT from where pip puts them, where no linker looks."""
    load_cuda_libraries()
    if importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")


def _backend(
    name: str,
    summary: str,
    options: type[OrtOptions],
    ask: Callable[[Options, Interface | None], Asked],
    load: Callable[[], None] = lambda: None,
    **fields: Any,
) -> Backend:
    """Return the record of a provider; `ask` says what a session is asked for, `load` what it needs before, `fields` the rest."""

    def opened(source: Source, chosen: Options) -> Session:
        assert isinstance(chosen, OrtOptions)  # noqa: S101 - the table pairs them
        load()
        return open_on(source, chosen.graph_optimization_level, ask(chosen, source.interface))

    def provider(chosen: Options) -> tuple[str, dict[str, str]] | None:
        assert isinstance(chosen, OrtOptions)  # noqa: S101 - the table pairs them
        return said(chosen, ask(chosen, None))

    return Backend(
        name=name,
        summary=f"an exported ONNX file, run by onnxruntime's {summary}",
        format="onnx",
        options=options,
        open=opened,
        modules=("onnxruntime",),
        ladder=LADDER,
        provider=provider,
        **{"device": "cpu", "distributions": ("onnxruntime",), **fields},
    )


ONNXRUNTIME_OPENVINO = _backend(
    "onnxruntime-openvino",
    "OpenVINO provider",
    OpenVinoOptions,
    _openvino,
    install="weighbridge[openvino-provider] (onnxruntime-openvino instead of onnxruntime)",
    probe=lambda: probe.onnxruntime_provider("openvino"),
    distributions=("onnxruntime-openvino",),
)

ONNXRUNTIME_DNNL = _backend(
    "onnxruntime-dnnl",
    "oneDNN provider",
    DnnlOptions,
    _dnnl,
    install="an onnxruntime that was built with oneDNN: no distribution has it",
    probe=lambda: probe.onnxruntime_provider("dnnl"),
)

ONNXRUNTIME_TENSORRT = _backend(
    "onnxruntime-tensorrt",
    "TensorRT provider",
    TensorRtOptions,
    _tensorrt,
    _load_tensorrt,
    device="cuda",
    install="weighbridge[cuda], the TensorRT that this onnxruntime-gpu was built for, and an NVIDIA driver",
    probe=probe.onnxruntime_tensorrt,
    distributions=("onnxruntime-gpu", "tensorrt", "tensorrt-cu12-libs", "tensorrt-cu13-libs"),
    device_facts=probe.cuda_facts,
)

ONNXRUNTIME_COREML = _backend(
    "onnxruntime-coreml",
    "Core ML provider",
    CoreMlOptions,
    _coreml,
    install="onnxruntime on macOS, whose build has it",
    probe=_probe_coreml,
)

ONNXRUNTIME_XNNPACK = _backend(
    "onnxruntime-xnnpack",
    "XNNPACK provider",
    XnnpackOptions,
    _xnnpack,
    install="an onnxruntime that was built with XNNPACK: no distribution for Python has it",
    probe=lambda: probe.onnxruntime_provider("xnnpack"),
)

PROVIDERS = (
    ONNXRUNTIME_OPENVINO,
    ONNXRUNTIME_DNNL,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_COREML,
    ONNXRUNTIME_XNNPACK,
)
