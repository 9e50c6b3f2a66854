"""An exported program as plain values: what every step computes, with which numbers, from which line of which module."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

_VIEWS = frozenset(
    {"aten.view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.t", "aten.detach", "aten.alias"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a program.

    `arguments`: by the operator's own parameter names, defaults included; a tensor stands as "%name", a size that is
    not fixed as "?". `module`: the path of the module it belongs to; `source`: "file:line" of the network's own code.
    `shapes`: of each tensor argument and, under "", of the result, with -1 for what is not fixed; `parameters`: which
    tensor arguments are entries of the state dict.
    """

    name: str
    operator: str
    arguments: dict[str, Any]
    module: str
    source: str
    shapes: dict[str, list[int]]
    parameters: dict[str, str]


def as_values(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Return a program's steps as JSON values and what it computes from constants alone, in float64, by step."""
    return {"steps": [asdict(step) for step in steps(program)], "folded": folded(program)}


def steps(program: torch.export.ExportedProgram) -> list[Step]:
    """Return the operators of a program in the order in which they run."""
    import torch

    parameters = state_names(program)
    return [
        _step(node, parameters)
        for node in program.graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)  # noqa: SLF001 - what fx graphs hold
    ]


def state_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Return the state dict's name of each placeholder that stands for a parameter or buffer."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def folded(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Return, by step, the values that need no input: lifted constants and what is computed from weights alone.

    Floating values are computed in float64. What only reads a weight in another shape is left out, and no weight is
    converted for it.
    """
    import torch

    constants = _constants(program)
    found: dict[str, Any] = {
        name: _double(constants[name])
        for name in program.graph_signature.inputs_to_lifted_tensor_constants
        if name in constants
    }
    known: dict[str, Any] = {}
    for node in _worth_folding(program, constants):
        value = _evaluate(node, lambda name: known[name] if name in known else _double(constants[name]))
        if isinstance(value, torch.Tensor):
            known[node.name] = value
            if _operator(node) not in _VIEWS:
                found[node.name] = value
    return {name: value.contiguous().numpy() for name, value in found.items()}


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
        if _operator(node) not in _VIEWS or node.name in wanted:
            wanted |= {each.name: each for each in (node, *node.all_input_nodes)}
    return [node for name, node in following.items() if name in wanted]


def _constants(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    signature = program.graph_signature
    state = {**program.state_dict, **program.constants}
    targets = {**state_names(program), **signature.inputs_to_lifted_tensor_constants}
    return {name: state[target].detach() for name, target in targets.items() if target in state}


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _evaluate(node: Any, value_of: Callable[[str], Any]) -> Any:
    import torch
    from torch.fx.node import map_arg

    def given(arguments: Any) -> Any:
        return map_arg(arguments, lambda each: value_of(each.name))

    try:
        with torch.no_grad():
            return node.target(*given(node.args), **given(node.kwargs))
    except (RuntimeError, TypeError, NotImplementedError, KeyError):
        return None  # it stays unexplained, and the audit says so


def _step(node: Any, parameters: Mapping[str, str]) -> Step:
    names = [argument.name for argument in node.target._schema.arguments]  # noqa: SLF001 - the only place that says so
    defaults = {each.name: each.default_value for each in node.target._schema.arguments if each.has_default_value()}  # noqa: SLF001
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    tensors = {name: value for name, value in given.items() if hasattr(value, "all_input_nodes")}
    shapes = {name: _shape(value) for name, value in [*tensors.items(), ("", node)]}
    return Step(
        name=node.name,
        operator=_operator(node),
        arguments={name: _plain(value) for name, value in (defaults | given).items()},
        module=_module(node),
        source=_source(node.meta.get("stack_trace")),
        shapes={name: shape for name, shape in shapes.items() if shape is not None},
        parameters={name: parameters[each] for name, each in _tensor_names(given) if each in parameters},
    )


def _tensor_names(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each tensor argument with the placeholder's name; the tensors of a list as "name[index]"."""
    for name, value in given.items():
        if hasattr(value, "all_input_nodes"):
            yield name, value.name
        elif isinstance(value, list | tuple):
            yield from _tensor_names({f"{name}[{index}]": each for index, each in enumerate(value)})


def _operator(node: Any) -> str:
    return str(getattr(node.target, "_overloadpacket", node.target))


def _plain(value: Any) -> Any:
    if hasattr(value, "all_input_nodes"):
        return f"%{value.name}"
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    # Infinities have no JSON: their names are read back by float().
    return (value if abs(value) < float("inf") else str(value)) if isinstance(value, float) else str(value)


def _shape(node: Any) -> list[int] | None:
    value = node.meta.get("val")
    shape = getattr(value, "shape", None)
    return None if shape is None else [size if isinstance(size, int) else -1 for size in shape]


def _module(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _source(trace: str | None) -> str:
    """Return the innermost line that is not torch's own, as `File "…", line n` says it."""
    places = []
    for line in (trace or "").splitlines():
        if line.strip().startswith('File "'):
            file, _, rest = line.strip()[6:].partition('", line ')
            places.append((file, rest.partition(",")[0]))
    own = [place for place in places if "/torch/" not in f"/{place[0]}"] or places
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""
