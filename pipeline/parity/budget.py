"""The error budget of an output: how far a healthy backend may be from the oracle, element by element.

The oracle gives a noise for each element (see `pipeline.parity.oracle`). One element's own noise is a poor measure: it can be
zero by luck. The whole tensor's is too: a small-valued channel would hide behind a large one. So noise is pooled over the
*slices* an element lies in: for each axis with a fixed meaning (its size is the same in every case) the largest noise in
the slice through the element, and of these the smallest. Three terms, of which the largest counts, make the *floor*:

- the slice's noise in this case;
- the slice's usual noise: the median of noise ÷ scale over the cases that have any finite value but 0, times this case's
  scale, so that one lucky case does not set an unreachable standard (scale: the largest magnitude of the output in a case);
- 1/16 of a unit roundoff (2⁻²⁴ for float32) of the largest magnitude, in this case or usually. Functions such as a sigmoid are
  computed to absolute accuracy; with the default limit of 16 exactly one roundoff of the scale is allowed. Where fewer than
  three cases tell of any noise, luck cannot be told from accuracy, and it is a whole unit roundoff.

A backend's *factor* is its largest error ÷ floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-24
ABSOLUTE_SHARE = 1 / 16
_FEWEST_TELLING = 3
_FLOAT64 = 2.0**-53


@dataclass(frozen=True, slots=True)
class Rule:
    """What an output is held to: a limit × the noise floor, or explicit tolerances with `assert_allclose`'s meaning.

    Whole numbers are compared exactly, or by `atol` alone. `constant`: it may say nothing (see `pipeline.parity.telling`).
    """

    limit: float = 16.0
    atol: float | None = None
    rtol: float | None = None
    constant: bool = False

    @property
    def explicit(self) -> bool:
        """Whether tolerances replace the noise floor."""
        return self.atol is not None

    def allowed(self, reference: Floats, floor: Floats) -> Floats:
        """Return the error allowed at each element (float64, broadcast to the reference's shape)."""
        if self.explicit:
            return (self.atol or 0.0) + (self.rtol or 0.0) * np.abs(reference)
        return np.broadcast_to(self.limit * floor, reference.shape)


def floors(references: Sequence[Floats], noises: Sequence[Floats], roundoff: float = UNIT_ROUNDOFF) -> list[Floats]:
    """Return one output's floor for each case, broadcastable to that case's shape.

    `references` and `noises` hold the output's oracle values and noise (float64), a case each; `roundoff` is the unit roundoff
    of the coarsest precision on the way to it.
    """
    axes = _fixed_axes([reference.shape for reference in references])
    scales = [_scale(reference) for reference in references]
    usual_scale = float(np.median(scales))
    own = [[_slice_maxima(noise, axis) for axis in axes] for noise in noises]
    # A case without a finite value other than 0 has no noise to be usual.
    telling = [(maxima, scale) for maxima, scale in zip(own, scales, strict=True) if scale]
    usual = [
        np.median([maxima[index] / scale for maxima, scale in telling], axis=0) if telling else np.zeros(1)
        for index in range(len(axes))
    ]
    tiny = float(np.finfo(np.float64 if roundoff == _FLOAT64 else np.float32).tiny)
    share = ABSOLUTE_SHARE if len(telling) >= _FEWEST_TELLING else 1.0
    return [
        _floor(maxima, usual, axes, reference.ndim, scale, roundoff * share * max(scale, usual_scale) + tiny)
        for maxima, reference, scale in zip(own, references, scales, strict=True)
    ]


def _floor(
    own: Sequence[Floats], usual: Sequence[Floats], axes: Sequence[int], ndim: int, scale: float, least: float
) -> Floats:
    per_axis = []
    for axis, mine, common in zip(axes, own, usual, strict=True):
        shape = [1] * ndim
        if axis >= 0:
            shape[axis] = mine.size
        per_axis.append(np.maximum(mine, common * scale).reshape(shape))
    floor = per_axis[0]
    for other in per_axis[1:]:
        floor = np.minimum(floor, other)
    return np.maximum(floor, least)


def _fixed_axes(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the axes whose size is the same, and more than 1, in every case; [-1] stands for the whole tensor."""
    if len({len(shape) for shape in shapes}) != 1 or any(0 in shape for shape in shapes):
        return [-1]
    sizes = [set(column) for column in zip(*shapes, strict=True)]
    return [axis for axis, found in enumerate(sizes) if len(found) == 1 and max(found) > 1] or [-1]


def _slice_maxima(noise: Floats, axis: int) -> Floats:
    """Return the largest noise of each slice along `axis` (of the whole for -1), ignoring what float32 cannot hold."""
    finite = np.where(np.isfinite(noise), noise, 0.0)
    if axis < 0:
        return np.atleast_1d(finite.max(initial=0.0))
    others = tuple(each for each in range(noise.ndim) if each != axis)
    return np.asarray(finite.max(axis=others, initial=0.0))


def _scale(reference: Floats) -> float:
    finite = reference[np.isfinite(reference)]
    return float(np.abs(finite).max(initial=0.0))
