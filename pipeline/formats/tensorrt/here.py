"""Whether engines can be built and run here, told without importing TensorRT."""

from __future__ import annotations

from importlib import util

from pipeline.formats.driver import cuda_device

DISTRIBUTIONS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
INSTALL = "weighbridge[tensorrt] and an NVIDIA driver"


def reason() -> str | None:
    """Return None if TensorRT and a GPU are here, else the reason."""
    return cuda_device() if util.find_spec("tensorrt") else "tensorrt is not installed"
