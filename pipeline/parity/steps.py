"""What single operators do to what is carried along with a tensor: those that only move elements, and simple arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

BOUNDED = frozenset({"sigmoid", "special_expit", "hardsigmoid", "softmax", "_softmax", "_safe_softmax"})
"""Functions with a range of 1, which runtimes compute to absolute accuracy."""

SHAPES = frozenset(
    {
        "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full",
        "new_empty", "new_empty_strided", "sym_size", "size",
    }
)  # fmt: skip
"""What takes from a tensor nothing but its shape."""
_SAME = frozenset(
    {
        "to",
        "_to_copy",
        "clone",
        "contiguous",
        "detach",
        "alias",
        "lift_fresh",
        "type_as",
        "float",
        "double",
        "long",
        "int",
    }
)
_MOVES = frozenset(
    {
        "view", "_unsafe_view", "reshape", "_reshape_alias", "view_as", "reshape_as", "permute", "transpose", "t", "numpy_T",
        "mT", "movedim", "moveaxis", "swapaxes", "swapdims", "slice", "select", "narrow", "cat", "concat", "concatenate",
        "stack", "hstack", "vstack", "squeeze", "unsqueeze", "expand", "expand_as", "flatten", "unflatten", "ravel", "split",
        "split_with_sizes", "tensor_split", "chunk", "unbind", "flip", "roll", "repeat", "repeat_interleave", "tile",
        "index_select", "gather", "take_along_dim", "index", "diagonal", "unfold", "broadcast_to", "masked_select",
    }
)  # fmt: skip
_LINEAR = frozenset(
    {
        "mean", "sum", "amax", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d",
        "cumsum", "neg", "abs",
    }
)  # fmt: skip
_ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "pow", "square", "where", "masked_fill"})
_WHOLE_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "floor_divide", "remainder", "fmod"})


def moved(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], carried: Any, fill: float) -> Any:
    """Return what is carried after an operator that only moves elements, None if it does more.

    `carried` gives what is carried with an argument; elements of others are given `fill`.
    """
    import torch

    if not args:
        return None
    if name in _SAME:
        return carried(args[0])
    if name not in _MOVES:
        return None
    first = args[0]
    if not isinstance(first, list | tuple):
        along = carried(first)
        return None if along is None else func(along, *args[1:], **kwargs)
    known = [carried(each) for each in first]
    example = next((each for each in known if each is not None), None)
    if example is None:
        return None
    whole = [
        torch.full(each.shape, fill, dtype=example.dtype, device=each.device) if along is None else along
        for each, along in zip(first, known, strict=True)
    ]
    return func(whole, *args[1:], **kwargs)


def of_values(name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any, carried: Any) -> Any:
    """Return what is carried with the values that an operator picks along an axis, None if it picks none."""
    if name not in {"topk", "sort", "max"} or not isinstance(out, tuple | list) or (along := carried(args[0])) is None:
        return None
    axis = axis_of(name, args, kwargs) % max(along.ndim, 1)
    kept = out[1] if out[1].ndim == along.ndim else out[1].unsqueeze(axis)
    return along.take_along_dim(kept, axis).reshape(out[0].shape)


def axis_of(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Return the axis that an operator chooses along; the last one where none is given."""
    if name in {"topk", "kthvalue"}:
        return int(kwargs.get("dim", args[2] if len(args) > 2 else -1))
    given = [each for each in args[1:] if type(each) is int]  # sort takes whether it is stable before the axis
    return int(kwargs.get("dim", given[0] if given else -1))


def arithmetic(
    func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any, carried: Any
) -> torch.Tensor | None:
    """Return how far elements move after simple arithmetic, to first order and at worst; None if it is not simple.

    `carried` gives how far an argument's elements move, None for not at all.
    """
    import torch

    if name in _LINEAR:
        first: torch.Tensor | None = carried(args[0])
        return first if first is None or name in {"neg", "abs"} else torch.as_tensor(func(first, *args[1:], **kwargs))
    if name not in _ARITHMETIC or kwargs.get("rounding_mode") is not None:
        return None
    operands = list(args[1:] if name == "where" else args[:1] if name in {"square", "masked_fill"} else args[:2])
    shares = [carried(each) for each in operands]
    one, other = ([*operands, 2])[:2]
    if name == "where":
        slopes: list[Any] = [args[0], ~args[0]]
    elif name == "masked_fill":
        slopes = [~args[1]]
    else:
        slopes = [_slope(name, one, other, kwargs, of=index) for index in range(len(operands))]
    total = torch.zeros(out.shape, dtype=torch.float64)
    for share, slope in zip(shares, slopes, strict=True):
        if share is not None and slope is None:
            return None
        total = total if share is None else total + share * slope
    return None if all(share is None for share in shares) else total


def _slope(name: str, one: Any, other: Any, kwargs: dict[str, Any], *, of: int) -> Any:
    """Return by what an operand's error is multiplied at most; None where that is not known."""
    if name in {"add", "sub", "rsub"}:
        scaled = of == (0 if name == "rsub" else 1)
        return abs(kwargs.get("alpha", 1)) if scaled else 1
    if name == "mul":
        return abs(other if of == 0 else one)
    if name == "div":
        return 1 / abs(other) if of == 0 else abs(one) / abs(other) ** 2
    if name in {"pow", "square"} and of == 0 and isinstance(other, int | float):
        return abs(other * one ** (other - 1))
    return None


def on_whole_numbers(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], table: torch.Tensor) -> Any:
    """Return what an operator with a plain number makes of a table of whole numbers, None if it is not one of these."""
    if name not in _WHOLE_ARITHMETIC or len(args) < 2 or not isinstance(args[1], int):
        return None
    result = func(table, *args[1:], **kwargs)
    return None if result.is_floating_point() else result
