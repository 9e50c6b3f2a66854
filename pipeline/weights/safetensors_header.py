"""What a safetensors file declares: "Format" of the safetensors README."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import files
from pipeline.weights.header import Header, TensorHeader
from pipeline.weights.kinds import Kind
from pipeline.weights.pickle_calls import MAX_TENSORS
from pipeline.weights.pickle_records import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.weights.files import Bytes

_MAX_HEADER_BYTES = 64 * 2**20
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""safetensors' name of a dtype → torch's."""


def read(data: Bytes, name: str) -> Header:
    """Return what a safetensors file called `name` declares.

    Raises WeightsError for one that is cut off or damaged, UnsafeError for one that no saving function writes.
    """
    size = int.from_bytes(data[:8], "little")
    if size > _MAX_HEADER_BYTES:
        raise UnsafeError(
            f"{name} declares a header of {size:,} bytes, more than {_MAX_HEADER_BYTES:,}", hint=files.ALTERED
        )
    if 8 + size > len(data):
        raise WeightsError(
            f"{name} is truncated: its header alone needs {8 + size:,} of {len(data):,} bytes", hint=files.DAMAGED
        )
    text = data[8 : 8 + size]
    # Counted before parsing: each tensor is one JSON object.
    if text.count(b"{") > MAX_TENSORS + 2:
        raise UnsafeError(f"{name} declares more than {MAX_TENSORS:,} tensors", hint=files.ALTERED)
    table = _json_table(text, name)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{name}: its __metadata__ is not a table of texts", hint=files.DAMAGED)
    spans = sorted((_span(key, entry, name) for key, entry in table.items()), key=lambda span: span[:2])
    _require_contiguous(spans, len(data) - 8 - size, name)
    tensors = {span[2].name: span[2] for span in spans}
    return Header(
        Kind.SAFETENSORS,
        len(data),
        tensors=tuple(tensors[key] for key in table),
        facts={
            "format": "safetensors",
            "header bytes": size,
            **{f"metadata {k}"[:80]: v[:200] for k, v in metadata.items()},
        },
        record=metadata,
    )


def _json_table(text: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise UnsafeError(
                f"{name}: a name stands twice in its header: readers differ in what they take", hint=files.ALTERED
            )
        return made

    try:
        table = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{name}: its header is not JSON: {error}"[:300], hint=files.DAMAGED) from error
    if not isinstance(table, dict):
        raise WeightsError(f"{name}: its header is not a table", hint=files.DAMAGED)
    return table


def _span(key: str, entry: Any, name: str) -> tuple[int, int, TensorHeader]:
    """Return (start, end, tensor) of one entry of a safetensors header."""
    is_entry = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    dtype = _DTYPES.get(str(entry["dtype"])) if is_entry else None
    if dtype is None or not _are_sizes(entry["shape"], 64) or not _are_sizes(entry["data_offsets"], 2):
        raise WeightsError(f"{name}: the header's entry {key!r:.80} is not a tensor's", hint=files.DAMAGED)
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    elements = math.prod(shape)
    needed = elements * DTYPE_BYTES[dtype]
    if needed != end - start or math.prod(size for size in shape if size) >= 2**60:
        raise UnsafeError(
            f"{name}: {key!r:.80} of {files.in_brackets(shape)} {dtype} has {end - start:,} bytes of data",
            hint=files.ALTERED,
        )
    return start, end, TensorHeader(key, dtype, shape, elements, needed)


def _are_sizes(value: Any, most: int) -> bool:
    if not isinstance(value, list) or len(value) > most or (most == 2 and len(value) != 2):
        return False
    return all(type(item) is int and 0 <= item < 2**63 for item in value)


def _require_contiguous(spans: Sequence[tuple[int, int, TensorHeader]], held: int, name: str) -> None:
    position = 0
    for start, end, tensor in spans:
        if start != position:
            what = (
                "shares bytes with another tensor" if start < position else f"leaves {start - position:,} bytes unused"
            )
            raise UnsafeError(f"{name}: {tensor.name!r:.80} {what}", hint=files.ALTERED)
        position = end
    if position > held:
        raise WeightsError(f"{name} is truncated: {held:,} of {position:,} bytes of data are there", hint=files.DAMAGED)
    if position < held:
        raise UnsafeError(f"{name} hides {held - position:,} bytes behind its tensors", hint=files.ALTERED)
