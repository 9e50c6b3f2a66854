"""Write a state dict as a safetensors file: the weights alone, whatever lay around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import WeightsError
from pipeline.storage.store import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


def save(tensors: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write `tensors` with their names, dtypes and shapes to `target`, whole or not at all.

    Each name has values of its own there, so that a tensor under two names is written twice: a strict loader misses none.
    Raises WeightsError for what the format does not hold (sparse and quantised tensors, and rare dtypes).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name, tensor in tensors.items():
        if tensor.is_sparse or tensor.is_quantized:
            kind = "sparse" if tensor.is_sparse else "quantised"
            raise WeightsError(f"{name!r:.80} is {kind}, which safetensors does not hold", hint=_HINT)
    plain = {name: tensor.resolve_conj().resolve_neg().contiguous() for name, tensor in tensors.items()}
    with atomic_file(target) as temporary:
        try:
            save_file(_apart(plain), temporary, metadata={"format": "pt"})
        except (SafetensorError, KeyError, ValueError) as error:
            raise WeightsError(f"{target.name} could not be written: {error}"[:300], hint=_HINT) from error


_HINT = "free some space if the disk is full; else save it with torch.save where it was made"


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of which none shares memory with another, as the format wants it."""
    seen: set[int] = set()
    made = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        made[name] = tensor if whole and memory not in seen else tensor.clone()
        seen.add(memory)
    return made
