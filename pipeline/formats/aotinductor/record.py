"""AOTInductor, as the table of formats has it. What it takes to make a package is imported when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats import inductor, share
from pipeline.formats.aotinductor.options import AotInductorOptions
from pipeline.formats.format import Format, Triton
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, FromNetwork, Options


def _export(origin: FromNetwork, options: Options) -> Written:
    from pipeline.formats.aotinductor.export import export

    return export(origin, options)


def _require_safe(path: Path, _beside: Sequence[str]) -> None:
    from pipeline.formats.aotinductor.package import require_only_a_model

    require_only_a_model(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    return share.audit((path,), subject.state, "it is machine code", share.CHANNELS_LAST)


AOTINDUCTOR = Format(
    name="aotinductor",
    summary="an AOTInductor package: the network compiled to a shared library for this processor",
    options=AotInductorOptions,
    file="model.aoti.pt2",
    export=_export,
    distributions=("torch",),
    modules=("torch.export._trace",),
    probe=inductor.probe,
    install=inductor.INSTALL,
    compiler=lambda: inductor.compiler()[0],
    kind=Kind.AOTINDUCTOR,
    require_safe=_require_safe,
    is_native=True,
    audit=_audit,
    triton=Triton(
        "torch_aoti",
        "model.pt2",
        is_positional=True,
        ordinals=("INPUT", "OUTPUT"),
        batches=False,
        note="needs Triton 26.05 or later, and torch's own version in it; it joins no requests for AOTInductor packages",
    ),
    card="libtorch (AOTInductor), on the processor it was compiled for",
)
