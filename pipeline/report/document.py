"""A run's results as plain JSON documents: what every kind of report is made from."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.storage.store import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.benchmark.timing import Timings
    from pipeline.formats.artifact import Artifact
    from pipeline.parity.compare import Finding
    from pipeline.parity.prove import Proof, Truth

SCHEMA_VERSION = 1


def parity(
    truth: Truth,
    proofs: tuple[Proof, ...],
    artifacts: tuple[Artifact, ...],
    audits: Mapping[str, Mapping[str, Any]],
    refusals: Mapping[str, str],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Return parity.json: the cases, the rule of each output, and every backend's findings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "oracle": {"dtype": "float32" if truth.fallback else "float64", "fallback": truth.fallback},
        "rules": {name: asdict(rule) for name, rule in truth.rules.items()},
        "cases": [{"name": case.name, "sizes": dict(case.sizes)} for case in truth.cases],
        "exports": [_export(artifact, audits.get(artifact.name)) for artifact in artifacts]
        + [{"name": name, "status": "refused", "reason": reason} for name, reason in refusals.items()],
        "backends": [_proof(proof) for proof in proofs],
        "notes": list(notes),
    }


def benchmark(timings: Timings | None) -> dict[str, Any]:
    """Return benchmark.json: for each size every backend's row, the raw samples and the machine."""
    if timings is None:
        return {"schema_version": SCHEMA_VERSION, "sizes": [], "machine": None}
    return {
        "schema_version": SCHEMA_VERSION,
        "arms": {name: dict(each) for name, each in timings.arms.items()},
        "machine": timings.machine,
        "pressure": timings.pressure,
        "budget_s": timings.budget_s,
        "elapsed_s": timings.elapsed_s,
        "figures": timings.figures,
        "sizes": [
            {
                "sizes": dict(each.sizes),
                **each.analysis.to_json(),
                "samples": each.samples.to_json(),
            }
            for each in timings.sizes
        ],
    }


def read(release: Path) -> dict[str, Any]:
    """Return a release's report documents, `parity` and `benchmark`.

    Raises:
        InputError: the release holds no report, or a damaged one.
    """
    try:
        return {name: read_json(release / "report" / f"{name}.json") for name in ("parity", "benchmark")}
    except (OSError, ValueError) as error:
        raise InputError(f"{release} holds no readable report: {error}", hint="export again with --rebuild") from error


@contextmanager
def as_stated(release: Path) -> Iterator[None]:
    """Show documents of a release that somebody else wrote.

    Raises:
        InputError: they lack what a report states, or state something else in its place.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"the report of {release} is not as this version writes one: {type(error).__name__}: {error}"[:300],
            hint="export again with --rebuild",
        ) from error


def _export(artifact: Artifact, audit: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "format": artifact.format,
        "made_from": artifact.made_from,
        "status": "exported",
        "size_bytes": artifact.size_bytes,
        "facts": dict(artifact.written.facts),
        "audit": audit,
        "notes": list(artifact.written.notes),
    }


def _proof(proof: Proof) -> dict[str, Any]:
    return {
        "name": proof.variant.name,
        "backend": proof.variant.backend,
        "required": proof.variant.required,
        "status": proof.status,
        "reason": proof.reason,
        "worst": _finding(proof.worst) if proof.worst else None,
        "findings": [_finding(finding) for finding in proof.findings],
        "facts": dict(proof.facts),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    """JSON has no infinity and no NaN: they are written as strings."""
    return {key: _number(value) for key, value in asdict(finding).items()}


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
