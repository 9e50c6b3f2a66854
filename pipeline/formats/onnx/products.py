"""Products of whole numbers: exact, or as processors without VNNI add them; and weights that are kept as whole numbers of a few bits.

They are taken by torch in float64, which is exact as long as their sums stay below 2^53.

On processors without VNNI (Intel 64 Architectures Software Developer's Manual, VPMADDUBSW) two neighbouring products of an unsigned with a
signed number of 8 bits are added in 16 bits, and what does not fit is cut off. With weights of 7 bits (`reduce_range`), and where both
are unsigned (MLAS widens these to 16 bits first), everything fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.onnx import kernels

if TYPE_CHECKING:
    import onnx

_OWN = "weighbridge.exact"
_SMALL = 2**17  # elements of a result


def with_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with products of dequantised numbers as one operator each, as runtimes fuse them.

    What it computes is the same; but only so it can be computed as a processor adds products of 8 bits.
    """
    import onnx

    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    outputs = {each.name for each in graph.output}
    for node in graph.node:
        if node.op_type not in {"MatMul", "Gemm", "Conv"} or node.domain not in {"", "ai.onnx"}:
            continue
        sources = [made_by.get(name) for name in node.input[:2]]
        if not all(each is not None and each.op_type == "DequantizeLinear" for each in sources):
            continue
        if any(_has_blocks(each) for each in sources):
            continue
        first, second = sources
        rest = list(node.input[2:])
        node.input[:] = [*_three(first), *_three(second), *rest]
        node.attribute.append(onnx.helper.make_attribute("of", node.op_type))
        for name, each in zip(("first_axis", "second_axis"), sources, strict=True):
            axis = _axis(each)
            node.attribute.append(onnx.helper.make_attribute(name, 1 if axis is None else axis))
        node.op_type, node.domain = "Product", _OWN
    used = {name for node in graph.node for name in node.input} | outputs
    kept = [node for node in graph.node if node.op_type != "DequantizeLinear" or used & {*node.output}]
    del graph.node[:]
    graph.node.extend(kept)
    for domain in (_OWN, "com.microsoft"):
        if all(each.domain != domain for each in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return model


def _three(node: Any) -> list[str]:
    return [*node.input, ""][:3]


def _axis(node: Any) -> int | None:
    return next((each.i for each in node.attribute if each.name == "axis"), None)


def _has_blocks(node: Any) -> bool:
    return any(each.name == "block_size" and each.i for each in node.attribute)


def operators(saturating: bool) -> list[type]:  # noqa: FBT001 - the one thing they depend on
    """Return the products of whole numbers."""
    from onnx.reference.op_run import OpRun

    class MatMulInteger(OpRun):
        op_domain = ""

        def _run(self, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None, **_: Any) -> tuple[Any]:
            column = b_zero if b_zero is None or b_zero.ndim == 0 else b_zero[..., None, :]
            row = a_zero if a_zero is None or a_zero.ndim == 0 else a_zero[..., None]
            return (matmul(a, row, b, column, saturating=saturating).astype(np.int32),)

    class ConvInteger(OpRun):
        op_domain = ""

        def _run(self, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None, **_: Any) -> tuple[Any]:
            zero = w_zero if w_zero is None or w_zero.ndim == 0 else w_zero.reshape([-1] + [1] * (w.ndim - 1))
            found = convolution(
                x, x_zero, w, zero, kernels.attributes_of(self, kernels.CONVOLUTION), saturating=saturating
            )
            return (found.astype(np.int32),)

    class MatMulNBits(OpRun):
        op_domain = "com.microsoft"

        def _run(self, a: Any, packed: Any, scales: Any, zeros: Any = None, *rest: Any, **_: Any) -> tuple[Any]:
            weight = unpacked(
                packed,
                scales,
                zeros,
                kernels.given(self, "N"),
                kernels.given(self, "K"),
                kernels.given(self, "bits"),
                kernels.given(self, "block_size"),
            )
            found = _in_order(np.asarray(kernels.tensor(a)), weight.T)
            bias = rest[1] if len(rest) > 1 else None
            return ((found + (0.0 if bias is None else bias)).astype(a.dtype),)

    return [MatMulInteger, ConvInteger, _product(saturating), MatMulNBits]


def _product(saturating: bool) -> type:  # noqa: FBT001 - as above
    from onnx.reference.op_run import OpRun

    class Product(OpRun):
        """What `with_products` puts in place of a product of two dequantised tensors."""

        op_domain = _OWN

        def _run(self, *given: Any, **_: Any) -> tuple[Any]:
            a, a_scale, a_zero, b, b_scale, b_zero, *rest = given
            scale = np.asarray(a_scale.reshape(()) if a_scale.size == 1 else 1.0, np.float64)
            if a_scale.size > 1:  # of each row: its sums have no one scale
                axis = kernels.given(self, "first_axis") % a.ndim
                a = kernels.less_zero(a, kernels.along(a_zero, a.ndim, axis, 0, a.shape)) * kernels.along(
                    a_scale, a.ndim, axis, 0, a.shape
                )
                a_zero = None
            step, zero = (
                kernels.along(each, b.ndim, kernels.given(self, "second_axis") % b.ndim, 0, b.shape)
                for each in (b_scale, b_zero)
            )
            if kernels.given(self, "of") == "Conv":
                over = [1, -1] + [1] * (a.ndim - 2)
                sums = convolution(
                    a, a_zero, b, zero, kernels.attributes_of(self, kernels.CONVOLUTION), saturating=saturating
                )
                bias = rest[0].reshape(over) if rest and rest[0] is not None else 0.0
                return ((sums * scale * (step.reshape(over) if step.ndim else step) + bias).astype(a_scale.dtype),)
            if kernels.given(self, "of") == "Gemm" and kernels.given(self, "transB"):
                b, zero, step = (each.T if each is not None and each.ndim == 2 else each for each in (b, zero, step))
            if kernels.given(self, "of") == "Gemm" and kernels.given(self, "transA"):
                a = a.T
            if step.ndim and step.shape[-2] != 1:  # of each row of the weight
                wide = np.matmul(kernels.less_zero(a, a_zero) * scale, kernels.less_zero(b, zero) * step)
            else:
                wide = matmul(a, a_zero, b, zero, saturating=saturating) * scale * step
            if kernels.given(self, "of") == "Gemm":
                wide = wide * _number(self, "alpha")
                wide = wide + rest[0] * _number(self, "beta") if rest and rest[0] is not None else wide
            return (wide.astype(a_scale.dtype),)

    return Product


def _number(node: Any, name: str) -> float:
    value = kernels.given(node, name)
    return 1.0 if value is None else float(value)


def matmul(a: Any, a_zero: Any, b: Any, b_zero: Any, *, saturating: bool = False) -> Any:
    """Return (a - a_zero) @ (b - b_zero) of whole numbers in float64: exact, or as processors without VNNI add it up."""
    if not (saturating and _saturates(a, b)):
        return kernels.tensor(kernels.less_zero(a, a_zero)).matmul(kernels.tensor(kernels.less_zero(b, b_zero))).numpy()
    first, shift = _unsigned(a)
    zero = (0.0 if a_zero is None else kernels.whole(a_zero)) + shift
    second = kernels.whole(b)
    exact = kernels.less_zero(b, b_zero)
    columns = 0.0 if b_zero is None else kernels.whole(b_zero)
    # sum (a - za)(b - zb) = sum a b - zb sum a - za sum (b - zb): the first alone is added in 16 bits.
    return _in_pairs(first, second) - first.sum(-1, keepdims=True) * columns - (exact.sum(-2, keepdims=True) * zero)


def convolution(
    x: Any, x_zero: Any, w: Any, w_zero: Any, attributes: dict[str, Any], *, saturating: bool = False
) -> Any:
    """Return a convolution of whole numbers in float64. Padding holds the zero point.

    Depthwise ones are never added in pairs; the others are, with their channels innermost, as onnxruntime lays them out.
    """
    exact = kernels.convolved(kernels.less_zero(x, x_zero), kernels.less_zero(w, w_zero), None, attributes)
    group = attributes.get("group") or 1
    if not (saturating and _saturates(x, w)) or (group > 1 and w.shape[1] == 1) or x.ndim not in {3, 4}:
        return exact
    if x.ndim == 4:
        return exact + _lost(x, x_zero, w, attributes, group)
    return exact + _lost(x[:, :, None], x_zero, w[:, :, None], _in_two(x, w, attributes), group)[:, :, 0]


def _in_two(x: Any, w: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a convolution in one dimension as those of one in two, of one row."""
    strides, dilations = (attributes.get(each) or [1] for each in ("strides", "dilations"))
    front, behind = kernels.pads_of(x.shape[2:], w.shape[2:], strides, dilations, attributes)
    return {"strides": [1, *strides], "dilations": [1, *dilations], "pads": [0, front, 0, behind]}


def _lost(x: Any, x_zero: Any, w: Any, attributes: dict[str, Any], group: int) -> Any:
    """Return what saturation takes from or adds to each element of a convolution in two dimensions."""
    import torch

    strides = attributes.get("strides") or [1, 1]
    dilations = attributes.get("dilations") or [1, 1]
    pads = kernels.pads_of(x.shape[2:], w.shape[2:], strides, dilations, attributes)
    first, shift = _unsigned(x)
    zero = float(0.0 if x_zero is None else kernels.whole(x_zero)) + shift
    padded = np.pad(first, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero)
    columns = torch.nn.functional.unfold(
        torch.from_numpy(padded), tuple(w.shape[2:]), dilation=tuple(dilations), stride=tuple(strides)
    ).numpy()
    batch, inputs, places = x.shape[0], x.shape[1] // group, columns.shape[-1]
    # [batch, group, channels, kernel, places] → rows of kernel × channels, channels innermost
    shaped = (
        columns.reshape(batch, group, inputs, -1, places).transpose(0, 1, 4, 3, 2).reshape(batch, group, places, -1)
    )
    weights = (
        kernels.whole(w)
        .reshape(group, w.shape[0] // group, inputs, -1)
        .transpose(0, 3, 2, 1)
        .reshape(group, -1, w.shape[0] // group)
    )
    lost = np.stack(
        [
            np.stack([_in_pairs(shaped[n, g], weights[g]) - shaped[n, g] @ weights[g] for g in range(group)])
            for n in range(batch)
        ]
    )
    found = lost.transpose(0, 1, 3, 2).reshape(batch, w.shape[0], places)
    height = (padded.shape[2] - (w.shape[2] - 1) * dilations[0] - 1) // strides[0] + 1
    return found.reshape(batch, w.shape[0], height, -1)


def _saturates(a: Any, b: Any) -> bool:
    """Whether a product is one of an unsigned with a signed number: signed activations are made unsigned by onnxruntime."""
    return a.dtype.name in {"uint8", "int8"} and b.dtype.name == "int8"


def _unsigned(a: Any) -> tuple[Any, float]:
    """Return 8-bit numbers as unsigned ones in float64, and by how much they were moved."""
    return (kernels.whole(a) + 128, 128.0) if a.dtype.name == "int8" else (kernels.whole(a), 0.0)


def _in_pairs(a: Any, b: Any) -> Any:
    """Return a @ b with neighbouring products added in 16 bits: [..., M, K] and [..., K, N], whole numbers in float64."""
    if a.shape[-1] % 2:
        a = np.concatenate([a, np.zeros((*a.shape[:-1], 1))], -1)
        b = np.concatenate([b, np.zeros((*b.shape[:-2], 1, b.shape[-1]))], -2)
    total = np.matmul(a, b)
    # Only pairs that can leave 16 bits are looked at one by one: for most weights there is none.
    largest = a.max(axis=tuple(range(a.ndim - 1)), initial=0.0)
    reach = np.abs(b).max(axis=tuple(range(b.ndim - 2)), initial=0.0) if b.ndim > 2 else np.abs(b)
    for first in range(0, a.shape[-1], 2):
        most = largest[first] * reach[first] + largest[first + 1] * reach[first + 1]
        columns = np.flatnonzero(most > 32767)
        if columns.size:
            pair = sum(a[..., each, None] * b[..., each, :][..., None, columns] for each in (first, first + 1))
            total[..., columns] += np.clip(pair, -32768, 32767) - pair
    return total


def unpacked(packed: Any, scales: Any, zeros: Any, rows: int, length: int, bits: int, block: int) -> Any:
    """Return the weight [rows, length] that MatMulNBits holds, in float64: whole numbers of `bits` bits, a scale for each block of a row."""
    blocks = -(-length // block)
    whole = _bits(np.asarray(packed).reshape(rows * blocks, -1), bits)[:, :block].reshape(rows, blocks, block)
    step = np.asarray(scales, np.float64).reshape(rows, blocks, 1)
    if zeros is None:
        zero: Any = float(1 << (bits - 1))
    elif zeros.dtype.kind == "f":
        zero = np.asarray(zeros, np.float64).reshape(rows, blocks, 1)
    else:
        zero = _bits(np.asarray(zeros).reshape(rows, -1), bits)[:, :blocks].reshape(rows, blocks, 1)
    return ((whole - zero) * step).reshape(rows, blocks * block)[:, :length]


def _in_order(x: Any, weight: Any) -> Any:
    """Return x @ weight in x's dtype: small ones in float32 term by term, as kernels do, so that what the order of a long sum costs is seen."""
    if x.dtype != np.float32 or x.size // x.shape[-1] * weight.shape[-1] > _SMALL:
        return np.matmul(x, weight.astype(x.dtype))
    narrow, total = weight.astype(np.float32), np.zeros((*x.shape[:-1], weight.shape[-1]), np.float32)
    for each in range(x.shape[-1]):
        total += x[..., each, None] * narrow[each]
    return total


def _bits(packed: Any, bits: int) -> Any:
    """Return the numbers in rows of bytes, the lowest bits first, in float64."""
    each = 8 // bits
    parts = [(packed >> (bits * index)) & ((1 << bits) - 1) for index in range(each)]
    return np.stack(parts, -1).reshape(packed.shape[0], -1).astype(np.float64)
