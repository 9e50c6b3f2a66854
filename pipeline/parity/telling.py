"""Whether a case says anything: whether a defect would show in it.

An output that stays the same when the weights are changed would also stay the same when an export changes them. A saturated
sigmoid, a softmax that is 1 somewhere and 0 elsewhere, and a dead ReLU are right on every backend, whatever it computes before.
So the network is run once more with every weight moved by 2 %, up or down at random: a case says something about an output that
leaves its error budget then. An output that no weight reaches is asked the same with the inputs moved. An output that inputs reach and
that is the same for all of them (the bias behind a dead layer) says nothing of what lies between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from pipeline.parity.budget import Floats

MOVE = 0.02
_COARSE_MOVE = 0.5
_NEAR = 1e-3
_SAME = "the same whatever the weights"
DEAF = "the same whatever the inputs"
Origin = Literal["weights", "inputs", "constant"]


def move(roundoff: float) -> float:
    """Return by how much weights are moved that are held to this unit roundoff: float16 itself loses percents on the way."""
    return _COARSE_MOVE if roundoff > 2.0**-24 else MOVE


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


def in_words(several: Sequence[Any]) -> str:
    """Say what values are that say nothing: those of one output in several cases, or of several outputs."""
    flat = np.concatenate([np.asarray(each).reshape(-1) for each in several] or [np.zeros(0)])
    if not flat.size:
        return "empty"
    if flat.dtype.kind == "c":
        flat = np.abs(flat)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return "nowhere finite"
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return "all zero" if low == 0 else f"constant at {low:.6g}"
    if flat.dtype.kind == "f" and (np.minimum(np.abs(finite), np.abs(1 - finite)) < _NEAR).all():
        return "saturated at 0 and 1"
    return _SAME
