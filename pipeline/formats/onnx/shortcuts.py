"""What torch.onnx.export does needlessly, left out; what it gives is the same.

The table of translations is put together for every export, and onnxscript reads the source of each of its 500 functions for that, although of
what it finds there only the domain is used, which the function knows: that is most of what an export of a small network takes. The optimiser
tries each of its 90 rules on every node, although a rule says which operator it begins with: that is a fifth of an export of a transformer.

The pass that makes conversions of types explicit runs every step of the program again, although each step says what comes of it. That is not left out: it finds
out about sizes by the way, and transformers' MLCD has one node more without it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.formats.onnx.options import USUAL_OPSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Swap: TypeAlias = tuple[type, str, object]
"""A class, the name of what it has, and what it is to have for a while."""


def prepare() -> None:
    """Put the table for the usual opset together: whoever is forked from this process has it."""
    with suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        _table(ONNXRegistry.from_torchlib, USUAL_OPSET)


@contextmanager
def taken() -> Iterator[None]:
    """Let torch.onnx.export do without what is named above while the block runs, as far as this version of torch has it."""
    with ExitStack() as stack:
        for shortcut in (_one_table, _rules_where_they_begin):
            with suppress(ImportError, AttributeError, KeyError):  # another version: it takes longer there
                stack.enter_context(_swapped(*shortcut()))
        yield


def _one_table() -> _Swap:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = ONNXRegistry.from_torchlib
    return ONNXRegistry, "from_torchlib", staticmethod(lambda opset_version: _table(made, opset_version))


def _rules_where_they_begin() -> _Swap:
    from onnxscript.rewriter._rewrite_rule import RewriteRule

    tried = RewriteRule.try_rewrite

    def try_rewrite(rule: Any, model: Any, graph: Any, node: Any, **more: Any) -> Any:
        with suppress(AttributeError):
            begins_with = rule._target_pattern.output_nodes[0].op_identifier()  # noqa: SLF001 - the matcher's own question, asked first
            if begins_with is not None and begins_with[1] != node.op_type:
                return None
        return tried(rule, model, graph, node, **more)

    return RewriteRule, "try_rewrite", try_rewrite


@cache
def _table(make: Callable[..., Any], opset: int) -> Any:
    without_source = property(lambda function: SimpleNamespace(domain=function.opset.domain))
    with ExitStack() as stack:
        with suppress(ImportError, KeyError):
            from onnxscript.values import TracedOnnxFunction

            stack.enter_context(_swapped(TracedOnnxFunction, "function_ir", without_source))
        return make(opset_version=opset)


@contextmanager
def _swapped(owner: type, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
