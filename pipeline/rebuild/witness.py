"""A second opinion on how the network is called, in a few lines that know nothing of `pipeline.calling`.

Everything is held against the oracle, so that nothing later would notice if inputs were bound wrongly there. These lines
call the network as a user would by hand: with the config's names as keywords. They may share nothing with the binding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import DefectError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from pipeline.types import Interface


def require_agreement(
    module: nn.Module, interface: Interface, inputs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]
) -> None:
    """Raise DefectError if calling the network by hand gives other outputs than `ours`, bit for bit."""
    import torch

    given: dict[str, Any] = {}
    for name, tensor in inputs.items():
        *outer, last = name.split(".")
        place = given
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = tensor.clone()
    try:
        with torch.inference_mode():
            result = _by_hand(module, interface, {name: _plain(value, list) for name, value in given.items()})
    except TypeError:  # what the network wants is tuples
        with torch.inference_mode():
            result = _by_hand(module, interface, {name: _plain(value, tuple) for name, value in given.items()})
    tensors = list(_tensors(result))
    for position, name in enumerate(interface.outputs):
        theirs = _found(result, interface.paths.get(name, name))
        theirs = theirs if theirs is not None else tensors[position] if position < len(tensors) else None
        if theirs is None or theirs.shape != ours[name].shape or not torch.equal(_bits(theirs), _bits(ours[name])):
            raise DefectError(
                f"weighbridge called the network otherwise than a call by hand does: output {name!r} differs",
                hint="this is a defect of weighbridge: please report it with the signature of the network's "
                f"{interface.method} and the config's inputs; no release can be made until it is mended",
            )


def _by_hand(module: nn.Module, interface: Interface, given: Mapping[str, Any]) -> Any:
    method = module if interface.method == "forward" else getattr(module, interface.method)
    try:
        return method(**given, **interface.constants)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) and "positional-only" not in str(error):
            raise
        return method(*given.values(), **interface.constants)  # the config has names of its own


def _plain(value: Any, sequence: type) -> Any:
    """Turn {"0": …, "1": …} into a list or tuple."""
    if not isinstance(value, dict):
        return value
    inner = {key: _plain(each, sequence) for key, each in value.items()}
    return sequence(inner[str(index)] for index in range(len(inner))) if "0" in inner else inner


def _tensors(result: Any) -> Any:
    import torch

    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        for each in result.values():
            yield from _tensors(each)
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _tensors(each)
    elif hasattr(result, "__dict__"):
        for each in vars(result).values():
            yield from _tensors(each)


def _found(result: Any, path: str) -> Any:
    """Follow a path such as past.0.key; None where it leads nowhere."""
    import torch

    if isinstance(result, dict) and isinstance(result.get(path), torch.Tensor):
        return result[path]
    for part in path.split("."):
        if isinstance(result, dict) and part in result:
            result = result[part]
        elif part.isdecimal() and isinstance(result, list | tuple) and int(part) < len(result):
            result = result[int(part)]
        elif not isinstance(result, torch.Tensor | dict) and hasattr(result, part):
            result = getattr(result, part)
        else:
            return None
    return result if isinstance(result, torch.Tensor) else None


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose equality is that of every bit, so that NaN equals NaN."""
    import torch

    plain = tensor.detach().contiguous()
    return plain.reshape(-1).view(torch.uint8) if plain.numel() else plain.reshape(-1)
