"""Tensors that follow from a state dict by a known rule, recomputed in float64.

Sources: for batch norm, w' = w·γ/√(σ²+ε) and b' = (b−μ)·γ/√(σ²+ε) + β (B. Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2, which folds them so); each
rounding of such a chain costs at most one unit roundoff of a term (Higham, section 3.1), and `_ROUNDINGS` of them are allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.formats.program import Step

UNIT_ROUNDOFF = 2.0**-24
_ROUNDINGS = 16
_OWN_ROUNDINGS = 4  # how many times as far as the network's own precision another order of its sums may be off
# How ONNX orders the gates of what torch has as ifgo (LSTM: iofc), rzn (GRU: zrh) or alone, by operator and by how many there are.
_ORDERS = {"aten.lstm": [0, 3, 1, 2], "aten.gru": [1, 0, 2], "aten.rnn_tanh": [0], "aten.rnn_relu": [0]}
_ORDER_OF = {len(order): order for order in _ORDERS.values()}
_RECURRENT = re.compile(r"(?P<prefix>.*?)weight_ih_l(?P<layer>\d+)(?P<reverse>_reverse)?")


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor that follows from the state dict by a rule, in float64, and how far float32 may be from it.

    `keys` are those of the state dict that it follows from; `step` names the program's step that computes it, if one does.
    """

    rule: str
    keys: tuple[str, ...]
    value: Any
    tolerance: Any
    step: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {', '.join([self.step, *self.keys][:2] if self.step else self.keys[:2])}"


def derived(steps: Mapping[str, Step], state: Mapping[str, Any], program: Mapping[str, Any]) -> list[Derived]:
    """Return what follows from the state dict by a rule: batch norm folded in, values of the program, gates reordered.

    `program`: as `pipeline.formats.program.as_values` returns it, or empty.
    """
    folded = program.get("folded", {})
    complex_ones = {key: value for key, value in state.items() if value.dtype.kind == "c"}
    parts = (part for key, value in complex_ones.items() for part in _parts("complex", (key,), value, 0.0))
    return [*_fused(steps, state, program), *_folded(folded, program), *parts, *_stacked(steps, state)]


