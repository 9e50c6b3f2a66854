"""Networks built for the names and shapes of their tensors alone: without data where that can be, and else for real."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.rebuild.doctor.difference import Layout, layout_of_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

_META = re.compile(r"(?<![A-Za-z])meta(?![A-Za-z])", re.IGNORECASE)


def build_for_shapes(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network on the meta device; for real on the CPU where its constructor looks at values or moves itself.

    What it loads itself is left out either way. Raises whatever the constructor does.
    """
    try:
        with shapes_only():
            return make(**arguments)
    except Exception as error:
        if not needs_values(error):
            raise
    return build_with_values(make, arguments)


def build_with_values(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network on the CPU, with the initial values of its constructor; raises whatever that does."""
    with _loading_nothing():
        return make(**arguments)


def shapes_of(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> Layout:
    """Return the names and shapes of a network's state dict; raises whatever its constructor does."""
    return layout_of_network(build_for_shapes(make, arguments))


def needs_values(error: BaseException) -> bool:
    """Tell whether something failed because meta tensors have no data: torch says so in words only, of many a kind."""
    seen: set[BaseException] = set()
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if _META.search(str(cause)):
            return True
        seen.add(cause)
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build networks on the meta device, without their random initial values and without loading any.

    A meta tensor has no values to set, and torch's way of not setting them imports its compiler, which takes a second.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    drawing = {getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "bernoulli_", "exponential_")}
    drawing |= {value for name, value in vars(torch.nn.init).items() if name.endswith("_") and callable(value)}

    class WithoutDrawing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [*args, *(kwargs or {}).values()]  # torch.nn.init names its arguments, methods do not
            return given[0] if func in drawing and given[0].is_meta else func(*args, **(kwargs or {}))

    with torch.device("meta"), WithoutDrawing(), _loading_nothing():
        yield


@contextmanager
def _loading_nothing() -> Iterator[None]:
    """Let no constructor load its own weights: they fit one choice of arguments, and others are to be tried as well."""
    from torch import nn
    from torch.nn.modules.module import _IncompatibleKeys

    load = nn.Module.load_state_dict
    nn.Module.load_state_dict = lambda *_, **__: _IncompatibleKeys([], [])  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
