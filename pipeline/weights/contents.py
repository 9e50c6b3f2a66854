"""The names of the files in an archive, without unpacking it. Tar: POSIX.1-2017, pax, "ustar Interchange Format"."""

from __future__ import annotations

import bz2
import itertools
import lzma
import zlib
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError
from pipeline.weights import archive
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

MAX_NAMES = 1_000
_BLOCK = 512
_MAX_BLOCKS = 100_000
_HEAD_BYTES = 1 << 20
_TEXT_ENTRIES = b"LKxg"


def names(data: mmap, kind: Kind) -> tuple[str, ...]:
    """Return up to 1,000 names in a tar, zip, npz or compressed file; of the last, those in its first mebibyte.

    Names may lie: they are shown, never used as paths. A format that cannot be listed gives ().
    """
    if kind in (Kind.ZIP, Kind.NUMPY, Kind.HDF5) and data[:2] == b"PK":
        try:
            return tuple(entry.name for entry in archive.directory(data))[:MAX_NAMES]
        except (archive.BrokenArchiveError, UnsafeError):
            return ()
    if kind is Kind.TAR:
        return tuple(itertools.islice(_in_tar(data), MAX_NAMES))
    if kind is Kind.GZIP:
        head = unpacked(data)
        return tuple(itertools.islice(_in_tar(head), MAX_NAMES)) if head[257:262] == b"ustar" else ()
    return ()


def unpacked(data: mmap | bytes) -> bytes:
    """Return the first bytes of what a compressed file holds; the limit keeps a bomb from unfolding."""
    packed = bytes(data[:_HEAD_BYTES])
    try:
        if packed[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(packed, _HEAD_BYTES)
        if packed[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(packed, _HEAD_BYTES)
        if packed[:6] == b"\xfd7zXZ\x00":
            return lzma.LZMADecompressor(memlimit=1 << 27).decompress(packed, _HEAD_BYTES)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
        return b""
    return b""


def _in_tar(data: mmap | bytes) -> Iterator[str]:
    return (name for name, _, _ in _files(data))


def _files(data: mmap | bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, first byte and size of regular files."""
    position, long_name = 0, ""
    for _ in range(_MAX_BLOCKS):
        header = data[position : position + _BLOCK]
        if len(header) < _BLOCK or not header[0]:
            return
        size, kind = _number(header[124:136]), header[156:157]
        body = position + _BLOCK
        if kind == b"L":
            long_name = _text(data[body : body + min(size, 4096)])
        elif kind in (b"0", b"\x00"):
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\x00" else ""
            yield long_name or (f"{prefix}/" if prefix else "") + _text(header[:100]), body, size
        if kind not in _TEXT_ENTRIES:
            long_name = ""
        position = body + -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \x00")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else 0


def _text(field: bytes) -> str:
    return field.partition(b"\x00")[0].decode("utf-8", "replace")
