"""What every value of a graph should be: the network's steps in float64, and what a fresh export makes of them in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.derived import UNIT_ROUNDOFF
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx.options import USUAL_OPSET
from pipeline.formats.onnx.session import session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import CulpritSearch
    from pipeline.interface import Arrays

LIMIT = 16.0
_HEALTHY_ROUNDINGS = (
    64  # what a value of the fresh export, which has no float64 twin, may be off by, in roundoffs of its scale
)


@dataclass(frozen=True, slots=True)
class Truths:
    """What values should be and may be off by, by name; where each comes from; and how far the float32 program is off.

    `users`: the steps that use a tensor of the state dict, by its name.
    """

    values: Mapping[str, tuple[Any, Any]]
    places: Mapping[str, tuple[str, str, str]]
    program_outputs: Mapping[str, Any]
    floors: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
    users: Mapping[str, Sequence[str]]

    def renamed(self, outputs: Mapping[str, str]) -> Truths:
        """Return the truths with the outputs under a file's own names (file's name → config's)."""
        values = {theirs: self.values[ours] for theirs, ours in outputs.items() if ours in self.values}
        places = {theirs: self.places[ours] for theirs, ours in outputs.items() if ours in self.places}
        return replace(self, values={**self.values, **values}, places={**self.places, **places})


def truths(wanted: CulpritSearch) -> Truths:
    """Return the value of every step of the network on the inputs, and of what the exporter makes of them in between.

    Raises:
        ExportError: the network cannot be exported, so that there are no steps to compare with.
    """
    from pipeline.formats import program
    from pipeline.formats.onnx import export as onnx

    inputs = wanted.inputs
    origin = FromNetwork(wanted.module, wanted.interface, wanted.examples, wanted.folder / "model.onnx", {})
    exported, names = onnx.translate(origin, USUAL_OPSET)
    captured = exported.exported_program
    ordered = {name: inputs[name] for name in names}
    single = _step_values(captured, ordered, double=False)
    known = _known(single, lambda: _step_values(captured, ordered, double=True))
    renamed = dict(
        zip(
            captured.graph_signature.user_outputs,
            [each.name for each in exported.model_proto.graph.output],
            strict=True,
        )
    )
    known |= {renamed[name]: value for name, value in known.items() if name in renamed}
    fresh = exposed(exported.model_proto, inputs, level="disable")
    for name, value in fresh.items():
        if name not in known and value.dtype.kind == "f":
            known[name] = _from_single(value.astype(np.float64))
    places = {step.name: (step.module, step.source, step.operator) for step in program.steps(captured)}
    places |= {renamed[name]: place for name, place in places.items() if name in renamed}
    outputs = {renamed[name]: single[name] for name in captured.graph_signature.user_outputs if name in single}
    users: dict[str, list[str]] = {}
    for step in program.steps(captured):
        for name in step.parameters.values():
            users.setdefault(name, []).append(step.name)
    return Truths(known, places, outputs, wanted.floors, users)


def _known(single: Mapping[str, Any], run_double: Callable[[], Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return what each step should be and may be off by.

    A network with a float32 of its own inside does not run in float64: then float32 stands for it, with what two evaluations
    of one step may differ by.
    """
    try:
        double = run_double()
    except (RuntimeError, TypeError, NotImplementedError):
        return {
            name: _from_single(value) if value.dtype.kind == "f" else (value, np.zeros(value.shape))
            for name, value in single.items()
        }
    known = {}
    for name, value in double.items():
        if name in single and value.shape == single[name].shape and value.dtype == single[name].dtype:
            off = np.abs(single[name] - value) if value.dtype.kind == "f" else np.float64(single[name] != value)
            known[name] = (value, np.asarray(off))
    return known


def _from_single(value: Any) -> tuple[Any, Any]:
    scale = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
    return value, np.full(value.shape, scale * _HEALTHY_ROUNDINGS * UNIT_ROUNDOFF / LIMIT)


def exposed(model: Any, inputs: Arrays, *, level: str, custom_ops: Path | None = None) -> dict[str, Any]:
    """Run a model with every value of its main graph as an output; return them by name, as far as they can be exposed."""
    import onnxruntime as ort

    options = session_options(level, 1, custom_ops)
    options.log_severity_level = 4  # that a node cannot run is for the search to say
    session = ort.InferenceSession(_with_outputs(model), options, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    found = session.run(outputs, {name: array for name, array in inputs.items() if name in taken})
    return {name: value for name, value in zip(outputs, found, strict=True) if isinstance(value, np.ndarray)}


def _with_outputs(model: Any) -> bytes:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    present = {each.name for each in copied.graph.output}
    for node in copied.graph.node:
        for name in node.output:
            if name and name not in present and node.op_type != "Constant":
                copied.graph.output.append(onnx.ValueInfoProto(name=name))
                present.add(name)
    return bytes(copied.SerializeToString())


def _step_values(program: Any, inputs: Arrays, *, double: bool) -> dict[str, Any]:
    """Run a program step by step; return every tensor as float64 (other dtypes as they are) by the step's name."""
    import torch

    kept: dict[str, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            result = super().run_node(node)
            if node.op == "call_function" and isinstance(result, torch.Tensor):
                kept[node.name] = result.double().numpy() if result.is_floating_point() else result.numpy()
            return result

    with torch.no_grad():
        Recorder(program.graph_module).run(*_arguments(program, inputs, double=double))
    return {name: np.array(value) for name, value in kept.items()}


def _arguments(program: Any, inputs: Arrays, *, double: bool) -> Iterator[Any]:
    """Yield the values of a program's placeholders, in order: its tensors, then the inputs, which come in its order."""
    import torch

    from pipeline.rebuild import calling

    given = iter(calling.tensors_from(inputs, double=double).values())
    state = {**program.state_dict, **program.constants}
    for spec in program.graph_signature.input_specs:
        value = next(given) if spec.kind.name == "USER_INPUT" else state[spec.target]
        yield value.double() if double and isinstance(value, torch.Tensor) and value.is_floating_point() else value
