"""The same bytes from the same network: TorchScript archives without paths, timestamps or random identifiers."""

from __future__ import annotations

import io
import shutil
import zipfile
from typing import IO, TYPE_CHECKING

from pipeline.errors import ExportError
from pipeline.storage.store import canonical_json, disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IDENTITY_FILE = "weighbridge.json"
"""The TorchScript extra file that holds the identity (`torch.jit.load(…, _extra_files={IDENTITY_FILE: ""})`)."""

_CHUNK_BYTES = 1 << 20
_TORCH_ALIGNMENT_BYTES = 64  # what torch's own writer keeps for tensor storages
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can state
_ZIP_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20


def from_file(source: Path, target: Path, *, identity: Mapping[str, str]) -> None:
    """Write a TorchScript archive's canonical form: entries sorted, stored, aligned to 64 bytes and dated 1980.

    Drops what only debuggers read and what is random (`*.debug_pkl`, `.data/serialization_id`); adds the identity as
    an extra file. Raises ExportError if it is no TorchScript archive.
    """
    try:
        with zipfile.ZipFile(source) as archive, disk_errors(target), target.open("wb") as file:
            entries = _entries(archive)
            with zipfile.ZipFile(file, "w") as canonical:
                for name in sorted([*entries, f"extra/{IDENTITY_FILE}"]):
                    if name in entries:
                        with archive.open(entries[name]) as content:
                            _store(canonical, file, name, content, entries[name].file_size)
                    else:
                        _store_bytes(canonical, file, name, canonical_json(dict(identity)))
    except zipfile.BadZipFile as error:
        raise ExportError(
            f"{source.name} is not a TorchScript archive: {error}", hint="leave `torchscript` out of `exports`"
        ) from error


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries worth keeping by their name below the archive's root, which torch names after the file."""
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" not in entries or len(entries) != len(archive.infolist()):
        raise ExportError("this zip archive is not what torch.jit.save writes: no constants.pkl, or a name twice")
    dropped = {".data/serialization_id", f"extra/{IDENTITY_FILE}"}
    return {name: info for name, info in entries.items() if name not in dropped and not name.endswith(".debug_pkl")}


def _store_bytes(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: bytes) -> None:
    _store(archive, file, name, io.BytesIO(content), len(content))


def _store(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: IO[bytes], size_bytes: int) -> None:
    info = zipfile.ZipInfo(f"archive/{name}", _EPOCH)
    info.create_system = 0  # zipfile states the operating system otherwise
    info.file_size = size_bytes
    is_large = size_bytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule, which decides the header's length
    header_bytes = _ZIP_HEADER_BYTES + len(info.filename.encode()) + (_ZIP64_EXTRA_BYTES if is_large else 0)
    padding = -(file.tell() + header_bytes + 4) % _TORCH_ALIGNMENT_BYTES
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # the padding field of torch's own writer
    with archive.open(info, "w", force_zip64=is_large) as entry:
        shutil.copyfileobj(content, entry, _CHUNK_BYTES)
