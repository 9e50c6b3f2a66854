"""TensorRT, as the table of formats has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.formats import share
from pipeline.formats.format import Format, Triton
from pipeline.formats.tensorrt import stated
from pipeline.formats.tensorrt.here import DISTRIBUTIONS, INSTALL, reason
from pipeline.formats.tensorrt.options import TensorRtOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import AuditSubject, FromArtifact, Options

_NOT_AUDITED = "an engine is machine code, whose weights lie as its kernels take them"


def _derive(origin: FromArtifact, options: Options) -> Written:
    from pipeline.formats.tensorrt.build import build

    return build(origin, options)


def _audit(path: Path, subject: AuditSubject) -> Mapping[str, Any]:
    return share.audit([path], subject.state, _NOT_AUDITED)


def _require_safe(path: Path, _beside: Sequence[str]) -> None:
    """Refuse an engine of which nothing says what it was built for. Whose it is must be known besides: see `is_native`."""
    stated.read(path)


TENSORRT = Format(
    name="tensorrt",
    summary="a TensorRT engine for one kind of NVIDIA GPU",
    options=TensorRtOptions,
    file="model.plan",
    derive=_derive,
    derived_from="onnx",
    distributions=DISTRIBUTIONS,
    modules=(),  # nothing that starts CUDA is imported before a process is forked
    probe=reason,
    install=INSTALL,
    varies="TensorRT times kernels while it builds an engine, and takes the one that was fastest then",
    require_safe=_require_safe,
    is_native=True,
    audit=_audit,
    triton=Triton("tensorrt_plan", "model.plan"),
    card="TensorRT, on the kind of GPU that it was built for",
)
