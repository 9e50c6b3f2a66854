"""The options of an ExecuTorch export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.formats.format import Options


class ExecuTorchOptions(Options):
    """Options of an ExecuTorch export."""

    delegate: Literal["xnnpack", "none"] = Field(
        "xnnpack",
        description="who computes: XNNPACK what it can and ExecuTorch's portable kernels the rest, or these alone (slow)",
    )
