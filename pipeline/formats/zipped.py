"""Archives of torch's kind with the same bytes for the same content: entries sorted, stored, aligned to 64 bytes and dated 1980."""

from __future__ import annotations

import io
import shutil
import zipfile
from typing import IO, TYPE_CHECKING

from pipeline.storage.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IDENTITY_FILE = "weighbridge.json"
"""The extra file of torch's archives that holds the identity."""

_ROOT = "archive"
_CHUNK_BYTES = 1 << 20
_TORCH_ALIGNMENT_BYTES = 64  # what torch's own writer keeps for tensor storages
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can state
_ZIP_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20


def below_root(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return an archive's entries by their name below its root, which torch names after the file."""
    return {info.filename.partition("/")[2]: info for info in archive.infolist()}


def write(
    source: zipfile.ZipFile, kept: Mapping[str, zipfile.ZipInfo], added: Mapping[str, bytes], target: Path
) -> None:
    """Write entries of an archive, and others in place of some or beside them, in the one order and form that they have."""
    with disk_errors(target), target.open("wb") as file, zipfile.ZipFile(file, "w") as made:
        for name in sorted({*kept, *added}):
            if name in added:
                _store(made, file, name, io.BytesIO(added[name]), len(added[name]))
            else:
                with source.open(kept[name]) as content:
                    _store(made, file, name, content, kept[name].file_size)


def _store(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: IO[bytes], size_bytes: int) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", _EPOCH)
    info.create_system = 0  # zipfile states the operating system otherwise
    info.file_size = size_bytes
    is_large = size_bytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule, which decides the header's length
    header_bytes = _ZIP_HEADER_BYTES + len(info.filename.encode()) + (_ZIP64_EXTRA_BYTES if is_large else 0)
    padding = -(file.tell() + header_bytes + 4) % _TORCH_ALIGNMENT_BYTES
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # the padding field of torch's own writer
    with archive.open(info, "w", force_zip64=is_large) as entry:
        shutil.copyfileobj(content, entry, _CHUNK_BYTES)
