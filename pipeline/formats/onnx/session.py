"""How onnxruntime opens an ONNX file: the options that a backend and the search for a culprit share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

PRECISE_PRODUCTS = "session.x64quantprecision"
"""The session's entry with which onnxruntime adds products of 8 bits in 32 on processors without VNNI."""
Level = Literal["disable", "basic", "extended", "all"]
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
LEVELS = tuple(_LEVELS)
NUMBERS = {"disable": 0, "basic": 1, "extended": 2, "all": 99}
"""What onnxruntime's GraphOptimizationLevel is as a number, by level."""
USUAL_LEVEL: Level = "all"
"""What onnxruntime does where nobody says anything."""
DEFAULT_LEVEL: Level = "disable"
"""What is wrong with a file mostly shows without optimisation."""


def session_options(level: str, threads: int, custom_ops: Path | None) -> Any:
    """Return onnxruntime's options of a session: how far the graph is rewritten, threads of an operator, operators to load."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if custom_ops:
        options.register_custom_ops_library(str(custom_ops))
    return options
