"""Put a release together from what a run found out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.backends.table import backends
from pipeline.config import resolved
from pipeline.config.labels import labels
from pipeline.errors import GateError, InputError
from pipeline.formats.table import formats
from pipeline.parity import ties
from pipeline.parity.rows import Rows
from pipeline.release import bundle, golden
from pipeline.release.bundle import ModelFile, ReleaseContent
from pipeline.release.standalone import Golden, GoldenCase
from pipeline.release.tools import tools
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.config import Config
    from pipeline.formats.artifact import Artifact
    from pipeline.interface import Interface
    from pipeline.parity.budget import Floats, Rule
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import Audit
    from pipeline.parity.oracle import Reference
    from pipeline.parity.prove import Proof, Truth
    from pipeline.rebuild.reference import Recording

_ANYWHERE = 2.0**53


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run found out about one config."""

    config: Config
    interface: Interface
    weights: Mapping[str, Any]
    architecture: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    truth: Truth
    proofs: tuple[Proof, ...]
    report: Mapping[str, bytes]
    sign: Path | None = None
    recording: Recording | None = None
    distributions: tuple[str, ...] = ()
    audits: Mapping[str, Audit] = field(default_factory=dict)
    accuracies: Mapping[str, Accuracy] = field(default_factory=dict)


def write(evidence: Evidence, out: Path) -> Path:
    """Write the release of everything that was proven; return its path.

    A file ships only if a backend proved it, none that ran it found it wrong, and what it gives is good enough where that is asked.
    """
    artifacts = [
        artifact
        for artifact in evidence.artifacts
        if _is_proven(artifact, evidence.proofs) and _is_good_enough(artifact.name, evidence)
    ]
    models = tuple(
        _model_file(
            artifact, evidence.truth, evidence.audits.get(artifact.name), evidence.accuracies.get(artifact.name)
        )
        for artifact in artifacts
    )
    model_bytes = sum(artifact.size_bytes for artifact in artifacts)
    budget_bytes = golden.budget_bytes(model_bytes)
    speaking = dict.fromkeys(each.golden for each in models if each.golden)
    content = ReleaseContent(
        name=evidence.config.name,
        version=evidence.config.release.version,
        models=models,
        golden=_selected(evidence.truth, budget_bytes),
        own_golden={name: _selected(evidence.truth.of(name), budget_bytes) for name in speaking},
        manifest=_manifest(evidence),
        report=evidence.report,
        sign=evidence.sign,
        reference=Path(evidence.config.reference.file) if evidence.config.reference else None,
        beside=tuple(Path(each) for each in evidence.config.release.beside),
    )
    return bundle.write(content, out)


def _selected(truth: Truth, max_bytes: int) -> Golden:
    known = golden_of(truth)
    return replace(known, cases=golden.select(known.cases, max_bytes=max_bytes))


def _speaking(artifact: str, truth: Truth) -> str | None:
    """Return the artifact that says what this one should give: itself, or what it was made from; None where the network does."""
    own = truth.own.get(artifact)
    return None if own is None else next(name for name, each in truth.own.items() if each is own)


def _is_proven(artifact: Artifact, proofs: tuple[Proof, ...]) -> bool:
    statuses = {proof.status for proof in proofs if proof.variant.artifact == artifact.name}
    return "pass" in statuses and not statuses & {"fail", "crashed"}


def _is_good_enough(artifact: str | None, evidence: Evidence) -> bool:
    accuracy = evidence.accuracies.get(artifact or "")
    return accuracy is None or accuracy.verdict == "pass"


