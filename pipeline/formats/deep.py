"""Deeply nested networks: exporters walk them with several Python calls a level, more than Python allows by itself."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Result = TypeVar("Result")

_USUAL = 40
_CALLS_PER_LEVEL = 100
_STACK_BYTES_PER_LEVEL = 1 << 20
_MOST_STACK_BYTES = 1 << 30


def with_room(module: nn.Module, work: Callable[[], Result]) -> Result:
    """Return what `work` returns, done where the network's nesting fits: in a thread with a large stack, if it is unusual.

    Raises whatever `work` raises.
    """
    levels = max((name.count(".") + 1 for name, _ in module.named_modules() if name), default=0)
    if levels <= _USUAL:
        return work()
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it was waited for
            done.set_exception(error)

    calls, stack_bytes = sys.getrecursionlimit(), threading.stack_size()
    sys.setrecursionlimit(calls + levels * _CALLS_PER_LEVEL)
    threading.stack_size(min(64 * _STACK_BYTES_PER_LEVEL + levels * _STACK_BYTES_PER_LEVEL, _MOST_STACK_BYTES))
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(stack_bytes)
        sys.setrecursionlimit(calls)
    return done.result()
