"""Every backend, one line each; other distributions add theirs through the entry point group `weighbridge.backends`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pipeline.backends.eager import EAGER, EAGER_CUDA
from pipeline.backends.onnxruntime import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from pipeline.backends.torchscript import TORCHSCRIPT, TORCHSCRIPT_CUDA

if TYPE_CHECKING:
    from pipeline.backends.backend import Backend

NETWORK = EAGER.name
"""The backend that runs the network itself."""

BUILT_IN = (EAGER, TORCHSCRIPT, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, EAGER_CUDA, TORCHSCRIPT_CUDA)


@cache
def backends() -> dict[str, Backend]:
    """Return every backend by name."""
    found = {backend.name: backend for backend in BUILT_IN}
    for entry in entry_points(group="weighbridge.backends"):
        backend = entry.load()
        found.setdefault(backend.name, backend)
    return found
