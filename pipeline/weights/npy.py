"""Arrays in numpy's own format: which of them are numbers, and where the others have their pickles (numpy.lib.format)."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError
from pipeline.weights.archive import BrokenArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.weights.files import Bytes

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 1 << 15
"""No header is longer, with what comes before it."""

_MAX_HEADER_BYTES = 10_000  # numpy's own limit
_MAX_ARRAYS = 10_000


def is_plain(head: bytes, size: int) -> bool:
    """Tell whether a file of `size` bytes that begins with `head` is one array of numbers or texts and nothing else."""
    try:
        end, has_objects = _array(head, 0)
    except (BrokenArchiveError, UnsafeError):
        return False
    return not has_objects and end == size


def walk(data: Bytes, name: str, judge: Callable[[int], int]) -> int:
    """Go through the arrays that numpy.save wrote one behind the other; return where they end.

    `judge` is given where the pickle of an array of objects begins, and returns where it ends. Raises BrokenArchiveError
    for a file that is cut off or damaged.
    """
    position = 0
    for _ in range(_MAX_ARRAYS):
        end, has_objects = _array(data, position)
        position = judge(end) if has_objects else end
        if position > len(data):
            raise BrokenArchiveError(f"its data is cut off: {len(data):,} of {position:,} bytes are there")
        if data[position : position + len(MAGIC)] != MAGIC:
            return position
    raise UnsafeError(f"{name} holds more than {_MAX_ARRAYS:,} arrays in one file", hint="do not load it")


def _array(data: Bytes, position: int) -> tuple[int, bool]:
    """Return where an array's numbers end and False; or where its pickle begins and True."""
    import numpy.lib.format as npy

    stream = io.BytesIO(data[position : position + HEAD_BYTES])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            version = npy.read_magic(stream)
            # Version 3 is 2 with names in UTF-8.
            read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(stream, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        if "max_header_size" in str(error):
            raise UnsafeError("its header is longer than numpy reads", hint="do not load it") from error
        raise BrokenArchiveError(f"its header is none of numpy's: {str(error).splitlines()[0][:200]}") from error
    if min(shape, default=0) < 0:
        raise BrokenArchiveError("an array has a negative size")
    start = position + stream.tell()
    return (start, True) if dtype.hasobject else (start + dtype.itemsize * math.prod(shape), False)
