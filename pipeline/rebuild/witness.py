"""A second opinion on how the network is called, in a few lines that know nothing of `pipeline.rebuild.calling`.

Everything is held against the oracle, so that nothing later would notice if inputs were bound wrongly there. These lines
call the network as a user would by hand: with the config's names as keywords. They may share nothing with the binding.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

from pipeline.errors import DefectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from pipeline.interface import Interface

_FORMS = ("lists", "tuples", "as annotated")


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
    answers = []
    for form in _FORMS:
        with torch.inference_mode():
            answer = _by_hand(module, interface, copy.deepcopy(given), form)
        answers += [] if answer is None else [_named(answer, interface)]
    # Of what names and plain values cannot say there is no other opinion.
    wrong = [[name for name in ours if not _same(ours[name], answer.get(name))] for answer in answers]
    if wrong and all(wrong):
        raise DefectError(
            f"weighbridge called the network otherwise than a call by hand does: {', '.join(wrong[0])} came out differently",
            hint="this is a defect of weighbridge: please report it with the signature of the network's "
            f"{interface.method} and the config's inputs; no release can be made until it is mended",
        )


def _by_hand(module: nn.Module, interface: Interface, given: dict[str, Any], form: str) -> Any:
    """Return what the network gives, or None if it does not take the inputs in this form."""
    called = module if interface.method == "forward" else getattr(module, interface.method)
    parameters = inspect.signature(getattr(module, interface.method)).parameters
    try:
        if form == "as annotated":
            hints = get_type_hints(getattr(module, interface.method))
            given = {name: hints[name](**value) if isinstance(value, dict) else value for name, value in given.items()}
        else:
            given = {name: _plain(value, tuple if form == "tuples" else list) for name, value in given.items()}
        if any(name in parameters for name in given):
            first = [each for each in parameters.values() if each.kind is each.POSITIONAL_ONLY]
            return called(*(given.pop(each.name, each.default) for each in first), **given, **interface.constants)
        try:
            return called(**given, **interface.constants)
        except TypeError:
            return called(*given.values(), **interface.constants)  # the config has names of its own
    except Exception:  # noqa: BLE001 - it does not take them so
        return None


def _plain(value: Any, sequence: type) -> Any:
    """Turn {"0": …, "1": …} into a list or tuple."""
    if not isinstance(value, dict):
        return value
    inner = {key: _plain(each, sequence) for key, each in value.items()}
    return sequence(inner[str(index)] for index in range(len(inner))) if "0" in inner else inner


def _named(result: Any, interface: Interface) -> dict[str, torch.Tensor]:
    """Return the outputs by name: where they lie, or else in order."""
    tensors = list(_tensors(result))
    found = {name: _found(result, interface.paths.get(name, name)) for name in interface.outputs}
    if all(each is None for each in found.values()):
        return dict(zip(interface.outputs, tensors, strict=False))
    return {name: each for name, each in found.items() if each is not None}


def _same(ours: torch.Tensor, theirs: torch.Tensor | None) -> bool:
    import torch

    return theirs is not None and theirs.shape == ours.shape and torch.equal(_bits(theirs), _bits(ours))


def _tensors(result: Any) -> Iterator[torch.Tensor]:
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
