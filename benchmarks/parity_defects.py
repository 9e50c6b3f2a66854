"""Does parity catch defects, and does it name them? Seeded mutations of the shipped models' ONNX files.

    python -m benchmarks.parity_defects [--models a,b] [--per-kind 5] [--culprits 2] [--seed 0]

Each mutation is one defect that an exporter, an optimiser or a careless edit makes. It counts as caught if an output leaves
its budget, or the audit objects to what outputs need not show; the unchanged files must pass both. Beside it: what fixed tolerances catch on the same
outputs. A mutated file that onnxruntime refuses, or a case it refuses to run, is a catch for everybody.

Equivalent, and counted apart, is a mutated file that no check could tell from the healthy one by what it computes:
- all nodes are the same and all constants the same numbers (a sign flipped on zeros, a rounding that changes nothing); or
- nodes were rewired, and without optimisation not one bit of any output changes, on all of parity's cases and as many of
  another seed (Relu twice, a slice that starts one before the beginning).

For the first mutations of each kind and model that outputs show, the culprit is searched as the command does.
Run with everything, it writes benchmarks/parity_defects.json. Ends with 1 if fewer than 300 mutations were made, less than 99 % of
those that are not equivalent were caught, or less than 95 % of at least 100 culprits were right. An interrupted run goes on.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from benchmarks import shipped
from benchmarks.progress import Rows
from pipeline.formats.onnx import culprit, truths
from pipeline.formats.onnx.audit import audit_graph
from pipeline.formats.onnx.graph import Graph
from pipeline.interface import Case
from pipeline.parity import jobs
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare
from pipeline.parity.effect import Effect
from pipeline.rebuild import cases
from pipeline.release.tools import tools

FIGURES = Path("benchmarks/parity_defects.json")
MUTATIONS_BAR, CAUGHT_BAR = 300, 0.99
CULPRITS_BAR, NAMED_BAR = 100, 0.95
TOLERANCES = {
    "limit 16": Rule(),
    "atol 1e-3": Rule(atol=1e-3, rtol=0.0),
    "atol 1e-4": Rule(atol=1e-4, rtol=0.0),
    "rtol 1e-3, atol 1e-5": Rule(atol=1e-5, rtol=1e-3),
}
OURS = "limit 16"
REWIRED = {"duplicated_activation", "off_by_one", "swapped_outputs", "swapped_inputs", "axis"}
WITHIN_A_TENSOR = {"one_element", "sign", "zeroed_channel"}
"""Kinds that can mutate the same tensor several times, in another place each."""
ACTIVATIONS = {"Relu", "Sigmoid", "Tanh", "Gelu", "Clip", "PRelu", "Softmax", "Erf"}


class Subject:
    """A healthy export with all that is needed to judge a mutation of it."""

    def __init__(self, exported: shipped.Shipped) -> None:
        self.exported = exported
        self.truth = exported.truth(seed=0)
        self._steps: dict[str, truths.Truths] = {}
        self.state = {key: value.copy() for key, value in jobs.arrays_of(exported.module()).items()}

    @cached_property
    def effect(self) -> Effect:
        """What tries the network with other values, as a release's audit does."""
        return Effect(self.exported.module, self.exported.interface, self.exported.examples)

    @cached_property
    def plain_outputs(self) -> list[list[Any]]:
        """What the unchanged file gives without optimisation for the cases that tell what is equivalent."""
        return run(self.exported.proto, self.judged_equal_on, optimised=False) or []

    @cached_property
    def judged_equal_on(self) -> list[Case]:
        """Parity's cases, and as many of another seed."""
        cap = max(array.size for case in self.truth.cases for array in case.inputs.values())
        return [*self.truth.cases, *cases.sample(self.exported.interface, seed=1, cap_elements=cap)]

    def steps(self, case: Case) -> truths.Truths:
        """Return the values of every step on a case, the same for every mutation."""
        if case.name not in self._steps:
            exported = self.exported
            self._steps[case.name] = truths.truths(exported.searched(case.inputs))
        return self._steps[case.name]


@dataclass(frozen=True)
class Mutated:
    """A mutated file: what was changed, and the nodes that were touched."""

    target: str
    nodes: tuple[str, ...]
    proto: onnx.ModelProto


@dataclass(frozen=True)
class Result:
    """What became of one mutation. `factor`: None where onnxruntime refuses; `named`: the culprit is touched, or uses what is."""

    model: str
    kind: str
    target: str
    equivalent: bool
    by_audit: bool
    by_rules: tuple[str, ...]
    factor: float | None
    culprit: str | None = None
    named: bool | None = None

    @property
    def by_output(self) -> bool:
        """Whether an output left its budget."""
        return OURS in self.by_rules

    @property
    def caught(self) -> bool:
        """Whether parity would have closed the gate."""
        return self.by_output or self.by_audit


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


