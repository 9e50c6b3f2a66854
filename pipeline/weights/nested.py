"""What lies inside archives and compressed files, so that it is judged like a file that somebody brings.

Nobody is to be told to unpack a trap. What is inside is looked at, in archives in archives too; what cannot be looked at, or
would take too much to, is refused.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import re
import sys
import tarfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

from pipeline.errors import UnsafeError
from pipeline.weights import archive, danger, npy, pickles
from pipeline.weights.files import Part
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.weights.files import Bytes

_MAX_DEPTH = 4
_MAX_MEMBERS = 20_000
_MAX_UNPACKED_BYTES = 64 * 2**20
_MAX_INSTRUCTIONS = 2 * pickles.MAX_OPCODES
_COPIED_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
# Numbers of tensors in the archives of torch.jit.save and torch.export.save, which torch reads as nothing else.
_NUMBERS = re.compile(r"(data|constants|traced_inputs)/\d+|data/(weights|constants)/(weight|tensor)_\d+")
# A pickle's protocol; and the second line of a global's name, in the protocols without.
_PROTOCOL, _NAME = re.compile(rb"\x80[\x02-\x05]"), re.compile(rb"\n[A-Za-z_][\w.]{0,99}\n")
_LONGEST_NAME = 100
_PIECE_BYTES = 1 << 24
HINT = "unpack it, and run weighbridge inspect on what is inside"
"""What to do with what is not looked into."""
_ENCRYPTED = 0x1


_MAX_NAMES = 1_000


@dataclass(slots=True)
class Walk:
    """What may still be looked at in one file, and how deep in archives that is; `program` tells that one is a program."""

    depth: int = 0
    program: bool = False
    members: int = _MAX_MEMBERS
    unpacked: int = _MAX_UNPACKED_BYTES
    instructions: pickles.Budget = field(default_factory=pickles.Budget)

    @contextmanager
    def inside(self, name: str, *, program: bool) -> Iterator[None]:
        """Be one archive deeper."""
        if self.depth == _MAX_DEPTH:
            raise UnsafeError(f"{name} lies in {_MAX_DEPTH} archives, and is not looked into", hint=HINT)
        if self.depth == 0:
            self.instructions = pickles.Budget(_MAX_INSTRUCTIONS)
        before = self.program
        self.depth, self.program = self.depth + 1, before or program
        try:
            yield
        finally:
            self.depth, self.program = self.depth - 1, before

    def count(self, name: str) -> None:
        """Take one more member."""
        self.members -= 1
        if self.members < 0:
            raise UnsafeError(f"{name} holds more than {_MAX_MEMBERS:,} files, and not all are looked at", hint=HINT)

    def unpack(self, name: str, size: int) -> None:
        """Take so many unpacked bytes more."""
        self.unpacked -= size
        if self.unpacked < 0:
            raise UnsafeError(
                f"{name} unpacks to more than {_MAX_UNPACKED_BYTES >> 20} MiB, and not all is looked at", hint=HINT
            )


def parse_data(data: Bytes, name: str, walk: Walk, start: int = 0) -> pickles.Parsed:
    """Return the records of a pickle that begins at `start`; raises as `pickles.parse`, and UnsafeError if it is no data."""
    parsed = pickles.parse(data, start, walk.instructions)
    danger.require_data(parsed, name, program=walk.program)
    return parsed


def names(data: Bytes, kind: Kind) -> tuple[str, ...]:
    """Return up to 1,000 names of files in an archive; of a compressed one, those in its first mebibyte.

    Names may lie: they are shown, never used as paths. A format that cannot be listed gives ().
    """
    if data[:2] == b"PK":
        try:
            return tuple(entry.name for entry in archive.directory(data))[:_MAX_NAMES]
        except (archive.BrokenArchiveError, UnsafeError):
            return ()
    found: list[str] = []
    if kind in (Kind.TAR, Kind.GZIP):
        tar = data if kind is Kind.TAR else _read(_chunks(Part(data, 0, len(data))), _COPIED_BYTES)[0]
        with suppress(tarfile.TarError, ValueError, OverflowError), _opened_tar(tar) as opened:
            found.extend(itertools.islice((each.name for each in opened if each.isreg()), _MAX_NAMES))
    return tuple(found)


def _opened_tar(data: Bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("IO[bytes]", Part(data, 0, len(data))), mode="r:")


def members(data: Bytes, kind: Kind, name: str, walk: Walk) -> Iterator[tuple[str, Bytes]]:
    """Yield what lies in an archive or compressed file: where, for messages, and its bytes.

    Raises UnsafeError for what cannot be looked at or is there to be read in two ways, and BrokenArchiveError for what is
    cut off or damaged; what could be read before is yielded first.
    """
    if kind is Kind.TAR:
        yield from _in_tar(data, name, walk)
    elif kind is Kind.GZIP:
        yield from _decompressed(data, name, walk)
    else:
        yield from _in_zip(data, kind, name, walk)


def _in_zip(data: Bytes, kind: Kind, name: str, walk: Walk) -> Iterator[tuple[str, Bytes]]:
    entries = archive.directory(data, name)
    archive.require_one_reading(data, entries, name)
    has_numbers = kind in (Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM)
    broken: archive.BrokenArchiveError | None = None
    for entry in entries:
        walk.count(name)
        if has_numbers and _NUMBERS.fullmatch(entry.name.partition("/")[2]):
            continue
        place = _place(name, entry.name)
        try:
            yield from ((place, content) for content in _contents(data, entry, place, walk))
        except archive.BrokenArchiveError as error:
            broken = broken or error
    if broken is not None:
        raise broken


def _contents(data: Bytes, entry: archive.Entry, place: str, walk: Walk) -> Iterator[Bytes]:
    start = archive.start_of(data, entry)
    if entry.flags & _ENCRYPTED:
        raise UnsafeError(f"{place} is encrypted, and not looked into", hint=HINT)
    if entry.method == 0:
        yield _near(Part(data, start, start + entry.size))
    elif entry.method == zlib.DEFLATED:
        yield from _inflated(Part(data, start, start + entry.packed_size), entry.size, place, walk)
    else:
        raise UnsafeError(f"{place} is packed by method {entry.method}, and not looked into", hint=HINT)


def _inflated(packed: Part, size: int, place: str, walk: Walk) -> Iterator[bytes]:
    head, _ = _read(_inflate(packed, -15), npy.HEAD_BYTES)
    if npy.is_plain(head, size):
        return  # all of it is numbers
    walk.unpack(place, size)
    made, broken = _read(_inflate(packed, -15), size + 1)
    yield made
    if broken is not None:
        raise archive.BrokenArchiveError(f"{place} cannot be unpacked to its end: {broken}")
    if len(made) != size:
        raise UnsafeError(f"{place} unpacks to another size than it declares", hint=HINT)


def _in_tar(data: Bytes, name: str, walk: Walk) -> Iterator[tuple[str, Bytes]]:
    try:
        with _opened_tar(data) as opened:
            for member in opened:
                walk.count(name)
                place = _place(name, member.name)
                if member.issparse():
                    raise UnsafeError(f"{place} has holes, and is not looked into", hint=HINT)
                if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:
                    yield place, _near(Part(data, member.offset_data, member.offset_data + member.size))
            end = opened.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise archive.BrokenArchiveError(f"it is no whole tar archive: {error}") from error
    rest = data[end : end + _COPIED_BYTES]
    if len(rest) < tarfile.BLOCKSIZE and rest.strip(b"\x00"):
        raise archive.BrokenArchiveError("it ends in the midst of a header")
    if len(rest) == _COPIED_BYTES or rest.strip(b"\x00"):
        raise UnsafeError(f"{name} hides {len(data) - end:,} bytes behind its end", hint=HINT)


def _place(name: str, inner: str) -> str:
    # Names may hold anything: they are shown, and never used.
    return f"{name} ({inner if inner.isprintable() else ascii(inner)})"[:300]


def _near(part: Part) -> Bytes:
    """Return a copy of what is small, which is faster to walk through."""
    return part[:] if len(part) <= _COPIED_BYTES else part


_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x5d\x00\x00": lzma.open,
}


def _decompressed(data: Bytes, name: str, walk: Walk) -> Iterator[tuple[str, Bytes]]:
    part = Part(data, 0, len(data))
    made, broken = _read(_chunks(part), walk.unpacked + 1)
    walk.unpack(name, len(made))
    # Whoever reads it bit by bit comes to what is inside before the damage.
    yield name, made
    if isinstance(broken, MemoryError):
        raise UnsafeError(f"{name} takes too much memory to unpack, and not all is looked at", hint=HINT)
    if broken is not None:
        raise archive.BrokenArchiveError(f"it cannot be unpacked to its end: {broken}")


def _read(chunks: Iterator[bytes], most: int) -> tuple[bytes, Exception | None]:
    """Return up to `most` bytes, and the error that ended them before their end."""
    made: list[bytes] = []
    left = most
    try:
        for chunk in chunks:
            made.append(chunk[:left])
            left -= len(made[-1])
            if left == 0:
                break
    except (OSError, EOFError, MemoryError, zlib.error, lzma.LZMAError) as error:
        return b"".join(made), error
    return b"".join(made), None


def _chunks(part: Part) -> Iterator[bytes]:
    opener = next((opener for magic, opener in _OPENERS.items() if part[: len(magic)] == magic), None)
    if opener is None:
        yield from _inflate(part, zlib.MAX_WBITS)
        return
    with opener(part) as file:
        while chunk := file.read1(_CHUNK_BYTES):  # without waiting for the checksum, as pickle.load does
            yield chunk


def _inflate(part: Part, bits: int) -> Iterator[bytes]:
    """Yield what deflated streams, one behind the other, hold."""
    part.seek(0)
    packed = part.read(_COPIED_BYTES)
    while packed:
        inflater = zlib.decompressobj(bits)
        while not inflater.eof:
            if not packed:
                raise EOFError("its end is missing")
            yield inflater.decompress(packed, _CHUNK_BYTES)
            packed = inflater.unconsumed_tail or (b"" if inflater.eof else part.read(_COPIED_BYTES))
        packed = inflater.unused_data or part.read(_COPIED_BYTES)


def strewn(data: Bytes) -> Iterator[int]:
    """Yield where in the bytes of an HDF5 file a pickle may begin, as PyTables writes them; not in compressed pieces."""
    for begin in range(0, len(data), _PIECE_BYTES):
        piece = data[begin : begin + _PIECE_BYTES + 2 * _LONGEST_NAME]
        yield from (begin + found.start() for found in _PROTOCOL.finditer(piece))
        for found in _NAME.finditer(piece):
            start = max(0, found.start() - _LONGEST_NAME)
            line = piece[start : found.start()]
            yield from (begin + start + index for index in range(len(line)) if _names_module(line, index))


def _names_module(line: bytes, index: int) -> bool:
    """Tell whether an instruction that names a global may begin here, and not in the midst of another's name."""
    module = line[index + 1 :].decode("latin-1")
    if line[index] not in b"ci" or not danger.is_module(module):
        return False
    is_first = index == 0 or not (chr(line[index - 1]).isalnum() or line[index - 1] in b"_.")
    return is_first or module.partition(".")[0] in sys.stdlib_module_names
