"""Modules that torch.ao has quantised: their weights are no tensors of the state dict, and no format holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn

FIX = "give the network as it was before torch quantised it"

_ROOMS = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def in_words(module: nn.Module) -> str | None:
    """Return which module of a network torch has quantised; None where none is."""
    for name, each in module.named_modules():
        kind = type(each)
        if kind.__module__.startswith(_ROOMS):
            return (
                f"modules that torch has quantised ({name or 'the network itself'}: {kind.__module__}.{kind.__name__})"
            )
    return None


def require_none(module: nn.Module) -> None:
    """Raise ArchitectureError for a network that torch has quantised."""
    if found := in_words(module):
        raise ArchitectureError(f"the network has {found}, which no format takes", hint=FIX)
