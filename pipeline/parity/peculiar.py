"""Where torch gives what no other runtime need give: rows that a mask hides, casts out of range, NaN, ties, whole numbers.

A network is run with every operator watched. What an operator gives at such a place is noted, with the line of the network
that asked for it. Run again with only these elements disturbed, it shows which elements of its outputs depend on them:
the rest of the outputs cannot be wrong for this reason.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    import torch
    from numpy.typing import NDArray

    Places = Iterator[tuple[int, Any]]
    """Which of an operator's results, and a boolean tensor of its elements."""

_CHANGED = 1e-9  # of an output's largest value: far above float64's rounding, far below what a disturbance of 1 does
_WRAPPING = frozenset({"uint8", "int8", "int16", "int32"})


@dataclass(frozen=True, slots=True)
class Peculiarity:
    """Something that torch does in its own way: what it is and what to do, in words, and where an operator meets it."""

    name: str
    words: str
    remedy: str
    places: Callable[[str, Sequence[Any], Mapping[str, Any], Any], Places]


@dataclass(frozen=True, slots=True)
class Met:
    """A peculiarity that a case meets: the lines that do, and by output which elements depend on it."""

    name: str
    lines: tuple[str, ...]
    dependents: Mapping[str, NDArray[np.bool_]]


def met(run: Callable[[], Mapping[str, torch.Tensor]]) -> list[Met]:
    """Return what a call of the network meets; `run` makes the call, in the precision that it is to be watched in."""
    import torch

    with torch.no_grad(), _watching() as seen:
        plain = run()
    found = []
    for name, lines in seen.items():
        changed = [_disturbed(run, name, by) for by in (1.0, -1.0)]
        if None not in changed:
            dependents = {
                output: np.logical_or.reduce([_differs(value, each[output]) for each in changed if each])
                for output, value in plain.items()
            }
            found.append(Met(name, tuple(dict.fromkeys(lines)), dependents))
    return found


def _disturbed(
    run: Callable[[], Mapping[str, torch.Tensor]], name: str, by: float
) -> Mapping[str, torch.Tensor] | None:
    import torch

    try:
        with torch.no_grad(), _watching(name, by):
            return run()
    except (RuntimeError, IndexError, ValueError):
        return None  # a disturbed index may lie outside of what it chooses from


def _differs(plain: torch.Tensor, other: torch.Tensor) -> NDArray[np.bool_]:
    if plain.shape != other.shape:
        return np.ones(tuple(plain.shape), bool)
    first, second = (each.detach().double().numpy() for each in (plain, other))
    with np.errstate(invalid="ignore"):
        scale = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
        same = (first == second) | (np.isnan(first) & np.isnan(second)) | (np.abs(first - second) <= _CHANGED * scale)
    return np.asarray(~same)


