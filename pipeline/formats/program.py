"""An exported program as plain values: what every step computes, with which numbers, from which line of which module."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.formats import folding
from pipeline.formats.folding import operator_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

_SHAPE_ONLY = frozenset({"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "size"})


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

    def operand(self, argument: str) -> str:
        """Return the name of the step, or input, whose value an argument is; of a number its text."""
        return str(self.arguments.get(argument, "")).removeprefix("%")


def as_values(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Return a program's steps as JSON values, which of them can reach an output, and what it computes from constants alone.

    That is `folded`, arrays in float64 by step, with the `folded_keys` of the state dict that each follows from, and its
    `roundings` (see `pipeline.formats.folding.Folded`).
    """
    found = folding.folded(program, state_names(program))
    return {
        "steps": [asdict(step) for step in steps(program)],
        "live": live(program),
        "folded": found.values,
        "folded_keys": found.keys,
        "roundings": found.roundings,
    }


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


def live(program: torch.export.ExportedProgram) -> list[str]:
    """Return the steps whose values can reach an output; what only lends its shape to others is none of them."""
    waiting = [each for node in program.graph.nodes if node.op == "output" for each in node.all_input_nodes]
    # What is written in place is read under the name of what it was written to.
    waiting += [node for node in program.graph.nodes if node.op == "call_function" and folding.is_mutable(node)]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [] if _takes_shape_only(node) else node.all_input_nodes
    return [node.name for node in program.graph.nodes if node.name in found and node.op == "call_function"]


def _takes_shape_only(node: Any) -> bool:
    name = operator_of(node).rpartition(".")[2] if node.op == "call_function" else ""
    return name in _SHAPE_ONLY or name.startswith(("new_", "sym_"))


def _step(node: Any, parameters: Mapping[str, str]) -> Step:
    names = [argument.name for argument in node.target._schema.arguments]  # noqa: SLF001 - the only place that says so
    defaults = {each.name: each.default_value for each in node.target._schema.arguments if each.has_default_value()}  # noqa: SLF001
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    tensors = {name: value for name, value in given.items() if hasattr(value, "all_input_nodes")}
    shapes = {name: _shape(value) for name, value in [*tensors.items(), ("", node)]}
    return Step(
        name=node.name,
        operator=operator_of(node),
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
