"""The end of a release's making: what it says of itself, its manifest, its signature, and the digests of all."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pipeline.release import card, identity, signing, standalone
from pipeline.storage.store import canonical_json, digest_file, key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def seal(
    directory: Path,
    manifest: dict[str, Any],
    facts: list[dict[str, Any]],
    named: str | None,
    signer: signing.Signer | None,
) -> str:
    """Write what a release says of itself, its manifest, the signature and the digests of all; return its version, `named` if it has one."""
    manifest["files"] = _with_documents(directory, manifest, facts)
    digest = content_digest(manifest)
    version = named or digest[: standalone.DIGEST_DIGITS]
    text = canonical_json({**manifest, "digest": digest, "version": version})
    written = {standalone.MANIFEST: text}
    if signer:
        written[standalone.SIGNATURE] = signing.envelope(signer, manifest["name"], version, text)
    sums = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    for name, content_bytes in written.items():
        (directory / name).write_bytes(content_bytes)
        sums[name] = hashlib.sha256(content_bytes).hexdigest()
    (directory / standalone.SUMS).write_text(standalone.format_sums(sums), encoding="utf-8")
    return version


def _with_documents(directory: Path, manifest: Mapping[str, Any], files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write what a release says of itself; return the facts of all files. The provenance is about all the others."""
    facts = list(files)

    def add(name: str, role: str, content: bytes) -> None:
        (directory / name).write_bytes(content)
        facts.append(file_facts(directory, name, role))

    add(identity.SBOM, "sbom", identity.sbom(manifest, files))
    add(card.CARD, "card", card.card(manifest))
    add(identity.PROVENANCE, "provenance", identity.provenance(manifest, facts))
    return sorted(facts, key=lambda entry: str(entry["path"]))


def file_facts(directory: Path, name: str, role: str) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    path = directory / name
    return {"path": name, "role": role, "sha256": digest_file(path), "size_bytes": path.stat().st_size}


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of a release: over its files' digests and its manifest without version and digest."""
    stated = {name: value for name, value in manifest.items() if name not in {"version", "digest", "files"}}
    files = sorted([entry["path"], entry["sha256"]] for entry in manifest["files"])
    return key({"files": files, "manifest": stated})
