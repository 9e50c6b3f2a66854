"""What torch.save wrote, in a zip archive or as the pickles of before torch 1.6: torch/serialization.py."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import archive, danger, files, inert, nested, pickles, wrappers
from pipeline.weights.header import Header, TensorHeader
from pipeline.weights.kinds import Kind
from pipeline.weights.pickle_calls import MAX_TENSORS
from pipeline.weights.pickle_records import DTYPE_BYTES, MalformedError, Object, is_tensor, model_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.weights.files import Bytes
    from pipeline.weights.pickle_records import Storage, Tensor

_MAX_PICKLE_BYTES = 256 * 2**20
_MAX_EXCESS_BYTES = 64 * 2**20
"""How much larger than the file its tensors may become: expanded (stride 0) and sparse ones."""
# What torch.save writes into its archive, and names that are never read as anything else.
_RECORD = re.compile(
    r"data(\.pkl|/[^/]+)|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+", re.IGNORECASE
)


def read(parsed: pickles.Parsed, size_bytes: int, name: str, key: str | None, *, legacy: bool) -> Header:
    """Return what a file of torch.save declares, from its main pickle; `key` picks one of several state dicts.

    Raises UnsafeError for tensors that are not in the file's storages as they are declared, and for too many of them.
    """
    require_sound(parsed, name)
    wrapped = wrappers.unwrap(parsed.value, is_tensor, key)
    kind = _kind_of(parsed.value, wrapped, legacy=legacy)
    if kind is Kind.PICKLED_MODEL:
        wrapped = wrappers.Unwrapped()
    if len(wrapped.tensors) > MAX_TENSORS:
        raise UnsafeError(
            f"{name} declares {len(wrapped.tensors):,} tensors, more than {MAX_TENSORS:,}", hint=files.ALTERED
        )
    return Header(
        kind,
        size_bytes,
        tensors=tensor_headers(wrapped.tensors),
        wrapped=wrapped,
        model_class=model_class(parsed.value) if kind is Kind.PICKLED_MODEL else None,
        needs=tuple(parsed.foreign),
        has_numpy=parsed.declared.has_numpy,
        facts={
            "format": "legacy torch.save" if legacy else "torch.save (zip)",
            "pickle protocol": parsed.protocol,
            "holds": parsed.value.maker if isinstance(parsed.value, Object) else type(parsed.value).__name__,
        },
        record=parsed.value,
        places=parsed.declared.places,
    )


def _kind_of(value: Any, found: wrappers.Unwrapped, *, legacy: bool) -> Kind:
    """Say what a file is from the value of its main pickle, and the state dicts found there."""
    if not found.tensors and not found.choices:
        return Kind.PICKLED_MODEL if model_class(value) is not None else Kind.TORCH_OBJECT
    if not found.tensors:
        return Kind.SEVERAL
    if found.path:
        return Kind.WRAPPED
    return Kind.STATE_DICT_LEGACY if legacy else Kind.STATE_DICT


def entries_of(data: Bytes, name: str) -> tuple[archive.Entry, ...]:
    """Return the entries of an archive of torch.save; raises UnsafeError where readers could take it differently."""
    entries = archive.directory(data, name)
    archive.require_one_reading(data, entries, name, stored=True)
    roots = {entry.name.partition("/")[0] for entry in entries}
    if len(roots) != 1:
        raise UnsafeError(f"{name} holds several archives in one: {', '.join(sorted(roots))[:200]}", hint=files.ALTERED)
    return entries


def has_other_entries(entries: Sequence[archive.Entry]) -> bool:
    """Tell whether an archive holds what torch.save does not write, so that something else may read it."""
    return any(not _RECORD.fullmatch(entry.name.partition("/")[2]) for entry in entries)


def parse_zip(data: Bytes, entries: Sequence[archive.Entry], name: str, walk: nested.Walk) -> pickles.Parsed:
    """Return the records of the main pickle in an archive, of which every storage is there."""
    entry = next(each for each in entries if each.name.partition("/")[2].casefold() == "data.pkl")
    parsed = pickles.parse(archive.content(data, entry, _MAX_PICKLE_BYTES), 0, walk.instructions)
    _require_data(parsed, name, walk)
    hidden = entry.size - parsed.end
    if hidden:
        raise UnsafeError(f"{name} hides {hidden:,} bytes behind its pickle", hint=files.ALTERED)
    records = {entry.name.partition("/")[2]: entry for entry in entries}
    for storage in parsed.declared.storages.values():
        record = records.get(f"data/{storage.key}")
        if record is None:
            raise WeightsError(f"{name} lacks the data of storage {storage.key!r:.40}", hint=files.DAMAGED)
        if record.size < storage.nbytes:
            raise UnsafeError(f"{name}: {_stored(storage, record.size)}", hint=files.ALTERED)
        parsed.declared.places[storage.key] = archive.start_of(data, record)
    return parsed


def parse_legacy(data: Bytes, name: str, walk: nested.Walk) -> pickles.Parsed:
    """Return the records of the main pickle of several, of which every storage follows."""
    end = 0
    for _ in range(3):  # magic number, protocol version, system info
        end = nested.parse_data(data, name, walk, end).end
    parsed = pickles.parse(data, end, walk.instructions)
    _require_data(parsed, name, walk)
    keys = nested.parse_data(data, name, walk, parsed.end)
    if not isinstance(keys.value, list) or len(set(map(str, keys.value))) != len(keys.value):
        raise MalformedError("it does not list its storages")
    storages, position = parsed.declared.storages, keys.end
    for key in keys.value:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise MalformedError("it stores data of no tensor")
        if position + 8 > len(data):
            raise MalformedError("its data is cut off")
        held = int.from_bytes(data[position : position + 8], "little") * DTYPE_BYTES[storage.dtype]
        if held != storage.nbytes:
            raise UnsafeError(f"{name}: {_stored(storage, held)}", hint=files.ALTERED)
        parsed.declared.places[key] = position + 8
        position += 8 + held
    if position > len(data) or len(keys.value) != len(storages):
        raise MalformedError(f"its data is cut off: {len(data):,} of {position:,} bytes are there")
    if position < len(data):
        raise UnsafeError(f"{name} hides {len(data) - position:,} bytes behind its data", hint=files.ALTERED)
    return parsed


def _require_data(parsed: pickles.Parsed, name: str, walk: nested.Walk) -> None:
    """Refuse what is not data; beside the tensors of a checkpoint, objects that nobody makes may stand."""
    if walk.program or not parsed.declared.tensors or _is_model(parsed.value):
        danger.require_data(parsed, name)
    else:
        inert.require_inert(parsed, name)


def _is_model(value: Any) -> bool:
    """Tell whether a file holds a pickled model and no state dict beside it, as a loss may stand beside one."""
    if model_class(value) is None:
        return False
    found = wrappers.unwrap(value, is_tensor)
    return not found.tensors and not found.choices


def _stored(storage: Storage, held: int) -> str:
    return f"storage {storage.key!r:.40} declares {storage.nbytes:,} bytes and holds {held:,}"


def require_sound(parsed: pickles.Parsed, name: str) -> None:
    """Raise UnsafeError for tensors that reach outside their storage, or that would be far larger than the file."""
    excess = 0
    for tensor in parsed.declared.tensors:
        shape, element_bytes = files.in_brackets(tensor.shape), DTYPE_BYTES[tensor.dtype]
        if math.prod(size for size in tensor.shape if size) * element_bytes >= 2**63:
            raise UnsafeError(f"{name} declares a tensor of {shape}: more than memory can address", hint=files.ALTERED)
        storage = tensor.storage
        if storage is not None and tensor.elements:
            steps = zip(tensor.shape, tensor.stride, strict=True)
            last = tensor.offset + sum((size - 1) * step for size, step in steps)
            if (last + 1) * element_bytes > storage.nbytes:
                raise UnsafeError(
                    f"{name} declares a tensor of {shape} that ends outside its storage of {storage.nbytes:,} bytes",
                    hint=files.ALTERED,
                )
        held = storage.nbytes if storage else sum(part.nbytes for part in tensor.parts)
        if storage is not None or tensor.parts:
            excess += max(0, tensor.nbytes - held)
    if excess > _MAX_EXCESS_BYTES:
        raise UnsafeError(
            f"{name} declares tensors that unfold to {excess:,} bytes more than it holds",
            hint="expanded and sparse tensors may add at most 64 MiB: save them with .clone() or .to_dense()",
        )


def tensor_headers(records: Mapping[str, Tensor]) -> tuple[TensorHeader, ...]:
    """Return what is declared of the tensors of a state dict."""
    return tuple(_tensor_header(name, record) for name, record in records.items())


def _tensor_header(name: str, record: Tensor) -> TensorHeader:
    memory = f"{record.storage.key}+{record.offset}" if record.storage and record.elements else None
    has_data = record.storage is not None or bool(record.parts)
    return TensorHeader(name, record.dtype, record.shape, record.elements, record.nbytes, memory, has_data)
