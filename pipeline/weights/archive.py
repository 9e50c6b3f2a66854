"""A zip archive's directory, read by ourselves so that every reader of the file must agree with it.

Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14–4.3.16 (ends, zip64).
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError
from pipeline.weights.files import ALTERED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.weights.files import Bytes

MAX_ENTRIES = 400_000

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_DIRECTORY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_CHUNK_BYTES = 1 << 24
_MAX_DESCRIPTOR_BYTES = 24  # section 4.3.9, with its signature and sizes of 8 bytes
_DRIVE = re.compile(r"[A-Za-z]:")

_DIFFERENT = "which readers take differently"


class BrokenArchiveError(ValueError):
    """No directory, or one that does not describe the file: cut off or damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive, as its directory tells; `header` is where its local header starts."""

    name: str
    header: int
    size: int
    packed_size: int
    method: int
    flags: int
    crc: int


def directory(data: Bytes, name: str = "the archive") -> tuple[Entry, ...]:
    """Return the entries of the directory at the end of `data`, which is called `name` in messages.

    Raises BrokenArchiveError where there is none or one that is cut off, and UnsafeError where readers take it differently
    or it has too many entries.
    """
    try:
        return tuple(_entries(data, name))
    except struct.error as error:
        raise BrokenArchiveError(f"its directory is damaged: {error}") from error


def is_behind(data: Bytes) -> bool:
    """Tell whether an archive ends the file, whatever stands before it or follows."""
    found = _find_end(data)
    if found < 0 or found + _END.size > len(data):
        return False
    *_, size, _start, _comment = _END.unpack(data[found : found + _END.size])
    return bool(0 < size <= found and data[found - size : found - size + 4] == b"PK\x01\x02")


def left(data: Bytes) -> Iterator[int]:
    """Yield where entries begin that are stored as they are, in an archive without a directory."""
    for begin in range(0, len(data), _CHUNK_BYTES):
        piece = data[begin : begin + _CHUNK_BYTES + _LOCAL.size]
        position = piece.find(b"PK\x03\x04")
        while 0 <= position <= len(piece) - _LOCAL.size:
            _, _, _, method, *_, name_size, extra_size = _LOCAL.unpack_from(piece, position)
            if method == 0:
                yield begin + position + _LOCAL.size + name_size + extra_size
            position = piece.find(b"PK\x03\x04", position + 1)


def _find_end(data: Bytes) -> int:
    return data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - _FULL16))


def _entries(data: Bytes, name: str) -> Iterator[Entry]:
    start, size, count = _end(data, name)
    if count * _DIRECTORY.size > size:
        raise BrokenArchiveError("its directory lies outside the file")
    if count > MAX_ENTRIES:
        raise UnsafeError(f"{name} lists {count:,} entries, more than {MAX_ENTRIES:,}", hint="do not load it")
    position = start
    for _ in range(count):
        (magic, _made, _needed, flags, method, _time, _date, crc, packed, full, name_size, extra_size, comment_size,
         _disk, _internal, _external, header) = _DIRECTORY.unpack(
            data[position : position + _DIRECTORY.size])  # fmt: skip
        if magic != b"PK\x01\x02":
            raise BrokenArchiveError("its directory is damaged")
        name_start = position + _DIRECTORY.size
        extra_start = name_start + name_size
        entry = data[name_start:extra_start].decode("utf-8", "surrogateescape")
        wide = _zip64(data[extra_start : extra_start + extra_size], (full, packed, header))
        yield Entry(entry, wide[2], wide[0], wide[1], method, flags, crc)
        position = extra_start + extra_size + comment_size
    if position != start + size:
        raise UnsafeError(f"{name}: its directory is longer than its entries, {_DIFFERENT}", hint=ALTERED)


def _end(data: Bytes, name: str) -> tuple[int, int, int]:
    """Return the directory's start, size in bytes and number of entries."""
    found = _find_end(data)
    if found < 0:
        raise BrokenArchiveError("it lacks the directory that ends every archive")
    *_, count, size, start, comment_size = _END.unpack(data[found : found + _END.size])
    if found + _END.size + comment_size != len(data):
        raise UnsafeError(f"{name}: bytes follow the archive's end, {_DIFFERENT}", hint=ALTERED)
    end, locator = found, found - _LOCATOR64.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        *_, end, _disks = _LOCATOR64.unpack(data[locator:found])
        magic, *_, count64, size64, start64 = _END64.unpack(data[end : end + _END64.size])
        if magic != b"PK\x06\x06":
            raise BrokenArchiveError("its zip64 end is damaged")
        short = ((count, count64, _FULL16), (size, size64, _FULL32), (start, start64, _FULL32))
        if end + _END64.size != locator or any(here not in (wide, full) for here, wide, full in short):
            raise UnsafeError(f"{name}: the archive has two directories, {_DIFFERENT}", hint=ALTERED)
        start, size, count = start64, size64, count64
    if start + size > end:
        raise BrokenArchiveError("its directory lies outside the file")
    if start + size < end:
        raise UnsafeError(f"{name}: bytes stand before or behind its directory, {_DIFFERENT}", hint=ALTERED)
    return start, size, count


