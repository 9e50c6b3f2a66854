"""What an exported program computes without any input: its own constants, and what follows from weights alone.

An optimiser may compute such a value beforehand and keep that instead of the weights. The values are computed in float64, and once
more as the network has them: how far the two are apart is what its own roundings come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

# What only reads a tensor of the state dict, in the same order of elements.
_VIEWS = frozenset(
    {
        "aten.view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.t", "aten.detach", "aten.alias",
        "aten.clone", "aten.contiguous", "aten.lift_fresh_copy", "aten.detach_", "aten.dropout",
    }
)  # fmt: skip
# What reads one in another order of its axes: the audit tries these by itself.
_ORDERS = frozenset({"aten.permute", "aten.transpose", "aten.numpy_T", "aten.t"})


@dataclass(frozen=True, slots=True)
class Folded:
    """Values by step: `values` in float64 (integers as they are), what `keys` of the state dict each follows from, its `roundings`.

    `roundings`: the largest difference between float64 and the network's own precision.
    """

    values: dict[str, Any]
    keys: dict[str, list[str]]
    roundings: dict[str, float]


def folded(program: torch.export.ExportedProgram, states: Mapping[str, str]) -> Folded:
    """Return the values of a program that need no input; `states` names the state dict's key of each placeholder.

    What only reads a weight in another shape is left out, and no weight is converted for it.
    """
    import torch

    constants = _constants(program, states)
    wanted = _worth_folding(program, constants)
    if any(is_mutable(node) for node in wanted):
        constants = {name: tensor.clone() for name, tensor in constants.items()}
    keys = {name: [states[name]] if name in states else [] for name in constants}
    lifted = [name for name in program.graph_signature.inputs_to_lifted_tensor_constants if name in constants]
    exact: dict[str, Any] = {name: _double(constants[name]) for name in lifted}
    plain: dict[str, Any] = {}
    found = dict(exact)
    for node in wanted:
        own = _evaluate(node, lambda name: plain[name] if name in plain else constants[name])
        value = _doubled(_evaluate(node, lambda name: exact[name] if name in exact else _double(constants[name])))
        if value is None and own is not None:
            value = _doubled(own)
        if value is None:
            continue
        exact[node.name], plain[node.name] = value, own
        keys[node.name] = list(dict.fromkeys(key for each in node.all_input_nodes for key in keys.get(each.name, ())))
        if isinstance(value, torch.Tensor) and not _only_reads(node, constants):
            found[node.name] = value
            if own is not None and (product := _without_bias(node, exact, constants)) is not None:
                name = f"{node.name} without its bias"
                found[name], keys[name] = product, keys[node.name]
                plain[name] = own - (value - product).to(own.dtype)
    return Folded(
        {name: _array(value) for name, value in found.items() if _has_array(value)},
        {name: keys.get(name, []) for name in found},
        {name: _apart(value, plain.get(name)) for name, value in found.items()},
    )


def _without_bias(node: Any, exact: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """Return the product of a linear layer, which an optimiser may compute beforehand and leave the sum to the file; None of others."""
    import torch

    if node.target is not torch.ops.aten.linear.default or len(node.args) < 3 or node.args[2] is None:
        return None
    bias = node.args[2].name
    return exact[node.name] - (exact[bias] if bias in exact else _double(constants[bias]))


def _only_reads(node: Any, constants: Mapping[str, Any]) -> bool:
    operator = operator_of(node)
    return operator in _VIEWS or (operator in _ORDERS and node.all_input_nodes[0].name in constants)


def _worth_folding(program: torch.export.ExportedProgram, constants: Mapping[str, Any]) -> list[Any]:
    """Return, in order, the nodes that follow from constants and do more than view one, and the views these are of."""
    import torch

    following: dict[str, Any] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or any(
            each.name not in constants and each.name not in following for each in node.all_input_nodes
        ):
            continue
        if node.all_input_nodes or isinstance(node.meta.get("val"), torch.Tensor):
            following[node.name] = node
    wanted: dict[str, Any] = {}
    for node in reversed(following.values()):
        if node.name in wanted or not _only_reads(node, constants):
            wanted |= {each.name: each for each in (node, *node.all_input_nodes)}
    return [node for name, node in following.items() if name in wanted]


def _constants(program: torch.export.ExportedProgram, states: Mapping[str, str]) -> dict[str, torch.Tensor]:
    state = {**program.state_dict, **program.constants}
    targets = {**states, **program.graph_signature.inputs_to_lifted_tensor_constants}
    return {name: state[target].detach() for name, target in targets.items() if target in state}


def _double(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _doubled(value: Any) -> Any:
    """Return a value with its floating tensors in float64: an operator may state its result's type."""
    import torch

    if isinstance(value, torch.Tensor):
        return _double(value)
    return type(value)(map(_doubled, value)) if type(value) in {list, tuple} else value


def _evaluate(node: Any, value_of: Callable[[str], Any]) -> Any:
    import torch
    from torch.fx.node import map_arg

    def given(arguments: Any) -> Any:
        return map_arg(arguments, lambda each: value_of(each.name))

    try:
        with torch.no_grad():
            return node.target(*given(node.args), **given(node.kwargs))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, KeyError):
        return None  # it stays unexplained, and the audit says so


def _apart(exact: Any, own: Any) -> float:
    import torch

    if not isinstance(own, torch.Tensor) or not (exact.is_floating_point() or exact.is_complex()) or not exact.numel():
        return 0.0
    difference = (_double(own) - exact).abs()
    difference = difference[difference.isfinite()]
    return float(difference.max()) if difference.numel() else 0.0


def _has_array(value: torch.Tensor) -> bool:
    import torch

    return value.layout is torch.strided and not value.is_quantized


def _array(value: torch.Tensor) -> Any:
    return value.resolve_conj().resolve_neg().contiguous().numpy()


def is_mutable(node: Any) -> bool:
    """Whether a node's operator writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def operator_of(node: Any) -> str:
    """Return the operator that a node calls, without its overload: "aten.add"."""
    return str(getattr(node.target, "_overloadpacket", node.target))
