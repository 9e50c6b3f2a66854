"""The options of an ONNX export, of a second try, and of a file in another precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.formats.format import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.formats.artifact import Written

USUAL_OPSET = 20

Precision = Literal[
    "float16", "float16-weights", "bfloat16-weights", "int8", "int8-dynamic", "int8-weights", "int4-weights"
]


class OnnxOptions(Options):
    """Options of an ONNX export, or, with `precision`, of a file made from another."""

    opset: int = Field(USUAL_OPSET, ge=18, le=24, description="version of the ONNX operator set")
    external_data: bool | None = Field(
        None, description="keep weights in model.onnx.data beside the graph; default: only beyond 1.5 GB"
    )
    method: Literal["auto", "export", "trace"] = Field(
        "auto",
        description="export goes through torch.export; trace records one run, by torch.onnx's TorchScript-based exporter;"
        " auto exports, and traces if that fails or its file is wrong",
    )
    precision: Precision | None = Field(
        None,
        description="made `from` another ONNX artifact: float16 computes in it, …-weights keeps weights so and computes in float32,"
        " int8-dynamic measures activations at every call, int8 has measured them on `calibration`",
    )
    leave_out: Literal["auto"] | Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="what stays as it is: modules of the network, nodes or operators by name, * for anything; auto: those that"
        " cost the most accuracy, as few as make the artifact's accuracy gate pass",
    )
    operators: tuple[str, ...] = Field(
        ("Conv", "ConvTranspose", "Gemm", "MatMul"),
        strict=False,
        min_length=1,
        description="int8: operators of ONNX to quantise; sums, pooling and the like follow where they are named too",
    )
    activations: Literal["uint8", "int8"] = Field("uint8", description="what activations become with `precision: int8`")
    weights: Literal["int8", "uint8"] = Field("int8", description="what weights become with int8 and int8-dynamic")
    per_channel: bool = Field(default=True, description="int8: a scale for each channel of a weight")
    reduce_range: bool = Field(
        default=False, description="int8: 7 bits for weights, so that processors without VNNI compute it right"
    )
    calibration_method: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="int8: how the range of an activation follows from what was seen"
    )
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        32, description="int8-weights and int4-weights: how many numbers of a column share a scale"
    )


def alternative(options: Options, written: Written | None) -> Mapping[str, object] | None:
    """Return the options that a second try is to be made with where a file is wrong, or could not be written (None)."""
    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    if options.precision:
        return None
    is_first = options.method == "auto" and (written is None or written.facts.get("method") == "export")
    return {"method": "trace"} if is_first else None


def precision(options: Options) -> str:
    """Return the precision that a file with these options has of its own; empty for the network's."""
    assert isinstance(options, OnnxOptions)  # noqa: S101 - as above
    return options.precision or ""


def leaves_out(options: Options) -> bool:
    """Return whether layers are to be left out until a file with these options is good enough."""
    assert isinstance(options, OnnxOptions)  # noqa: S101 - as above
    return options.leave_out == "auto"


def calibrates(options: Options) -> bool:
    """Return whether real inputs are needed to write a file with these options."""
    return precision(options) == "int8"