def _zip64(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Replace sizes and offset of 0xFFFFFFFF by those of the zip64 field."""
    if _FULL32 not in values:
        return values
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<2H", extra)
        if tag == 1:
            wide = iter(struct.unpack(f"<{size // 8}Q", extra[4 : 4 + size // 8 * 8]))
            size_wide, packed_wide, header_wide = (next(wide, v) if v == _FULL32 else v for v in values)
            return size_wide, packed_wide, header_wide
        extra = extra[4 + size :]
    return values


def start_of(data: Bytes, entry: Entry) -> int:
    """Return where the entry's bytes start; raises BrokenArchiveError where the directory points outside the file."""
    if entry.header + _LOCAL.size > len(data):
        raise BrokenArchiveError(f"entry {entry.name!r:.80} lies outside the file")
    sizes = data[entry.header + _LOCAL.size - 4 : entry.header + _LOCAL.size]
    name_size, extra_size = struct.unpack("<2H", sizes)
    return entry.header + _LOCAL.size + int(name_size) + int(extra_size)


def content(data: Bytes, entry: Entry, limit: int) -> bytes:
    """Return a stored entry's bytes; raises UnsafeError above `limit` bytes and for a compressed entry."""
    if entry.method != 0:
        raise UnsafeError(f"{entry.name} is compressed; weights are stored as they are", hint=ALTERED)
    if entry.size > limit:
        raise UnsafeError(f"{entry.name} holds {entry.size:,} bytes, more than {limit:,}", hint="do not load it")
    start = start_of(data, entry)
    return data[start : start + entry.size]


def require_one_reading(data: Bytes, entries: Sequence[Entry], name: str, *, stored: bool = False) -> None:
    """Refuse an archive that two readers could read differently, and with `stored` one with entries that are compressed.

    torch.save stores entries as they are, and torch looks them up without regard to upper and lower case.
    Raises UnsafeError naming the entry: duplicate or outside names, overlapping or hidden entries, local headers that
    contradict the directory.
    """
    seen: set[str] = set()
    taken: list[tuple[int, int, str]] = []
    for entry in entries:
        key = entry.name.casefold() if stored else entry.name
        problem = (
            _name_problem(entry.name, key, seen)
            or (_packing_problem(entry) if stored else None)
            or _size_problem(entry)
            or _header_problem(data, entry)
        )
        if problem:
            raise UnsafeError(f"{name}: entry {entry.name!r:.80} {problem}", hint=ALTERED)
        seen.add(key)
        taken.append((entry.header, start_of(data, entry) + entry.packed_size, entry.name))
    taken.append((_end(data, name)[0], len(data), "the directory"))
    taken.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(taken):
        if begin < end:
            raise UnsafeError(f"{name}: entries {first!r} and {second!r} share bytes", hint=ALTERED)
        if begin - end > _MAX_DESCRIPTOR_BYTES:
            raise UnsafeError(f"{name} hides {begin - end:,} bytes before {second!r:.80}", hint=ALTERED)
    if taken[0][0] != 0:
        raise UnsafeError(f"{name}: {taken[0][0]:,} bytes stand before the archive", hint=ALTERED)


def _name_problem(name: str, key: str, seen: set[str]) -> str | None:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "would be written outside its folder when unpacked"
    if any(ord(character) < 32 for character in name):
        return "has a control character in its name"
    if key in seen:
        return "is there twice: what one reader checks, another does not read"
    return None


def _packing_problem(entry: Entry) -> str | None:
    if entry.flags & _ENCRYPTED:
        return "is encrypted"
    if entry.method != 0:
        return f"is compressed ({entry.packed_size:,} bytes become {entry.size:,}); weights are stored as they are"
    return None


def _size_problem(entry: Entry) -> str | None:
    if entry.method == 0 and entry.packed_size != entry.size and not entry.flags & _ENCRYPTED:
        return f"has two sizes, {entry.packed_size:,} and {entry.size:,} bytes"
    return None


def _header_problem(data: Bytes, entry: Entry) -> str | None:
    if entry.header + _LOCAL.size > len(data):
        return "lies outside the file"
    magic, _needed, flags, method, _time, _date, _crc, packed, size, name_size, _ = _LOCAL.unpack(
        data[entry.header : entry.header + _LOCAL.size]
    )
    local_name = data[entry.header + _LOCAL.size : entry.header + _LOCAL.size + name_size]
    if magic != b"PK\x03\x04" or local_name != entry.name.encode("utf-8", "surrogateescape"):
        return f"is called {local_name.decode(errors='replace')!r:.80} where its bytes are"
    if (method, flags & _ENCRYPTED) != (entry.method, entry.flags & _ENCRYPTED):
        return "is packed in another way than the directory says"
    unknown = (0, _FULL32) if flags & _DESCRIPTOR else (_FULL32,)
    for here, there in ((packed, entry.packed_size), (size, entry.size)):
        if here not in (there, *unknown):
            return f"has two sizes, {here:,} and {there:,} bytes"
    if start_of(data, entry) + entry.packed_size > len(data):
        return "lies outside the file"
    return None


def damaged(data: Bytes, entries: Sequence[Entry]) -> str | None:
    """Return the name of the first entry whose bytes do not match its checksum.

    torch can leave checksums out (`set_crc32_options`): where all are zero, nothing can be said.
    """
    if all(entry.crc == 0 for entry in entries):
        return None
    for entry in entries:
        start, crc = start_of(data, entry), 0
        for position in range(start, start + entry.size, _CHUNK_BYTES):
            crc = zlib.crc32(data[position : min(position + _CHUNK_BYTES, start + entry.size)], crc)
        if crc != entry.crc:
            return entry.name
    return None
