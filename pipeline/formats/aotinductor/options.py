"""The options of an AOTInductor package."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.formats.format import Options


class AotInductorOptions(Options):
    """Options of an AOTInductor package."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="what it is compiled for; a GPU has to be there then")
    max_autotune: bool = Field(
        default=False, description="also time several ways to multiply matrices; that takes longer"
    )
    freezing: bool = Field(
        default=False,
        description="fold what follows from the weights alone, and lay weights out anew for the processor",
    )
