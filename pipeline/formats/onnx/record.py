"""ONNX, as the table of formats has it. What it takes to look into a file is imported when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats.format import Format, Triton
from pipeline.formats.onnx.options import OnnxOptions, alternative, calibrates, leaves_out, precision
from pipeline.weights import confined, files
from pipeline.weights.kinds import Kind
from pipeline.weights.protobuf import MalformedFieldError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.artifact import Written
    from pipeline.formats.format import (
        AuditSubject,
        CulpritSearch,
        Evaluate,
        Found,
        FromArtifact,
        FromNetwork,
        Options,
        Product,
        ProductSearch,
        Ranking,
        Signature,
    )

_MODULES = (
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._torchlib.ops",
    "onnxscript.function_libs.torch_lib.ops",
    "pipeline.formats.onnx.shortcuts:prepare",
)
"""What torch.onnx.export imports when it is called, and what it puts together: three seconds of an export of a small network."""


def _require_safe(path: Path, beside: Sequence[str]) -> None:
    """Refuse a file whose tensors lie in anything but the files that may lie beside it."""
    with files.mapped(path) as data:
        try:
            locations = {each.location for each in confined.references(data)}
        except MalformedFieldError as error:
            raise WeightsError(f"{path.name} is damaged: {error}", hint=files.COPY_AGAIN) from error
    if outside := sorted(locations - set(beside)):
        raise UnsafeError(
            f"{path.name} would read {outside[0]!r:.120}, which is no file of the release", hint="do not open it"
        )


def _export(origin: FromNetwork, options: Options) -> Written:
    from pipeline.formats.onnx.export import export

    return export(origin, options)


def _derive(origin: FromArtifact, options: Options) -> Written:
    from pipeline.formats.onnx.reduce import derive

    return derive(origin, options)


def _evaluate(path: Path) -> Evaluate:
    from pipeline.formats.onnx.exact import read

    return read(path)


def _rank(wanted: Ranking) -> Sequence[Sequence[str]]:
    from pipeline.formats.onnx.ranking import rank

    return rank(wanted)


def _judge_products(wanted: ProductSearch) -> Sequence[Product]:
    from pipeline.formats.onnx.pieces import judge

    return judge(wanted)


def _signature(path: Path) -> Signature:
    from pipeline.formats.onnx.graph import signature

    return signature(path)


def _audit(path: Path, subject: AuditSubject) -> dict[str, Any]:
    from pipeline.formats.onnx.audit import audit

    return audit(path, subject)


def _find_culprit(wanted: CulpritSearch) -> Found:
    from pipeline.formats.onnx.culprit import search

    return search(wanted)


def _without_bounded(path: Path, outputs: Sequence[str], folder: Path) -> Path:
    from pipeline.formats.onnx.bounded import without

    return without(path, outputs, folder)


def _count_operators(path: Path, inputs: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    from pipeline.formats.onnx.counts import count

    return count(path, inputs)


ONNX = Format(
    name="onnx",
    summary="an ONNX model for onnxruntime and other engines",
    options=OnnxOptions,
    file="model.onnx",
    export=_export,
    derive=_derive,
    precision=precision,
    calibrates=calibrates,
    evaluate=_evaluate,
    judge_products=_judge_products,
    leaves_out=leaves_out,
    rank=_rank,
    alternative=alternative,
    distributions=("torch", "onnx", "onnxscript", "onnx-ir"),
    modules=_MODULES,
    kind=Kind.ONNX,
    require_safe=_require_safe,
    beside=confined.require_confined_onnx,
    takes_custom_ops=True,
    read_signature=_signature,
    audit=_audit,
    find_culprit=_find_culprit,
    count_operators=_count_operators,
    without_bounded=_without_bounded,
    triton=Triton("onnxruntime_onnx", "model.onnx"),
    card="Any ONNX runtime",
    library="onnx",
)
