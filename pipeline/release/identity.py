"""What a release says of itself to programs and people that know nothing of weighbridge.

`sbom.cdx.json` is a CycloneDX 1.6 bill of materials with the machine-learning-model component, `provenance.json` an
in-toto statement with SLSA's provenance predicate, `README.md` a model card with Hugging Face's metadata. They are made
of the manifest alone and hold no time and nothing measured, so that the same build gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from pipeline.formats.table import formats
from pipeline.interface import Preprocessing
from pipeline.storage.store import canonical_json, key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Facts = Mapping[str, Any]

SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.json"
CARD = "README.md"

_NAMESPACE = uuid.UUID("6a0ee3b6-62f7-5b4e-9d2e-0a4f6d0c7b5d")
# Where Hugging Face's name of a licence is not SPDX's in lower case, the card says "other" and names it.
_HUB_LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "zlib",
        "artistic-2.0",
        "epl-2.0",
        "eupl-1.2",
        "openrail",
        "bigscience-openrail-m",
    ]
)

_MEASURED = ("The factors and latencies that were measured are in [report/report.md](report/report.md).",)


def sbom(manifest: Facts, files: Sequence[Facts]) -> bytes:
    """Return the CycloneDX 1.6 document (https://cyclonedx.org/docs/1.6/json) for a manifest and its files so far."""
    name, release, weights = manifest["name"], _release(manifest), manifest["weights"]
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


def card(manifest: Facts, measured: Sequence[str] = _MEASURED) -> bytes:
    """Return the model card: Hugging Face's metadata, what it is, how to run and verify it.

    `measured` are lines about figures of one machine, which the release itself leaves to `report/`.
    """
    return ("\n".join([*_front_matter(manifest), "", *_card_text(manifest), "", *measured]) + "\n").encode()


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


def _trained(reference: Facts | None) -> str:
    if reference is None:
        return "The network was not compared with the trained network: no recording of its outputs was given."
    calls = f"{reference['calls']} call{'s' if reference['calls'] > 1 else ''}"
    return f"The network gives what was recorded of the trained network in `{reference['path']}` ({calls}; {reference['recorded']})."


def _front_matter(manifest: Facts) -> list[str]:
    """Return the card's YAML; JSON's strings are YAML's."""
    release = _release(manifest)
    license_id = release.get("license")
    stated = list(dict.fromkeys(each["format"] for each in manifest["models"]))
    library = next((found.library for each in stated if (found := formats().get(each)) and found.library), None)
    lines = [
        "---",
        *([f"library_name: {library}"] if library else []),
        "tags:",
        *(f"- {each}" for each in stated),
        "- weighbridge",
    ]
    if license_id and license_id.lower() in _HUB_LICENSES:
        lines.append(f"license: {license_id.lower()}")
    elif license_id:
        lines += ["license: other", f"license_name: {json.dumps(license_id)}"]
    if datasets := release.get("datasets"):
        lines += ["datasets:", *(f"- {json.dumps(each)}" for each in datasets)]
    return [*lines, "---"]


def _card_text(manifest: Facts) -> list[str]:
    release, weights = _release(manifest), manifest["weights"]
    files = ", ".join(f"`{each['path']}`" for each in manifest["models"])
    arguments = ", ".join(f"{each['name']}=…" for each in manifest["inputs"])
    return [
        f"# {manifest['name']}",
        "",
        *([release["description"], ""] if release.get("description") else []),
        (
            f"`{manifest['architecture']['name']}` with the {weights['parameters']:,} parameters of `{weights['file']}`"
            f" (SHA-256 `{weights['sha256']}`), as {files}."
        ),
        "Every file was held against the same network in float64 before it was released.",
        _trained(manifest.get("reference")),
        "",
        "## Inputs and outputs",
        "",
        "| name | | dtype | shape |",
        "| --- | --- | --- | --- |",
        *(_row(each, "input") for each in manifest["inputs"]),
        *(_row(each, "output") for each in manifest["outputs"]),
        "",
        *(
            f"- `{name}`: {each['min']} to {each['max']}"
            + (f", in steps of {each['multiple_of']}" if each["multiple_of"] > 1 else "")
            + (f", always {each['formula']}" if each.get("formula") else "")
            for name, each in manifest["dimensions"].items()
        ),
        "",
        *_preprocessed(manifest["inputs"]),
        "## Run it",
        "",
        "```python",
        "from pipeline import load_release  # pip install weighbridge[runtime]; torch is not needed",
        "",
        'model = load_release("PATH")',
        f"outputs = model({arguments})",
        "```",
        "",
        *(
            f"{known.card} opens `{each['path']}` as it is."
            for each in manifest["models"]
            if (known := formats().get(each["format"])) and known.card
        ),
        "",
        *_beside(release.get("beside", [])),
        "## Verify it",
        "",
        "`python verify.py` checks every digest and runs the golden cases; it needs numpy and onnxruntime.",
        "`weighbridge verify PATH --key KEY.pub.pem` checks the signature as well.",
        "",
        "## Proven",
        "",
        "| backend | verdict |",
        "| --- | --- |",
        *(f"| {name} | {each['verdict']} |" for name, each in sorted(manifest["backends"].items())),
        "",
        *(f"- `{name}`: {_budget(each)}" for name, each in manifest["parity"].items()),
    ]


def _preprocessed(inputs: Sequence[Facts]) -> list[str]:
    found = {each["name"]: Preprocessing(**each["preprocess"]) for each in inputs if each.get("preprocess")}
    if not found:
        return []
    return [
        "What the files do themselves before the network computes, and nobody must do before them:",
        "",
        *(f"- `{name}`: {each.in_words()}" for name, each in found.items()),
        "",
    ]


def _beside(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(f"`{each}`" for each in names)
    return [
        "## Before and behind it",
        "",
        f"What prepares its inputs and reads its outputs lies beside it as it came: {listed}. Inputs that are prepared in another way",
        "are the commonest cause of wrong answers.",
        "",
    ]


def _row(tensor: Facts, kind: str) -> str:
    return f"| `{tensor['name']}` | {kind} | {tensor['dtype']} | {_shape(tensor)} |"


def _budget(budget: Facts) -> str:
    if "limit" in budget:
        return f"errors of at most {budget['limit']:g} × the noise floor of float32"
    return f"errors of at most {budget['atol']:g} + {budget['rtol']:g} × |value|"


def _tensor(tensor: Facts) -> str:
    return f"{tensor['name']}: {tensor['dtype']} {_shape(tensor)}"


def _shape(tensor: Facts) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in tensor['shape'])}]"


def _release(manifest: Facts) -> Facts:
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
