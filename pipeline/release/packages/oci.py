"""An OCI image layout whose one artifact is the release, in the media types of the CNCF's model specification.

Layout and digests: https://github.com/opencontainers/image-spec; types: https://github.com/modelpack/model-spec. A layer
is one file as it is (a "raw" layer), under its path in the release.
"""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

from pipeline.storage.store import canonical_json, digest_file

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.release.packages.content import Content

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_LAYER_TYPES = {"model": "weight", "weights": "weight", "verifier": "code", "golden": "dataset"}
_PATH = "org.cncf.model.filepath"


def write(content: Content, path: Path) -> None:
    """Write oci-layout, index.json and blobs/sha256/."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    roles = {entry["path"]: entry["role"] for entry in content.manifest["files"]}
    layers = [_layer(content.release / name, name, roles.get(name, ""), blobs) for name in content.files()]
    config = _blob(canonical_json(_config(content, layers)), CONFIG_TYPE, blobs)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": MODEL_TYPE,
        "config": config,
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.title": content.name,
            "org.opencontainers.image.version": content.version,
        },
    }
    described = _blob(canonical_json(manifest), MANIFEST_TYPE, blobs)
    tagged = {
        **described,
        "artifactType": MODEL_TYPE,
        "annotations": {"org.opencontainers.image.ref.name": content.version},
    }
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [tagged]}
    (path / "index.json").write_bytes(canonical_json(index))
    (path / "oci-layout").write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))


def _config(content: Content, layers: list[dict[str, Any]]) -> dict[str, Any]:
    release = content.manifest["config"]["release"]
    return {
        "descriptor": {
            "name": content.name,
            "version": content.version,
            **({"licenses": [release["license"]]} if release.get("license") else {}),
            **({"description": release["description"]} if release.get("description") else {}),
        },
        "config": {
            "architecture": content.manifest["architecture"]["name"].rpartition(":")[2],
            "format": content.manifest["models"][0]["format"],
            "paramSize": str(content.manifest["weights"]["parameters"]),
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }


def _layer(source: Path, name: str, role: str, blobs: Path) -> dict[str, Any]:
    digest = digest_file(source)
    shutil.copyfile(source, blobs / digest)
    return {
        "mediaType": f"application/vnd.cncf.model.{_LAYER_TYPES.get(role, 'doc')}.v1.raw",
        "digest": f"sha256:{digest}",
        "size": source.stat().st_size,
        "annotations": {_PATH: name},
    }


def _blob(content: bytes, media_type: str, blobs: Path) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}