def _model_file(artifact: Artifact, truth: Truth, audit: Audit | None, accuracy: Accuracy | None) -> ModelFile:
    first, *others = artifact.files
    gate, varies = truth.gates.get(artifact.name), formats()[artifact.format].varies
    return ModelFile(
        name=artifact.name,
        format=artifact.format,
        made_from=artifact.made_from,
        name_in_release=first.name,
        path=first,
        extra_files={each.name: each for each in others},
        facts=dict(artifact.written.facts)
        | ({bundle.VARIES: varies} if varies else {})
        | ({"audit": audit.in_words()} if audit and audit.not_audited is not None else {}),
        golden=_speaking(artifact.name, truth),
        gate={name: _budget(rule) for name, rule in gate.items()} if gate else None,
        accuracy=_accuracy(accuracy) if accuracy else None,
    )


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    """Return what was claimed of an artifact and shown; not what is of no account, as the order of sums may move it."""
    kept = ("criterion", "output", "threshold", "value", "lower", "limit", "samples")
    return {
        "backend": accuracy.variant,
        "samples": {"file": accuracy.file, "sha256": accuracy.sha256},
        "confidence": accuracy.confidence,
        "claims": [{name: getattr(each, name) for name in kept} for each in accuracy.claims],
    }


def _budget(rule: Rule) -> dict[str, float | None]:
    return {"atol": rule.atol, "rtol": rule.rtol} if rule.explicit else {"limit": rule.limit}


def _manifest(evidence: Evidence) -> dict[str, Any]:
    dtypes = evidence.truth.references[0].dtypes
    interface = bundle.interface_facts(evidence.interface)
    interface["inputs"] = [{**each, **_unit(evidence.config, each["name"])} for each in interface["inputs"]]
    named = labels(evidence.config)
    interface["outputs"] = [
        {
            "dtype": dtypes[each["name"]],
            "shape": _output_shape(evidence.truth, each["name"]),
            **each,
            **_unit(evidence.config, each["name"]),
            **({"labels": list(named[each["name"]])} if each["name"] in named else {}),
        }
        for each in interface["outputs"]
    ]
    return {
        **interface,
        "architecture": dict(evidence.architecture),
        "backends": {
            proof.variant.name: {
                "backend": proof.variant.backend,
                "artifact": proof.variant.artifact,
                "format": backends()[proof.variant.backend].format,
                "options": dict(proof.variant.options),
                "verdict": proof.status,
                **({"processors": proof.facts["processors"]} if "processors" in proof.facts else {}),
            }
            for proof in evidence.proofs
            if proof.status == "pass" and _is_good_enough(proof.variant.artifact, evidence)
        },
        "config": resolved(evidence.config),
        "reference": _reference(evidence),
        "parity": {name: _budget(rule) for name, rule in evidence.truth.rules.items()},
        "rows": _rows(evidence.truth),
        "tools": tools(evidence.distributions),
        "weights": dict(evidence.weights),
    }


def _unit(config: Config, name: str) -> dict[str, str]:
    """Return what the config says the numbers of an input or output are; nothing where it does not."""
    said = config.describe.get(name)
    return {"unit": said.unit} if said and said.unit else {}


def _rows(truth: Truth) -> dict[str, Any]:
    """Return what was found of rows of a batch; what was never asked is not shown."""
    found = asdict(truth.rows or Rows("not shown", reason="it was not asked"))
    return {**found, "cases": list(found["cases"])}


def _reference(evidence: Evidence) -> dict[str, Any] | None:
    """Return what is known of the recorded outputs that the network was held against; None if there were none."""
    given, recording = evidence.config.reference, evidence.recording
    if given is None or recording is None:
        return None
    return {
        "path": bundle.reference_name(Path(given.file)),
        "calls": len(recording.calls),
        "recorded": recording.place,
        "atol": given.atol,
        "rtol": given.rtol,
    }


def _output_shape(truth: Truth, name: str) -> list[int | str | None]:
    """Return an output's shape as the cases show it: fixed sizes, dimensions' names, None for what is neither."""
    shapes = [reference.values[name].shape for reference in truth.references]
    sizes = [case.sizes for case in truth.cases]
    if len({len(shape) for shape in shapes}) != 1:
        return []
    return [_axis(column, sizes) for column in zip(*shapes, strict=True)]