def _fused(steps: Mapping[str, Step], state: Mapping[str, Any], program: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield weight and bias of each convolution or linear layer with the batch norm after it folded in."""
    for norm in steps.values():
        if "batch_norm" not in norm.operator or "running_var" not in norm.parameters:
            continue
        layer = steps.get(norm.operand("input"))
        if layer is None or "weight" not in layer.arguments:
            continue
        found = _layer(layer, state, program)
        if found is None:
            continue
        weight, bias, own = found
        mean, variance, gamma, beta = (
            state[norm.parameters[name]].astype(np.float64) if name in norm.parameters else default
            for name, default in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0))
        )
        scale = gamma / np.sqrt(variance + float(norm.arguments["eps"]))
        scaling = [norm.parameters[name] for name in ("running_var", "weight") if name in norm.parameters]
        spread = _spread(scale, weight, layer)
        if spread is None:
            continue
        folded = weight * spread
        terms = np.abs(scale) * (np.abs(bias) + np.abs(mean)) + np.abs(beta)
        margin = _ROUNDINGS * UNIT_ROUNDOFF
        yield Derived("batch norm folded", (*own[0], *scaling), folded, margin * np.abs(folded))
        keys = (*own[1], *norm.parameters.values())
        yield Derived("batch norm folded", keys, (bias - mean) * scale + beta, margin * terms)


def _spread(scale: Any, weight: Any, layer: Step) -> Any:
    """Return a factor for each output channel in the form of a layer's weight; None if the two do not fit.

    A transposed convolution has [inputs, outputs of a group, …], each group of inputs with its own outputs.
    """
    ones = [1] * (weight.ndim - 2)
    if not is_transposed_convolution(layer):
        return scale.reshape([-1, 1, *ones]) if weight.ndim >= 2 and weight.shape[0] == np.size(scale) else None
    groups = int(layer.arguments.get("groups", 1))
    if weight.ndim < 2 or weight.shape[1] * groups != np.size(scale) or weight.shape[0] % groups:
        return None
    return np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0).reshape([*weight.shape[:2], *ones])


def _layer(
    layer: Step, state: Mapping[str, Any], program: Mapping[str, Any]
) -> tuple[Any, Any, list[list[str]]] | None:
    """Return weight and bias of a layer, which may be computed from others, and the keys each follows from; None if unknown."""
    keys: list[list[str]] = []
    values: list[Any] = []
    for name in ("weight", "bias"):
        computed = layer.operand(name)
        if key := layer.parameters.get(name):
            keys.append([key])
            values.append(state[key].astype(np.float64))
        elif computed in program.get("folded", {}):
            keys.append(program.get("folded_keys", {}).get(computed, []))
            values.append(program["folded"][computed].astype(np.float64))
        elif layer.arguments.get(name) is None and name == "bias":
            keys.append([])
            values.append(0.0)
        else:
            return None
    return values[0], values[1], keys


def is_transposed_convolution(step: Step) -> bool:
    """Whether a step is a transposed convolution, under its own name or as an argument of the general one."""
    return "transpose" in step.operator or step.arguments.get("transposed") is True


def _folded(folded: Mapping[str, Any], program: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield what the program computes from weights and its own constants alone."""
    keys, roundings = program.get("folded_keys", {}), program.get("roundings", {})
    for name, value in folded.items():
        finite = np.abs(value[np.isfinite(value)]) if value.dtype.kind in "fc" else np.zeros(0)
        tolerance = _ROUNDINGS * UNIT_ROUNDOFF * finite.max(initial=0.0) + _OWN_ROUNDINGS * roundings.get(name, 0.0)
        own = tuple(keys.get(name, ()))
        yield Derived("folded", own, value, tolerance, name)
        if value.dtype.kind == "c":
            yield from _parts("folded", own, value, tolerance, name)


def _parts(rule: str, keys: tuple[str, ...], value: Any, tolerance: float, step: str = "") -> Iterator[Derived]:
    """Yield the forms that complex numbers take where there are none: real and imaginary parts, apart or side by side."""
    real, imaginary = value.real.astype(np.float64), value.imag.astype(np.float64)
    for each in (real, imaginary, -imaginary, np.stack([real, imaginary], -1)):
        yield Derived(rule, keys, each, tolerance, step)


def _stacked(steps: Mapping[str, Step], state: Mapping[str, Any]) -> Iterator[Derived]:
    """Yield the weights of recurrent layers as ONNX orders their gates, each direction alone and both together."""
    known: set[tuple[str, ...]] = set()
    for order, directions in [*_layers_by_step(steps), *_layers_by_name(state)]:
        for chosen in [directions, *([each] for each in directions if len(directions) > 1)]:
            keys = tuple(key for direction in chosen for key in direction)
            if keys not in known:
                known.add(keys)
                yield from _reordered(order, chosen, state)


def _reordered(
    order: Sequence[int], directions: Sequence[Sequence[str]], state: Mapping[str, Any]
) -> Iterator[Derived]:
    """Yield weights and biases of some directions of a layer: (weight_ih, weight_hh[, bias_ih, bias_hh]) of each."""
    tensors = {key: _gates(state[key].astype(np.float64), order) for each in directions for key in each}
    for part in zip(*directions, strict=True):
        yield Derived("gates reordered", part, np.stack([tensors[key] for key in part]), 0.0)
    if len(directions[0]) == 4:
        both = [np.concatenate([tensors[each[2]], tensors[each[3]]]) for each in directions]
        keys = tuple(key for each in directions for key in each[2:])
        yield Derived("gates reordered", keys, np.stack(both), 0.0)


_Layer = tuple[list[int], list[list[str]]]


def _layers_by_step(steps: Mapping[str, Step]) -> Iterator[_Layer]:
    """Yield gate order and the keys of each direction of the recurrent layers that are one step of the program."""
    for step in steps.values():
        order = _ORDERS.get(step.operator)
        if order is None:
            continue
        keys = list(step.parameters.values())
        group = 4 if step.arguments.get("has_biases") else 2
        directions = 2 if step.arguments.get("bidirectional") else 1
        if len(keys) != group * directions * int(step.arguments.get("num_layers", 1)):
            continue  # with projections, or some of its tensors are computed
        every = [keys[start : start + group] for start in range(0, len(keys), group)]
        for start in range(0, len(every), directions):
            yield order, every[start : start + directions]


def _layers_by_name(state: Mapping[str, Any]) -> Iterator[_Layer]:
    """Yield the same of every recurrent layer of torch's own: its program may have a loop over its steps instead."""
    for name in state:
        match = _RECURRENT.fullmatch(name)
        if match is None or match["reverse"]:
            continue
        directions = []
        for suffix in (match["layer"], f"{match['layer']}_reverse"):
            names = [f"{match['prefix']}{each}_l{suffix}" for each in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            if present := [each for each in names if each in state]:
                directions.append(present)
        hidden = state[directions[0][1]].shape if len(directions[0]) > 1 else (0, 0)
        order = _ORDER_OF.get(hidden[0] // hidden[1] if len(hidden) == 2 and hidden[1] else 0)
        if order and len({len(each) for each in directions}) == 1 and len(directions[0]) in {2, 4}:
            yield order, directions


def _gates(tensor: Any, order: Sequence[int]) -> Any:
    if tensor.shape[0] % len(order):
        return tensor
    blocks = np.split(tensor, len(order))
    return np.concatenate([blocks[each] for each in order])
