"""Protocol-buffer fields without a schema: enough to recognise an ONNX file and to list what it declares.

Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.weights.files import Bytes

MAX_FIELDS = 500_000


class MalformedFieldError(ValueError):
    """The bytes are no protobuf message, or one that is cut off."""


class Field(NamedTuple):
    """A field of a message: its number and wire type, and its integer value or the range of its bytes."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


class Reader:
    """Reads the fields of messages in some bytes, up to a number of them in all: more would take seconds."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self._left = MAX_FIELDS

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """Yield the fields of the message in data[start:stop], skipping over their contents."""
        data, position = self.data, start
        while position < stop:
            self._left -= 1
            if self._left < 0:
                raise MalformedFieldError(f"it holds more than {MAX_FIELDS:,} fields")
            tag, position = _varint(data, position, stop)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise MalformedFieldError("a field has number 0")
            value, begin = 0, position
            if wire == 0:
                value, position = _varint(data, position, stop)
            elif wire == 2:
                length, begin = _varint(data, position, stop)
                position = begin + length
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            else:
                raise MalformedFieldError(f"a field has wire type {wire}")
            if position > stop:
                raise MalformedFieldError("a field ends outside its message")
            yield Field(number, wire, value, begin, position)

    def integers(self, field: Field) -> Iterator[int]:
        """Yield the integers of a repeated field, packed or not."""
        if field.wire == 0:
            yield field.value
            return
        position = field.start
        while position < field.stop:
            self._left -= 1
            if self._left < 0:
                raise MalformedFieldError(f"it holds more than {MAX_FIELDS:,} fields")
            value, position = _varint(self.data, position, field.stop)
            yield value


def _varint(data: Bytes, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= stop:
            raise MalformedFieldError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedFieldError("a number is longer than 10 bytes")
