"""Numbers that a runtime may have in another's place, because it rounded once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.known import is_floating

if TYPE_CHECKING:
    from numpy.random import Generator


def neighbours(array: Any, rng: Generator) -> Any:
    """Return an array with each floating number moved by one unit in the last place, up or down at random; others come back as they are.

    Zeros stay: rounding is relative, and a runtime that computes a zero, pads with one or masks by one has it exactly. Its neighbour is
    the least number that there is, which no rounding gives, and which `x > 0`, a sign or a quotient takes for a number as any other.
    Infinities stay, and so does what has no finite neighbour on that side: masks are filled with the largest number there is.
    """
    if not is_floating(array) or not array.size:
        return array
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    with np.errstate(over="ignore"):
        moved = np.nextafter(array, towards)
    return np.where((array == 0) | ~np.isfinite(array) | ~np.isfinite(moved), array, moved)
