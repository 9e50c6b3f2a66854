"""The numbers in a graph's attributes: what each should be, by the operator of the program it came from.

An ONNX attribute restates an argument of an ATen operator, by a rule that the ONNX operator's specification and torch's
documentation fix. The table below holds these rules; an attribute without one is reported as not accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.formats.literals import family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.formats.program import Step

    Expected = Mapping[str, Any]
    Rule = Callable[[Step, Mapping[str, Step]], Expected]

_FLOAT32_RELATIVE = 2.0**-23

# Attributes whose change outputs may hide: they are held strictly against what the network says.
STRICT = frozenset({"epsilon", "alpha", "beta", "approximate"})
# Operators of which a strict attribute has no other source than an argument of a step, or its default.
STRICT_OPERATORS = frozenset(
    {
        "Gemm",
        "LayerNormalization",
        "RMSNormalization",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
    }
)

# Operators that exporters write with a Transpose at an end (onnxscript's function library, torch.onnx's symbolic functions).
_WRITTEN_WITH_TRANSPOSE = frozenset(
    {
        "bilinear", "col2im", "diagonal", "einsum", "gru", "im2col", "index", "index_put", "lstm", "masked_scatter", "nonzero",
        "pixel_shuffle", "pixel_unshuffle", "rnn_relu", "rnn_tanh", "scaled_dot_product_attention", "slice_scatter", "stft", "unfold",
    }
)  # fmt: skip

# Attributes that say how and not what, or that are checked with the constant they apply to (transB).
NEUTRAL = frozenset(
    {"auto_pad", "storage_order", "stash_type", "allowzero", "keepdims", "to", "saturate", "num_outputs", "transB"}
)


@dataclass(frozen=True, slots=True)
class _Check:
    """What an attribute must be where several values mean the same; `test` takes the value and the tensor's rank."""

    text: str
    test: Callable[[Any, int | None], bool]

    def __str__(self) -> str:
        return self.text


def _axis_check(axis: int) -> _Check:
    """Return the check of an axis, which may be counted from either end."""
    return _Check(str(axis), lambda found, rank: bool(found == axis or (rank and found % rank == axis % rank)))


def _same_equation(text: str) -> _Check:
    """Return the check of an equation, whose letters may be others."""
    return _Check(text, lambda found, _: _lettered(found) == _lettered(text))


def _lettered(equation: str) -> str:
    letters = dict.fromkeys(each for each in equation if each.isalpha())
    names = {letter: chr(ord("a") + index) for index, letter in enumerate(letters)}
    return "".join(names.get(each, each) for each in equation if not each.isspace())


_SWAPS_LAST_TWO = _Check(
    "the last two axes swapped", lambda found, _: found == [*range(len(found) - 2), len(found) - 1, len(found) - 2]
)


def expected(step: Step, onnx_operator: str, steps: Mapping[str, Step]) -> Expected | None:
    """Return what the attributes of an ONNX node made from `step` must be, by name; None if there is no rule."""
    rule = _RULES.get((_family(step), onnx_operator))
    try:
        return None if rule is None else rule(step, steps)
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # an argument that the program leaves open


def steps_with_rule(onnx_operator: str, steps: Iterable[Step]) -> list[Step]:
    """Return the steps that an ONNX operator may have come from."""
    return [step for step in steps if (_family(step), onnx_operator) in _RULES]


def steps_before(value: str, onnx_operator: str, steps: Mapping[str, Step]) -> list[Step]:
    """Return the steps that read `value` and that an ONNX operator may have come from."""
    return steps_with_rule(onnx_operator, _readers(value, steps))


def _readers(value: str, steps: Mapping[str, Step]) -> Iterator[Step]:
    """Yield the steps that read a value."""
    return (step for step in steps.values() if f"%{value}" in step.arguments.values())


