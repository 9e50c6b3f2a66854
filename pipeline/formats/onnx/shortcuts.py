"""What torch.onnx.export does needlessly, left out; what it gives is the same.

The table of translations is put together for every export, and onnxscript reads the source of each of its 500 functions for that, although of
what it finds there only the domain is used, which the function knows: that is most of what an export of a small network takes. The optimiser
tries each of its 90 rules on every node, although a rule says which operator it begins with: that is a fifth of an export of a transformer.
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
def taken() -> Iterator[None]:
    """Let torch.onnx.export take the table of this process, and try rules where they may fit, while the block runs."""
    from onnxscript.rewriter._rewrite_rule import RewriteRule
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made, tried = ONNXRegistry.from_torchlib, RewriteRule.try_rewrite

    def try_rewrite(rule: Any, model: Any, graph: Any, node: Any, **more: Any) -> Any:
        begins_with = rule._target_pattern.output_nodes[0].op_identifier()  # noqa: SLF001 - the matcher's own question, asked first
        if begins_with is not None and begins_with[1] != node.op_type:
            return None
        return tried(rule, model, graph, node, **more)

    table = staticmethod(lambda opset_version: _table(made, opset_version))
    with _swapped(ONNXRegistry, "from_torchlib", table), _swapped(RewriteRule, "try_rewrite", try_rewrite):
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