def dilation(proto: Any, rng: random.Random) -> Any:
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
        one_element, sign, transpose, half, bfloat, zeroed_channel, epsilon, padding, axis, approximate, alpha, dilation,
        dropped_bias, swapped_outputs, swapped_inputs, duplicated_activation, off_by_one, constant_batch, cast,
    )
}  # fmt: skip


def mutations(name: str, healthy: onnx.ModelProto, per_kind: int, seed: int) -> Iterator[tuple[str, str, Mutated]]:
    """Yield (key, kind, mutation) for each mutation of a model's export, none twice; the same for the same seed."""
    for kind, mutate in KINDS.items():
        seen: set[str] = set()
        made = 0
        for attempt in range(per_kind * 4):
            if made == per_kind:
                break
            proto = onnx.ModelProto()
            proto.CopyFrom(healthy)
            found = mutate(proto, random.Random(f"{seed}/{name}/{kind}/{attempt}"))
            if found is None:
                break
            target, nodes = found
            if target not in seen or kind in WITHIN_A_TENSOR:
                seen.add(target)
                made += 1
                yield f"{name}, {kind}, {attempt}", kind, Mutated(target, nodes, proto)


# --- judging -----------------------------------------------------------------------------------------------------------


def judge(subject: Subject, kind: str, mutated: Mutated) -> tuple[Result, Case | None]:
    """Hold a mutated file against the network: outputs by every rule, the audit, and whether it is equivalent.

    Beside the result: the smallest of the cases that show it, None if none does or onnxruntime refuses.
    """
    outputs = run(mutated.proto, subject.truth.cases)
    found = Compared(None, tuple(TOLERANCES), None) if outputs is None else _compare(subject, outputs)
    result = Result(
        model=subject.exported.name,
        kind=kind,
        target=mutated.target,
        equivalent=outputs is not None and _is_equivalent(subject, kind, mutated),
        by_audit=not audit_graph(Graph(mutated.proto), subject.state, subject.exported.program, subject.effect)[
            "passed"
        ],
        by_rules=found.failed,
        factor=found.factor,
    )
    return result, found.smallest


def require_healthy(subject: Subject) -> None:
    """Raise ValueError if the unchanged file is objected to: catching its mutations would prove nothing then."""
    found, _ = judge(subject, "healthy", Mutated("nothing", (), subject.exported.proto))
    if found.caught:
        raise ValueError(f"the healthy export of {subject.exported.name} does not pass: {found}")


class Compared(NamedTuple):
    """The largest factor over all cases, the rules that fail, and the smallest of the cases where ours does."""

    factor: float | None
    failed: tuple[str, ...]
    smallest: Case | None


def _compare(subject: Subject, outputs: list[list[Any]]) -> Compared:
    known = subject.truth
    factor, failed, shown = 0.0, set(), []
    for case, reference, floors, values in zip(known.cases, known.references, known.floors, outputs, strict=True):
        named = dict(zip(reference.values, values, strict=True))
        for name, rule in TOLERANCES.items():
            found = compare(case.name, reference, floors, named, dict.fromkeys(named, rule))
            if not all(each.passed for each in found):
                failed.add(name)
            if name == OURS:
                factor = max(factor, *(each.factor for each in found))
                shown += [] if all(each.passed for each in found) else [case]
    smallest = min(shown, key=lambda each: sum(array.size for array in each.inputs.values()), default=None)
    return Compared(factor, tuple(name for name in TOLERANCES if name in failed), smallest)


def _is_equivalent(subject: Subject, kind: str, mutated: Mutated) -> bool:
    if kind in REWIRED:
        outputs = run(mutated.proto, subject.judged_equal_on, optimised=False)
        return outputs is not None and all(
            np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f")
            for pair in zip(outputs, subject.plain_outputs, strict=True)
            for mine, other in zip(*pair, strict=True)
        )
    return _same_numbers(mutated.proto.graph, subject.exported.proto.graph)


def _same_numbers(mutated: onnx.GraphProto, healthy: onnx.GraphProto) -> bool:
    if list(mutated.node) != list(healthy.node) or list(mutated.input) != list(healthy.input):
        return False
    pairs = zip(mutated.initializer, healthy.initializer, strict=True)
    return all(
        mine == other or np.array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(other))
        for mine, other in pairs
    )


def run(proto: onnx.ModelProto, given: Sequence[Case], *, optimised: bool = True) -> list[list[Any]] | None:
    """Return each case's outputs in the file's order, None if onnxruntime refuses the file or a case."""
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [session.run(None, dict(case.inputs)) for case in given]
    except Exception:  # noqa: BLE001 - onnxruntime has an exception type for each reason
        return None


def with_culprit(subject: Subject, result: Result, mutated: Mutated, case: Case) -> Result:
    """Search for the culprit of a mutation as the command does; it is right if it was touched, or takes what a touched one gives."""
    graph = Graph(mutated.proto)
    found = culprit.find(graph, case.inputs, subject.steps(case), level="disable")
    touched = [node for node in graph.nodes if node.name in mutated.nodes]
    consumers = {user.name for node in touched for each in node.outputs for user in graph.users.get(each, ())}
    return replace(
        result,
        culprit=found.node if found else None,
        named=found is not None and found.node in {*mutated.nodes, *consumers},
    )


