"""What a release says of itself to programs and people that know nothing of weighbridge.

`sbom.cdx.json` is a CycloneDX 1.6 bill of materials with the machine-learning-model component, `provenance.json` an
in-toto statement with SLSA's provenance predicate; `pipeline.release.card` has the model card. All are made of the manifest alone and
hold no time and nothing measured, so that the same build gives the same bytes.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from pipeline.storage.store import canonical_json, key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Facts = Mapping[str, Any]

SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.json"

_NAMESPACE = uuid.UUID("6a0ee3b6-62f7-5b4e-9d2e-0a4f6d0c7b5d")


def sbom(manifest: Facts, files: Sequence[Facts]) -> bytes:
    """Return the CycloneDX 1.6 document (https://cyclonedx.org/docs/1.6/json) for a manifest and its files so far."""
    name, release, weights = manifest["name"], release_of(manifest), manifest["weights"]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [_tool("weighbridge", manifest["tools"]["weighbridge"])]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": name,
                **({"version": release["version"]} if release.get("version") else {}),
                **({"description": release["description"]} if release.get("description") else {}),
                **_licenses(release.get("license")),
                "modelCard": _model_card(manifest, release),
            },
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"weights:{weights['file']}",
                "name": weights["file"],
                "hashes": [_hash(weights["sha256"])],
                **_licenses(release.get("license")),
            },
            *(
                {
                    "type": "file",
                    "bom-ref": f"file:{each['path']}",
                    "name": each["path"],
                    "hashes": [_hash(each["sha256"])],
                }
                for each in files
            ),
            *(_tool(tool, version) for tool, version in sorted(manifest["tools"].items()) if tool != "weighbridge"),
        ],
        "dependencies": [
            {"ref": "model", "dependsOn": [f"weights:{weights['file']}", *(f"file:{each['path']}" for each in files)]}
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, key(document))
    return canonical_json({**document, "serialNumber": f"urn:uuid:{serial}"})


def provenance(manifest: Facts, files: Sequence[Facts]) -> bytes:
    """Return the in-toto statement with SLSA provenance (https://slsa.dev/spec/v1.0/provenance) about `files`."""
    weights, architecture, tools = manifest["weights"], manifest["architecture"], manifest["tools"]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": each["path"], "digest": {"sha256": each["sha256"]}} for each in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:weighbridge:export:1",
                "externalParameters": {"config": manifest["config"]},
                "internalParameters": {},
                "resolvedDependencies": [
                    {"name": weights["file"], "digest": {"sha256": weights["sha256"]}},
                    {"name": architecture["name"], "digest": {"sha256": architecture["sha256"]}},
                    *_judged_on(manifest),
                    *({"name": tool, "uri": _purl(tool, version)} for tool, version in sorted(tools.items())),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": _purl("weighbridge", tools["weighbridge"]),
                    "version": {"weighbridge": tools["weighbridge"]},
                },
            },
        },
    }
    return canonical_json(statement)


def _judged_on(manifest: Facts) -> list[dict[str, Any]]:
    """Return the files of samples that models were judged on, each once."""
    given = [each["accuracy"]["samples"] for each in manifest.get("models", ()) if each.get("accuracy")]
    known = {each["sha256"]: each["file"] for each in given}
    return [{"name": name, "digest": {"sha256": sha256}} for sha256, name in known.items()]


def _model_card(manifest: Facts, release: Facts) -> dict[str, Any]:
    architecture = manifest["architecture"]["name"].rpartition(":")[2]
    datasets = [{"type": "dataset", "name": each} for each in release.get("datasets", [])]
    return {
        "modelParameters": {
            "modelArchitecture": architecture,
            **({"datasets": datasets} if datasets else {}),
            "inputs": [{"format": _tensor(each)} for each in manifest["inputs"]],
            "outputs": [{"format": _tensor(each)} for each in manifest["outputs"]],
        },
        "properties": [
            {"name": "weighbridge:parameters", "value": str(manifest["weights"]["parameters"])},
            *({"name": f"weighbridge:proven:{name}", "value": "pass"} for name in sorted(manifest["backends"])),
        ],
    }


def _tensor(tensor: Facts) -> str:
    return f"{tensor['name']}: {tensor['dtype']} {shape_in_words(tensor)}"


def shape_in_words(tensor: Facts) -> str:
    """Return a tensor's shape: "[batch, 10]", ? for a size that depends on several."""
    return f"[{', '.join('?' if size is None else str(size) for size in tensor['shape'])}]"


def release_of(manifest: Facts) -> Facts:
    """Return what the config says of the release."""
    release: Facts = manifest["config"]["release"]
    return release


def _licenses(license_id: str | None) -> dict[str, Any]:
    """Return CycloneDX's licences: the config's SPDX expression, of which a single licence is one."""
    return {"licenses": [{"expression": license_id}]} if license_id else {}


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _tool(name: str, version: str) -> dict[str, str]:
    purl = _purl(name, version)
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
