"""The options of an engine."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read when options are validated

from pydantic import Field

from pipeline.formats.format import Options


class TensorRtOptions(Options):
    """Options of a TensorRT engine."""

    best: Mapping[str, int] = Field(
        default_factory=dict, description="sizes to tune for, by dimension; default: the largest of each"
    )
    optimization_level: int = Field(3, ge=0, le=5, description="how long it looks for faster kernels")
    workspace_mib: int | None = Field(None, ge=1, description="memory that a kernel may use; default: all of the GPU's")
