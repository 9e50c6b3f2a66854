"""A release that was built on another machine takes its place here, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import DigestError, InputError
from pipeline.release import bundle, card, identity, sealing, signing, standalone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def adopt(built: Path, releases: Path, sign: Path | None = None) -> Path:
    """Let a release that was built elsewhere take its place among those of its name, whole, as `write` does; return it.

    `built` is a private directory on the same file system, which is moved. `sign`: it was built unsigned, and is signed with this key, as
    it would have been where it was built.

    Raises:
        DigestError: it is not whole.
        InputError: another one has its version.
    """
    if problems := [*standalone.check_files(built), *standalone.check_manifest(built)]:
        raise DigestError(
            f"what arrived of a release of {releases.name} is damaged: {problems[0]}", hint="export it again"
        )
    manifest = standalone.read_manifest(built)
    _check_names_of(manifest, releases.name)
    version = str(manifest["version"])
    is_named = version != str(manifest["digest"])[: standalone.DIGEST_DIGITS]
    if sign is not None:
        version = _signed(built, manifest, signing.read_signer(sign), version if is_named else None)
    return bundle.take_place(built, releases, version, is_named=is_named)


def _check_names_of(manifest: Mapping[str, Any], name: str) -> None:
    """Raise InputError unless a manifest is that of a release of this name, with a version that can be a folder's."""
    bundle.check_name(str(manifest["version"]), "a version")
    if manifest["name"] != name or manifest["version"] in {bundle.LATEST, bundle.FAILED, bundle.CRASHES}:
        raise InputError(
            f"what arrived as a release of {name} is {manifest['name']} {manifest['version']}", hint="export it again"
        )


def _signed(directory: Path, manifest: Mapping[str, Any], signer: signing.Signer, version: str | None) -> str:
    """Sign an unsigned release in a private directory: what states the signer is written again; return its version."""
    documents = {identity.SBOM, card.CARD, identity.PROVENANCE}
    facts = [each for each in manifest["files"] if each["path"] not in documents]
    stated = {name: each for name, each in manifest.items() if name not in {"version", "digest", "files"}}
    return sealing.seal(directory, {**stated, "signed_by": signer.key_id}, facts, version, signer)
