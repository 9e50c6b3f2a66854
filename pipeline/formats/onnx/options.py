"""The options of an ONNX export, and those of a second try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.formats.format import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.formats.artifact import Written

USUAL_OPSET = 20


class OnnxOptions(Options):
    """Options of an ONNX export."""

    opset: int = Field(USUAL_OPSET, ge=18, le=24, description="version of the ONNX operator set")
    external_data: bool | None = Field(
        None, description="keep weights in model.onnx.data beside the graph; default: only beyond 1.5 GB"
    )
    method: Literal["auto", "export", "trace"] = Field(
        "auto",
        description="export goes through torch.export; trace records one run, by torch.onnx's TorchScript-based exporter;"
        " auto exports, and traces if that fails or its file is wrong",
    )


def alternative(options: Options, written: Written | None) -> Mapping[str, object] | None:
    """Return the options that a second try is to be made with where a file is wrong, or could not be written (None)."""
    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    is_first = options.method == "auto" and (written is None or written.facts.get("method") == "export")
    return {"method": "trace"} if is_first else None
