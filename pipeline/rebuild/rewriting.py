"""A method of a network replaced by one that is written out, so that TorchScript can compile it as well."""

from __future__ import annotations

import inspect
import linecache
import types
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def replace_method(
    module: nn.Module, method: str, source: str, scope: Mapping[str, Any], *, kept: str, title: str
) -> None:
    """Give a module a class of its own whose `method` is what `source` defines, with `scope` as its globals.

    What was called so before is called `kept`; `title` is what messages say in place of a file. Nothing else of the module changes: names of modules and parameters stay what they are.
    """
    own = type(module)
    before = vars(module).pop(method, None)
    if isinstance(before, types.FunctionType):
        before = staticmethod(_named(before, kept))  # it stood in the instance, which gives it no self
    file = f"<{title} {zlib.crc32(source.encode()):08x}>"  # two networks of one process have each its own
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = dict(scope)
    # Without this module's own __future__: TorchScript reads annotations that are types, not texts.
    code = compile(source, file, "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - our own text: names are checked, constants are plain values
    original = before or _named(inspect.getattr_static(own, method), kept)
    module.__class__ = type(own.__name__, (own,), {method: names[method], kept: original, "__module__": own.__module__})


def _named(function: Any, name: str) -> Any:
    """Return a copy of a function that is called as it is reached: TorchScript names methods by their functions."""
    if not isinstance(function, types.FunctionType):
        return function
    made = types.FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__, made.__annotations__ = function.__kwdefaults__, function.__annotations__
    made.__module__, made.__dict__ = function.__module__, dict(vars(function))
    return made
