import json
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import WorkerError
from pipeline.worker import wire

DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
DOCUMENTS = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4).filter(lambda key: key != "$array"), inner, max_size=3)
    ),
    max_leaves=6,
)


def round_trip(document):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(ours, document))
        sender.start()
        received = wire.receive(wire.read_from(theirs))
        sender.join()
    return received


def equal(first, second):
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return set(first) == set(second) and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@given(DOCUMENTS)
def test_every_document_with_arrays_arrives_as_it_was_sent(document):
    assert equal(document, round_trip(document))


def test_bfloat16_keeps_its_type():
    import ml_dtypes

    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    received = round_trip({"x": array})["x"]
    assert received.dtype == ml_dtypes.bfloat16
    assert received.tobytes() == array.tobytes()


def read_bytes(data):
    view = memoryview(data)

    def read(count):
        nonlocal view
        if len(view) < count:
            raise EOFError
        taken, view = view[:count], view[count:]
        return bytearray(taken)

    return read


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"body": 1}',
        json.dumps({"body": 1, "arrays": [["float32", [3], 4]]}).encode(),
        json.dumps({"body": 1, "arrays": [["object", [1], 8]]}).encode(),
        json.dumps({"body": 1, "arrays": [["nonsense", [1], 4]]}).encode(),
        json.dumps({"body": 1, "arrays": [["float32", [1], 1 << 60]]}).encode(),
        json.dumps({"body": 1, "arrays": [["float32", [1], -4]]}).encode(),
        json.dumps({"body": {"$array": 0}, "arrays": []}).encode(),
        json.dumps({"body": [{"$array": "first"}], "arrays": [["float32", [1], 4]]}).encode(),
        b'{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b', "arrays": []}',
        b'{"body": ' + b"[" * 2_000 + b"]" * 2_000 + b', "arrays": []}',
    ],
)
def test_garbage_is_a_worker_error_and_nothing_else(header):
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    with pytest.raises(WorkerError):
        wire.receive(read_bytes(data))


def test_an_absurd_header_is_refused_before_memory_is_taken():
    with pytest.raises(WorkerError, match="limit"):
        wire.receive(read_bytes((1 << 62).to_bytes(8, "little")))
