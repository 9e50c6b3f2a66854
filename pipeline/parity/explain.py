"""Explain a failure: the smallest case that fails, the first rung of the ladder that breaks, and the node or module."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.backends.variant import Variant
from pipeline.errors import WeighbridgeError
from pipeline.interface import complete_sizes, free_dimensions, in_words
from pipeline.parity import jobs, prove
from pipeline.parity.candidate import Names
from pipeline.parity.compare import compare, worst
from pipeline.rebuild import cases
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.interface import Arrays, Case
    from pipeline.parity.prove import Proof, Setup, Truth

LEVELS = ("disable", "basic", "extended", "all")
_SHRINK_STEPS = 6


def explain(
    proof: Proof, setup: Setup, known: Truth, *, names: Names | None, examples: Arrays, seed: int, folder: Path
) -> dict[str, Any]:
    """Return what is known of a failed proof as JSON values; write the reproduction into `folder`.

    `case`: the smallest case that fails; `ladder`: each rung with its factor on it; `broke`: the first that fails;
    `culprit`: the node or module there; `problem`: why there is none.
    """
    own = names or Names.same(setup.interface)
    setup.report(Event("explain", proof.variant.name, "started", "shrinking the case"))
    smallest = shrink(proof, setup, known, own, seed=seed)
    case = smallest.cases[0]
    setup.report(Event("explain", proof.variant.name, "working", "walking the ladder"))
    found = _onnx(proof, setup, smallest, own, examples, folder) if proof.variant.format == "onnx" else None
    if found is None:
        found = _torchscript(proof, setup, smallest, own)
    setup.report(Event("explain", proof.variant.name, "ended"))
    shown = {"name": case.name, "sizes": dict(case.sizes), "elements": _elements(case)}
    return {"backend": proof.variant.name, "case": shown, **found}


def shrink(proof: Proof, setup: Setup, known: Truth, names: Names, *, seed: int) -> Truth:
    """Return a truth of one case: the smallest that still fails, sizes halved as far as they go.

    Every size between is tried at once, because one answer of the oracle costs about as much as several.
    """
    failed = {finding.case for finding in proof.findings if not finding.passed}
    there = [index for index, case in enumerate(known.cases) if case.name in failed] or [0]
    start = min(there, key=lambda index: _elements(known.cases[index]))
    smaller = _smaller(known.cases[start], setup, seed)
    if not smaller:
        return _only(known, start)
    try:
        tried = _truth(smaller, setup, known, seed)
        (again,) = prove.prove([proof.variant], setup, tried, {proof.variant.name: names})
    except WeighbridgeError:
        return _only(known, start)
    failing = {finding.case for finding in again.findings if not finding.passed}
    indices = [index for index, case in enumerate(tried.cases) if case.name in failing]
    if not indices:
        return _only(known, start)
    return _only(tried, min(indices, key=lambda index: _elements(tried.cases[index])))


def _smaller(case: Case, setup: Setup, seed: int) -> list[Case]:
    """Return the same kind of case at smaller sizes: each dimension halved several times, alone and all together."""
    values = case.name if case.name in cases.VALUES else "normal"
    allowed = {each.name: cases.allowed(each) for each in free_dimensions(setup.interface.dimensions)}
    steps: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    for divisor in (2**step for step in range(1, _SHRINK_STEPS)):
        smaller = {name: _at_most(sizes, case.sizes[name] // divisor) for name, sizes in allowed.items()}
        for chosen in (smaller, *({**case.sizes, name: size} for name, size in smaller.items())):
            sizes = complete_sizes(setup.interface.dimensions, {name: chosen[name] for name in smaller})
            steps[tuple(sorted(sizes.items()))] = sizes
    steps.pop(tuple(sorted(case.sizes.items())), None)
    return [
        cases.make(setup.interface, sizes, seed=seed, name=f"{case.name}, smaller ({index})", values=values)
        for index, sizes in enumerate(steps.values(), 1)
    ]


def _at_most(sizes: range, wanted: int) -> int:
    return max((size for size in sizes if size <= wanted), default=sizes[0])


def _truth(sampled: Sequence[Case], setup: Setup, known: Truth, seed: int) -> Truth:
    request = jobs.Rehearse(network=setup.network, interface=setup.interface, cases=tuple(sampled))
    with setup.runner.start("the oracle", threads=1) as worker:
        worker.call(request, timeout_s=setup.timeout_s)
        found = worker.call(jobs.Evaluate(seed=seed), timeout_s=setup.timeout_s)
    return prove.truth(sampled, found.references, found.fallback, known.rules)


def _only(known: Truth, index: int) -> Truth:
    return replace(
        known, cases=(known.cases[index],), references=(known.references[index],), floors=(known.floors[index],)
    )


def _onnx(proof: Proof, setup: Setup, smallest: Truth, names: Names, examples: Arrays, folder: Path) -> dict[str, Any]:
    """Climb from the network to the optimised graph, then look for the node at the first rung that breaks."""
    levels = [
        replace(proof.variant, name=f"onnxruntime, optimisation {level}", options={**proof.variant.options, "graph_optimization_level": level})
        for level in LEVELS
    ]  # fmt: skip
    search = partial(_search, proof, setup, smallest, names, examples, folder)
    with ThreadPoolExecutor(1) as pool:
        # What is wrong with a file mostly shows without optimisation: do not wait for the ladder to say so.
        guessed = pool.submit(search, LEVELS[0])
        rungs = _rungs(levels, setup, smallest, names)
    broken = next((level for level, rung in zip(LEVELS, rungs[1:], strict=True) if not rung["passed"]), None)
    try:
        if broken in {None, LEVELS[0]}:
            answer = guessed.result()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            answer = search(broken)
    except WeighbridgeError as error:
        return _summary(rungs, None, f"no step of the network to compare with: {error.message}")
    (reference,), (floors,) = smallest.references, smallest.floors
    outputs = {name: value.astype(reference.dtypes[name]) for name, value in answer.program.items()}
    program = compare(smallest.cases[0].name, reference, floors, outputs, smallest.rules)
    deciding = worst(program)
    passed = all(each.passed for each in program)
    rungs.insert(1, {"rung": "exported program", "passed": passed, "factor": _finite(deciding.factor), "reason": None})
    culprit = answer.node
    if culprit and broken is None and not culprit["certain"]:
        culprit = None  # one channel of one case says too little to accuse a node where every output is right
    problem = None if culprit else "with every value exposed, each is within its budget"
    return _summary(rungs, culprit, problem)


def _search(
    proof: Proof, setup: Setup, smallest: Truth, names: Names, examples: Arrays, folder: Path, level: str
) -> jobs.Culprit:
    request = jobs.FindCulprit(
        network=setup.network,
        interface=setup.interface,
        examples=dict(examples),
        inputs=dict(smallest.cases[0].inputs),
        candidate=jobs.Candidate(
            file=proof.file,
            level=level,
            custom_ops=proof.variant.custom_ops,
            inputs=dict(names.inputs),
            outputs=dict(names.outputs),
        ),
        folder=folder,
    )
    with setup.runner.start("the search for the culprit", threads=1) as worker:
        return worker.call(request, timeout_s=setup.timeout_s)


def _torchscript(proof: Proof, setup: Setup, smallest: Truth, names: Names) -> dict[str, Any]:
    rungs = _rungs([proof.variant], setup, smallest, names)
    if proof.variant.format != "torchscript":
        return _summary(
            rungs, None, f"a culprit is looked for in ONNX and TorchScript files, not in {proof.variant.format}"
        )
    request = jobs.FindCulpritModule(
        network=setup.network,
        interface=setup.interface,
        inputs=dict(smallest.cases[0].inputs),
        file=proof.file,
    )
    try:
        with setup.runner.start("the search for the culprit", threads=1) as worker:
            culprit = worker.call(request, timeout_s=setup.timeout_s)
    except WeighbridgeError as error:
        return _summary(rungs, None, error.message)
    return _summary(rungs, culprit, None if culprit else "each module that can be called by itself agrees")


def _rungs(variants: Sequence[Variant], setup: Setup, smallest: Truth, names: Names) -> list[dict[str, Any]]:
    """Return float32 eager as a rung, then one for each variant of the file, which calls things by `names`."""
    quiet = replace(setup, report=lambda _: None)
    eager = Variant("float32 eager", "eager", None, required=False)
    proofs = prove.prove([eager, *variants], quiet, smallest, {each.name: names for each in variants})
    return [_rung(proof) for proof in proofs]


def _rung(proof: Proof) -> dict[str, Any]:
    deciding = proof.worst
    factor = _finite(deciding.factor) if deciding else None
    return {"rung": proof.variant.name, "passed": proof.status == "pass", "factor": factor, "reason": proof.reason}


def _summary(rungs: list[dict[str, Any]], culprit: Mapping[str, Any] | None, problem: str | None) -> dict[str, Any]:
    ladder = [{"rung": "float64 eager", "passed": True, "factor": 0.0, "reason": None}, *rungs]
    broke = next((each["rung"] for each in ladder if not each["passed"]), None)
    return {"ladder": ladder, "broke": broke, "culprit": culprit, "problem": problem}


def _elements(case: Case) -> int:
    return sum(int(array.size) for array in case.inputs.values())


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def sentence(explanation: Mapping[str, Any]) -> str:
    """Say in a line or two where the error begins."""
    place = f"{explanation['backend']}: the first rung that breaks is '{explanation['broke']}'" if explanation["broke"] else (
        f"{explanation['backend']}: every rung of the ladder passes on its smallest case"
    )  # fmt: skip
    case = f"smallest case '{explanation['case']['name']}': {in_words(explanation['case']['sizes'])}"
    culprit = explanation["culprit"]
    if not culprit:
        return f"{place} ({case}); {explanation['problem']}"
    if "node" not in culprit:
        where = f"module {culprit['module']}" if culprit["module"] else "the network itself, in no module of it"
        what = culprit.get("problem") or f"{culprit['got']} instead of {culprit['expected']}"
        return f"{place} ({case}); the error begins in {where}: {what}"
    module = culprit["module"] or "the network itself"
    begins = "the error begins in" if culprit["certain"] else "the error probably begins in"
    numbers = f"{culprit['got']} instead of {culprit['expected']} at {list(culprit['worst_index'])}"
    return (
        f"{place} ({case}); {begins} {culprit['operator']} {culprit['node']}, of {module}, "
        f"{culprit['source']}: {culprit.get('problem') or numbers}"
    )
