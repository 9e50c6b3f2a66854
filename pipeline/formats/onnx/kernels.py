"""Operators for the exact evaluation of an ONNX file: what onnx's reference has slowly, or inexactly.

Convolutions and products are taken by torch; those of float16 and bfloat16 in float32, rounded once at the end, as runtimes on a CPU do.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Moves: TypeAlias = "Callable[[tuple[int, ...]], Any]"
"""Where numbers of a shape are moved to before they are rounded: from -1 to 1."""
_SIDES = (1.0, -1.0)
_MOVES = 16 * 2.0**-24
"""How far a number may be off before it is rounded to a whole one, as a share of the largest beside it: what float32 loses in a layer."""
RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767), "uint4": (0, 15), "int4": (-8, 7), "int32": (-(2**31), 2**31 - 1)}  # fmt: skip


def moves(seed: int) -> Moves:
    """Return where numbers are moved: all up, all down, then each at random. The first two find whatever lies between two steps."""
    if seed < len(_SIDES):
        return lambda shape: np.full(shape, _SIDES[seed])
    rng = np.random.default_rng(seed)
    return lambda shape: rng.uniform(-1, 1, shape)


def operators(moved_to: Moves | None) -> list[type]:
    """Return the operators as classes for onnx's evaluator; `moved_to` says where what is rounded to whole numbers is moved, a little."""
    return [*_plain(), *_rounding(moved_to)]


def along(values: Any, rank: int, axis: int, block: int, shape: tuple[int, ...]) -> Any:
    """Return scales or zero points in the form in which they go with a tensor: of all of it, of a channel each, of a block each."""
    if values is None:
        return None
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    if block:
        repeated = np.repeat(values, block, axis=axis)
        return repeated[tuple(slice(0, size) for size in shape)]
    form = [1] * rank
    form[axis] = -1
    return values.reshape(form)


def whole(array: Any) -> Any:
    """Return whole numbers in float64, those of 4 bits too; what is floating already as it is."""
    array = np.asarray(array)
    return array if array.dtype == np.float64 else array.astype(np.int64).astype(np.float64)


def less_zero(array: Any, zero: Any) -> Any:
    """Return whole numbers less their zero point, in float64."""
    return whole(array) if zero is None else whole(array) - whole(zero)


def _computed(dtype: Any) -> Any:
    """Return the dtype in which something of `dtype` is computed: float16 and bfloat16 in float32."""
    return dtype if dtype in (np.float32, np.float64) or dtype.kind in "iub" else np.dtype(np.float32)


def tensor(array: Any) -> Any:
    """Return an array as a tensor of a dtype in which it is computed."""
    import torch

    made = np.ascontiguousarray(array.astype(_computed(array.dtype), copy=False))
    return torch.from_numpy(made if made.flags.writeable else made.copy())  # weights are read from the file's own bytes


def convolved(x: Any, w: Any, bias: Any, attributes: dict[str, Any]) -> Any:
    """Return a convolution by torch; padding is laid around first, which may differ on two sides."""
    import torch

    dims = x.ndim - 2
    strides = attributes.get("strides") or [1] * dims
    dilations = attributes.get("dilations") or [1] * dims
    pads = pads_of(x.shape[2:], w.shape[2:], strides, dilations, attributes)
    around = [each for axis in reversed(range(dims)) for each in (pads[axis], pads[axis + dims])]
    padded = torch.nn.functional.pad(tensor(x), around)
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[dims - 1]
    given = None if bias is None else tensor(bias)
    return convolve(padded, tensor(w), given, list(strides), 0, list(dilations), attributes.get("group") or 1).numpy()


