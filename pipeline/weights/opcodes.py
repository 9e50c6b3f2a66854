"""The instructions of a pickle, read as generously as any unpickler reads them.

`pickletools.genops` refuses what unpicklers take (the number 0x10, texts that are not ASCII), and whoever stops there does
not see what they run behind it. Rules of arguments: CPython's Lib/pickle.py and Modules/_pickle.c, 3.11 to 3.14.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.weights.files import Bytes

_MAX_KEPT = 1 << 16
_MAX_PIECE = 1 << 20
# In C a zero byte ends a number, what follows up to the end of the line is passed over, and no digits are INT's 0.
_NUMBER = re.compile(rb"[\w\s+.-]+(?:[\n\x00]|\Z)")
_INTEGER = re.compile(rb"[\w\s+-]*(?:[\n\x00]|\Z)")
_ID = re.compile(rb"[\w\s+-]+\n")
_QUOTE = re.compile(rb"['\"]")
_ANY = re.compile(rb"")


class CutOffError(ValueError):
    """An instruction that no unpickler knows or can read to its end: every one of them stops there."""


@dataclass(frozen=True, slots=True, eq=False)
class Long:
    """A text or bytes that are too long to be a name; only their length in the file is kept."""

    length: int

    def __len__(self) -> int:
        return self.length


def instructions(data: Bytes, position: int) -> Iterator[tuple[str, Any, int]]:
    """Yield name, argument and end of each instruction from `position` on, up to STOP.

    Raises CutOffError where every unpickler would stop.
    """
    size = len(data)
    while position < size:
        found = _TABLE.get(data[position])
        if found is None:
            raise CutOffError(f"byte {position:,} begins no instruction of a pickle")
        name, read = found
        position += 1
        argument = None
        if read is not None:
            try:
                argument, position = read(data, position)
            except (ValueError, IndexError) as error:
                raise CutOffError(f"the argument of {name} at byte {position:,} is none: {error}") from error
        yield name, argument, position
        if name == "STOP":
            return
    raise CutOffError("it ends before its STOP")


def _byte(data: Bytes, start: int) -> tuple[int, int]:
    return data[start], start + 1


def _fixed(width: int, value: Callable[[bytes], Any]) -> Callable[[Bytes, int], tuple[Any, int]]:
    def read(data: Bytes, start: int) -> tuple[Any, int]:
        piece = data[start : start + width]
        if len(piece) != width:
            raise ValueError("it is cut off")
        return value(piece), start + width

    return read


def _counted(width: int, value: Callable[[bytes], Any], *, signed: bool = False) -> Callable[..., tuple[Any, int]]:
    def read(data: Bytes, start: int) -> tuple[Any, int]:
        begin = start + width
        count = data[start] if width == 1 else int.from_bytes(data[start:begin], "little", signed=signed)
        if count > _MAX_KEPT and begin + count <= len(data):
            return Long(count), begin + count
        piece = data[begin : begin + count] if 0 <= count <= _MAX_KEPT else b""
        if len(piece) != count:
            raise ValueError(f"{count:,} bytes are not there")
        return value(piece), begin + count

    return read


def _newline(data: Bytes, start: int) -> int:
    """Return where the line ends; pieces are searched far faster than a map."""
    width = _MAX_KEPT
    while start < len(data):
        found = data[start : start + width].find(b"\n")
        if found >= 0:
            return start + found
        start += width
        width = _MAX_PIECE
    raise ValueError("its line does not end")


def _line(value: Callable[[bytes], Any], begins: re.Pattern[bytes]) -> Callable[[Bytes, int], tuple[Any, int]]:
    """Return a reader of lines; what `begins` does not match is none for any unpickler, however long it is."""

    def read(data: Bytes, start: int) -> tuple[Any, int]:
        if not begins.match(data[start : start + _MAX_KEPT]):
            raise ValueError("it is of another form")
        end = _newline(data, start)
        return (value(data[start:end]) if end - start <= _MAX_KEPT else Long(end - start)), end + 1

    return read


def _pair(data: Bytes, start: int) -> tuple[tuple[str, str], int]:
    middle = _line_end(data, start)
    end = _line_end(data, middle + 1)
    return (data[start:middle].decode(), data[middle + 1 : end].decode()), min(end + 1, len(data))


def _line_end(data: Bytes, start: int) -> int:
    """Return where a name ends, which no module or attribute has longer, or the file: readers import what is there."""
    line = data[start : start + _MAX_KEPT]
    found = line.find(b"\n")
    if found < 0 and len(line) == _MAX_KEPT:
        raise ValueError("it is longer than a name")
    return start + (found if found >= 0 else len(line))


def _number(line: bytes) -> int | bool:
    """Return what INT and LONG say. Readers differ in bases and spaces: what is no number for Python counts as 0."""
    if line in (b"00", b"01"):
        return line == b"01"
    try:
        return int(line.partition(b"\x00")[0].rstrip(b"L"), 0)
    except ValueError:
        return 0


def _float(line: bytes) -> float:
    try:
        return float(line.partition(b"\x00")[0])
    except ValueError:
        return 0.0


def _quoted(line: bytes) -> str:
    line = line.rstrip()
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("its text is not in quotes")
    made: bytes = codecs.escape_decode(line[1:-1])[0]  # as pickle.py does
    return made.decode("latin-1")


def _index(line: bytes) -> int:
    return int(line.partition(b"\x00")[0])


_unsigned = partial(int.from_bytes, byteorder="little")
_signed = partial(int.from_bytes, byteorder="little", signed=True)
_utf8 = partial(str, encoding="utf-8", errors="surrogatepass")
_latin1 = partial(str, encoding="latin-1")

# pickletools' name of an argument's form → how it is read
_FORMS: dict[str, Callable[[Any, int], tuple[Any, int]]] = {
    "uint1": _byte,
    "uint2": _fixed(2, _unsigned),
    "int4": _fixed(4, _signed),
    "uint4": _fixed(4, _unsigned),
    "uint8": _fixed(8, _unsigned),
    "float8": _fixed(8, lambda content: struct.unpack(">d", content)[0]),
    "long1": _counted(1, _signed),
    "long4": _counted(4, _signed, signed=True),
    "string1": _counted(1, _latin1),
    "string4": _counted(4, _latin1, signed=True),
    "bytes1": _counted(1, bytes),
    "bytes4": _counted(4, bytes),
    "bytes8": _counted(8, bytes),
    "bytearray8": _counted(8, bytes),
    "unicodestring1": _counted(1, _utf8),
    "unicodestring4": _counted(4, _utf8),
    "unicodestring8": _counted(8, _utf8),
    "unicodestringnl": _line(lambda line: line.decode("raw-unicode-escape"), _ANY),
    "stringnl": _line(_quoted, _QUOTE),
    "stringnl_noescape": _line(_latin1, _ID),  # of text ids, torch takes numbers only
    "stringnl_noescape_pair": _pair,
    "decimalnl_short": _line(_number, _INTEGER),
    "decimalnl_long": _line(_number, _NUMBER),
    "floatnl": _line(_float, _NUMBER),
}
_TABLE = {
    ord(opcode.code): (opcode.name, _FORMS[opcode.arg.name] if opcode.arg else None) for opcode in pickletools.opcodes
} | {ord(code): (name, _line(_index, _NUMBER)) for code, name in (("g", "GET"), ("p", "PUT"))}
CODES = frozenset(bytes([code]) for code in _TABLE)
"""The bytes that an instruction can begin with."""
