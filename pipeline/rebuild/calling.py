"""How a network is called: inputs bound to its method's parameters by name, arrays as tensors and back."""

from __future__ import annotations

import dataclasses
import inspect
import keyword
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pipeline.errors import ArchitectureError, suggestion
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.outputs import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface

_KINDS = inspect.Parameter
_NAMED = (_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD, _KINDS.KEYWORD_ONLY)
_BY_POSITION = (_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD)
_VERY_NEAR = 0.75


# Arguments


@dataclass(frozen=True, slots=True)
class Binding:
    """Which parameter of a method takes each input.

    `parameters` maps the name of each configured input (of a nested one: its first part) to the parameter's;
    `positional` are the parameters that can only be given by position, in order, with their defaults. `leaves` are all inputs in the order in
    which the method takes them. `is_plain`: a call with all inputs by position, in that order and each one tensor, is the
    same call. `kinds` are the annotated types of parameters that take nested inputs.
    """

    method: str
    leaves: tuple[str, ...]
    parameters: Mapping[str, str]
    positional: Mapping[str, Any]
    constants: Mapping[str, Any]
    kinds: Mapping[str, Any]
    is_plain: bool

    def arguments(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments of the call that takes `values` (by input name) and the constants."""
        given = {
            parameter: assemble({path: values[path] for path in self.leaves}, name, self.kinds.get(parameter))
            for name, parameter in self.parameters.items()
        }
        keywords = {**self.constants, **given}
        return [keywords.pop(name, default) for name, default in self.positional.items()], keywords

    def renamed_inputs(self) -> list[str]:
        """Say which input goes to which parameter, where that is not the one of its name."""
        return [f"{name} → {parameter}" for name, parameter in self.parameters.items() if name != parameter]


def bind(module: nn.Module, interface: Interface) -> Binding:
    """Bind inputs and constants to the parameters of the method that the config names.

    Inputs go by name. Only if none of their names is a parameter's they go by position, in the config's order.

    Raises:
        ArchitectureError: there is no such method; a name is none of its parameters while others are; one without default
            gets no value; or it would have to be given through `*args`.
    """
    method = _method(module, interface.method)
    owner = f"{type(module).__name__}.{interface.method}"
    parameters = inspect.signature(method).parameters
    roots = roots_of(spec.name for spec in interface.inputs)
    bound = _bound(roots, interface.constants, parameters, owner)
    _require_all(parameters, {*bound.values(), *interface.constants}, owner)
    order = list(parameters)
    # What goes through **kwargs keeps the config's order, after the others.
    roots.sort(key=lambda root: order.index(bound[root]) if bound[root] in order else len(order))
    leaves = tuple(spec.name for root in roots for spec in interface.inputs if spec.name.partition(".")[0] == root)
    first = [name for name, each in parameters.items() if each.kind in _BY_POSITION][: len(roots)]
    is_flat = all("." not in name for name in leaves)
    kinds = _annotations(method)
    _require_nesting({root: kinds.get(bound[root]) for root in roots}, leaves, owner)
    return Binding(
        method=interface.method,
        leaves=leaves,
        parameters={root: bound[root] for root in roots},
        positional=_positional(parameters, {*bound.values(), *interface.constants}),
        constants=dict(interface.constants),
        kinds=kinds,
        is_plain=is_flat and not interface.constants and [bound[root] for root in roots] == first,
    )


def _method(module: nn.Module, name: str) -> Callable[..., Any]:
    from torch import nn

    method = getattr(module, name, None)
    if not callable(method) or getattr(method, "__func__", None) is nn.Module.forward:
        known = [each for each in dir(type(module)) if not each.startswith("_") and each not in _of_every_module()]
        raise ArchitectureError(
            f"{type(module).__name__} has no method {name!r}{suggestion(name, known)}", hint="correct model.call"
        )
    return method  # type: ignore[no-any-return]


def _of_every_module() -> set[str]:
    from torch import nn

    return set(dir(nn.Module)) - {"forward"}


def _bound(
    roots: Sequence[str], constants: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], owner: str
) -> dict[str, str]:
    """Return input → parameter."""
    keywords = [name for name, each in parameters.items() if each.kind in _NAMED]
    takes_any = any(each.kind is _KINDS.VAR_KEYWORD for each in parameters.values())
    matched = [root for root in roots if root in keywords]
    free = [name for name, each in parameters.items() if each.kind in _BY_POSITION and name not in constants]
    if not matched and len(roots) <= len(free):
        _require_known(constants, keywords, owner, takes_any=takes_any)
        return dict(zip(roots, free, strict=False))
    if not matched and not takes_any:
        raise _too_many(roots, free, parameters, owner)
    _require_known([*roots, *constants], keywords, owner, takes_any=takes_any)
    return {root: root for root in roots}


def _require_known(
    names: Sequence[str] | Mapping[str, Any], keywords: Sequence[str], owner: str, *, takes_any: bool
) -> None:
    """Raise for a name that is no parameter; with **kwargs only for one that looks like a parameter's, misspelt."""
    import difflib

    for name in names:
        near = difflib.get_close_matches(name, [each for each in keywords if each not in names], n=1, cutoff=_VERY_NEAR)
        if name not in keywords and (not takes_any or near):
            raise ArchitectureError(
                f"{owner} has no parameter {name!r}{suggestion(name, keywords)}; it takes {', '.join(keywords) or 'none'}",
                hint="name inputs and constants as its parameters are called, or all inputs otherwise: then they go by position",
                about="inputs",
            )


def _too_many(
    roots: Sequence[str], free: Sequence[str], parameters: Mapping[str, inspect.Parameter], owner: str
) -> ArchitectureError:
    if any(each.kind is _KINDS.VAR_POSITIONAL for each in parameters.values()):
        return ArchitectureError(
            f"{owner} takes {', '.join(roots[len(free) :])} through *args, which has no names to bind them to",
            hint="give its inputs names in a method of the network, and name that under model.call",
            about="inputs",
        )
    return ArchitectureError(
        f"{owner} takes {len(free)} inputs ({', '.join(free) or 'none'}), the config names {len(roots)}: {', '.join(roots)}",
        hint="name its parameters under `inputs`",
        about="inputs",
    )


def _require_all(parameters: Mapping[str, inspect.Parameter], given: set[str], owner: str) -> None:
    lacking = [
        name
        for name, each in parameters.items()
        if each.kind in _NAMED and each.default is each.empty and name not in given
    ]
    if lacking:
        raise ArchitectureError(
            f"{owner} needs {', '.join(lacking)}, which {'has' if len(lacking) == 1 else 'have'} no default and "
            f"{'is' if len(lacking) == 1 else 'are'} no input of the config",
            hint=f"add {lacking[0]} to `inputs`, or to `constants` if it is no tensor",
            about="inputs",
        )


def _positional(parameters: Mapping[str, inspect.Parameter], given: set[str]) -> dict[str, Any]:
    """Return the parameters that take no keyword, up to the last that is given, with their defaults."""
    only = [each for each in parameters.values() if each.kind is _KINDS.POSITIONAL_ONLY]
    last = max((index for index, each in enumerate(only) if each.name in given), default=-1)
    return {each.name: each.default for each in only[: last + 1]}


def _require_nesting(kinds: Mapping[str, Any], leaves: Sequence[str], owner: str) -> None:
    """Raise where one tensor is given for what the method says is several."""
    for root, kind in kinds.items():
        container = get_origin(_without_none(kind)) or _without_none(kind)
        if root in leaves and container in {list, tuple, dict, Mapping, Sequence}:
            form = "{NAME: {…}, …}" if container in {dict, Mapping} else "[{dtype: …, shape: …}, …]"
            raise ArchitectureError(
                f"{owner} takes a {container.__name__.lower()} of tensors for {root}, and the config gives one tensor",
                hint=f"write what it holds: inputs: {{{root}: {form}}}",
                about="inputs",
            )


def _annotations(method: Callable[..., Any]) -> dict[str, Any]:
    return attempt(get_type_hints, method) or {}  # they may name anything, and are only a hint here


def roots_of(names: Iterable[str]) -> list[str]:
    """Return what inputs are called as a whole, each once: `past` of past.0.key."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def assemble(values: Mapping[str, Any], root: str, kind: Any = None) -> Any:
    """Return what is called `root`: a value, or the lists and dicts that paths such as past.0.key describe.

    `kind`, the annotated type, tells a tuple from a list, and the class of a dataclass or named tuple.
    """
    if root in values:
        return values[root]
    parts = dict.fromkeys(
        path.removeprefix(f"{root}.").partition(".")[0] for path in values if path.startswith(f"{root}.")
    )
    kind = _without_none(kind)
    if all(part.isdecimal() for part in parts):
        return _sequence([assemble(values, f"{root}.{part}", _item_kind(kind, int(part))) for part in parts], kind)
    fields = _annotations(kind) if isinstance(kind, type) else {}
    inner = get_args(kind)[-1] if get_origin(kind) in {dict, Mapping} else None
    made = {part: assemble(values, f"{root}.{part}", fields.get(part, inner)) for part in parts}
    is_record = isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))
    return kind(**made) if is_record else made


def _sequence(items: list[Any], kind: Any) -> Any:
    if isinstance(kind, type) and hasattr(kind, "_fields"):
        return kind(*items)
    return tuple(items) if (get_origin(kind) or kind) is tuple else items


def _item_kind(kind: Any, index: int) -> Any:
    arguments = [each for each in get_args(kind) if each is not Ellipsis]
    return arguments[min(index, len(arguments) - 1)] if arguments else None


def _without_none(kind: Any) -> Any:
    """Return the type that an Optional wraps."""
    if get_origin(kind) in {Union, types.UnionType}:
        inner = [each for each in get_args(kind) if each is not type(None)]
        return inner[0] if len(inner) == 1 else None
    return kind


def identifier(name: str) -> str:
    """Return an input's name as the parameter of a function: past.0.key is past_0_key."""
    plain = re.sub(r"\W", "_", name)
    return f"{plain}_" if keyword.iskeyword(plain) or plain == "self" else plain


# Calls


def invoke(module: nn.Module, binding: Binding, values: Mapping[str, Any]) -> Any:
    """Call the network's method with tensors by input name; return what it returns."""
    positional, keywords = binding.arguments(values)
    return method_of(module, binding)(*positional, **keywords)


def method_of(module: nn.Module, binding: Binding) -> Callable[..., Any]:
    """Return what is called: the module itself instead of its forward, so that hooks run."""
    return module if binding.method == "forward" else getattr(module, binding.method)


def call(
    module: nn.Module, binding: Binding, interface: Interface, values: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Call the network's method with tensors by input name; return its outputs by name. Raises as `outputs.output_paths`."""
    return outputs_of(invoke(module, binding, values), interface)


# Tensors


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


def arrays_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Turn tensors into arrays; those that numpy has no form for (sparse, quantised, on no device) are left out."""
    found = {name: attempt(array_from, tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in found.items() if array is not None}


def _tensor(array: Any) -> torch.Tensor:
    import numpy as np
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
