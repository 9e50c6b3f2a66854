"""What the numbers of a state dict are like: not finite, or all the same. Reads every tensor, so it runs in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.weights import read

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def survey(weights: Path, key: str | None, max_bytes: int | None) -> dict[str, dict[str, Any]]:
    """Return name → {"nan": count, "inf": count, "constant": value} for the tensors that are worth a look.

    "constant" is the one value of a tensor of several elements, as a number, if it has only one. Raises as `read.load`.
    """
    checkpoint = read.load(weights, key=key, max_bytes=max_bytes)
    found = {name: _oddities(tensor) for name, tensor in checkpoint.tensors.items()}
    return {name: oddities for name, oddities in found.items() if oddities}


def _oddities(tensor: torch.Tensor) -> dict[str, Any]:
    values = read.plain_values(tensor)
    found: dict[str, Any] = {}
    if values.is_floating_point():
        counts = {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}
        found |= {name: count for name, count in counts.items() if count}
    if not found and values.numel() > 1 and bool((values == values.reshape(-1)[0]).all()):
        found["constant"] = values.reshape(-1)[0].item()
    return found
