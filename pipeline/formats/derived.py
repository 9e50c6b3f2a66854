"""Tensors that follow from a state dict by a known rule, recomputed in float64.

Sources: for batch norm, w' = w·γ/√(σ²+ε) and b' = (b−μ)·γ/√(σ²+ε) + β (B. Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2, which folds them so); each
rounding of such a chain costs at most one unit roundoff of a term (Higham, section 3.1), and `_ROUNDINGS` of them are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.formats.program import Step

UNIT_ROUNDOFF = 2.0**-24
_ROUNDINGS = 16


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor that follows from the state dict by a rule, in float64, and how far float32 may be from it."""

    rule: str
    keys: tuple[str, ...]
    value: Any
    tolerance: Any


def derived(steps: Mapping[str, Step], state: Mapping[str, Any], folded: Mapping[str, Any]) -> list[Derived]:
    """Return what follows from the state dict by a rule: batch norm folded in, values of the program, gates reordered."""
    return [*_fused(steps, state), *_folded(folded), *_stacked(steps, state)]


def _fused(steps: Mapping[str, Step], state: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield weight and bias of each convolution or linear layer with the batch norm after it folded in."""
    for norm in steps.values():
        if "batch_norm" not in norm.operator or "running_var" not in norm.parameters:
            continue
        layer = steps.get(str(norm.arguments["input"]).removeprefix("%"))
        if layer is None or "weight" not in layer.parameters:
            continue
        weight = state[layer.parameters["weight"]].astype(np.float64)
        bias = state[layer.parameters["bias"]].astype(np.float64) if "bias" in layer.parameters else 0.0
        mean, variance, gamma, beta = (
            state[norm.parameters[name]].astype(np.float64) if name in norm.parameters else default
            for name, default in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0))
        )
        scale = gamma / np.sqrt(variance + float(norm.arguments["eps"]))
        keys = (*layer.parameters.values(), *norm.parameters.values())
        axis = 1 if "transpose" in layer.operator else 0
        if weight.shape[axis] != np.size(scale):
            continue  # a grouped transposed convolution is not folded
        folded = weight * scale.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
        terms = np.abs(scale) * (np.abs(bias) + np.abs(mean)) + np.abs(beta)
        margin = _ROUNDINGS * UNIT_ROUNDOFF
        yield Derived("batch norm folded", keys, folded, margin * np.abs(folded))
        yield Derived("batch norm folded", keys, (bias - mean) * scale + beta, margin * terms)


def _folded(folded: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield what the program computes from weights and its own constants alone."""
    for name, value in folded.items():
        largest = np.abs(value).max(initial=0.0) if value.dtype.kind == "f" else 0.0
        yield Derived("folded", (name,), value, _ROUNDINGS * UNIT_ROUNDOFF * largest)


def _stacked(steps: Mapping[str, Step], state: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield the weights of recurrent layers as ONNX orders their gates (ONNX operators LSTM: iofc, GRU: zrh; torch: ifgo, rzn)."""
    orders = {"aten.lstm": [0, 3, 1, 2], "aten.gru": [1, 0, 2], "aten.rnn_tanh": [0], "aten.rnn_relu": [0]}
    for step in steps.values():
        order = orders.get(step.operator)
        if order is None:
            continue
        keys = list(step.parameters.values())
        tensors = [_gates(state[key].astype(np.float64), order) for key in keys]
        group = 4 if step.arguments.get("has_biases") else 2
        directions = 2 if step.arguments.get("bidirectional") else 1
        layers = [
            range(start, start + group * directions) for start in range(0, len(keys) - group + 1, group * directions)
        ]
        for layer in layers:
            parts = [list(layer)[index::group] for index in range(group)]
            for part in parts[:2]:
                yield Derived(
                    "gates reordered",
                    tuple(keys[each] for each in part),
                    np.stack([tensors[each] for each in part]),
                    0.0,
                )
            if group == 4:
                both = [
                    np.concatenate([tensors[first], tensors[second]])
                    for first, second in zip(parts[2], parts[3], strict=True)
                ]
                yield Derived(
                    "gates reordered", tuple(keys[each] for each in (*parts[2], *parts[3])), np.stack(both), 0.0
                )


def _gates(tensor: Any, order: Sequence[int]) -> Any:
    blocks = np.split(tensor, len(order))
    return np.concatenate([blocks[each] for each in order])
