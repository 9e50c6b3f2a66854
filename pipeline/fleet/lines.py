"""What another process prints, line by line, listened to so that a run that is stopped ends at once."""

from __future__ import annotations

import math
import os
import select
import time
from typing import IO, TYPE_CHECKING

from pipeline.errors import STOPPING, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOP_CHECK_MS = 500


def read_lines(stream: IO[bytes], until_s: float = math.inf) -> Iterator[str]:
    """Yield lines as they come until the stream is closed, without their ends; nobody else may read from it.

    Raises:
        InterruptedRunError: the run is stopped.
        TimeoutError: the monotonic clock has passed `until_s`.
    """
    rest = b""
    waiting = select.poll()  # which has no limit on the numbers of files
    waiting.register(stream, select.POLLIN)
    while True:
        if STOPPING.is_set():
            raise InterruptedRunError
        if time.monotonic() > until_s:
            raise TimeoutError
        if not waiting.poll(_STOP_CHECK_MS):
            continue
        piece = os.read(stream.fileno(), 1 << 16)
        *whole, rest = (rest + piece).split(b"\n")
        yield from (each.decode(errors="replace") for each in whole)
        if not piece:
            if rest:
                yield rest.decode(errors="replace")
            return
