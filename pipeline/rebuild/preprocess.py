"""Preprocessing in the artifact: the network's method takes what arrives, and makes of it what the network takes.

The method is replaced by one of the same signature, written out so that TorchScript can compile it as well; its numbers are buffers of the
network that are not in its state dict. Nothing else of the network changes: names of modules and parameters stay what they are. So whatever
runs, exports, proves or explains the network sees one network.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any, get_type_hints

from pipeline.errors import ArchitectureError
from pipeline.rebuild import calling
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.rewriting import replace_method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from pipeline.interface import Interface, Preprocessing

_KINDS = inspect.Parameter
_BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD
_ORIGINAL = "_without_preprocessing"
_HALF = {"float16", "bfloat16"}
_CHANNELS_FIRST = {"NHWC": "0, 3, 1, 2", "HWC": "2, 0, 1"}
_OPERATORS = {"divide_by": "/", "mean": "-", "scale": "/"}


def fold(module: nn.Module, arriving: Interface) -> None:
    """Let the network's method take what arrives.

    Raises:
        ArchitectureError: the inputs are not those of the method, hooks look at what the network is given, or it calls itself.
    """
    binding = calling.bind(module, arriving.of_network())
    method = getattr(module, binding.method)
    _require_one_call(module, binding.method, method)
    signature = inspect.signature(method)
    lines: list[str] = []
    for spec in arriving.inputs:
        if spec.preprocess:
            parameter = binding.parameters[spec.name]
            casts = spec.dtype != spec.preprocess.dtype or spec.preprocess.dtype in _HALF
            held = _hold(module, spec.name, spec.preprocess, casts=casts)
            if (known := signature.parameters.get(parameter)) and known.default is None:
                lines.append(f"assert {parameter} is not None")
            lines += _lines(_place(parameter, signature), spec.preprocess, held, casts=casts)
    source, scope = _written(binding.method, signature, attempt(get_type_hints, method) or {}, lines)
    replace_method(module, binding.method, source, scope, kept=_ORIGINAL, title="the config's preprocessing")


def _require_one_call(module: nn.Module, name: str, method: Callable[..., Any]) -> None:
    """Raise ArchitectureError where what arrives would go elsewhere than to the method, or what it takes to be prepared again."""
    hint = "make it a part of a module that has none of that and calls it, or leave out `preprocess`"
    owner = type(module).__name__
    if name == "forward" and vars(module)["_forward_pre_hooks"]:
        message = f"{owner} has forward pre-hooks, which would see what arrives in place of what the network takes"
        raise ArchitectureError(message, hint=hint)
    source = attempt(lambda: ast.parse(textwrap.dedent(inspect.getsource(method))))
    calls = [ast.unparse(each.func) for each in ast.walk(source) if isinstance(each, ast.Call)] if source else []
    if {f"self.{name}", *(["self"] if name == "forward" else [])} & set(calls):
        message = f"{owner}.{name} calls itself, and what it gives itself would be preprocessed again"
        raise ArchitectureError(message, hint=hint)


def _place(parameter: str, signature: inspect.Signature) -> str:
    """Return the text for what is given for a parameter, which may be one among **keywords."""
    if parameter in signature.parameters:
        return parameter
    keywords = next(name for name, each in signature.parameters.items() if each.kind is _KINDS.VAR_KEYWORD)
    return f"{keywords}[{parameter!r}]"


def _hold(module: nn.Module, name: str, given: Preprocessing, *, casts: bool) -> dict[str, str]:
    """Give a module the numbers of an input's preprocessing as buffers; return the buffers' names by what they are for.

    There is at least one where values are cast: it tells the precision to compute in, which is float64 where the network is in float64.
    """
    import torch

    numbers = {
        **({"divide_by": (given.divide_by,)} if given.divide_by != 1 else {}),
        **({"mean": given.mean} if any(given.mean) else {}),
        **({"scale": given.scale} if set(given.scale) != {1.0} else {}),
    }
    if casts and not numbers:
        numbers["divide_by"] = (1.0,)
    dtype = torch.float32 if given.dtype in _HALF else getattr(torch, given.dtype)
    behind = [1] * (len(given.shape) - given.channels - 1)
    tensors = {
        each: torch.tensor(values, dtype=dtype).reshape([-1, *behind] if len(values) > 1 else [])
        for each, values in numbers.items()
    }
    if given.dtype in _HALF:
        tensors["dtype"] = torch.empty(0, dtype=getattr(torch, given.dtype))
    held = {}
    for each, tensor in tensors.items():
        buffer = f"preprocess_{name}_{each}"
        while hasattr(module, buffer):
            buffer += "_"
        module.register_buffer(buffer, tensor, persistent=False)
        held[each] = buffer
    return held


def _lines(place: str, given: Preprocessing, held: Mapping[str, str], *, casts: bool) -> Iterator[str]:
    """Yield what makes of what arrives what the network takes, as Python text."""
    if given.layout:
        # In memory as well, and while values are small: a network may ask for views that another order has not.
        yield f"{place} = {place}.permute({_CHANNELS_FIRST[given.layout]}).contiguous()"
    if casts:
        yield f"{place} = {place}.to(self.{next(iter(held.values()))}.dtype)"
    if given.resized:
        whole, back = (f"{place}.unsqueeze(0)", ".squeeze(0)") if len(given.shape) == 3 else (place, "")
        size = f"[{given.shape[-2]}, {given.shape[-1]}]"
        yield f"{place} = _interpolate({whole}, {size}, mode='bilinear', align_corners=False){back}"
    for each, operator in _OPERATORS.items():
        if each in held:
            yield f"{place} = {place} {operator} self.{held[each]}"
    if "dtype" in held:
        yield f"{place} = {place}.to(self.{held['dtype']}.dtype)"


class _Text:
    """A name that stands for a value in the text of a signature."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _written(
    method: str, signature: inspect.Signature, kinds: Mapping[str, Any], lines: list[str]
) -> tuple[str, dict[str, Any]]:
    """Return a method of the same signature that runs `lines` and then the original, as Python text, and the values that it names."""
    import torch

    parameters = signature.parameters.values()
    annotations = {name: kinds[name] for name in signature.parameters if name in kinds}
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    first = _KINDS.POSITIONAL_ONLY if _KINDS.POSITIONAL_ONLY in {each.kind for each in parameters} else _BY_NAME
    header = inspect.Signature(
        [
            _KINDS("self", first),
            *(
                each.replace(
                    annotation=_Text(f"_kind_of_{each.name}") if each.name in annotations else each.empty,
                    default=_Text(f"_default_of_{each.name}") if each.name in defaults else each.empty,
                )
                for each in parameters
            ),
        ]
    )
    scope = {
        "_interpolate": torch.nn.functional.interpolate,
        **{f"_kind_of_{name}": each for name, each in annotations.items()},
        **{f"_default_of_{name}": each for name, each in defaults.items()},
    }
    given = ", ".join(_argument(each) for each in parameters)
    body = "".join(f"    {each}\n" for each in [*lines, f"return self.{_ORIGINAL}({given})"])
    return f"def {method}{header}:\n{body}", scope


def _argument(parameter: inspect.Parameter) -> str:
    """Return the text that passes a parameter on."""
    match parameter.kind:
        case _KINDS.VAR_POSITIONAL:
            return f"*{parameter.name}"
        case _KINDS.KEYWORD_ONLY:
            return f"{parameter.name}={parameter.name}"
        case _KINDS.VAR_KEYWORD:
            return f"**{parameter.name}"
    return parameter.name
