"""The documents that every kind of report is made from: parity.json and benchmark.json, made from results or read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.benchmark import recommended
from pipeline.benchmark.document import Benchmark
from pipeline.benchmark.recommended import Recommended
from pipeline.errors import InputError
from pipeline.parity import truth as truths
from pipeline.parity.document import BackendResult, Elsewhere, Exported, Facts, Oracle, Parity, Refused, SampledCase

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from pipeline.formats.artifact import Artifact
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import Audit, Trained
    from pipeline.parity.prove import Proof
    from pipeline.parity.truth import Truth
    from pipeline.storage.origin import Origin


@dataclass(frozen=True, slots=True)
class Documents:
    """What a report is made from; `recommended`: what `weighbridge tune` found, if it did."""

    parity: Parity
    benchmark: Benchmark
    recommended: Recommended | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return them as JSON values, by name."""
        found: dict[str, JsonValue] = {"parity": self.parity.to_json(), "benchmark": self.benchmark.to_json()}
        return found | ({"recommended": self.recommended.to_json()} if self.recommended else {})


def parity(
    truth: Truth,
    proofs: tuple[Proof, ...],
    artifacts: tuple[Artifact, ...],
    audits: Mapping[str, Audit],
    refusals: Mapping[str, str],
    notes: tuple[str, ...],
    trained: Trained | None,
) -> Parity:
    """Return parity.json: the cases, the rule of each output, and every backend's findings."""
    exported = [_exported(artifact, audits.get(artifact.name)) for artifact in artifacts]
    refused = [Refused(name=name, status="refused", reason=reason) for name, reason in refusals.items()]
    return Parity(
        schema_version=1,
        oracle=Oracle(dtype="float32" if truth.fallback else "float64", fallback=truth.fallback),
        rules=dict(truth.rules),
        cases=tuple(
            SampledCase(
                name=case.name,
                sizes=dict(case.sizes),
                tells={name: each.tells(name) for name in each.responses},
            )
            for case, each in zip(truth.cases, truth.references, strict=True)
        ),
        exports=(*exported, *refused),
        backends=tuple(_result(proof) for proof in proofs),
        notes=(*notes, *([said] if (said := truths.silent_cases(truth)) else [])),
        silent=truths.silent(truth),
        reference=trained,
    )


def with_accuracies(found: Parity, accuracies: Mapping[str, Accuracy]) -> Parity:
    """Return parity.json with whether what its artifacts give is good enough, by their names."""
    exports = tuple(
        each.model_copy(update={"accuracy": accuracies[each.name]})
        if isinstance(each, Exported) and each.name in accuracies
        else each
        for each in found.exports
    )
    return found.model_copy(update={"exports": exports})


def with_elsewhere(found: Parity, origins: Mapping[str, Origin]) -> Parity:
    """Return parity.json with which results other machines made, given who made them by what they are about ("NAME: WHAT")."""
    if not origins:
        return found
    rows = {about.partition(": ")[2] or about: origin for about, origin in origins.items()}
    told = tuple(
        Elsewhere(result=name, writer=each.writer, processor=each.processor, weighbridge=each.weighbridge)
        for name, each in sorted(rows.items())
    )
    return found.model_copy(update={"elsewhere": told})


def read(release: Path) -> Documents:
    """Return what a release's report is made from.

    Raises:
        InputError: the release holds no report, a damaged one, or one that lacks what this version reads.
    """
    folder = release / "report"
    try:
        parity, benchmark = Parity.read(folder / "parity.json"), Benchmark.read(folder / "benchmark.json")
        return Documents(parity, benchmark, _recommended(folder / recommended.FILE))
    except (OSError, ValueError, InputError) as error:
        raise InputError(
            f"{release} holds no readable report: {error}"[:300], hint="export again with --rebuild"
        ) from error


def _recommended(file: Path) -> Recommended | None:
    """Return what a report recommends; what cannot be read is none, as for whoever would follow it."""
    try:
        return Recommended.read(file)
    except (OSError, ValueError):
        return None


def _exported(artifact: Artifact, audit: Audit | None) -> Exported:
    return Exported(
        name=artifact.name,
        format=artifact.format,
        made_from=artifact.made_from,
        status="exported",
        size_bytes=artifact.size_bytes,
        facts=dict(artifact.written.facts),
        audit=audit,
        notes=artifact.written.notes,
    )


def _result(proof: Proof) -> BackendResult:
    return BackendResult(
        name=proof.variant.name,
        backend=proof.variant.backend,
        required=proof.variant.required,
        status=proof.status,
        reason=proof.reason,
        worst=proof.worst,
        findings=proof.findings,
        facts=Facts.from_json(dict(proof.facts)),
    )