def merged(step: Step, steps: Mapping[str, Step]) -> list[list[int]]:
    """Return the orders of axes that a permutation comes to with those right before and after it; empty if there are none.

    An optimiser makes one of several that follow each other.
    """
    if not _is_permutation(step):
        return []
    chain, first = [step], step
    while (before := steps.get(first.operand("self"))) and _is_permutation(before):
        chain.insert(0, before)
        first = before
    found = []
    for start in range(len(chain)):
        found += _orders_after(chain[start:], steps)
    return found if len(chain) > 1 or len(found) > 1 else []


def is_beside_a_transpose(step: Step, steps: Mapping[str, Step]) -> bool:
    """Whether a permutation's neighbour is written with a Transpose of its own, which an optimiser may have merged with it."""
    before = steps.get(step.operand("self"))
    beside = (*_readers(step.name, steps), *([before] if before else []))
    return any(_family(each) in _WRITTEN_WITH_TRANSPOSE for each in beside)


def _orders_after(chain: Sequence[Step], steps: Mapping[str, Step]) -> list[list[int]]:
    """Return the order that a chain of permutations comes to, and those it comes to with each that reads its end."""
    order = list(range(len(chain[0].shapes["self"])))
    for step in chain:
        order = [order[axis] for axis in _permutation(step, steps)["perm"]]
    found = [order]
    for step in steps.values():
        if step.arguments.get("self") == f"%{chain[-1].name}" and _is_permutation(step):
            found += _orders_after([*chain, step], steps)
    return found


def _is_permutation(step: Step) -> bool:
    return _RULES.get((_family(step), "Transpose")) is _permutation and "self" in step.shapes


def _family(step: Step) -> str:
    return family(step.operator, step.arguments)


def agrees(found: Any, wanted: Any, rank: int | None) -> bool:
    """Whether an attribute's value is the expected one: floats as float32 holds them, axes counted from either end.

    What is expected to be None may be anything: it has no effect.
    """
    if wanted is None:
        return True
    if isinstance(wanted, _Check):
        return wanted.test(found, rank)
    if isinstance(wanted, float):
        return abs(float(found) - wanted) <= _FLOAT32_RELATIVE * abs(wanted)
    if isinstance(wanted, list):
        return [int(each) for each in found] == [int(each) for each in wanted]
    return bool(found == wanted)


def _spatial(step: Step) -> int:
    return len(step.shapes["weight"]) - 2


def _spread(value: Any, count: int) -> list[int]:
    """Return a number for each spatial axis: torch lets one stand for all."""
    listed = [int(each) for each in value] if isinstance(value, list) else [int(value)]
    return listed * count if len(listed) == 1 else listed


