"""A weights file's digest: taken once in a run, and handed on with how the file lay on the disk, so that nobody takes it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping  # noqa: TC003 - read when requests are validated
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pipeline.errors import WeightsError
from pipeline.weights.files import digest
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.weights.header import Header

Stamp: TypeAlias = tuple[int, int, int, int]
"""Size in bytes, inode, and when content and inode last changed (ns): nobody writes to a file and leaves all of them alone."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A weights file's digest, and the stamp of each of its files by name when that was taken."""

    sha256: str
    stamps: Mapping[str, Stamp]


def weights_digest(path: Path, header: Header) -> str:
    """Return the sha256 of a weights file; of a sharded checkpoint, that of its files' list as `sha256sum` writes it.

    The list names the index first and then its shards by name, so that no shard can change unnoticed.
    """
    if header.kind is not Kind.SHARDED:
        return digest(path)
    listed = "".join(f"{digest(path.parent / name)}  {name}\n" for name in _names(path, header))
    return hashlib.sha256(listed.encode()).hexdigest()


def verify(path: Path, header: Header) -> Verified:
    """Take the digest of a weights file; raises WeightsError if it changes meanwhile."""
    stamps = _stamps(path, header)
    found = verified_as(weights_digest(path, header), path, header)
    if found.stamps != stamps:
        raise WeightsError(f"{path.name} changed while it was read", hint="run again")
    return found


def verified_as(sha256: str, path: Path, header: Header) -> Verified:
    """Return a file whose digest somebody has just taken."""
    return Verified(sha256, _stamps(path, header))


def require_unchanged(path: Path, header: Header, verified: Verified) -> None:
    """Raise WeightsError unless a file is the one that was verified: by its stamps, and where these differ by its digest."""
    if _stamps(path, header) != verified.stamps and (found := weights_digest(path, header)) != verified.sha256:
        raise WeightsError(
            f"{path.name} changed during the run: its sha256 is {found} now, and was {verified.sha256}",
            hint="leave it alone while a run uses it, and run again",
        )


def _names(path: Path, header: Header) -> list[str]:
    return [path.name, *header.facts.get("files", ())]


def _stamps(path: Path, header: Header) -> dict[str, Stamp]:
    try:
        found = {name: (path.parent / name).stat() for name in _names(path, header)}
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error}", hint="leave it alone while a run uses it") from error
    return {name: (each.st_size, each.st_ino, each.st_mtime_ns, each.st_ctime_ns) for name, each in found.items()}
