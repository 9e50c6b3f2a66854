"""Every backend, one line each; other distributions add theirs through the entry point group `weighbridge.backends`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pipeline.backends.aotinductor import AOTINDUCTOR_CPU, AOTINDUCTOR_CUDA
from pipeline.backends.eager import EAGER, EAGER_CUDA
from pipeline.backends.executorch import EXECUTORCH_XNNPACK
from pipeline.backends.onnxruntime import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from pipeline.backends.onnxruntime_providers import PROVIDERS
from pipeline.backends.openvino import OPENVINO_CPU
from pipeline.backends.tensorrt import TENSORRT
from pipeline.backends.torch_compile import TORCH_COMPILE
from pipeline.backends.torch_export import TORCH_EXPORT
from pipeline.backends.torchscript import TORCHSCRIPT, TORCHSCRIPT_CUDA

if TYPE_CHECKING:
    from pipeline.backends.backend import Backend

NETWORK = EAGER.name
"""The backend that runs the network itself."""

BUILT_IN = (
    EAGER,
    TORCH_COMPILE,
    TORCHSCRIPT,
    TORCH_EXPORT,
    AOTINDUCTOR_CPU,
    ONNXRUNTIME_CPU,
    OPENVINO_CPU,
    EXECUTORCH_XNNPACK,
    EAGER_CUDA,
    TORCHSCRIPT_CUDA,
    AOTINDUCTOR_CUDA,
    ONNXRUNTIME_CUDA,
    TENSORRT,
    *PROVIDERS,
)


@cache
def backends() -> dict[str, Backend]:
    """Return every backend by name."""
    return {each.name: each for each in BUILT_IN} | {each.name: each for each, _ in _plugins()}


def entry_of(name: str) -> EntryPoint | None:
    """Return the entry point that brings a backend, None for one of our own."""
    return next((entry for each, entry in _plugins() if each.name == name), None)


@cache
def _plugins() -> tuple[tuple[Backend, EntryPoint], ...]:
    ours = {each.name for each in BUILT_IN}
    found = [(entry.load(), entry) for entry in entry_points(group="weighbridge.backends")]
    return tuple((each, entry) for each, entry in found if each.name not in ours)
