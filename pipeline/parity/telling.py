"""Does a case say anything: would a defect show in it?

An output that stays the same when the weights are changed would also stay the same when an export changes them. A saturated
sigmoid, a softmax that is 1 somewhere and 0 elsewhere, and a dead ReLU are right on every backend, whatever it computes before.
So the network is run once more with every weight moved by 2 %, up or down at random: a case says something about an output that
leaves its error budget then. An output that no weight reaches is asked the same with the inputs moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from pipeline.parity.budget import Floats

MOVE = 0.02
Origin = Literal["weights", "inputs", "constant"]


def scaled(tensor: torch.Tensor, generator: torch.Generator, factor: float) -> torch.Tensor:
    """Return a floating tensor with every element multiplied or divided by `factor`, at random."""
    import torch

    if tensor.is_complex():
        return tensor * factor
    up = torch.empty(tensor.shape, dtype=torch.float32).uniform_(-1, 1, generator=generator) > 0
    return torch.where(up, tensor * factor, tensor / factor).to(tensor.dtype)


def shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a tensor's own elements in another order: still what it may hold."""
    import torch

    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.reshape(-1)[order].reshape(tensor.shape)


def response(exact: Any, moved: Any, floor: Floats | None) -> float:
    """Return the largest change ÷ floor; infinite for a change of what has none, or of the shape; 0 for none."""
    if exact.shape != moved.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        same = (exact == moved) | ((exact != exact) & (moved != moved))  # noqa: PLR0124 - NaN is what differs from itself
        if floor is None:
            return 0.0 if same.all() else float("inf")
        share = np.where(same, 0.0, np.abs(moved - exact) / floor)
    return float(np.nan_to_num(share, nan=np.inf).max(initial=0.0))


def in_words(values: Any) -> str:
    """Say what an output is that says nothing."""
    if not values.size:
        return "empty"
    if values.dtype.kind == "b" or values.dtype.kind in "iu":
        unlike = np.unique(values)
        return f"always {unlike[0]}" if unlike.size == 1 else "the same whatever the weights"
    if np.isnan(values).all():
        return "all NaN"
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "not finite"
    low, high = float(finite.real.min()), float(finite.real.max())
    if low == high:
        return "all zero" if low == 0 else f"constant at {low:.6g}"
    if min(abs(low), abs(1 - low)) < _NEAR and min(abs(high), abs(1 - high)) < _NEAR:
        return f"saturated at {low:.3g} and {high:.3g}" if round(low) != round(high) else f"saturated at {high:.3g}"
    return "the same whatever the weights"


_NEAR = 1e-3