def _axis(column: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> int | str | None:
    if len(set(column)) == 1:
        return int(column[0])
    names = [name for name in sizes[0] if all(size[name] == seen for size, seen in zip(sizes, column, strict=True))]
    return names[0] if names else None


def golden_of(truth: Truth) -> Golden:
    """Return every case that float32 can represent, as a golden case.

    Floors are rounded up to a power of two, so that they do not depend on how the builder's machine orders its sums.
    """
    rules = truth.rules
    limit = min((rule.limit for rule in rules.values() if not rule.explicit), default=16.0)
    by_limit = {name for gate in truth.gates.values() for name, rule in gate.items() if not rule.explicit}
    cases = []
    _require_holdable(truth.references[0])
    for case, reference, floors in zip(truth.cases, truth.references, truth.floors, strict=True):
        if not all(np.isfinite(noise).all() for noise in reference.noise.values()):
            continue
        cases.append(
            GoldenCase(
                name=case.name.replace("/", "-"),
                inputs=case.inputs,
                outputs={
                    name: value.astype(_dtype(reference.dtypes[name])) for name, value in reference.values.items()
                },
                floors={
                    name: _rounded_up(
                        _with_slack(np.asarray(floor), reference.slack.get(name))
                        * (1.0 if rules[name].explicit else rules[name].limit / limit)
                    )
                    for name, floor in floors.items()
                    if not rules[name].explicit or name in by_limit
                }
                | _of_indices(reference, rules, limit),
            )
        )
    if not cases:
        raise _unrepresentable(truth.references)
    tolerances = {
        name: {"atol": rule.atol or 0.0, "rtol": rule.rtol or 0.0}
        for name, rule in rules.items()
        if rule.explicit and name in truth.floors[0]
    }
    return Golden(tuple(cases), limit, tolerances)


def _unrepresentable(references: Sequence[Reference]) -> GateError:
    names = [
        name for name in references[0].noise if not any(np.isfinite(each.noise[name]).all() for each in references)
    ]
    return GateError(
        f"a release could not prove itself: in every case {', '.join(names)} holds NaN or infinity in the network's own precision "
        "where it does not in float64, or moves there by an infinite amount",
        hint=f"leave {names[0] if names else 'that output'} out of `outputs`, or give inputs (scale, low and high, samples) with which it is finite",
        about="golden",
    )


def _require_holdable(reference: Reference) -> None:
    unable = [name for name, dtype in reference.dtypes.items() if "complex" in dtype]
    if unable:
        raise InputError(
            f"output '{unable[0]}' is {reference.dtypes[unable[0]]}, which the golden cases of a release cannot hold",
            hint="return torch.view_as_real() of it",
        )


def _with_slack(floor: Floats, slack: Floats | None) -> Floats:
    """Return a floor, in its own shape, with what a last sigmoid or softmax may be off by; parity has looked before these."""
    if slack is None:
        return floor
    shape = [1] * (slack.ndim - floor.ndim) + [*floor.shape]
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(np.maximum(floor, slack.max(axis=axes, keepdims=True, initial=0.0).reshape(floor.shape or ())))


def _of_indices(reference: Reference, rules: Mapping[str, Rule], limit: float) -> dict[str, Floats]:
    """Return what outputs of whole numbers may be off by ÷ the limit: a given `atol`, and anywhere in their range at a tie."""
    found = {}
    for name, values in reference.values.items():
        if values.dtype.kind not in "iub":
            continue
        choices, rule = reference.choices.get(name, ()), rules[name]
        tied = (reference.noise[name] != 0) | ties.undecided(choices, values.shape, rule.limit)
        widest = max((float(np.ptp(each.table)) for each in choices), default=_ANYWHERE)
        floor = np.where(tied, widest, rule.atol or 0.0) / limit
        if floor.any():
            found[name] = floor
    return found


def _rounded_up(floor: Floats) -> Floats:
    return np.asarray(np.exp2(np.ceil(np.log2(floor))))


def _dtype(name: str) -> Any:
    # bfloat16 outputs are kept as float32, which holds every bfloat16 value.
    return np.dtype("float32" if name == "bfloat16" else name)


def report_files(documents: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, bytes]:
    """Return a report's files: JSON documents in canonical form, texts in UTF-8."""
    files = {name: canonical_json(document) for name, document in documents.items()}
    return files | {name: text.encode() for name, text in texts.items()}
