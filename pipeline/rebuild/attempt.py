"""One way to try what a network's own code may refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def attempt(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T | None:
    """Return what a call returns, or None where it raises: a constructor may raise anything for values it does not take."""
    try:
        return function(*arguments, **keywords)
    except Exception:  # noqa: BLE001 - see above
        return None
