"""An exported TorchScript file, run by PyTorch without the network's code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.backends import probe, pytorch
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.eager import CpuOptions, CudaOptions
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def _open(source: Source, options: Options, device: str) -> Session:
    import torch

    from pipeline.rebuild.calling import identifier

    if source.file is None:
        raise InputError(
            "torchscript runs an exported file, and none was exported", hint="add `torchscript` to `exports`"
        )
    facts = pytorch.prepare(device, options)
    # No eval() here: whoever loads the file gets it as it was saved, and that is what has to be proven.
    module = torch.jit.load(str(source.file), map_location=device)  # type: ignore[no-untyped-call]
    parameters = [argument.name for argument in module.forward.schema.arguments[1:]]
    names = {identifier(spec.name): spec.name for spec in source.interface.inputs}
    # A file that knows none of the names takes the inputs in the config's order.
    order = [names[each] for each in parameters if each in names]
    order = order if len(order) == len(names) else list(names.values())

    def arguments(tensors: Mapping[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return [tensors[name] for name in order], {}

    # Where outputs lie in what the network returns is no matter of a file, which returns them in order.
    return pytorch.session(module, arguments, replace(source.interface, paths={}), device, facts)


TORCHSCRIPT = Backend(
    name="torchscript",
    summary="an exported TorchScript file, run by PyTorch on the CPU",
    format="torchscript",
    device="cpu",
    install="weighbridge[cpu]",
    options=CpuOptions,
    probe=lambda: probe.package("torch"),
    open=lambda source, options: _open(source, options, "cpu"),
    modules=("torch",),
    distributions=("torch",),
    threads_option="threads",
)

TORCHSCRIPT_CUDA = Backend(
    name="torchscript-cuda",
    summary="an exported TorchScript file, run by PyTorch on an NVIDIA GPU",
    format="torchscript",
    device="cuda",
    install="weighbridge[cuda], with torch's CUDA wheel and an NVIDIA driver",
    options=CudaOptions,
    probe=probe.torch_cuda,
    device_facts=probe.cuda_facts,
    open=lambda source, options: _open(source, options, "cuda"),
    modules=("torch",),
    distributions=("torch",),
)
