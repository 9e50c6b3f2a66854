"""What an ONNX file declares, without onnx: field numbers of onnx/onnx.proto."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.weights.protobuf import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    from pipeline.weights.protobuf import Field

    Tensor = tuple[str, str, tuple[int, ...], int, int]
    """Name, torch's name of the dtype, shape, number of elements and of bytes."""

# TensorProto.DataType → (torch's name, bits)
_DTYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64),
    14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8), 19: ("float8_e5m2", 8), 20: ("float8_e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
}  # fmt: skip
_MODEL_IR, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSETS = 1, 2, 7, 8
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_MAX_TEXT = 200


def read(data: mmap) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the initializers of the ModelProto in `data`, and its format and interface as JSON values.

    Raises MalformedFieldError for what is none.
    """
    reader = Reader(data)
    top = list(reader.fields(0, len(data)))
    graph = [field for outer in top if outer.number == _MODEL_GRAPH for field in reader.fields(outer.start, outer.stop)]
    tensors = [_tensor(reader, field) for field in graph if field.number == _GRAPH_INITIALIZER]
    stored = {tensor[0] for tensor in tensors}
    facts = {
        "format": f"ONNX IR {next((field.value for field in top if field.number == _MODEL_IR), 0)}",
        "producer": next((_text(reader, field) for field in top if field.number == _MODEL_PRODUCER), ""),
        "opsets": dict(_opset(reader, field) for field in top if field.number == _MODEL_OPSETS),
        "nodes": sum(field.number == _GRAPH_NODE for field in graph),
        # Files before IR 4 list their weights among the inputs too.
        "inputs": [name for name in _names(reader, graph, _GRAPH_INPUT) if name not in stored],
        "outputs": list(_names(reader, graph, _GRAPH_OUTPUT)),
    }
    return tensors, facts


def _names(reader: Reader, graph: list[Field], number: int) -> Iterator[str]:
    for value in (field for field in graph if field.number == number):
        yield next((_text(reader, field) for field in reader.fields(value.start, value.stop) if field.number == 1), "")


def _opset(reader: Reader, operator_set: Field) -> tuple[str, int]:
    parts = {field.number: field for field in reader.fields(operator_set.start, operator_set.stop)}
    domain = _text(reader, parts[1]) if 1 in parts else ""
    return domain or "ai.onnx", parts[2].value if 2 in parts else 0


def _tensor(reader: Reader, tensor: Field) -> Tensor:
    name, code = "", 0
    shape: list[int] = []
    for field in reader.fields(tensor.start, tensor.stop):
        if field.number == 1:
            shape += reader.integers(field)
        elif field.number == 2:
            code = field.value
        elif field.number == 8:
            name = _text(reader, field)
    dtype, bits = _DTYPES.get(code, (f"type {code}", 0))
    elements = math.prod(shape)
    return name, dtype, tuple(shape), elements, elements * bits // 8


def _text(reader: Reader, field: Field) -> str:
    return reader.data[field.start : min(field.stop, field.start + _MAX_TEXT)].decode(errors="replace")
