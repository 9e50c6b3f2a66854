"""Look for hostile pickles inside archives that we do not load ourselves, so that nobody is told to unpack and load them.

TorchScript programs, exported programs, npz and plain archives hold pickles, or archives with pickles, of their own. Only
a pickle that would do something known to be dangerous makes a file hostile here: what is merely foreign is not loaded
anyway.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

from pipeline.checkpoint import archive, contents, danger, pickles
from pipeline.errors import UnsafeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

_MAX_DEPTH = 3
_MAX_ENTRIES = 2_000
_MAX_BYTES = 64 * 2**20
_HEAD_BYTES = 4096
# Functions of TorchScript's own pickles that build lists, and the classes of the program.
_TORCHSCRIPT = ("torch.jit._pickle.", "__torch__.")
_ZIP, _PICKLE, _NPY = b"PK\x03\x04", b"\x80", b"\x93NUMPY"


def require_no_hostile_pickle(data: mmap, name: str) -> None:
    """Raise UnsafeError naming the entry and the global if a pickle somewhere inside would do something dangerous."""
    _Scan(name).scan(data, "", 0)


class _Scan:
    """Walks archives in archives, up to a depth and a number of bytes in all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = _MAX_BYTES

    def scan(self, data: mmap | bytes, inside: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise UnsafeError(f"{self.name}: {inside!r:.120} nests archives without end", hint="do not unpack it")
        if data[:4] == _ZIP:
            self._children(_in_zip(data), inside, depth)
        elif data[257:262] == b"ustar":
            self._children(contents.members(data), inside, depth)
        elif data[:6] == _NPY:
            self._numpy(data, inside)
        elif data[:2] == b"\x1f\x8b" or data[:3] == b"BZh" or data[:6] == b"\xfd7zXZ\x00":
            self.scan(contents.unpacked(data), inside, depth + 1)
        elif inside.endswith((".pkl", ".pickle", ".p", "/pickle", "pickle")) or data[:1] == _PICKLE:
            self._pickle(data, inside)

    def _children(self, entries: Iterator[tuple[str, bytes]], inside: str, depth: int) -> None:
        for count, (child, content) in enumerate(entries):
            self.left -= len(content)
            if count >= _MAX_ENTRIES or self.left < 0:
                return
            self.scan(content, f"{inside}/{child}" if inside else child, depth + 1)

    def _numpy(self, data: mmap | bytes, inside: str) -> None:
        header = bytes(data[:_HEAD_BYTES])
        if b"'|O'" in header or b"'O'" in header:
            # numpy.lib.format, version 1 and 2: magic, version, length of the header, header, then a pickle.
            wide = header[6] >= 2
            start = (12 if wide else 10) + int.from_bytes(header[8 : 12 if wide else 10], "little")
            self._pickle(bytes(data[start : start + _MAX_BYTES]), inside)

    def _pickle(self, data: mmap | bytes, inside: str) -> None:
        stream = io.BytesIO(bytes(data[:_MAX_BYTES]))
        try:
            foreign = pickles.parse(stream).foreign
        except pickles.MalformedError as error:
            foreign = error.foreign
        except pickles.TooLargeError as error:
            raise UnsafeError(f"{self.name}: {inside or 'it'}: {error}", hint="do not load it") from error
        known = [dotted for dotted in foreign if not dotted.startswith(_TORCHSCRIPT) and danger.deed(dotted)]
        if known:
            place = f"{self.name} ({inside})" if inside else self.name
            danger.require_harmless({known[0]: foreign[known[0]]}, place, is_model=True)


def _in_zip(data: mmap | bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of entries that may hold pickles; data of tensors is passed over."""
    try:
        entries = [(entry, archive.start_of(data, entry)) for entry in archive.directory(data)]
    except archive.BrokenArchiveError:
        return
    for entry, start in entries:
        packed = bytes(data[start : start + min(entry.packed_size, _MAX_BYTES)])
        if entry.method == 0:
            yield entry.name, packed
        elif entry.method == zlib.DEFLATED:
            try:
                yield entry.name, zlib.decompressobj(-15).decompress(packed, _MAX_BYTES // 8)
            except zlib.error:
                continue
