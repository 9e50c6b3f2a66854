"""The network as exported forms take it: a forward of one tensor an input, by position, that returns the outputs in order.

Most networks are that already and are exported as they are. Where the config calls another method, gives constants, skips
a parameter, takes keywords only, or nests its inputs or outputs, `forward` is replaced by a function that makes the call
as the config says. Nothing else of the module changes: names of modules and parameters stay what they are.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.rebuild import calling
from pipeline.rebuild.outputs import output_paths, outputs_of
from pipeline.rebuild.rewriting import replace_method

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface
    from pipeline.rebuild.calling import Binding

_ORIGINAL = "_original_forward"


@dataclass(frozen=True, slots=True)
class Forward:
    """A module whose forward takes the inputs called `names`, in that order, and example `tensors` for them."""

    module: nn.Module
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]


def prepare(module: nn.Module, interface: Interface, examples: Arrays) -> Forward:
    """Return the network with a positional forward; the module itself is changed where that is not what it has.

    Raises:
        ArchitectureError: inputs or outputs of the config are not those of the network.
    """
    import torch

    binding = calling.bind(module, interface)
    tensors = calling.tensors_from(examples)
    with torch.inference_mode():
        result = calling.invoke(module, binding, {name: tensor.clone() for name, tensor in tensors.items()})
    places = output_paths(result, interface)
    if not (binding.is_plain and binding.method == "forward" and _is_flat(result, places)):
        _replace_forward(module, interface, binding, result, places)
    return Forward(module, binding.leaves, tuple(tensors[name] for name in binding.leaves))


def _is_flat(result: Any, places: Mapping[str, str]) -> bool:
    """Tell whether what is returned is the outputs already: one tensor, or a tuple of them in order."""
    import torch

    if isinstance(result, torch.Tensor):
        return True
    return isinstance(result, tuple) and list(places.values()) == [str(index) for index in range(len(result))]


def _replace_forward(
    module: nn.Module, interface: Interface, binding: Binding, result: Any, places: Mapping[str, str]
) -> None:
    """Give the module a forward that makes the call as the config says."""
    names = {name: calling.identifier(name) for name in binding.leaves}
    arguments = _arguments_text(binding, names)
    returned = _outputs_text(result, places)
    method = _ORIGINAL if binding.method == "forward" else binding.method
    called = f"self.{method}({arguments})" if arguments is not None else f"_call(self, {{{_pairs(names)}}})"
    source = (
        f"def forward(self, {', '.join(names.values())}):\n"
        f"    result = {called}\n"
        f"    return {returned if returned is not None else '_outputs(result)'}\n"
    )

    def call(self: nn.Module, values: Mapping[str, Any]) -> Any:
        positional, keywords = binding.arguments(values)
        return getattr(self, method)(*positional, **keywords)

    def outputs(result: Any) -> Any:
        found = tuple(outputs_of(result, interface).values())
        return found[0] if len(found) == 1 else found

    scope = {"_call": call, "_outputs": outputs}
    replace_method(module, "forward", source, scope, kept=_ORIGINAL, title="the call that the config describes")


def _pairs(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name!r}: {text}" for name, text in names.items())


def _arguments_text(binding: Binding, names: Mapping[str, str]) -> str | None:
    """Return the arguments of the call as Python text; None where they cannot be written as such."""
    positional, keywords = binding.arguments({name: _Text(text) for name, text in names.items()})
    if any(map(keyword.iskeyword, keywords)):
        return None
    try:
        by_name = [f"{name}={_text(value)}" for name, value in keywords.items()]
        return ", ".join([*map(_text, positional), *by_name])
    except ValueError:
        return None


class _Text(str):
    """The name of a variable, among values that are texts."""

    __slots__ = ()


def _text(value: Any) -> str:
    """Return a value as Python text; raises ValueError for what is neither plain nor a list, tuple or dict of such."""
    match value:
        case _Text():
            return str(value)
        case bool() | int() | str() | None:
            return repr(value)
        case float() if math.isfinite(value):
            return repr(value)
        case dict() if type(value) is dict:
            return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{', '.join(map(_text, value))}]"
        case tuple() if type(value) is tuple:
            return f"({''.join(f'{_text(item)}, ' for item in value)})"
    raise ValueError(f"a {type(value).__name__} has no text")


def _outputs_text(result: Any, places: Mapping[str, str]) -> str | None:
    """Return the outputs, as parts of `result`, as Python text; None where a part has no such expression."""
    texts = [_part_text(result, path.split(".") if path else []) for path in places.values()]
    return None if None in texts else ", ".join(map(str, texts))


def _part_text(value: Any, path: list[str]) -> str | None:
    text = "result"
    while path:
        if isinstance(value, Mapping):
            # A key may hold dots itself.
            key = next(key for key in value if f"{'.'.join(path)}.".startswith(f"{key}."))
            path = path[str(key).count(".") + 1 :]
            text, value = f"{text}[{key!r}]", value[key]
        elif dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
            text, value, path = f"{text}.{path[0]}", getattr(value, path[0]), path[1:]
        elif isinstance(value, list | tuple):
            text, value, path = f"{text}[{path[0]}]", value[int(path[0])], path[1:]
        else:
            return None
    return text
