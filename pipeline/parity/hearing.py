"""Whether an output that is the same for all inputs still shows each weight on its way.

The bias behind a dead layer is such an output, and says nothing of what lies before it; so are the distances of rounded points to
the corners of a grid, which are always 0, 1 and 1, and where any change of the grid shows. What tells them apart is the gradient: the
weights before a dead layer have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.parity import budget, telling
from pipeline.parity.caller import floating
from pipeline.rebuild import calling

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface
    from pipeline.parity.budget import Floats
    from pipeline.parity.caller import Caller

_FEWEST_ALIKE = 3


def is_same(values: Sequence[Floats], floors: Sequence[Floats]) -> bool:
    """Tell whether an output stays within its budget from one case to another, in all cases of one shape, if these are several."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, each in enumerate(values):
        alike.setdefault(each.shape, []).append(index)
    limit = budget.Rule().limit
    for first, *others in alike.values():
        if any(telling.response(values[first], values[each], floors[first]) > limit for each in others):
            return False
    return max(map(len, alike.values())) >= _FEWEST_ALIKE


def shows_every_weight(
    run: Caller, inputs: Sequence[Arrays], name: str, values: Sequence[Floats], floors: Sequence[Floats] | None
) -> bool:
    """Tell of an output that is always the same whether a change of 2 % of each weight that leads to it would show in some case.

    No for one that is not the same, that no weight leads to, or that cannot be followed back.
    """
    if floors is None or not is_same(values, floors):
        return False
    module, interface = run.module, run.interface
    weights = floating(module)
    reached = np.zeros(len(weights), bool)
    heard = np.zeros(len(weights), bool)
    for case, floor in zip(inputs, floors, strict=True):
        try:
            moves = _moves(module, interface, case, name, weights)
        except Exception:  # noqa: BLE001 - what writes into its weights, or has no gradient
            return False
        reached |= [each is not None for each in moves]
        heard |= [each is not None and each > budget.Rule().limit * float(np.max(floor, initial=0.0)) for each in moves]
    return bool(reached.any() and (heard | ~reached).all())


def _moves(
    module: nn.Module, interface: Interface, case: Arrays, name: str, weights: Sequence[torch.Tensor]
) -> list[float | None]:
    """Return by how much each weight's own change moves an output, to first order; None for one that does not lead there."""
    import torch

    generator = torch.Generator().manual_seed(0)
    wanted = [each.requires_grad for each in weights]
    try:
        with torch.enable_grad():
            for each in weights:
                each.requires_grad_(True)  # noqa: FBT003 - torch's own signature
            binding = calling.bind(module, interface)
            tensors = {key: each.clone() for key, each in calling.tensors_from(case).items()}
            output = calling.call(module, binding, interface, tensors)[name]
            # A sum would hide what moves elements up and down alike, as behind a softmax.
            mixed = (output * torch.randn(output.shape, generator=generator)).sum()
            found = torch.autograd.grad(mixed, list(weights), allow_unused=True)
    finally:
        for each, was in zip(weights, wanted, strict=True):
            each.requires_grad_(was)
    return [
        None if gradient is None else float((gradient * weight).abs().sum()) * telling.MOVE
        for gradient, weight in zip(found, weights, strict=True)
    ]
