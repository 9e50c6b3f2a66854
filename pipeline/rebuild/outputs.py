"""What a network returned: its values by path, and which of them are the outputs that the config names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from pipeline.interface import Interface

_LISTED = 12


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a torch tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def leaves(result: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a network returned, value by value, with its path: keys, fields and positions joined by dots.

    What is None is left out. Dataclasses, named tuples, mappings (such as transformers' ModelOutput) and what torch's
    pytrees know are looked into.
    """
    children = _children(result)
    if children is None and result is not None:
        yield path, result
    for name, value in children or ():
        yield from leaves(value, f"{path}.{name}" if path else name)


def tensors_in(result: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in what a network returned, by their paths."""
    return {path: value for path, value in leaves(result) if is_tensor(value)}


def _children(value: Any) -> Sequence[tuple[str, Any]] | None:
    """Return what a container holds, by name; None for what is no container."""
    from torch.utils import _pytree as pytree

    if is_tensor(value):
        return None
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        return list(zip(getattr(value, "_fields", map(str, range(len(value)))), value, strict=True))
    if type(value) in pytree.SUPPORTED_NODES:
        items, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
        return [(str(index), item) for index, item in enumerate(items)]
    return None


def output_paths(result: Any, interface: Interface) -> dict[str, str]:
    """Return where in what the network returned each output lies, by its name.

    Outputs lie where the config says. Names that are keys or fields stand for them, and then others may be left out; names of
    which none is go in order, and there is one for each value.

    Raises:
        ArchitectureError: a name leads nowhere or to something that is no tensor, or there are too many or too few.
    """
    found = dict(leaves(result))
    names = interface.outputs
    stated = {name: interface.paths.get(name, name) for name in names}
    known = [name for name in names if stated[name] in found]
    if not known and not interface.paths:
        _require_count(found, names)
        stated = dict(zip(names, found, strict=True))
    elif len(known) < len(names):
        lost = next(name for name in names if name not in known)
        raise ArchitectureError(
            f"output {lost!r}: the network returns no {stated[lost]!r}{suggestion(stated[lost], found)}; it returns "
            f"{_listed(found)}",
            hint="name outputs as they are called there, or all of them otherwise: then they go in order",
            about="outputs",
        )
    _require_tensors(stated, found)
    return stated


def _require_count(found: Mapping[str, Any], names: Sequence[str]) -> None:
    if len(found) == len(names):
        return
    tensors = [path for path, value in found.items() if is_tensor(value)]
    others = {path: value for path, value in found.items() if path not in tensors}
    told = "".join(f"; {path} is {_shown(value)}" for path, value in others.items())
    places = dict(zip(names, tensors, strict=False))
    raise ArchitectureError(
        f"the network returns {len(found)} outputs ({_listed(found)}), the config names {len(names)}: {', '.join(names)}{told}",
        hint=f"say where each lies: outputs: {_mapping(places)}"
        if len(tensors) >= len(names)
        else f"list {len(tensors)} names: outputs: [{', '.join(names[: len(tensors)])}]",
        about="outputs",
    )


def _mapping(places: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}: {path}' for name, path in places.items())}}}"


def _require_tensors(stated: Mapping[str, str], found: Mapping[str, Any]) -> None:
    others = [name for name, path in stated.items() if not is_tensor(found[path])]
    if others:
        told = ", ".join(f"{name} is {_shown(found[stated[name]])}" for name in others)
        wanted = {name: path for name, path in stated.items() if name not in others}
        raise ArchitectureError(
            f"every output must be a tensor, and {told}",
            hint=f"leave {'it' if len(others) == 1 else 'them'} out: outputs: {_mapping(wanted)}"
            if wanted
            else "return tensors",
            about="outputs",
        )


def _shown(value: Any) -> str:
    is_plain = isinstance(value, bool | int | float | str)
    return f"the {type(value).__name__} {value!r:.40}" if is_plain else f"a {type(value).__name__}"


def _listed(found: Mapping[str, Any]) -> str:
    more = " …" if len(found) > _LISTED else ""
    return ", ".join(path or "one value" for path in list(found)[:_LISTED]) + more or "nothing"


def outputs_of(result: Any, interface: Interface) -> dict[str, torch.Tensor]:
    """Give the tensors a network returned their configured names; raises as `output_paths`."""
    found = dict(leaves(result))
    return {name: found[path] for name, path in output_paths(result, interface).items()}
