"""An exported ONNX file, run by onnxruntime on the CPU or an NVIDIA GPU. Its other providers: onnxruntime_providers.py."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Literal

from pydantic import Field

from pipeline.backends import placement, probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.onnxruntime_session import LADDER, Asked, open_on
from pipeline.formats.onnx.session import NUMBERS, PRECISE_PRODUCTS, USUAL_LEVEL, Level

CUDA = "CUDAExecutionProvider"
_INSTALL = "install onnxruntime-gpu with the CUDA and cuDNN versions it was built for, and an NVIDIA driver"


class OrtOptions(Options):
    """Options of every provider of onnxruntime."""

    graph_optimization_level: Level = Field("all", description="how far the graph is rewritten before it runs")


class CpuOptions(OrtOptions):
    """Options of onnxruntime's CPU provider."""

    intra_op_num_threads: int | None = Field(
        None, ge=1, le=1024, description="threads of one operator; default: the run's"
    )
    precise_products: bool = Field(
        default=False,
        description="add products of 8 bits exactly on processors without VNNI too, which takes longer there",
    )
    memory_arena: bool = Field(
        default=True, description="keep memory between calls instead of giving it back: faster, and more of it"
    )


class CudaOptions(OrtOptions):
    """Options of onnxruntime's CUDA provider."""

    device_id: int = Field(0, ge=0, description="which GPU")
    cudnn_conv_algo_search: Literal["exhaustive", "heuristic", "default"] = Field(
        "exhaustive",
        description="how an algorithm is found for each convolution whenever sizes change: timed, estimated, or always the same",
    )
    tf32: bool = Field(
        default=False, description="allow TF32 in matrix products and convolutions (errors of about 1e-3)"
    )


def said(options: OrtOptions, asked: Asked) -> tuple[str, dict[str, str]] | None:
    """Return a provider with its options as `Backend.provider` has them; None where a session needs more said than that."""
    is_usual = options.graph_optimization_level == USUAL_LEVEL and asked.memory_arena and not asked.entries
    return (asked.provider, dict(asked.options)) if is_usual else None


def _cpu(options: Options) -> tuple[CpuOptions, Asked]:
    assert isinstance(options, CpuOptions)  # noqa: S101 - the table pairs them
    return options, Asked(
        placement.CPU,
        "install onnxruntime",
        threads=options.intra_op_num_threads,
        memory_arena=options.memory_arena,
        entries={PRECISE_PRODUCTS: "1"} if options.precise_products else {},
    )


def _cpu_session(options: Options) -> dict[str, int]:
    """Return what is not as usual."""
    checked, asked = _cpu(options)
    level = checked.graph_optimization_level
    return {
        **({"intra_op_num_threads": asked.threads} if asked.threads else {}),
        **({} if level == USUAL_LEVEL else {"graph_optimization_level": NUMBERS[level]}),
        **({} if asked.memory_arena else {"enable_cpu_mem_arena": 0}),
    }


def open_cpu(source: Source, options: Options) -> Session:
    """Open a file with the CPU provider."""
    checked, asked = _cpu(options)
    return open_on(source, checked.graph_optimization_level, asked)


def _cuda(options: Options) -> tuple[CudaOptions, Asked]:
    assert isinstance(options, CudaOptions)  # noqa: S101 - the table pairs them
    chosen = {
        "device_id": str(options.device_id),
        "use_tf32": str(int(options.tf32)),
        "cudnn_conv_algo_search": options.cudnn_conv_algo_search.upper(),
    }
    return options, Asked(CUDA, _INSTALL, chosen, device_id=options.device_id)


def open_cuda(source: Source, options: Options) -> Session:
    """Open a file with the CUDA provider.

    Raises:
        UnavailableError: onnxruntime would have run it on the CPU without a word.
    """
    checked, asked = _cuda(options)
    load_cuda_libraries()
    session = open_on(source, checked.graph_optimization_level, asked)
    return replace(session, facts={**session.facts, "tf32": checked.tf32})


def load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from where pip puts them, where no linker looks; what is missing shows when the session opens.

    Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, "Preload DLLs"
    """
    import onnxruntime as ort

    with redirect_stdout(StringIO()):  # it prints what it could not find
        ort.preload_dlls()


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
    distributions=probe.ONNXRUNTIMES,
    ladder=LADDER,
    provider=lambda options: said(*_cpu(options)),
    judges_products=True,
    tunable={"graph_optimization_level": ("all", "extended"), "memory_arena": (True, False)},
    threads_option="intra_op_num_threads",
    session=_cpu_session,
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
    ladder=LADDER,
    provider=lambda options: said(*_cuda(options)),
)
