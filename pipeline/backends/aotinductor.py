"""An AOTInductor package, run by torch without the network's code."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.backends import inputs, probe, pytorch
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.errors import InputError, WorkerError
from pipeline.formats import inductor
from pipeline.formats.aotinductor import package

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch


_ROOT = "model"


class CpuOptions(Options):
    """Options of AOTInductor on the CPU."""

    threads: int | None = Field(None, ge=1, description="threads of one operator; default: the run's")
    runners: int = Field(1, ge=1, le=64, description="calls that may run at once; each has memory of its own")


class CudaOptions(Options):
    """Options of AOTInductor on a GPU."""

    runners: int = Field(1, ge=1, le=64, description="calls that may run at once; each has memory of its own")
    tf32: bool = Field(
        default=False, description="allow TF32 in matrix products and convolutions (errors of about 1e-3)"
    )


def _open(source: Source, options: Options, device: str) -> Session:
    if source.file is None:
        raise InputError(
            "aotinductor runs an exported file, and none was exported", hint="add `aotinductor` to `exports`"
        )
    found = package.read(source.file)
    package.require_runs_here(found, device, package.capabilities(), source.file.name)
    facts = pytorch.prepare(device, options)
    # Read when a package is called first. Without it another dtype is read as if it were the right one.
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    run_package = _loaded(source.file, found, getattr(options, "runners", 1))
    order = found.inputs or tuple(spec.name for spec in source.interface.inputs)

    def arguments(tensors: Mapping[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        # The compiled code takes strides for granted.
        return [tensors[name].contiguous() for name in order], {}

    # Where outputs lie in what the network returns is no matter of a file, which returns them in order.
    session = pytorch.session(run_package, arguments, replace(source.interface, paths={}), device, facts)
    told = {"instructions": found.instructions, "input_checks": True, "runners": getattr(options, "runners", 1)}
    return replace(inputs.checked(session, source.interface), facts={**session.facts, **told})


def _loaded(file: Path, found: package.Package, runners: int) -> Callable[..., Any]:
    """Load a package; return what calls it with its inputs in order, and returns a list of outputs.

    Raises:
        WorkerError: torch cannot load it.
    """
    import torch

    # torch's loader would unpack it into a folder in /tmp, which stays there when the process ends without its destructors.
    folder = Path(tempfile.mkdtemp(prefix="weighbridge-aoti-"))
    try:
        _unpack(file, found, folder)
        loader = torch._C._aoti.AOTIModelPackageLoader(str(folder), _ROOT, False, runners, -1)  # noqa: SLF001, FBT003 - what aoti_load_package calls
    except RuntimeError as error:
        raise WorkerError(
            f"torch cannot load {file.name}: {inductor.first_line(error)}", hint="export it again with this torch"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what was mapped stays mapped

    def call(*tensors: torch.Tensor) -> Any:
        return loader.boxed_run(list(tensors))  # AOTICompiledModel reads its tree of arguments anew with each call

    return call


def _unpack(file: Path, found: package.Package, folder: Path) -> None:
    """Write a package's entries into a folder; their names were looked at before."""
    package.require_only_a_model(file)
    names = {entry.name: name for name, entry in found.entries.items()}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            target = folder / names[info.filename]
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as content, target.open("wb") as written:
                shutil.copyfileobj(content, written)


AOTINDUCTOR_CPU = Backend(
    name="aotinductor-cpu",
    summary="an AOTInductor package, run by PyTorch on the processor it was compiled for",
    format="aotinductor",
    device="cpu",
    install="weighbridge[cpu]",
    options=CpuOptions,
    probe=lambda: probe.package("torch"),
    open=lambda source, options: _open(source, options, "cpu"),
    modules=("torch",),
    distributions=("torch",),
    threads_option="threads",
)

AOTINDUCTOR_CUDA = Backend(
    name="aotinductor-cuda",
    summary="an AOTInductor package, run by PyTorch on the NVIDIA GPU it was compiled for",
    format="aotinductor",
    device="cuda",
    install="weighbridge[cuda], with torch's CUDA wheel and an NVIDIA driver",
    options=CudaOptions,
    probe=probe.torch_cuda,
    device_facts=probe.cuda_facts,
    open=lambda source, options: _open(source, options, "cuda"),
    modules=("torch",),
    distributions=("torch",),
)
