"""Releases as a stranger would forge them: other files, another manifest, and digests that agree with each other."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pipeline.release import sealing, standalone
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def forge(
    release: Path, files: Mapping[str, bytes] | None = None, edit: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """Change files and the manifest of an unsigned release in place, and make every digest agree again; return it."""
    for name, content in (files or {}).items():
        (release / name).write_bytes(content)
    manifest = json.loads((release / standalone.MANIFEST).read_bytes())
    for entry in manifest["files"]:
        content = (release / entry["path"]).read_bytes()
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    if edit:
        edit(manifest)
    return state(release, canonical_json(_with_digest(manifest)))


def state(release: Path, manifest: bytes) -> Path:
    """Put a manifest into a release, whatever it is, and make both lists of digests agree with what lies there."""
    (release / standalone.MANIFEST).write_bytes(manifest)
    for folder in (release, release / standalone.REPORT):
        names = [path.name for path in folder.iterdir() if path.is_file() and path.name != standalone.SUMS]
        if folder.name == standalone.REPORT:
            names = [name for name in standalone.list_files(folder) if name != standalone.SUMS]
        sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        (folder / standalone.SUMS).write_text(standalone.format_sums(sums), encoding="utf-8")
    return release


def _with_digest(manifest: dict[str, Any]) -> dict[str, Any]:
    digest = sealing.content_digest(manifest)
    release = manifest["config"].get("release", {})
    stated = release.get("version") if isinstance(release, dict) else None
    named = manifest["version"] if "/" in str(manifest["version"]) else stated or digest[: standalone.DIGEST_DIGITS]
    return {**manifest, "digest": digest, "version": named}
