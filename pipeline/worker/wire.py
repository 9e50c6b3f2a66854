"""Messages between a run and its workers: a JSON document and the arrays it mentions.

Format: 8 bytes little-endian length of the JSON header, the header, then the raw bytes of each array in order.
In the document an array stands as `{"$array": index}`, and a path as text; the header lists dtype, shape and bytes of
each. Nothing is ever
unpickled, because a worker has opened files that are not trusted.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from pipeline.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.interface import Array

HEADER_LIMIT_BYTES = 64 << 20
ARRAYS_LIMIT_BYTES = 16 << 30
_LENGTH_BYTES = 8


def send(channel: Writable, document: object) -> None:
    """Send one message.

    Raises:
        OSError: the other side is gone.
    """
    for part in _encoded(document):
        channel.sendall(part)


def dump(file: BinaryIO, document: object) -> None:
    """Write one message to a file."""
    file.writelines(_encoded(document))


def load(file: BinaryIO) -> object:
    """Read one message from a file.

    Raises:
        WorkerError: the bytes are not a message, or end too early.
    """

    def read(count: int) -> bytearray:
        buffer = bytearray(count)
        if file.readinto(buffer) != count:  # type: ignore[attr-defined]  # every buffered reader has it
            raise WorkerError("a message in a file ends too early")
        return buffer

    return receive(read)


def receive(read: Callable[[int], bytearray]) -> object:
    """Read one message through `read(n)`, which returns exactly n bytes.

    Raises:
        WorkerError: the bytes are not a message.
    """
    length = int.from_bytes(read(_LENGTH_BYTES), "little")
    if length > HEADER_LIMIT_BYTES:
        raise WorkerError(
            f"a process of weighbridge announced a header of {length:,} bytes; the limit is {HEADER_LIMIT_BYTES:,}"
        )
    try:
        header = json.loads(bytes(read(length)))
        described = [(str(dtype), tuple(map(int, shape)), int(count)) for dtype, shape, count in header["arrays"]]
        body = header["body"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WorkerError(f"a process of weighbridge answered something that is not a message: {error}") from None
    if any(count < 0 for _, _, count in described):
        raise WorkerError("a process of weighbridge announced an array of fewer than 0 bytes")
    if sum(count for _, _, count in described) > ARRAYS_LIMIT_BYTES:
        raise WorkerError(f"a process of weighbridge announced arrays of more than {ARRAYS_LIMIT_BYTES:,} bytes")
    arrays = [_array(dtype, shape, read(count)) for dtype, shape, count in described]
    try:
        return _insert(body, arrays)
    except (IndexError, TypeError, RecursionError) as error:
        raise WorkerError(f"a process of weighbridge answered something that is not a message: {error}") from None


class Writable(Protocol):
    """What can be written to: a socket, or one with a deadline."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Write all of `data`."""


class Readable(Protocol):
    """What can be read from: a socket, or one with a deadline."""

    def recv_into(self, buffer: memoryview, nbytes: int, /) -> int:
        """Read up to `nbytes` into `buffer` and return how many; 0 when the other side is gone."""


def read_from(channel: Readable) -> Callable[[int], bytearray]:
    """Return a function that reads exactly n bytes from a channel.

    Raises:
        EOFError: the other side closed it.
    """

    def read(count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            received = channel.recv_into(view, min(len(view), 1 << 20))
            if not received:
                raise EOFError
            view = view[received:]
        return buffer

    return read


def _encoded(document: object) -> Iterator[bytes | memoryview]:
    arrays: list[Array] = []
    body = _extract(document, arrays)
    described = [[array.dtype.name, list(array.shape), array.nbytes] for array in arrays]
    header = json.dumps({"body": body, "arrays": described}, separators=(",", ":")).encode()
    yield len(header).to_bytes(_LENGTH_BYTES, "little") + header
    for array in arrays:
        if array.nbytes:
            yield _bytes_of(array)


def _extract(value: object, arrays: list[Array]) -> object:
    """Replace each array in a document by its index."""
    import numpy as np

    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value).reshape(value.shape))
        return {"$array": len(arrays) - 1}
    if isinstance(value, dict):
        return {str(key): _extract(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_extract(item, arrays) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _insert(value: object, arrays: list[Array]) -> object:
    """Put the arrays back where their indices stand."""
    if isinstance(value, dict):
        if set(value) == {"$array"}:
            return arrays[value["$array"]]
        return {key: _insert(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_insert(item, arrays) for item in value]
    return value


def _bytes_of(array: Array) -> memoryview:
    import numpy as np

    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # arrays are buffers since PEP 688


def _array(dtype: str, shape: tuple[int, ...], raw: bytearray) -> Array:
    import numpy as np

    try:
        if dtype == "bfloat16" or dtype.startswith("float8"):
            import ml_dtypes

            return np.frombuffer(raw, dtype=getattr(ml_dtypes, dtype)).reshape(shape)
        return np.frombuffer(raw, dtype=dtype).reshape(shape)
    except (TypeError, ValueError, AttributeError) as error:
        raise WorkerError(
            f"a process of weighbridge answered an array that is none: {dtype} {list(shape)}: {error}"
        ) from None