def pads_of(sizes: Any, kernel: Any, strides: Any, dilations: Any, attributes: dict[str, Any]) -> list[int]:
    """Return what is laid around: in front by axis, then behind by axis."""
    automatic = attributes.get("auto_pad") or "NOTSET"
    if automatic == "NOTSET":
        return list(attributes.get("pads") or [0] * (2 * len(sizes)))
    if automatic == "VALID":
        return [0] * (2 * len(sizes))
    needed = [
        max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [each // 2 for each in needed], [each - each // 2 for each in needed]
    return [*more, *less] if automatic == "SAME_LOWER" else [*less, *more]


CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def given(node: Any, name: str) -> Any:
    """Return an attribute of a node, None if it has none; onnx's evaluator puts them onto the operator."""
    return getattr(node, name, None)


def attributes_of(node: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return some attributes of a node, None for those that it has not."""
    return {name: given(node, name) for name in names}


@cache
def _plain() -> tuple[type, ...]:
    """Return operators that are computed as in the specification, by libraries that do it fast."""
    import torch
    from onnx.reference.op_run import OpRun
    from scipy import special

    def through(function: Any) -> Any:
        """Return a function of one array that is computed in float32 or float64 and comes back in its own dtype."""

        def run(self: Any, x: Any) -> tuple[Any]:
            return (np.asarray(function(self, x.astype(_computed(x.dtype)))).astype(x.dtype),)

        return run

    class Conv(OpRun):
        def _run(self, x: Any, w: Any, bias: Any = None, **_: Any) -> tuple[Any]:
            return (convolved(x, w, bias, attributes_of(self, CONVOLUTION)).astype(x.dtype),)

    class MatMul(OpRun):
        def _run(self, a: Any, b: Any, **_: Any) -> tuple[Any]:
            return (np.asarray(torch.matmul(tensor(a), tensor(b)).numpy()).astype(a.dtype),)

    class Erf(OpRun):
        _run = through(lambda _, x: special.erf(x))

    class Sigmoid(OpRun):
        _run = through(lambda _, x: special.expit(x))

    class Gelu(OpRun):
        def _run(self, x: Any, **_: Any) -> tuple[Any]:
            approximate = given(self, "approximate") or "none"
            return (torch.nn.functional.gelu(tensor(x), approximate=approximate).numpy().astype(x.dtype),)

    for each in (Conv, MatMul, Erf, Sigmoid, Gelu):
        each.op_domain = ""
    return Conv, MatMul, Erf, Sigmoid, Gelu, _max_pool()


def _max_pool() -> type:
    import torch
    from onnx.reference.ops.op_max_pool import MaxPool as Reference

    class MaxPool(Reference):
        """By torch where that has the very case; by onnx's own, which is slow, where it does not."""

        op_domain = ""

        def _run(self, x: Any, **others: Any) -> tuple[Any, ...]:  # type: ignore[override]
            pads, dims = list(given(self, "pads") or [0] * 2 * (x.ndim - 2)), x.ndim - 2
            kernel = list(given(self, "kernel_shape"))
            is_plain = (
                (given(self, "auto_pad") or "NOTSET") == "NOTSET"
                and not given(self, "ceil_mode")
                and pads[:dims] == pads[dims:]
                and all(2 * pad <= width for pad, width in zip(pads, kernel, strict=False))
                and len(given(self, "onnx_node").output) == 1
                and dims in {1, 2, 3}
            )
            if not is_plain:
                return tuple(super()._run(x, **others))  # type: ignore[no-untyped-call]
            functional = torch.nn.functional
            pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[dims - 1]
            strides = list(given(self, "strides") or [1] * dims)
            dilations = list(given(self, "dilations") or [1] * dims)
            return (pool(tensor(x), kernel, strides, pads[:dims], dilations).numpy().astype(x.dtype),)

    return MaxPool


def _rounding(moved_to: Moves | None) -> list[type]:
    """Return the operators that round to whole numbers, and the way back."""
    from onnx.reference.op_run import OpRun

    def moved(x: Any) -> Any:
        x = x.astype(_computed(x.dtype))
        if moved_to is None or not x.size:
            return x
        return x + moved_to(x.shape) * (np.abs(x).max() * _MOVES)

    class QuantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any = None, **_: Any) -> tuple[Any]:
            dtype = _kind(self, zero)
            low, high = RANGES[dtype.name]
            axis, block = _where(self, x.ndim)
            step = along(scale, x.ndim, axis, block, x.shape)
            shift = 0.0 if zero is None else whole(along(zero, x.ndim, axis, block, x.shape))
            return (np.clip(np.rint(moved(x) / step.astype(_computed(step.dtype))) + shift, low, high).astype(dtype),)

    class DequantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any = None, **_: Any) -> tuple[Any]:
            axis, block = _where(self, x.ndim)
            step = along(scale, x.ndim, axis, block, x.shape)
            return (
                (less_zero(x, along(zero, x.ndim, axis, block, x.shape)) * step.astype(np.float64)).astype(scale.dtype),
            )

    class DynamicQuantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any) -> tuple[Any, ...]:
            x = moved(x)
            low, high = min(0.0, float(x.min(initial=0.0))), max(0.0, float(x.max(initial=0.0)))
            scale = x.dtype.type((high - low) / 255 if high > low else 1.0)
            zero = float(np.clip(np.rint(-low / scale), 0, 255))
            quantised = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
            return quantised, np.asarray(scale), np.asarray(zero).astype(np.uint8)

    return [QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear]


def _kind(node: Any, zero: Any) -> Any:
    import onnx

    if zero is not None:
        return zero.dtype
    stated = given(node, "output_dtype")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(stated)) if stated else np.dtype(np.uint8)


def _where(node: Any, rank: int) -> tuple[int, int]:
    axis = given(node, "axis")
    axis = 1 if axis is None else axis
    return (axis % rank if rank else 0), given(node, "block_size") or 0
