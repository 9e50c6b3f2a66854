"""Zip archives as torch reads them, with the same bytes from the same content: no time, no operating system, nothing random."""

from __future__ import annotations

import io
import shutil
import zipfile
from typing import IO, TYPE_CHECKING

from pipeline.storage.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RANDOM = ".data/serialization_id"
"""What torch's writers draw anew each time, and no reader needs."""

_CHUNK_BYTES = 1 << 20
_TORCH_ALIGNMENT_BYTES = 64  # what torch's own writer keeps for tensor storages
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can state
_ZIP_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20


def below_root(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo] | None:
    """Return an archive's entries by their names below its one root, which torch names after the file; None where one is there twice."""
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    return entries if len(entries) == len(archive.infolist()) else None


def write(target: Path, root: str, source: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo | bytes]) -> None:
    """Write entries of `source`, or bytes of one's own, by name: below `root`, sorted, stored, aligned to 64 bytes and dated 1980.

    Raises OSError or one of ours where the disk is full, zipfile.BadZipFile where the source is damaged.
    """
    with disk_errors(target), target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(entries):
            entry = entries[name]
            if isinstance(entry, bytes):
                _store(archive, file, f"{root}/{name}", io.BytesIO(entry), len(entry))
            else:
                with source.open(entry) as content:
                    _store(archive, file, f"{root}/{name}", content, entry.file_size)


def _store(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: IO[bytes], size_bytes: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 0  # zipfile states the operating system otherwise
    info.file_size = size_bytes
    is_large = size_bytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule, which decides the header's length
    header_bytes = _ZIP_HEADER_BYTES + len(info.filename.encode()) + (_ZIP64_EXTRA_BYTES if is_large else 0)
    padding = -(file.tell() + header_bytes + 4) % _TORCH_ALIGNMENT_BYTES
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # the padding field of torch's own writer
    with archive.open(info, "w", force_zip64=is_large) as entry:
        shutil.copyfileobj(content, entry, _CHUNK_BYTES)
