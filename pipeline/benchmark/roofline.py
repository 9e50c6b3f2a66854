"""What this machine reaches at best: a plain matrix product and a plain copy, with as many threads as the backends get.

Source: Williams, Waterman and Patterson, Roofline: an insightful visual performance model, CACM 52 (2009).
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

EDGE = 768
COPIED_BYTES = 64 << 20  # far more than caches hold


def measure(seconds: float) -> dict[str, float]:
    """Return the best `flops_per_s` (float32) and `bytes_per_s` (read and written) seen within `seconds`; runs in a worker."""
    rng = np.random.default_rng(0)
    one, other = (rng.random((EDGE, EDGE), dtype=np.float32) for _ in range(2))
    product = np.empty_like(one)
    source = np.ones(COPIED_BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return {
            "flops_per_s": 2.0 * EDGE**3 / _best_s(lambda: np.matmul(one, other, out=product), seconds / 2),
            "bytes_per_s": 2.0 * COPIED_BYTES / _best_s(lambda: list(pool.map(_copy, parts)), seconds / 2),
        }


def _copy(part: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    np.copyto(part[1], part[0])


def _best_s(work: Callable[[], object], seconds: float) -> float:
    """The best of several, because what disturbs a measurement only ever makes it longer."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
