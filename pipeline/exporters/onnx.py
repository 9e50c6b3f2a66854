"""ONNX, through torch.export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline import calling
from pipeline.cases import allowed
from pipeline.errors import ExportError
from pipeline.exporters.exporter import Exporter, Job, Options
from pipeline.types import Artifact

if TYPE_CHECKING:
    from pathlib import Path

EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights beyond this go into a file of their own: one protobuf message holds at most 2 GiB."""


class OnnxOptions(Options):
    """Options of the ONNX exporter."""

    opset: int = Field(20, ge=18, le=24, description="version of the ONNX operator set")
    external_data: bool | None = Field(
        None, description="keep weights in model.onnx.data beside the graph; default: only beyond 1.5 GB"
    )


def _export(job: Job, options: Options) -> Artifact:
    import torch

    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    tensors = calling.tensors_from(job.examples)
    names = calling.forward_order(job.module, [spec.name for spec in job.interface.inputs])
    arguments = tuple(tensors[name] for name in names)
    try:
        with torch.no_grad():
            program = torch.export.export(
                job.module, arguments, dynamic_shapes=_dynamic_shapes(job, names), strict=False
            )
    except Exception as error:
        raise ExportError(f"torch.export: {_reason(error)}", hint=_hint(error)) from error
    outputs = _output_names(job, arguments)
    try:
        exported = torch.onnx.export(
            program,
            opset_version=options.opset,
            input_names=names,
            output_names=outputs,
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    except Exception as error:
        raise ExportError(f"torch.onnx.export: {_reason(error)}") from error
    if exported is None:
        raise ExportError("torch.onnx.export returned nothing")
    target = job.folder / "model.onnx"
    external = _is_external(job.module, options)
    exported.save(str(target), external_data=external)
    _check(target)
    files = (target, target.with_name("model.onnx.data")) if external else (target,)
    return Artifact("onnx", files, {"opset": options.opset, "external_data": external})


def _dynamic_shapes(job: Job, names: list[str]) -> tuple[dict[int, Any], ...]:
    """Declare for each input, in order, which axes are dynamic and within which range."""
    from torch.export import Dim

    dims = {}
    for dimension in job.interface.dimensions:
        sizes = allowed(dimension)
        if len(sizes) > 1:
            step = dimension.multiple_of
            base = Dim(
                dimension.name if step == 1 else f"_{dimension.name}", min=sizes[0] // step, max=sizes[-1] // step
            )
            dims[dimension.name] = base if step == 1 else step * base
    specs = {spec.name: spec for spec in job.interface.inputs}
    return tuple({axis: dims[size] for axis, size in enumerate(specs[name].shape) if size in dims} for name in names)


def _output_names(job: Job, arguments: tuple[Any, ...]) -> list[str]:
    """Return the outputs' names in the order in which torch.export flattens what the network returns."""
    import torch

    names = list(job.interface.outputs)
    with torch.inference_mode():
        result = job.module(*arguments)
    calling.flatten_outputs(result, names)
    return list(result) if isinstance(result, dict) else names


def _is_external(module: Any, options: OnnxOptions) -> bool:
    if options.external_data is not None:
        return options.external_data
    return sum(tensor.nbytes for tensor in module.state_dict().values()) > EXTERNAL_DATA_BYTES


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the exported model: {error}") from error


def _reason(error: BaseException) -> str:
    """Return the innermost cause's words: exporters wrap what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:4]) or type(error).__name__


def _hint(error: Exception) -> str | None:
    if "onstraint" in str(error):
        return (
            "the network fixes or relates these sizes: change `dimensions` (min, max, multiple_of) to what it accepts"
        )
    return None


ONNX = Exporter("onnx", "an ONNX model for onnxruntime and other engines", OnnxOptions, _export)