def _watching(name: str | None = None, by: float = 0.0) -> Any:
    """Return a context in which every operator is watched; its value is the lines by peculiarity. `name` is disturbed `by`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: dict[str, list[str]] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del types
            given = kwargs or {}
            result = func(*args, **given)
            operator = func._schema.name.removeprefix("aten::")  # noqa: SLF001 - the only place that says so
            for each in PECULIARITIES:
                for index, where in each.places(operator, args, given, result):
                    if bool(where.any()):
                        seen.setdefault(each.name, []).append(_line())
                        if each.name == name:
                            result = _with(result, index, _moved(_part(result, index), where, by, func, args, given))
            return result

        def __enter__(self) -> Any:
            super().__enter__()  # type: ignore[no-untyped-call]
            return seen

    return Watch()  # type: ignore[no-untyped-call]


def _part(result: Any, index: int) -> Any:
    return result[index] if isinstance(result, tuple | list) else result


def _with(result: Any, index: int, part: Any) -> Any:
    if not isinstance(result, tuple | list):
        return part
    return tuple(part if place == index else each for place, each in enumerate(result))


def _moved(value: Any, where: Any, by: float, func: Any, args: Any, given: Any) -> Any:
    """Return a result with some elements disturbed; indices take the other of two equal values."""
    import torch

    if value.is_floating_point():
        return torch.where(where, value.nan_to_num() + by * (1 + value.nan_to_num().abs()), value)
    other = _other_ties(func, args, given) if by > 0 else _beside(value, func, args, given)
    if other is not None and other.shape == value.shape:
        return torch.where(where, other, value)
    return torch.where(where, value ^ 1 if value.dtype != torch.bool else ~value, value)


def _line() -> str:
    """Return "file:line" of the network's own code that is being run."""
    import torch

    own, theirs = str(Path(__file__).parents[1] / "rebuild"), str(Path(torch.__file__).parent)
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the stack as it is
    here = __file__
    while frame is not None:
        file = frame.f_code.co_filename
        if file != here and not file.startswith((theirs, own, "<")) and "/contextlib.py" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _hidden_rows(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Places:
    import torch

    if operator == "_scaled_dot_product_flash_attention_for_cpu":
        mask = kwargs.get("attn_mask", args[5] if len(args) > 5 else None)
        if mask is not None:
            rows = (mask == -torch.inf).all(-1, keepdim=True)
            yield 0, rows.broadcast_to((*result[0].shape[:-1], 1)).broadcast_to(result[0].shape)
    if operator == "_safe_softmax":
        yield 0, (args[0] == -torch.inf).all(-1, keepdim=True).broadcast_to(result.shape)


def _casts(operator: str, args: Sequence[Any], _: Mapping[str, Any], result: Any) -> Places:
    import torch

    from_float = operator == "_to_copy" and args[0].is_floating_point()
    if from_float and not (result.is_floating_point() or result.is_complex() or result.dtype == torch.bool):
        limits = torch.iinfo(result.dtype)
        yield 0, ~((args[0] > limits.min - 1) & (args[0] < limits.max + 1))


def _lost_nan(operator: str, args: Sequence[Any], _: Mapping[str, Any], result: Any) -> Places:
    if operator in {"amax", "amin", "max", "min", "maximum", "minimum", "clamp", "relu", "max_pool2d_with_indices"}:
        values = _part(result, 0)
        if values.is_floating_point():
            yield 0, values.isnan()
    if operator in {"argmax", "argmin"} and args[0].is_floating_point() and len(args) > 1 and args[1] is not None:
        keep = result.dim() == args[0].dim()
        yield 0, args[0].isnan().any(args[1], keepdim=keep)


def _signs(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Places:
    if operator not in {"div", "floor_divide", "remainder", "fmod"} or result.is_floating_point():
        return
    if operator == "div" and not kwargs.get("rounding_mode"):
        return
    first, second = args[:2]
    yield 0, (((first < 0) ^ (second < 0)) & (first - (first // second) * second != 0)).broadcast_to(result.shape)


def _wraps(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Places:
    import torch

    if operator not in {"add", "sub", "mul"} or str(result.dtype).removeprefix("torch.") not in _WRAPPING:
        return
    first, second = (each.long() if isinstance(each, torch.Tensor) else each for each in args[:2])
    if not all(isinstance(each, torch.Tensor | int) for each in (first, second)):
        return
    scaled = second * int(kwargs.get("alpha", 1))
    exact = first * second if operator == "mul" else first + scaled if operator == "add" else first - scaled
    yield 0, result.long() != exact


def _ties(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Places:
    import torch

    if operator not in _CHOOSING or not isinstance(args[0], torch.Tensor):
        return
    index = 0 if operator in {"argmax", "argmin", "argsort"} else 1
    found = _part(result, index)
    if not isinstance(found, torch.Tensor) or found.dtype != torch.int64:
        return
    dim = _choosing_dim(operator, args, kwargs)
    other = None if dim is None else _flipped(getattr(torch, operator), args, kwargs, dim, index)
    if other is not None and other.shape == found.shape:
        yield index, (other != found) | (_beside(found, None, args, kwargs, operator) != found)


_CHOOSING = frozenset({"argmax", "argmin", "argsort", "topk", "sort", "max", "min"})


def _choosing_dim(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the axis along which an operator chooses, None if it does not choose along one."""
    place, usual = {"topk": (2, -1), "sort": (1, -1), "argsort": (1, -1)}.get(operator, (1, None))
    found = kwargs.get("dim", args[place] if len(args) > place else usual)
    return found if isinstance(found, int) and args[0].dim() else None


def _flipped(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], dim: int, index: int) -> Any:
    """Return the indices with ties decided the other way round: those of the values in reverse."""
    values = args[0]
    return values.shape[dim] - 1 - _part(func(values.flip(dim), *args[1:], **kwargs), index)


def _beside(found: Any, func: Any, args: Any, given: Any, operator: str = "") -> Any:
    """Return indices with each exchanged for the next that names an equal value, or the one before; as they are where none does."""
    import torch

    operator = operator or func._schema.name.removeprefix("aten::")  # noqa: SLF001 - the only place that says so
    dim = _choosing_dim(operator, args, given) if operator in _CHOOSING else None
    if dim is None or found.dim() != args[0].dim() or found.shape[dim] < 2 or found.dtype != torch.int64:
        return found
    values = args[0].gather(dim, found)
    length = found.shape[dim]
    following, before = found.narrow(dim, 1, length - 1), found.narrow(dim, 0, length - 1)
    equal = values.narrow(dim, 1, length - 1) == values.narrow(dim, 0, length - 1)
    exchanged = found.clone()
    exchanged.narrow(dim, 1, length - 1).copy_(torch.where(equal, before, following))
    exchanged.narrow(dim, 0, length - 1).copy_(torch.where(equal, following, exchanged.narrow(dim, 0, length - 1)))
    return exchanged


def _other_ties(func: Any, args: Any, given: Any) -> Any:
    import torch

    operator = func._schema.name.removeprefix("aten::")  # noqa: SLF001 - the only place that says so
    dim = _choosing_dim(operator, args, given) if operator in _CHOOSING else None
    if dim is None:
        return None
    return _flipped(getattr(torch, operator), args, given, dim, 0 if operator in {"argmax", "argmin", "argsort"} else 1)


PECULIARITIES: tuple[Peculiarity, ...] = (
    Peculiarity(
        "hidden rows",
        "rows of an attention mask that hide every position give 0 in torch's scaled_dot_product_attention, and something else in the file",
        "let every row of the mask keep one position, and set what is to be ignored to 0 after the attention",
        _hidden_rows,
    ),
    Peculiarity(
        "casts",
        "numbers are cast to integers that do not hold them (too large, or NaN), and what that gives is not defined",
        "clamp them to the range of the integer type before the cast",
        _casts,
    ),
    Peculiarity(
        "NaN",
        "NaN goes through maximum, minimum, clamp or argmax in torch, and not through the file's operator",
        "replace NaN (torch.nan_to_num, torch.where) before it",
        _lost_nan,
    ),
    Peculiarity(
        "signs",
        "whole numbers of unlike sign are divided, which torch rounds in its own way and the file in another",
        "make both operands non-negative, or divide floating numbers and round the quotient",
        _signs,
    ),
    Peculiarity(
        "wraps",
        "arithmetic on narrow integers runs over their range, which torch wraps around and the file does not",
        "convert to int64 (`.long()`) before it",
        _wraps,
    ),
    Peculiarity(
        "ties",
        "several values are equal, and which of them topk, sort or argmax names first is not laid down",
        "break ties yourself, for instance by adding a small multiple of the position",
        _ties,
    ),
)
