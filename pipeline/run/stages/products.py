"""Run the products of whole numbers in quantised files one by one: what a whole network hides shows there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.errors import WorkerError
from pipeline.parity import file_jobs, products
from pipeline.parity.truth import Truth
from pipeline.run import cached, keys
from pipeline.run.stages.results import Exported
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.formats.format import Product
    from pipeline.interface import Case
    from pipeline.parity.prove import Proof
    from pipeline.run.stages.state import State


def judged(state: State, proofs: Sequence[Proof]) -> tuple[Proof, ...]:
    """Return the proofs with what the products of the files they ran say."""
    return tuple(_judged(state, each) for each in proofs)


def _judged(state: State, proof: Proof) -> Proof:
    variant, known = proof.variant, state.need(Truth)
    artifact = state.need(Exported).named(variant.artifact)
    if artifact is None or variant.artifact not in known.own or not backends()[variant.backend].judges_products:
        return proof
    if proof.status not in {"pass", "fail"}:
        return proof
    label = f"{variant.name} products"
    state.settings.report(Event("parity", label, "started"))
    try:
        found = _products(state, proof)
    except WorkerError as error:
        state.settings.report(Event("parity", label, "failed", error.message))
        return proof
    explained = artifact.written.explanations
    found_proof = products.judged(
        proof, found, {name: _module(each.get("name_scopes", "")) for name, each in explained.items()}
    )
    is_wrong = found_proof.status != proof.status
    state.settings.report(Event("parity", label, "failed" if is_wrong else "ended"))
    if said := products.note(found_proof):
        state.settings.report(Event("parity", variant.name, "noted", f"{variant.name}: {said}"))
    return found_proof


def _products(state: State, proof: Proof) -> tuple[Product, ...]:
    variant, known = proof.variant, state.need(Truth)
    planned = state.plan
    case = _telling(known.cases)
    request = file_jobs.JudgeProducts(
        format=backends()[variant.backend].format or "",
        file=proof.file,
        inputs=dict(case.inputs),
        options=dict(variant.options),
        custom_ops=variant.custom_ops,
        limit=products.LIMIT,
    )
    key = keys.of_products(planned, variant, state.need(Exported).named(variant.artifact), case.name)

    def work(_: object) -> object:
        with state.runner.start(f"the products of {variant.name}", threads=1, modules=("torch", "onnx")) as worker:
            return worker.call(request, timeout_s=planned.config.limits.run_seconds).model_dump()

    found = cached.get_or_make(state.cache, key, f"{planned.config.name}: products of {variant.name}", work)
    return file_jobs.Products.model_validate(found.answer).found


def _telling(cases: Sequence[Case]) -> Case:
    """Return the case of middle size: products of one row say little, and those of many take long."""
    ordered = sorted(cases, key=lambda case: sum(each.size for each in case.inputs.values()))
    return ordered[len(ordered) // 2]


def _module(scopes: str) -> str:
    """Return the module of the network in which a node lies, of the scopes that the exporter noted."""
    inside = [each.strip(" '\"[]") for each in scopes.split(",")][:-1]
    return next((each for each in reversed(inside) if each), "")
