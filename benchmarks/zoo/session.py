"""A file opened by hand, as anybody would: nothing of the pipeline's is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime


def opened(file: Path) -> onnxruntime.InferenceSession:
    """Open a file in onnxruntime, on one thread and without a word; raises whatever onnxruntime does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
