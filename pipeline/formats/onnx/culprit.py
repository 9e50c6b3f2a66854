"""From "outputs differ" to a node: run a graph once with every value exposed, and find where the error begins.

What each value should be is known from the exported program, run step by step in float64: ONNX values carry the names of
the program's steps. Values in between (a product before its bias is added) come from the network exported afresh. The
culprit is the first node whose output leaves its error budget although none of its inputs does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.errors import ExportError
from pipeline.formats.derived import UNIT_ROUNDOFF
from pipeline.formats.format import CulpritSearch, Found, FromNetwork
from pipeline.formats.onnx.graph import read
from pipeline.formats.onnx.session import DEFAULT_LEVEL, session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.onnx.graph import Graph, Node
    from pipeline.interface import Arrays

LIMIT = 16.0
_OPSET = 20
_HEALTHY_ROUNDINGS = (
    64  # what a value of the fresh export, which has no float64 twin, may be off by, in roundoffs of its scale
)
_NEAR = 1e-3
_SHOWN_ATTRIBUTES = 12


@dataclass(frozen=True, slots=True)
class Culprit:
    """The node where the error begins, in the network's and in the file's words; factors are error ÷ noise floor.

    `problem`: what is wrong where no element can say it, else None.
    """

    node: str
    operator: str
    module: str
    source: str
    attributes: dict[str, Any]
    output: str
    factor: float
    input_factor: float
    worst_index: tuple[int, ...]
    expected: float
    got: float
    consumers: tuple[str, ...]
    explored: int
    certain: bool
    problem: str | None = None


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


def search(wanted: CulpritSearch) -> Found:
    """Look for the node where a file's error begins, and write its reproduction.

    Raises:
        InputError: the file is no valid ONNX model.
    """
    try:
        known = truths(wanted).renamed(wanted.outputs)
    except ExportError as error:
        return Found(None, f"no step of the network to compare with: {error.message}")
    graph = read(wanted.file, whole=True)
    level = wanted.options.get("graph_optimization_level", DEFAULT_LEVEL)
    fed = {wanted.names[name]: array for name, array in wanted.inputs.items()}
    found = find(graph, fed, known, level=level, custom_ops=wanted.custom_ops)
    if found is not None and found.output in known.values:
        write_reproduction(graph, found, fed, known, wanted.folder, level=level, custom_ops=wanted.custom_ops)
    if found is None:
        return Found(None, "with every value exposed, each is within its budget", known.program_outputs)
    return Found(as_json(found), None, known.program_outputs)


def truths(wanted: CulpritSearch) -> Truths:
    """Return the value of every step of the network on the inputs, and of what the exporter makes of them in between.

    Raises:
        ExportError: the network cannot be exported, so that there are no steps to compare with.
    """
    from pipeline.formats import program
    from pipeline.formats.onnx import export as onnx

    inputs = wanted.inputs
    origin = FromNetwork(wanted.module, wanted.interface, wanted.examples, wanted.folder / "model.onnx", {})
    exported, names = onnx.translate(origin, _OPSET)
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


def find(graph: Graph, inputs: Arrays, known: Truths, *, level: str, custom_ops: Path | None = None) -> Culprit | None:
    """Return the first node of `graph` whose error its inputs do not explain, None if no value is off."""
    values = exposed(graph.model, inputs, level=level, custom_ops=custom_ops)
    # A single case says little about the noise of a single channel: judge by whole tensors first.
    return (
        _first(graph, values, inputs, known, whole=True)
        or _first(graph, values, inputs, known, whole=False)
        or _last_good(graph, values, inputs, known)
    )


def _first(graph: Graph, values: Mapping[str, Any], inputs: Arrays, known: Truths, *, whole: bool) -> Culprit | None:
    factors: dict[str, float] = dict.fromkeys(inputs, 0.0)
    found: Culprit | None = None
    explored = 0
    for node in graph.nodes:
        arriving = max((factors.get(name, 0.0) for name in node.inputs), default=0.0)
        for output in node.outputs:
            judged = _judge(output, values.get(output), known, whole=whole)
            explored += judged is not None
            # A value nothing is known of is as good as what it was made from.
            factors[output] = judged.factor if judged else arriving
            if found is None and judged and judged.factor > LIMIT and arriving <= LIMIT:
                found = _culprit(graph, node, output, judged, arriving, known)
    return found and replace(found, explored=explored, certain=whole and found.certain)


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


def write_reproduction(
    graph: Graph,
    culprit: Culprit,
    inputs: Arrays,
    known: Truths,
    folder: Path,
    *,
    level: str,
    custom_ops: Path | None = None,
) -> None:
    """Write the culprit alone as an ONNX model, its inputs with both values, and a script that shows the difference."""
    import onnx

    values = {**exposed(graph.model, inputs, level=level, custom_ops=custom_ops), **inputs}
    node = next(each for each in graph.nodes if each.name == culprit.node and culprit.output in each.outputs)
    constants = {each.name: each.value for each in graph.constants}
    feed = {name: values[name] for name in dict.fromkeys(node.inputs) if name in values and name not in constants}
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    model = helper.make_model(
        helper.make_graph(
            [node.proto],
            "culprit",
            [_info(name, value) for name, value in feed.items()],
            [_info(culprit.output, values[culprit.output])],
            [
                numpy_helper.from_array(constants[name], name)
                for name in dict.fromkeys(node.inputs)
                if name in constants
            ],
        ),
        opset_imports=list(graph.model.opset_import),
        ir_version=graph.model.ir_version,
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "culprit.onnx")
    expected = known.values[culprit.output][0]
    np.savez(folder / "culprit.npz", **{f"in:{name}": value for name, value in feed.items()}, expected=expected)
    (folder / "culprit.py").write_text(
        _SCRIPT.format(
            node=culprit.node, operator=culprit.operator, module=culprit.module or "the network", output=culprit.output
        ),
        encoding="utf-8",
    )


_SCRIPT = '''"""Shows where {node} ({operator}, of {module}) differs from the network. Needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).parent
data = np.load(here / "culprit.npz")
session = ort.InferenceSession(str(here / "culprit.onnx"), providers=["CPUExecutionProvider"])
(got,) = session.run(None, {{name[3:]: data[name] for name in data.files if name.startswith("in:")}})
expected = data["expected"]
if got.shape != expected.shape:
    print(f"output {output}: shape {{list(got.shape)}} instead of {{list(expected.shape)}}")
    raise SystemExit
