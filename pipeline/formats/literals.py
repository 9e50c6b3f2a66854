"""The numbers that a step of the exported program justifies in a file, whatever the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.formats.program import Step


_FLOAT32_MAX = 3.4028234663852886e38


def numbers(step: Step) -> tuple[set[int], set[float]]:
    """Return the integers and floats a step's own arguments and shapes justify as literals in the graph."""
    whole: set[int] = set()
    real: set[float] = set()
    for value in step.arguments.values():
        _collect(value, whole, real)
    rank = max((len(shape) for shape in step.shapes.values()), default=0)
    whole |= {each - rank for each in whole} | {each + rank for each in whole if each < 0}
    for shape in step.shapes.values():
        whole |= set(shape)
    for rule in (_RULE_LITERALS.get(family(step.operator, step.arguments)), _RULE_LITERALS.get("")):
        if rule is not None:
            real |= set(rule(step))
    return whole, real | {float(each) for each in whole}


def of_arithmetic(step: Step) -> set[float]:
    """Return the forms that the one number of a sum, product or power may take in a graph; empty where it has none."""
    name = step.operator.removeprefix("aten.").removesuffix("_")
    other = step.arguments.get("exponent" if name == "pow" else "other")
    if name not in {"add", "sub", "rsub", "mul", "div", "pow"} or not isinstance(other, int | float) or other is True:
        return set()
    scaled = float(other) * float(step.arguments.get("alpha") or 1)
    forms = {float(other), scaled, -scaled, float(step.arguments.get("alpha") or 1)}
    return forms | ({1 / float(other)} if other else set())


def _collect(value: Any, whole: set[int], real: set[float]) -> None:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        whole.add(value)
    elif isinstance(value, list):
        for each in value:
            _collect(each, whole, real)
    elif isinstance(value, float) or value in {"inf", "-inf", "nan"}:
        real.add(float(value))


def family(operator: str, arguments: Mapping[str, Any] | None = None) -> str:
    """Return one name for the operators that share a rule: "conv" for aten.conv2d and aten._convolution.

    A trace has both kinds of convolution as aten._convolution: its argument `transposed` tells them apart.
    """
    name = operator.removeprefix("aten.").removesuffix("_")
    if (arguments or {}).get("transposed") is True and "convolution" in name:
        return "conv_transpose"
    if name in {"conv1d", "conv2d", "conv3d", "_convolution", "convolution"}:
        return "conv"
    if name.startswith(("conv_transpose", "conv_tbc")):
        return "conv_transpose"
    if name.startswith("adaptive_"):
        return name
    for stem in ("max_pool", "avg_pool", "softmax", "log_softmax", "batch_norm"):
        if stem in name:
            return stem if stem != "softmax" or "log" not in name else "log_softmax"
    return {"unsafe_split": "split", "split_with_sizes": "split", "chunk": "split", "unbind": "split"}.get(name, name)


def _scales(step: Step) -> set[float]:
    """The scale of attention, or its root where queries and keys are scaled each, and what masks are filled with."""
    width = step.shapes.get("query", [0])[-1]
    scale = step.arguments.get("scale") or (width**-0.5 if width > 0 else 1.0)
    return {scale, scale**0.5, float(width), float(width) ** 0.5, -_FLOAT32_MAX, float("-inf")}


_RULE_LITERALS: dict[str, Callable[[Step], set[float]]] = {
    "scaled_dot_product_attention": _scales,
    "clamp": lambda _: {-_FLOAT32_MAX, _FLOAT32_MAX},  # the side that it leaves open
    "relu6": lambda _: {6.0},
    "hardtanh": lambda _: {-1.0, 1.0},
    "hardsigmoid": lambda _: {3.0, 6.0, 1 / 6},
    "hardswish": lambda _: {3.0, 6.0, 1 / 6},
    "gelu": lambda _: {0.5, 2.0**0.5, 0.5**0.5, (2 / 3.141592653589793) ** 0.5, 0.044715, 3.0},
    "": lambda _: {0.0, 1.0, -1.0},
}
