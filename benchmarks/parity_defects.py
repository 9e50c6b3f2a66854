"""Does parity catch defects, and does it name them? Seeded mutations of the shipped models' ONNX files.

    python benchmarks/parity_defects.py [--models a,b] [--per-kind 4] [--culprits 25] [--out benchmarks/results]

Each mutation is one defect that an exporter, an optimiser or a careless edit makes. It counts as caught if an output leaves
its budget, or the audit objects. What no check could see (the mutated file is equivalent: the same bytes, or a duplicated
activation that changes nothing) is counted apart. Beside it: what fixed tolerances catch on the same outputs.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from pipeline import cases, model, oracle, planning
from pipeline.exporters import onnx as exporter
from pipeline.exporters.exporter import Job
from pipeline.parity import culprit, jobs, prove
from pipeline.parity.audit import audit_onnx
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare
from pipeline.parity.graph import Graph

MODELS = ("simplenet", "silero-vad", "facenet-pnet", "minilm", "efficientnet-lite0")
TOLERANCES = {"atol 1e-3": (1e-3, 0.0), "atol 1e-4": (1e-4, 0.0), "rtol 1e-3, atol 1e-5": (1e-5, 1e-3)}
CAP_ELEMENTS = {"efficientnet-lite0": 320_000, "facenet-pnet": 60_000}
REWIRED = {"duplicated_activation", "off_by_one", "swapped_outputs", "swapped_inputs", "axis"}
ACTIVATIONS = {"Relu", "Sigmoid", "Tanh", "Gelu", "Clip", "PRelu", "Softmax", "Erf"}


@dataclass
class Subject:
    """A healthy export with all that is needed to judge a mutation of it."""

    name: str
    onnx: Any
    state: dict[str, Any]
    program: dict[str, Any]
    truth: prove.Truth
    interface: Any
    module: Any
    examples: Any
    _healthy: dict[int, Any] = field(default_factory=dict)
    _truths: Any = None

    def healthy(self, index: int) -> Any:
        """Return what the unchanged file gives for a case without optimisation."""
        if index not in self._healthy:
            case, names = self.truth.cases[index], list(self.truth.references[index].values)
            self._healthy[index] = _session(self.onnx, optimised=False).run(names, dict(case.inputs))
        return self._healthy[index]

    def truths(self) -> tuple[Any, Any, float]:
        """Return a small case, the values of every step on it, and how long they took (the same for every mutation)."""
        if self._truths is None:
            start = time.monotonic()
            pool = self.truth.cases[1:] or self.truth.cases
            case = min(pool, key=lambda each: sum(array.size for array in each.inputs.values()))
            known = culprit.truths(self.module, self.interface, self.examples, case.inputs, 20)
            self._truths = case, known, time.monotonic() - start
        return self._truths


@dataclass
class Result:
    """What became of one mutation. `nodes`: those it touched; `named`: whether the culprit is one of them or a consumer."""

    model: str
    kind: str
    target: str
    nodes: tuple[str, ...]
    equivalent: bool = False
    by_output: bool = False
    by_audit: bool = False
    factor: float = 0.0
    tolerances: tuple[str, ...] = ()
    culprit: str | None = None
    culprit_seconds: float | None = None
    named: bool | None = None


def prepare(name: str, folder: Path) -> Subject:
    planned = planning.plan(Path(f"configs/{name}.yaml"), planning.Settings(out=folder))
    interface = planned.interface
    module = model.load(planned.network).module
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    cap = CAP_ELEMENTS.get(name, planned.config.parity.cap_elements)
    sampled = cases.sample(interface, seed=0, cap_elements=cap)
    artifact = exporter.ONNX.export(Job(module, interface, examples, folder, {"name": name}), exporter.OnnxOptions())
    state = jobs.arrays_of(module)
    state = {key: value.copy() for key, value in state.items()}
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=0)
    answer = {"references": [asdict(each) for each in references], "fallback": reason}
    truth = prove.truth(sampled, answer, dict.fromkeys(interface.outputs, Rule()))
    module = model.load(planned.network).module  # the oracle left its own in float64
    loaded = onnx.load(str(artifact.files[0]))
    return Subject(name, loaded, state, dict(artifact.program), truth, interface, module, examples)


# --- mutations: each changes a copy of the model in place and returns (target, nodes touched), or None if it cannot -------

Mutation = Callable[[Any, random.Random], "tuple[str, tuple[str, ...]] | None"]


def _weights(proto: Any, rng: random.Random, change: Callable[[Any], Any], fits: Callable[[Any], bool]) -> Any:
    pool = [each for each in proto.graph.initializer if each.data_type == onnx.TensorProto.FLOAT and fits(each)]
    if not pool:
        return None
    chosen = rng.choice(pool)
    value = change(numpy_helper.to_array(chosen).copy())
    users = tuple(node.name for node in proto.graph.node if chosen.name in node.input)
    chosen.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), chosen.name))
    return chosen.name, users


def _big(tensor: Any) -> bool:
    return int(np.prod(tensor.dims)) >= 8


def one_element(proto: Any, rng: random.Random) -> Any:
    def change(value: Any) -> Any:
        index = rng.randrange(value.size)
        value.reshape(-1)[index] = value.reshape(-1)[index] * 1.02 + (1e-3 if value.reshape(-1)[index] == 0 else 0)
        return value

    return _weights(proto, rng, change, _big)


def sign(proto: Any, rng: random.Random) -> Any:
    def change(value: Any) -> Any:
        value[rng.randrange(len(value))] *= -1
        return value

    return _weights(proto, rng, change, _big)


def transpose(proto: Any, rng: random.Random) -> Any:
    return _weights(
        proto, rng, lambda value: value.T, lambda each: len(each.dims) == 2 and each.dims[0] == each.dims[1] > 1
    )


def half(proto: Any, rng: random.Random) -> Any:
    return _weights(proto, rng, lambda value: value.astype(np.float16).astype(np.float32), _big)


def bfloat(proto: Any, rng: random.Random) -> Any:
    return _weights(proto, rng, lambda value: value.astype(ml_dtypes.bfloat16).astype(np.float32), _big)


def zeroed_channel(proto: Any, rng: random.Random) -> Any:
    def change(value: Any) -> Any:
        value[rng.randrange(len(value))] = 0
        return value

    return _weights(proto, rng, change, lambda each: _big(each) and len(each.dims) > 1 and each.dims[0] > 1)


def _attribute(
    proto: Any, rng: random.Random, names: set[str], change: Callable[[Any], Any], operators: set[str]
) -> Any:
    pool = [
        (node, each)
        for node in proto.graph.node
        for each in node.attribute
        if each.name in names and node.op_type in operators
    ]
    if not pool:
        return None
    node, chosen = rng.choice(pool)
    value = change(helper.get_attribute_value(chosen))
    chosen.CopyFrom(helper.make_attribute(chosen.name, value))
    return f"{node.name}.{chosen.name}", (node.name,)


def epsilon(proto: Any, rng: random.Random) -> Any:
    norms = {"LayerNormalization", "BatchNormalization", "InstanceNormalization"}
    return _attribute(proto, rng, {"epsilon"}, lambda value: value * 2, norms)


def padding(proto: Any, rng: random.Random) -> Any:
    def change(value: Any) -> Any:
        first, half_way = list(value), len(value) // 2
        shift = 1 if first[0] == 0 else -1
        first[0] += shift
        first[half_way] -= shift
        return first if min(first) >= 0 else [each + 1 for each in value]

    return _attribute(proto, rng, {"pads"}, change, {"Conv", "MaxPool"})


def axis(proto: Any, rng: random.Random) -> Any:
    return _attribute(
        proto,
        rng,
        {"axis"},
        lambda value: value - 1 if value else 1,
        {"Softmax", "Gather", "Concat", "LayerNormalization", "Split"},
    )


def approximate(proto: Any, rng: random.Random) -> Any:
    pool = [node for node in proto.graph.node if node.op_type == "Gelu"]
    if not pool:
        return None
    node = rng.choice(pool)
    kept = [each for each in node.attribute if each.name != "approximate"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("approximate", "tanh")])
    return f"{node.name}.approximate", (node.name,)


def alpha(proto: Any, rng: random.Random) -> Any:
    return _attribute(proto, rng, {"alpha", "beta"}, lambda value: value * 1.01, {"Gemm", "LeakyRelu", "Elu"})


def stride(proto: Any, rng: random.Random) -> Any:
    return _attribute(proto, rng, {"dilations"}, lambda value: [each + 1 for each in value], {"Conv"})


def dropped_bias(proto: Any, rng: random.Random) -> Any:
    constants = {each.name for each in proto.graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    pool = [node for node in proto.graph.node if node.op_type in {"Gemm", "Conv"} and len(node.input) == 3]
    pool += [node for node in proto.graph.node if node.op_type == "Add" and set(node.input) & constants]
    if not pool:
        return None
    node = rng.choice(pool)
    bias = node.input[2] if node.op_type != "Add" else next(name for name in node.input if name in constants)
    if node.op_type == "Add":
        node.CopyFrom(
            helper.make_node("Identity", [next(n for n in node.input if n != bias)], list(node.output), name=node.name)
        )
    else:
        del node.input[2]
    if not any(bias in each.input for each in proto.graph.node):
        proto.graph.initializer.remove(next(each for each in proto.graph.initializer if each.name == bias))
    return f"{node.name} without {bias}", (node.name,)


def swapped_outputs(proto: Any, rng: random.Random) -> Any:
    pool = [node for node in proto.graph.node if node.op_type == "Split" and len(node.output) > 1]
    if len(proto.graph.output) > 1 and (not pool or rng.random() < 0.5):
        first, second = proto.graph.output[0].name, proto.graph.output[1].name
        rename = {first: second, second: first}
        for node in proto.graph.node:
            node.output[:] = [rename.get(name, name) for name in node.output]
            node.input[:] = [rename.get(name, name) for name in node.input]
        return f"{first} ↔ {second}", ()
    if not pool:
        return None
    node = rng.choice(pool)
    names = list(node.output)
    node.output[:] = [names[1], names[0], *names[2:]]
    return f"{node.name} outputs", (node.name,)


def swapped_inputs(proto: Any, rng: random.Random) -> Any:
    pool = [
        node
        for node in proto.graph.node
        if node.op_type in {"Sub", "Div", "MatMul", "Concat", "Greater", "Where"} and len(set(node.input)) >= 2
    ]
    if not pool:
        return None
    node = rng.choice(pool)
    first = 1 if node.op_type == "Where" else 0
    node.input[first], node.input[first + 1] = node.input[first + 1], node.input[first]
    return f"{node.name} inputs", (node.name,)


def duplicated_activation(proto: Any, rng: random.Random) -> Any:
    pool = [(index, node) for index, node in enumerate(proto.graph.node) if node.op_type in ACTIVATIONS]
    if not pool:
        return None
    index, node = rng.choice(pool)
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.name, copied.input[0] = f"{node.name}_again", f"{node.output[0]}_once"
    node.output[0] = f"{copied.output[0]}_once"
    proto.graph.node.insert(index + 1, copied)
    return f"{node.name} ({node.op_type}) twice", (copied.name, node.name)


def off_by_one(proto: Any, rng: random.Random) -> Any:
    indices = {"Slice": 1, "Gather": 1}
    constants = {each.name: each for each in proto.graph.initializer if each.data_type == onnx.TensorProto.INT64}
    pool = [
        node for node in proto.graph.node if node.op_type in indices and node.input[indices[node.op_type]] in constants
    ]
    if not pool:
        return None
    node = rng.choice(pool)
    position = indices[node.op_type]
    value = numpy_helper.to_array(constants[node.input[position]])
    name = f"{node.input[position]}_shifted"
    proto.graph.initializer.append(
        numpy_helper.from_array(np.asarray(value + (1 if value.min(initial=0) < 1 else -1)), name)
    )
    node.input[position] = name
    return f"{node.name} index", (node.name,)


def constant_batch(proto: Any, rng: random.Random) -> Any:
    del rng
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0 if value.name != "state" else 1].dim_value = 2
    return "batch = 2", ()


def cast(proto: Any, rng: random.Random) -> Any:
    initializers = {each.name for each in proto.graph.initializer}
    pool = [
        (index, node) for index, node in enumerate(proto.graph.node)
        if node.op_type in {"Conv", "Gemm", "MatMul", "Gelu", "LayerNormalization", "Sigmoid"} and node.input[0] not in initializers
    ]  # fmt: skip
    if not pool:
        return None
    index, node = rng.choice(pool)
    name = f"{node.name}_half"
    down = helper.make_node("Cast", [node.input[0]], [f"{name}_16"], name=f"{name}_down", to=onnx.TensorProto.FLOAT16)
    up = helper.make_node("Cast", [f"{name}_16"], [name], name=f"{name}_up", to=onnx.TensorProto.FLOAT)
    node.input[0] = name
    proto.graph.node.insert(index, up)
    proto.graph.node.insert(index, down)
    return f"{node.name} fed in float16", (f"{name}_down", f"{name}_up", node.name)


KINDS: dict[str, Mutation] = {
    each.__name__: each
    for each in (
        one_element, sign, transpose, half, bfloat, zeroed_channel, epsilon, padding, axis, approximate, alpha, stride,
        dropped_bias, swapped_outputs, swapped_inputs, duplicated_activation, off_by_one, constant_batch, cast,
    )
}  # fmt: skip


def mutations(subject: Subject, per_kind: int, seed: int) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
    """Yield (kind, target, nodes, model) for each mutation, none twice."""
    for kind, mutate in KINDS.items():
        seen: set[str] = set()
        for attempt in range(per_kind * 4):
            if len(seen) >= per_kind:
                break
            mutated = onnx.ModelProto()
            mutated.CopyFrom(subject.onnx)
            found = mutate(mutated, random.Random(f"{seed}/{subject.name}/{kind}/{attempt}"))
            if found is None:
                break
            if found[0] not in seen or kind in {"one_element", "sign", "zeroed_channel"}:
                seen.add(f"{found[0]}#{attempt}" if found[0] in seen else found[0])
                yield kind, *found, mutated


# --- judging -----------------------------------------------------------------------------------------------------------


def judge(subject: Subject, result: Result, proto: Any) -> None:
    result.equivalent = proto.SerializeToString() == subject.onnx.SerializeToString()
    audit = audit_onnx(Graph(proto), subject.state, subject.program)
    result.by_audit = not audit["passed"]
    known = subject.truth
    caught: set[str] = set()
    identical = True
    try:
        session, plain = _session(proto), _session(proto, optimised=False)
        for index, (case, reference, floors) in enumerate(
            zip(known.cases, known.references, known.floors, strict=True)
        ):
            names = list(reference.values)
            outputs = dict(zip(names, session.run(names, dict(case.inputs)), strict=True))
            if identical and result.kind in REWIRED:
                again = plain.run(names, dict(case.inputs))
                base = subject.healthy(index)
                identical = all(np.array_equal(*pair, equal_nan=True) for pair in zip(base, again, strict=True))
            for finding in compare(case.name, reference, floors, outputs, known.rules):
                result.factor = max(result.factor, finding.factor)
                result.by_output |= not finding.passed
            for name, (atol, rtol) in TOLERANCES.items():
                for finding in compare(
                    case.name, reference, floors, outputs, dict.fromkeys(names, Rule(atol=atol, rtol=rtol))
                ):
                    if not finding.passed:
                        caught.add(name)
    except Exception:  # noqa: BLE001 - onnxruntime refuses some mutated files: that is a catch for everybody
        result.by_output, result.factor, identical = True, float("inf"), False
        caught = set(TOLERANCES)
    result.tolerances = tuple(sorted(caught))
    # A second Relu, or swapped terms of a sum, change nothing that a number could show: not one bit without optimisation.
    result.equivalent |= identical and result.kind in REWIRED


def _session(proto: Any, *, optimised: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def name_culprit(subject: Subject, result: Result, proto: Any) -> None:
    """Search for the culprit of a single-node mutation as the command does, the healthy truths included in the time."""
    case, known, seconds = subject.truths()
    start = time.monotonic()
    graph = Graph(proto)
    found = culprit.find(graph, case.inputs, known, level="disable")
    result.culprit_seconds = seconds + time.monotonic() - start
    result.culprit = found.node if found else None
    consumers = {
        user.name
        for node in graph.nodes
        if node.name in result.nodes
        for each in node.outputs
        for user in graph.users.get(each, ())
    }
    result.named = found is not None and found.node in {*result.nodes, *consumers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--per-kind", type=int, default=6)
    parser.add_argument("--culprits", type=int, default=25, help="single-node mutations to name, a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    results: list[Result] = []
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            subject = prepare(name, Path(folder))
            left = arguments.culprits
            for kind, target, nodes, proto in mutations(subject, arguments.per_kind, arguments.seed):
                result = Result(name, kind, target, nodes)
                judge(subject, result, proto)
                if nodes and result.by_output and np.isfinite(result.factor) and left:
                    left -= 1
                    name_culprit(subject, result, proto)
                results.append(result)
                print(
                    name,
                    kind,
                    target,
                    "output" if result.by_output else "-",
                    "audit" if result.by_audit else "-",
                    f"{result.factor:.3g}",
                    result.named,
                    flush=True,
                )
    summary = summarise(results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "parity_defects.json").write_text(
        json.dumps({"summary": summary, "results": [_plain(each) for each in results]}, indent=1, ensure_ascii=False)
        + "\n"
    )
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    if summary["caught_share"] < 0.99 or summary["culprits_named_share"] < 0.95:
        raise SystemExit(1)


def summarise(results: list[Result]) -> dict[str, Any]:
    real = [each for each in results if not each.equivalent]
    caught = [each for each in real if each.by_output or each.by_audit]
    named = [each for each in results if each.named is not None]
    return {
        "mutations": len(results),
        "equivalent": len(results) - len(real),
        "caught": len(caught),
        "caught_share": len(caught) / max(len(real), 1),
        "by_outputs": sum(each.by_output for each in real),
        "by_audit": sum(each.by_audit for each in real),
        "by_audit_alone": sum(each.by_audit and not each.by_output for each in real),
        "fixed_tolerances": dict(Counter(name for each in real for name in each.tolerances)),
        "misses": [f"{each.model} {each.kind} {each.target}: factor {each.factor:.3g}" for each in real if each not in caught],
        "culprits": len(named),
        "culprits_named": sum(bool(each.named) for each in named),
        "culprits_named_share": sum(bool(each.named) for each in named) / max(len(named), 1),
        "culprits_missed": [f"{each.model} {each.kind} {each.target}: {each.culprit}" for each in named if not each.named],
        "culprit_seconds_max": max((each.culprit_seconds or 0.0 for each in named), default=0.0),
    }  # fmt: skip


def _plain(result: Result) -> dict[str, Any]:
    found = asdict(result)
    return found | {"factor": str(result.factor) if not np.isfinite(result.factor) else float(f"{result.factor:.4g}")}


if __name__ == "__main__":
    main()