error = np.abs(got.astype(np.float64) - expected)
worst = np.unravel_index(int(np.argmax(error)), error.shape)
print("output {output}: largest difference", error[worst], "at", tuple(map(int, worst)))
print("  this node:  ", got[worst])
print("  the network:", expected[worst])
'''


def _info(name: str, value: Any) -> Any:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, list(value.shape))


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


class _Judged(NamedTuple):
    """A value's factor with its worst element, expected and got there, or in words what is wrong where no element is."""

    factor: float
    worst_index: tuple[int, ...] = ()
    expected: float = 0.0
    got: float = 0.0
    problem: str | None = None


def _judge(name: str, value: Any, known: Truths, *, whole: bool) -> _Judged | None:
    """Return how far a value is from what is known of it; None if nothing is."""
    if value is None:
        return None
    if value.dtype.kind != "f":
        return _judge_exactly(value, known.values.get(name))
    named = truth = known.values.get(name)
    if truth is not None and truth[0].dtype.kind != "f":
        truth = named = None
    if truth is None or truth[0].shape != value.shape:
        truth = _by_content(value, known)
    if truth is None and named is not None:
        return _Judged(np.inf, problem=f"shape {list(value.shape)} instead of {list(named[0].shape)}")
    if truth is None:
        return None
    expected, noise = truth
    if not value.size:
        return _Judged(0.0)
    (floor,) = known.floors(
        [expected], [np.full_like(noise, noise[np.isfinite(noise)].max(initial=0.0)) if whole else noise]
    )
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(value.astype(np.float64) - expected)
        equal = (value == expected) | (np.isnan(value) & np.isnan(expected))
    error = np.where(equal | ~np.isfinite(noise), 0.0, np.nan_to_num(error, nan=np.inf))
    share = error / np.broadcast_to(floor, error.shape)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(share)), share.shape))
    return _Judged(float(share[index]), index, float(expected[index]), float(value[index]))


def _judge_exactly(value: Any, truth: tuple[Any, Any] | None) -> _Judged | None:
    """Return whether an integer or boolean value is the step's of its name; None where there is none of its kind."""
    if truth is None or truth[0].dtype.kind == "f" or value.dtype.kind not in "biu":
        return None
    expected, noise = truth
    if expected.shape != value.shape:
        return _Judged(np.inf, problem=f"shape {list(value.shape)} instead of {list(expected.shape)}")
    differs = (value != expected) & (noise == 0)
    if not differs.any():
        return _Judged(0.0)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(differs)), differs.shape))
    return _Judged(np.inf, index, float(expected[index]), float(value[index]))


def _last_good(graph: Graph, values: Mapping[str, Any], inputs: Arrays, known: Truths) -> Culprit | None:
    """Return the first node all of whose inputs the network computes too, and nothing that follows from it.

    A file of another exporter has values that no step of the program has a name for. A healthy one among them has something
    behind it that a step computes.
    """
    judged = {name: _judge(name, value, known, whole=True) for name, value in values.items()}
    good = {name for name, each in judged.items() if each and each.factor <= LIMIT and values[name].dtype.kind == "f"}
    from_input = set(inputs)
    leads = set(good)
    for node in graph.nodes:
        if any(name in from_input for name in node.inputs):
            from_input.update(node.outputs)
    for node in reversed(graph.nodes):
        if leads.intersection(node.outputs):
            leads.update(node.inputs)
    for node in graph.nodes:
        fed = [name for name in node.inputs if name in from_input]
        output = next((name for name in node.outputs if name in values), None)
        is_float = output is not None and values[output].dtype.kind == "f" and values[output].size > 1
        if (
            fed
            and is_float
            and output
            and output not in leads
            and all(
                name in inputs or name in good or values.get(name) is None or values[name].dtype.kind != "f"
                for name in fed
            )
        ):
            place, expected = _nearest(node, values[output], known)
            wrong = _off(values[output], expected)
            return replace(_culprit(graph, node, output, wrong, 0.0, known, place), explored=len(judged), certain=False)
    return None


def _nearest(node: Node, value: Any, known: Truths) -> tuple[tuple[str, str, str] | None, Any]:
    """Return the step that a node stands for, by the weights it uses or its path, with its value; of several the nearest."""
    names = [name for name in node.inputs if name in known.users]
    steps = [step for name in names for step in known.users[name]]
    if not steps:
        path = ".".join(part for part in node.name.split("/")[1:-1] if part)
        steps = [step for step, place in known.places.items() if path and place[0] == path]
    fitting = {step: known.values[step][0] for step in steps if step in known.values}
    fitting = {step: each for step, each in fitting.items() if each.shape == value.shape and each.dtype.kind == "f"}
    if not fitting:
        return (known.places[steps[0]] if steps else None), None
    nearest = min(fitting, key=lambda step: float(np.nan_to_num(np.abs(fitting[step] - value), nan=np.inf).sum()))
    return known.places[nearest], fitting[nearest]


def _off(value: Any, expected: Any) -> _Judged:
    if expected is None:
        return _Judged(
            np.inf,
            problem="nothing that the network computes comes out of it or of what follows, and its inputs are right",
        )
    error = np.nan_to_num(np.abs(value.astype(np.float64) - expected), nan=np.inf)
    index = tuple(int(each) for each in np.unravel_index(int(np.argmax(error)), error.shape))
    return _Judged(np.inf, index, float(expected[index]), float(value[index]))


def _by_content(value: Any, known: Truths) -> tuple[Any, Any] | None:
    """Return the step whose value this nearly is: files of other exporters have other names."""
    for expected, noise in known.values.values():
        if expected.shape == value.shape and value.size > 1 and expected.dtype.kind == "f":
            scale = np.abs(expected).max(initial=0.0)
            with np.errstate(invalid="ignore"):
                if scale and np.abs(value - expected).max() <= _NEAR * scale:
                    return expected, noise
    return None


def _culprit(
    graph: Graph,
    node: Node,
    output: str,
    judged: _Judged,
    arriving: float,
    known: Truths,
    place: tuple[str, str, str] | None = None,
) -> Culprit:
    module, source, _ = (
        place
        or known.places.get(output)
        or next(
            (known.places[name] for name in (*node.scopes[-1:], *node.outputs) if name in known.places),
            (node.scopes[-2] if len(node.scopes) > 1 else "", "", ""),
        )
    )
    attributes = dict(list(graph.numeric_attributes(node).items())[:_SHOWN_ATTRIBUTES])
    consumers = tuple(user.name for each in node.outputs for user in graph.users.get(each, ()))
    return Culprit(
        node=node.name,
        operator=node.operator,
        module=module,
        source=source,
        attributes=attributes,
        output=output,
        factor=judged.factor,
        input_factor=arriving,
        worst_index=judged.worst_index,
        expected=judged.expected,
        got=judged.got,
        consumers=consumers,
        explored=0,
        certain=output in known.values,
        problem=judged.problem,
    )


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


def as_json(culprit: Culprit) -> dict[str, Any]:
    """Return a culprit as JSON values; what is not finite as text."""
    return {name: _plain(value) for name, value in asdict(culprit).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
