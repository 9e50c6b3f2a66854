"""The network itself, run by PyTorch."""

from __future__ import annotations

from pydantic import Field

from pipeline.backends import probe, pytorch
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.errors import InputError


class CpuOptions(Options):
    """Options of eager on the CPU."""

    threads: int | None = Field(None, ge=1, description="threads of one operator; default: the run's")


class CudaOptions(Options):
    """Options of eager on a GPU."""

    tf32: bool = Field(
        default=False, description="allow TF32 in matrix products and convolutions (errors of about 1e-3)"
    )


def _open(source: Source, options: Options, device: str) -> Session:
    from pipeline.rebuild import calling, model

    if source.network is None:
        raise InputError(
            "eager runs the network itself, and a release holds only what was exported from it",
            hint="leave --backend out: the fastest proven one is taken",
        )
    facts = pytorch.prepare(device, options)
    loaded = model.load(source.network, device=device)
    binding = calling.bind(loaded.module, source.interface)

    called = calling.method_of(loaded.module, binding)
    return pytorch.session(called, binding.arguments, source.interface, device, facts)


EAGER = Backend(
    name="eager",
    summary="the network itself, run by PyTorch on the CPU",
    format=None,
    device="cpu",
    install="weighbridge[cpu]",
    options=CpuOptions,
    probe=lambda: probe.package("torch"),
    open=lambda source, options: _open(source, options, "cpu"),
    modules=("torch",),
    distributions=("torch",),
)

EAGER_CUDA = Backend(
    name="eager-cuda",
    summary="the network itself, run by PyTorch on an NVIDIA GPU",
    format=None,
    device="cuda",
    install="weighbridge[cuda], with torch's CUDA wheel and an NVIDIA driver",
    options=CudaOptions,
    probe=probe.torch_cuda,
    device_facts=probe.cuda_facts,
    open=lambda source, options: _open(source, options, "cuda"),
    modules=("torch",),
    distributions=("torch",),
)