def _conv(step: Step, steps: Mapping[str, Step]) -> Expected:
    count = _spatial(step)
    kernel, dilation = step.shapes["weight"][2:], _spread(step.arguments["dilation"], count)
    stated = step.arguments["padding"]
    if isinstance(stated, str):
        total = [d * (k - 1) if stated == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        pads = [each // 2 for each in total] + [each - each // 2 for each in total]
    else:
        pads = _spread(stated, count) * 2
    return {
        "strides": _spread(step.arguments["stride"], count),
        "dilations": dilation,
        "group": step.arguments["groups"],
        "kernel_shape": kernel,
        "pads": _padded(pads, step, steps),
    }


def _padded(own: list[int], step: Step, steps: Mapping[str, Step]) -> Any:
    """Return the check of a convolution's pads: its own, or with any of the paddings just before it (the optimiser merges them)."""
    sums, count = [own], len(own) // 2
    before = steps.get(step.operand("input"))
    while before is not None and (more := _padding_of(before, count)):
        sums.append([each + also for each, also in zip(sums[-1], more, strict=True)])
        before = steps.get(before.operand("self"))
    return own if len(sums) == 1 else _Check(str(sums[-1]), lambda found, _: list(found) in sums)


def _padding_of(step: Step, count: int) -> list[int]:
    """Return what a zero padding adds to a convolution's pads; empty for what is none."""
    if step.operator not in {"aten.pad", "aten.constant_pad_nd"}:
        return []
    pad = step.arguments["pad"]
    if step.arguments.get("mode", "constant") != "constant" or step.arguments.get("value") not in {None, 0}:
        return []
    if len(pad) > 2 * count or not all(isinstance(each, int) for each in pad):
        return []
    pairs = [pad[index : index + 2] for index in range(0, len(pad), 2)][::-1]
    pairs = [[0, 0]] * (count - len(pairs)) + pairs
    return [pair[0] for pair in pairs] + [pair[1] for pair in pairs]


def _conv_transpose(step: Step, _: Mapping[str, Step]) -> Expected:
    count = _spatial(step)
    return {
        "strides": _spread(step.arguments["stride"], count),
        "dilations": _spread(step.arguments["dilation"], count),
        "group": step.arguments["groups"],
        "kernel_shape": step.shapes["weight"][2:],
        "pads": _spread(step.arguments["padding"], count) * 2,
        "output_padding": _spread(step.arguments["output_padding"], count),
    }


def _pool(step: Step, _: Mapping[str, Step]) -> Expected:
    digits = [each for each in step.operator if each.isdigit()]
    count = int(digits[-1]) if digits else 2
    kernel = _spread(step.arguments["kernel_size"], count)
    found: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": _spread(step.arguments.get("stride") or kernel, count),
        "pads": _spread(step.arguments.get("padding", 0), count) * 2,
        "ceil_mode": int(step.arguments.get("ceil_mode", False)),
    }
    if "dilation" in step.arguments:
        found["dilations"] = _spread(step.arguments["dilation"], count)
    if "count_include_pad" in step.arguments:
        found["count_include_pad"] = int(step.arguments["count_include_pad"])
    return found


def _axis(key: str, *more: tuple[str, Any]) -> Rule:
    return lambda step, _: {"axis": _axis_check(step.arguments[key]), **dict(more)}


def _number(attribute: str, key: str) -> Rule:
    return lambda step, _: {attribute: float(step.arguments[key])}


def _permutation(step: Step, _: Mapping[str, Step]) -> Expected:
    rank = len(step.shapes["self"])
    if "dims" in step.arguments:
        return {"perm": [each % rank for each in step.arguments["dims"]]}
    order = list(range(rank))
    first, second = (0, 1) if "dim0" not in step.arguments else (step.arguments["dim0"], step.arguments["dim1"])
    if rank >= 2:
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return {"perm": order}


def _gemm(step: Step, _: Mapping[str, Step]) -> Expected:
    alpha, beta = (float(step.arguments.get(name, 1.0)) for name in ("alpha", "beta"))
    return {"alpha": alpha, "beta": beta, "transA": 0}


def _split(step: Step, _: Mapping[str, Step]) -> Expected:
    return {"axis": _axis_check(step.arguments["dim"])}


def _recurrent(step: Step, _: Mapping[str, Step]) -> Expected:
    """The direction of a layer may be either where a graph has the two of a bidirectional one apart."""
    names = {"forward", "reverse", "bidirectional"} if step.arguments.get("bidirectional") else {"forward"}
    widths = {shape[-1] for name, shape in step.shapes.items() if name.startswith("hx") and shape}
    found: dict[str, Any] = {"direction": _Check(" or ".join(sorted(names)), lambda value, _: value in names)}
    if widths:
        found["hidden_size"] = _Check(str(max(widths)), lambda value, _: value in widths)
    if step.operator == "aten.gru":
        found["linear_before_reset"] = 1
    return found


def _attention(_step: Step, _: Mapping[str, Step]) -> Expected:
    """Keys are transposed in their last two axes, and scores normalised over the last."""
    return {"perm": _SWAPS_LAST_TWO, "axis": _axis_check(-1)}


def _pad(step: Step, _: Mapping[str, Step]) -> Expected:
    names = {"replicate": "edge", "circular": "wrap"}
    mode = str(step.arguments.get("mode", "constant"))
    return {"mode": names.get(mode, mode)}


def _bilinear(step: Step, _: Mapping[str, Step]) -> Expected:
    """How a nearest pixel is found makes no difference where none is looked for."""
    place = "align_corners" if step.arguments["align_corners"] else "half_pixel"
    nearest = _Check("any", lambda *_: True)
    return {"mode": "linear", "coordinate_transformation_mode": place, "nearest_mode": nearest}


_RULES: dict[tuple[str, str], Rule] = {
    ("conv", "Conv"): _conv,
    ("conv_transpose", "ConvTranspose"): _conv_transpose,
    ("max_pool", "MaxPool"): _pool,
    ("avg_pool", "AveragePool"): _pool,
    ("layer_norm", "LayerNormalization"): lambda step, _: {
        "epsilon": float(step.arguments["eps"]),
        "axis": _axis_check(-len(step.arguments["normalized_shape"])),
    },
    ("rms_norm", "RMSNormalization"): lambda step, _: {
        "epsilon": float(step.arguments["eps"] or _FLOAT32_RELATIVE),
        "axis": _axis_check(-len(step.arguments["normalized_shape"])),
    },
    ("batch_norm", "BatchNormalization"): lambda step, _: {
        "epsilon": float(step.arguments["eps"]),
        "training_mode": 0,
        "momentum": None,
    },
    ("group_norm", "GroupNormalization"): lambda step, _: {
        "epsilon": float(step.arguments["eps"]),
        "num_groups": step.arguments["num_groups"],
    },
    ("group_norm", "InstanceNormalization"): _number("epsilon", "eps"),
    ("instance_norm", "InstanceNormalization"): _number("epsilon", "eps"),
    ("gelu", "Gelu"): lambda step, _: {"approximate": step.arguments.get("approximate", "none")},
    ("leaky_relu", "LeakyRelu"): _number("alpha", "negative_slope"),
    ("elu", "Elu"): _number("alpha", "alpha"),
    ("celu", "Celu"): _number("alpha", "alpha"),
    ("hardsigmoid", "HardSigmoid"): lambda _step, _: {"alpha": 1 / 6, "beta": 0.5},
    ("hardswish", "HardSigmoid"): lambda _step, _: {"alpha": 1 / 6, "beta": 0.5},
    ("softmax", "Softmax"): _axis("dim"),
    ("log_softmax", "LogSoftmax"): _axis("dim"),
    ("scaled_dot_product_attention", "Softmax"): _attention,
    ("scaled_dot_product_attention", "Transpose"): _attention,
    ("transpose", "Transpose"): _permutation,
    ("permute", "Transpose"): _permutation,
    ("t", "Transpose"): _permutation,
    ("numpy_T", "Transpose"): _permutation,
    ("linear", "Transpose"): lambda _step, _: {"perm": [1, 0]},
    ("linear", "Gemm"): _gemm,
    ("addmm", "Gemm"): _gemm,
    ("cat", "Concat"): _axis("dim"),
    ("stack", "Concat"): _axis("dim"),
    ("split", "Split"): _split,
    ("glu", "Split"): _split,
    ("select", "Gather"): _axis("dim"),
    ("index_select", "Gather"): _axis("dim"),
    ("embedding", "Gather"): lambda _step, _: {"axis": _axis_check(0)},
    ("pad", "Pad"): _pad,
    ("constant_pad_nd", "Pad"): lambda _step, _: {"mode": "constant"},
    ("reflection_pad1d", "Pad"): lambda _step, _: {"mode": "reflect"},
    ("reflection_pad2d", "Pad"): lambda _step, _: {"mode": "reflect"},
    ("upsample_bilinear2d", "Resize"): _bilinear,
    ("lstm", "LSTM"): _recurrent,
    ("gru", "GRU"): _recurrent,
    ("rnn_tanh", "RNN"): _recurrent,
    ("rnn_relu", "RNN"): _recurrent,
    ("einsum", "Einsum"): lambda step, _: {"equation": _same_equation(step.arguments["equation"])},
    ("topk", "TopK"): _axis("dim"),
    ("sort", "TopK"): _axis("dim"),
    ("argsort", "TopK"): _axis("dim"),
    ("argmax", "ArgMax"): _axis("dim"),
    ("argmin", "ArgMin"): _axis("dim"),
    ("gather", "GatherElements"): _axis("dim"),
}
