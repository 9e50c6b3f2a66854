"""The table of translations that torch.onnx.export works by, put together once a process and quickly.

torch puts it together for every export, and onnxscript reads the source of each of its 500 functions for that, although of what it finds
there only the domain is used, which the function knows. That is most of what an export of a small network takes.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.formats.onnx.options import USUAL_OPSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def prepare() -> None:
    """Put the table for the usual opset together: whoever is forked from this process has it."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    _table(ONNXRegistry.from_torchlib, USUAL_OPSET)


@contextmanager
def shared() -> Iterator[None]:
    """Let torch.onnx.export take the table of this process while the block runs."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = ONNXRegistry.from_torchlib
    with _swapped(ONNXRegistry, "from_torchlib", staticmethod(lambda opset_version: _table(made, opset_version))):
        yield


@cache
def _table(make: Callable[..., Any], opset: int) -> Any:
    from onnxscript.values import TracedOnnxFunction

    without_source = property(lambda function: SimpleNamespace(domain=function.opset.domain))
    with _swapped(TracedOnnxFunction, "function_ir", without_source):
        return make(opset_version=opset)


@contextmanager
def _swapped(owner: type, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
