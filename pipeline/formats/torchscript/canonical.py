"""The same bytes from the same network: TorchScript archives without paths, timestamps or random identifiers."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from pipeline.errors import ExportError
from pipeline.formats import zipped
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IDENTITY_FILE = "weighbridge.json"
"""The TorchScript extra file that holds the identity (`torch.jit.load(…, _extra_files={IDENTITY_FILE: ""})`)."""


def from_file(source: Path, target: Path, *, identity: Mapping[str, str]) -> None:
    """Write a TorchScript archive's canonical form: entries sorted, stored, aligned to 64 bytes and dated 1980.

    Drops what only debuggers read and what is random (`*.debug_pkl`, `.data/serialization_id`); adds the identity as
    an extra file. Raises ExportError if it is no TorchScript archive.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            kept: dict[str, zipfile.ZipInfo | bytes] = {**_entries(archive)}
            kept[f"extra/{IDENTITY_FILE}"] = canonical_json(dict(identity))
            zipped.write(target, "archive", archive, kept)
    except zipfile.BadZipFile as error:
        raise ExportError(
            f"{source.name} is not a TorchScript archive: {error}", hint="leave `torchscript` out of `exports`"
        ) from error


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries worth keeping by their name below the archive's root."""
    entries = zipped.below_root(archive)
    if entries is None or "constants.pkl" not in entries:
        raise ExportError("this zip archive is not what torch.jit.save writes: no constants.pkl, or a name twice")
    return {name: info for name, info in entries.items() if name != zipped.RANDOM and not name.endswith(".debug_pkl")}
