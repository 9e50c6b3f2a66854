"""How a network is called: its inputs in order, its outputs by name, arrays as tensors and back."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from pipeline.types import Arrays


def flatten_outputs(result: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Give the tensors a network returned their configured names: a dict by key, anything else in order.

    Raises:
        ArchitectureError: the network returns another number of outputs, or none that is a tensor.
    """
    import torch
    from torch.utils import _pytree as pytree

    if isinstance(result, dict) and set(result) == set(names):
        return {name: result[name] for name in names}
    leaves = [leaf for leaf in pytree.tree_leaves(result) if leaf is not None]
    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        kinds = ", ".join(type(leaf).__name__ for leaf in leaves)
        raise ArchitectureError(f"the network returns {kinds}: every output must be a tensor")
    if len(leaves) != len(names):
        raise ArchitectureError(
            f"the network returns {len(leaves)} outputs, the config names {len(names)}: {', '.join(names)}",
            hint=f"list {len(leaves)} names under `outputs`",
        )
    return dict(zip(names, leaves, strict=True))


def ordered_inputs(parameters: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return input names in the order of a forward's parameters: matched by name where all match, else as configured."""
    if set(names) <= set(parameters):
        return [name for name in parameters if name in set(names)]
    return list(names)


def forward_order(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the configured input names in the order in which `module.forward` takes them."""
    return ordered_inputs(list(inspect.signature(module.forward).parameters), names)


def tensors_from(arrays: Arrays, *, device: str = "cpu", double: bool = False) -> dict[str, torch.Tensor]:
    """Turn numpy arrays into tensors (sharing memory on the CPU); floating ones into float64 with `double`."""
    import torch

    tensors = {}
    for name, array in arrays.items():
        tensor = _tensor(array).to(device)
        tensors[name] = tensor.to(torch.float64) if double and tensor.is_floating_point() else tensor
    return tensors


def array_from(tensor: torch.Tensor) -> Any:
    """Turn a tensor into a numpy array; bfloat16 keeps its type through ml_dtypes."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _tensor(array: Any) -> torch.Tensor:
    import numpy as np
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
