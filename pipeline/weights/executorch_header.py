"""The header of an ExecuTorch program: where its plan and its data lie. What the plan does cannot be told from here.

Format: the root's offset and "ET12" as in any flatbuffer, then the extended header of executorch/schema/extended_header.h:
"eh00", its length, the plan's size, where the segments begin, their size; all little-endian.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights.files import ALTERED, COPY_AGAIN
from pipeline.weights.header import Header
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from pipeline.weights.files import Bytes

_IDENTIFIER = re.compile(rb"ET\d\d")
_MAGIC = b"eh00"
_START = 8
_SHORTEST, _LENGTH = 24, 32
_ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """What a program's header states, in bytes from the start of the file; `end` is where the file ends by it."""

    version: str
    root: int
    length: int
    plan_bytes: int
    segments: int
    segments_bytes: int

    @property
    def end(self) -> int:
        """Where the last of plan and segments ends."""
        return max(self.plan_bytes, self.segments + self.segments_bytes)


def is_program(data: Bytes) -> bool:
    """Tell an ExecuTorch program by its identifier and what follows it."""
    return _IDENTIFIER.fullmatch(data[4:8]) is not None and data[8:12] == _MAGIC


def is_cut_off(data: Bytes) -> bool:
    """Tell whether a program has less bytes than its header states."""
    return len(data) < _START + _LENGTH or _parsed(data).end > len(data)


def read(data: Bytes, name: str) -> ProgramHeader:
    """Return what the header of a program states.

    Raises WeightsError for a program that is cut off, and UnsafeError for one whose parts lie where no exporter puts them.
    """
    if not is_program(data):
        raise WeightsError(f"{name} is no ExecuTorch program: no ET12 and eh00 at byte 4", hint=COPY_AGAIN)
    if is_cut_off(data):
        raise WeightsError(f"{name} is cut off: {len(data):,} bytes are less than its header states", hint=COPY_AGAIN)
    found = _parsed(data)
    if problem := _problem(found, len(data)):
        raise UnsafeError(f"{name}: {problem}", hint=ALTERED)
    return found


def header(data: Bytes, name: str) -> Header:
    """Return the same as any file's header; raises as `read` does."""
    found = read(data, name)
    facts = {"schema": found.version, "plan bytes": found.plan_bytes, "data bytes": found.segments_bytes}
    return Header(Kind.EXECUTORCH, len(data), facts=facts)


def _parsed(data: Bytes) -> ProgramHeader:
    length, plan, base, size = (
        int.from_bytes(data[start:end], "little") for start, end in ((12, 16), (16, 24), (24, 32), (32, 40))
    )
    root = int.from_bytes(data[:4], "little")
    return ProgramHeader(data[4:8].decode(), root, length, plan, base, size if length > _SHORTEST else 0)


def _problem(found: ProgramHeader, size: int) -> str | None:
    if not _SHORTEST <= found.length <= _LENGTH:
        return f"a header of {found.length:,} bytes, which are {_SHORTEST} or {_LENGTH}"
    if not _START + found.length <= found.root <= found.plan_bytes - _ALIGNMENT or found.root % _ALIGNMENT:
        return f"its plan begins at byte {found.root:,}, outside its {found.plan_bytes:,} bytes"
    if found.segments and found.segments < found.plan_bytes:
        return f"its data begin at byte {found.segments:,}, inside its plan of {found.plan_bytes:,} bytes"
    if found.segments_bytes and not found.segments:
        return f"it states {found.segments_bytes:,} bytes of data, and not where they begin"
    if found.end < size and found.length > _SHORTEST:
        return f"it hides {size - found.end:,} bytes behind its data"
    return None