# --- the sweep ----------------------------------------------------------------------------------------------------------


def sweep(name: str, arguments: argparse.Namespace, rows: Rows) -> Iterator[Result]:
    """Yield what became of each mutation of one model."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(shipped.export(name, Path(folder)))
        require_healthy(subject)
        searched: Counter[str] = Counter()
        for key, kind, mutated in mutations(name, subject.exported.proto, arguments.per_kind, arguments.seed):

            def made(kind: str = kind, mutated: Mutated = mutated) -> dict[str, Any]:
                result, case = judge(subject, kind, mutated)
                if mutated.nodes and case is not None and searched[kind] < arguments.culprits:
                    result = with_culprit(subject, result, mutated, case)
                return _plain(result)

            row = rows.get(key, made)
            result = Result(
                **row | {"by_rules": tuple(row["by_rules"]), "factor": row["factor"] and float(row["factor"])}
            )
            searched[kind] += result.named is not None
            yield result


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of a sweep, the misses and the wrong culprits with what was named instead."""
    real = [each for each in results if not each.equivalent]
    searched = [each for each in results if each.named is not None]
    return {
        "mutations": len(results),
        "equivalent": len(results) - len(real),
        "caught": sum(each.caught for each in real),
        "caught_share": _share(each.caught for each in real),
        "by_outputs": sum(each.by_output for each in real),
        "by_audit": sum(each.by_audit for each in real),
        "by_outputs_alone": sum(each.by_output and not each.by_audit for each in real),
        "by_audit_alone": sum(each.by_audit and not each.by_output for each in real),
        "refused_by_onnxruntime": sum(each.factor is None for each in real),
        "fixed_tolerances": {name: sum(name in each.by_rules for each in real) for name in TOLERANCES if name != OURS},
        "misses": [f"{_name(each)}: factor {each.factor:.3g}" for each in real if not each.caught],
        "culprits": len(searched),
        "culprits_named": sum(bool(each.named) for each in searched),
        "culprits_named_share": _share(bool(each.named) for each in searched),
        "culprits_missed": [f"{_name(each)}: {each.culprit}" for each in searched if not each.named],
        "kinds": {kind: _counts([each for each in results if each.kind == kind]) for kind in KINDS},
    }


def _share(flags: Iterator[bool]) -> float:
    every = list(flags)
    return round(sum(every) / max(len(every), 1), 4)


def _name(result: Result) -> str:
    return f"{result.model}, {result.kind}, {result.target}"


def _counts(results: Sequence[Result]) -> dict[str, int]:
    real = [each for each in results if not each.equivalent]
    return {
        "mutations": len(results),
        "equivalent": len(results) - len(real),
        "by_outputs": sum(each.by_output for each in real),
        "by_audit": sum(each.by_audit for each in real),
        "missed": sum(not each.caught for each in real),
    }


def _plain(result: Result) -> dict[str, Any]:
    """Return a result as JSON values; factors that are not finite as text."""
    factor = result.factor
    if factor is not None:
        factor = float(f"{factor:.4g}") if np.isfinite(factor) else str(factor)
    return asdict(result) | {"factor": factor}


def write(summary: dict[str, Any], results: Sequence[Result], asked: dict[str, Any]) -> None:
    """Write the figures, a line for each mutation."""
    document = {"tools": tools(), "asked": asked, **summary, "results": "ROWS"}
    lines = ",\n".join(f"  {json.dumps(_plain(each), ensure_ascii=False)}" for each in results)
    text = json.dumps(document, indent=1, ensure_ascii=False).replace('"ROWS"', f"[\n{lines}\n ]")
    FIGURES.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(shipped.NAMES))
    parser.add_argument("--per-kind", type=int, default=5, help="mutations of each kind, a model")
    parser.add_argument("--culprits", type=int, default=2, help="culprits to search for of each kind, a model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    rows = Rows("parity_defects", vars(arguments), len(names) * len(KINDS) * arguments.per_kind)
    results = [each for name in names for each in sweep(name, arguments, rows)]
    summary = summarise(results)
    if arguments.models == parser.get_default("models"):
        write(summary, results, vars(arguments))
    rows.forget()
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    caught, named = summary["caught_share"], summary["culprits_named_share"]
    print(
        f"{summary['caught']} of {len(results) - summary['equivalent']} caught, {caught:.2%} (bar: {CAUGHT_BAR:.0%}), of "
        f"{len(results)} mutations (bar: {MUTATIONS_BAR}); {summary['culprits_named']} of {summary['culprits']} culprits right, "
        f"{named:.1%} (bar: {NAMED_BAR:.0%} of {CULPRITS_BAR})"
    )
    reached = len(results) >= MUTATIONS_BAR and summary["culprits"] >= CULPRITS_BAR
    raise SystemExit(not (reached and caught >= CAUGHT_BAR and named >= NAMED_BAR))


if __name__ == "__main__":
    main()
