"""The options of an export by torch.export."""

from __future__ import annotations

from pipeline.formats.format import Options


class Pt2Options(Options):
    """Options of an exported program: there is nothing to choose."""
