"""Run every backend over every case and hold it against the oracle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import GateError, UnavailableError, WeighbridgeError
from pipeline.oracle import Reference
from pipeline.parity import budget
from pipeline.parity.compare import Finding, compare, worst
from pipeline.types import Event
from pipeline.worker.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.parity.budget import Rule
    from pipeline.types import Case, Interface, Network, Variant

AT_ONCE = 2

Status = Literal["pass", "fail", "unavailable", "crashed"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the outputs should be: for each case its reference and floors, and each output's rule."""

    cases: tuple[Case, ...]
    references: tuple[Reference, ...]
    floors: tuple[Mapping[str, Any], ...]
    rules: Mapping[str, Rule]
    fallback: str | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of one variant: its status, the reason where it is not a pass, and every finding."""

    variant: Variant
    status: Status
    reason: str | None
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]

    @property
    def worst(self) -> Finding | None:
        """The finding that decided."""
        return worst(self.findings) if self.findings else None


def truth(cases: Sequence[Case], answer: Mapping[str, Any], rules: Mapping[str, Rule]) -> Truth:
    """Build the truth from the answer of a worker's `reference` job."""
    references = [Reference(**each) for each in answer["references"]]
    by_output = {
        name: budget.floors([each.values[name] for each in references], [each.noise[name] for each in references])
        for name in references[0].values
        if "float" in references[0].dtypes[name]
    }
    floors = [
        {name: by_output[name][index] if name in by_output else None for name in references[0].values}
        for index in range(len(references))
    ]
    return Truth(tuple(cases), tuple(references), tuple(floors), rules, answer["fallback"])


def prove(
    variants: Sequence[Variant],
    interface: Interface,
    network: Network,
    known: Truth,
    *,
    threads: int,
    timeout_s: float,
    report: Callable[[Event], None],
) -> tuple[Proof, ...]:
    """Return a proof for each variant, in their order; a variant that crashes does not stop the others.

    Raises:
        WeighbridgeError: what the user gave is wrong (a worker's own failure is a proof with status "crashed").
    """

    def one(variant: Variant) -> Proof:
        if variant.unavailable:
            return Proof(variant, "unavailable", variant.unavailable, (), {})
        report(Event("parity", variant.name, "started"))
        proof = _prove_one(variant, interface, network, known, threads, timeout_s)
        report(Event("parity", variant.name, "ended" if proof.status == "pass" else "failed", proof.reason or ""))
        return proof

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(one, variants))


def _prove_one(
    variant: Variant, interface: Interface, network: Network, known: Truth, threads: int, timeout_s: float
) -> Proof:
    findings: list[Finding] = []
    try:
        with opened(variant, interface, network, threads=threads, timeout_s=timeout_s) as (worker, facts):
            for case, reference, floors in zip(known.cases, known.references, known.floors, strict=True):
                outputs = worker.call("run", timeout_s=timeout_s, inputs=dict(case.inputs))
                findings.extend(compare(case.name, reference, floors, outputs, known.rules))
    except UnavailableError as error:
        return Proof(variant, "unavailable", error.message, (), {})
    except WeighbridgeError as error:
        return Proof(variant, "crashed", error.message, tuple(findings), {})
    failed = [finding for finding in findings if not finding.passed]
    if not failed:
        return Proof(variant, "pass", None, tuple(findings), facts)
    return Proof(variant, "fail", describe(worst(failed), known), tuple(findings), facts)


def describe(finding: Finding, known: Truth) -> str:
    """Say in one line what is wrong with an output: where, by how much, and what was allowed."""
    sizes = next((case.sizes for case in known.cases if case.name == finding.case), {})
    shown = ", ".join(f"{name}={size}" for name, size in sizes.items())
    place = f"output '{finding.output}' in case '{finding.case}'" + (f" ({shown})" if shown else "")
    if finding.problem:
        return f"{place}: {finding.problem}"
    index = f"[{', '.join(map(str, finding.worst_index))}]"
    return (
        f"{place}: {finding.got:.9g} instead of {finding.expected:.9g} at {index}, "
        f"{finding.factor:.3g} × the noise floor (limit {finding.limit:g})"
    )


def gate(proofs: Sequence[Proof]) -> None:
    """Close the gate on any required variant that did not pass.

    Raises:
        GateError: a required backend left its error budget.
        UnavailableError: a required backend could not run, or crashed.
    """
    bad = [proof for proof in proofs if proof.variant.required and proof.status != "pass"]
    left = [proof for proof in bad if proof.status == "fail"]
    lines = "".join(f"\n  {proof.variant.name}: {proof.reason}" for proof in bad)
    if left:
        raise GateError(f"{len(left)} required backend{'s' * (len(left) > 1)} left the error budget:{lines}")
    if bad:
        raise UnavailableError(f"{len(bad)} required backend{'s' * (len(bad) > 1)} did not run:{lines}")
