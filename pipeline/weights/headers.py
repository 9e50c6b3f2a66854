"""What a weights file declares, checked from its headers before any loader sees it.

Formats: torch/serialization.py (zip and legacy), and "Format" of the safetensors README.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError, suggestion
from pipeline.weights import archive, danger, files, kinds, nested, npy, pickles, wrappers
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.weights.files import Bytes

MAX_HEADER_BYTES = 64 * 2**20
MAX_EXCESS_BYTES = 64 * 2**20
"""How much larger than the file its tensors may become: expanded (stride 0) and sparse ones."""

SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""safetensors' name of a dtype → torch's."""

_PROGRAMS = {Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM}
_CONTAINERS = {*_PROGRAMS, Kind.NUMPY, Kind.ZIP, Kind.TAR, Kind.GZIP, Kind.HDF5}
# What torch.save writes into its archive, and names that are never read as anything else.
_RECORD = re.compile(
    r"data(\.pkl|/[^/]+)|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+", re.IGNORECASE
)
_PROGRAM_CLASS = re.compile(r"__torch__(\.\w+)+")
_SHARD_NAME = re.compile(r"[^/\\\x00-\x1f]+")
_DAMAGED = "it was cut off or altered on its way: copy or download it again"
_ALTERED = "no saving function writes such a file: it was altered, so do not load it; get it again from its maker"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as declared; two with the same `memory` are one tensor under two names."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int
    memory: str | None = None
    has_data: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """What a file declares: its kind, tensors and what is around them. `facts` are JSON values, by format.

    `model_class` is the class a whole pickled model needs, `needs` all classes outside the allow-list. `record` is what
    stands around the tensors: the whole value that torch.save wrote, as records, or the metadata of a safetensors file.
    """

    kind: Kind
    size_bytes: int
    tensors: tuple[TensorHeader, ...] = ()
    wrapped: wrappers.Unwrapped | None = None
    model_class: str | None = None
    needs: tuple[str, ...] = ()
    has_numpy: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: Any = None


def read(path: Path, *, key: str | None = None, max_bytes: int | None = None) -> Header:
    """Return what `path` declares, whatever kind of file it is; no tensor data is read and nothing in it is run.

    `key` picks one of several state dicts. Raises UnsafeError for a file made to run code or to exhaust memory, also above
    `max_bytes` (of the file or of its tensors), and WeightsError for one that is missing, cut off or malformed, or that has
    no state dict `key`.
    """
    header = _header(path, max_bytes, key, may_be_index=True)
    if key is not None and (header.wrapped is None or not header.wrapped.tensors):
        raise _no_such_key(path.name, key, header)
    return header


def require_harmless(path: Path) -> None:
    """Raise UnsafeError for a file that is hostile by its content, whatever its name; broken ones and all others pass."""
    with suppress(WeightsError):
        read(path)


def _no_such_key(name: str, key: str, header: Header) -> WeightsError:
    """Say which keys there are in place of one that picks nothing, or not one thing alone."""
    known = [state.key for state in header.wrapped.choices] if header.wrapped else []
    if known.count(key) > 1:
        return WeightsError(
            f"{known.count(key)} state dicts of {name} are called {key!r:.80}", hint="save the one you mean by itself"
        )
    if header.wrapped is None or not known:
        hint = "take model.key, or what stands behind the #, away"
        return WeightsError(
            f"{name} is {kinds.with_article(header.kind)}: there is no {key!r:.80} to pick in it", hint=hint
        )
    near = suggestion(key, map(wrappers.printable, known))
    return WeightsError(
        f"{name} has no state dict {key!r:.80}{near}", hint=f"it holds:\n{wrappers.listed(header.wrapped.choices)}"
    )


def _header(path: Path, max_bytes: int | None, key: str | None = None, *, may_be_index: bool) -> Header:
    files.require_file(path)
    size = path.stat().st_size
    if size == 0:
        return Header(Kind.EMPTY, 0)
    _require_below(size, max_bytes, f"{path.name} is {size:,} bytes")
    with files.mapped(path) as data:
        kind = kinds.container(data)
        if kind is Kind.SHARDED and may_be_index:
            header = _sharded(kinds.shards(data) or {}, path, max_bytes)
        else:
            header = _described(data, kind, path.name, nested.Walk(), key)
    total = sum(tensor.nbytes for tensor in header.tensors)
    _require_below(total, max_bytes, f"the tensors of {path.name} need {total:,} bytes")
    return header


def _require_below(size: int, max_bytes: int | None, what: str) -> None:
    if max_bytes is not None and size > max_bytes:
        raise UnsafeError(f"{what}, more than the limit of {max_bytes:,}", hint="raise --max-bytes if you trust it")


def _described(data: Bytes, kind: Kind, name: str, walk: nested.Walk, key: str | None = None) -> Header:
    """Return the header of a file, or of what lies in one, with every fault as an error of ours."""
    try:
        return _single(data, kind, name, walk, key)
    except pickles.CraftedError as error:
        danger.require_harmless(error.foreign, name)
        raise UnsafeError(f"{name} is a pickle that no saving function writes: {error}", hint=_ALTERED) from error
    except pickles.MalformedError as error:
        danger.require_harmless(error.foreign, name)
        raise WeightsError(f"{name} is truncated or damaged: {error}", hint=_DAMAGED) from error
    except archive.BrokenArchiveError as error:
        raise WeightsError(f"{name} is truncated or damaged: {error}", hint=_DAMAGED) from error
    except pickles.TooLargeError as error:
        raise UnsafeError(f"{name}: {error}", hint=nested.HINT if walk.depth else _ALTERED) from error


def _single(data: Bytes, kind: Kind, name: str, walk: nested.Walk, key: str | None = None) -> Header:
    if kind in kinds.TORCH_KINDS:
        return _torch(data, kind, name, walk, key)
    if kind is Kind.PICKLE:
        return _plain_pickle(data, name, walk)
    if kind is Kind.SAFETENSORS:
        return _safetensors(data, name)
    if kind is Kind.SEALED:
        raise UnsafeError(f"{name} is an archive that nobody here looks into ({kinds.sealed(data)})", hint=nested.HINT)
    if kind in _CONTAINERS:
        _require_harmless_inside(data, kind, name, walk)
    if kind is Kind.TRUNCATED:
        _require_none(archive.left(data), data, name)
    return Header(kind, len(data))


def _require_harmless_inside(data: Bytes, kind: Kind, name: str, walk: nested.Walk) -> None:
    """Judge everything in an archive by the rules for a file of its own."""
    if data[: len(npy.MAGIC)] == npy.MAGIC:
        end = npy.walk(data, name, lambda start: _data_pickle(data, name, walk, start).end)
        if end < len(data):
            _require_nothing_hidden(files.Part(data, end, len(data)), name, walk)
        return
    if kind is Kind.HDF5 and data[:2] != b"PK":
        _require_none(nested.strewn(data), data, name)
        return
    damaged: WeightsError | None = None
    with walk.inside(name, program=kind in _PROGRAMS):
        for place, inner in nested.members(data, kind, name, walk):
            try:
                _require_harmless_member(inner, place, walk)
            except WeightsError as error:  # what comes behind it may be hostile
                damaged = damaged or error
    if damaged is not None:
        raise damaged


def _require_harmless_member(data: Bytes, name: str, walk: nested.Walk) -> None:
    kind = kinds.packed(data, walk.instructions)
    if kind is not None:
        _described(data, kind, name, walk)
    if kind is Kind.TRUNCATED:
        raise WeightsError(f"{name} is cut off", hint=_DAMAGED)


def _require_nothing_hidden(rest: files.Part, name: str, walk: nested.Walk) -> None:
    """Tell what is there to be found behind an array from what is merely too much."""
    if kinds.packed(rest, walk.instructions) is not None:
        raise UnsafeError(f"{name} hides {len(rest):,} bytes behind its array", hint=_ALTERED)
    raise archive.BrokenArchiveError(f"{len(rest):,} bytes follow its array")


def _require_none(starts: Iterable[int], data: Bytes, name: str) -> None:
    """Refuse bytes that no reader of archives gets at if a hostile pickle begins at one of `starts`."""
    budget = pickles.Budget(pickles.MAX_OPCODES + len(data) // 256)
    for start in starts:
        place = f"{name} (at byte {start:,})"
        try:
            parsed = pickles.parse(data, start, budget)
        except pickles.MalformedError as error:
            if danger.runs(error.foreign):
                danger.require_harmless(_beside_programs(error.foreign), place)
        else:
            if danger.runs(parsed.foreign):
                _require_harmless(parsed, place, program=True)


# torch.save, zip and legacy


def _torch(data: Bytes, container: Kind, name: str, walk: nested.Walk, key: str | None) -> Header:
    is_legacy = container is Kind.STATE_DICT_LEGACY
    parsed = _legacy(data, name, walk) if is_legacy else _zip(data, name, walk)
    require_sound(parsed, name)
    wrapped = wrappers.unwrap(parsed.value, kinds.is_tensor, key)
    kind = kinds.of_pickle(parsed.value, wrapped, legacy=is_legacy)
    if kind is Kind.PICKLED_MODEL:
        wrapped = None
    records = wrapped.tensors if wrapped else {}
    if len(records) > pickles.MAX_TENSORS:
        raise UnsafeError(f"{name} declares {len(records):,} tensors, more than {pickles.MAX_TENSORS:,}", hint=_ALTERED)
    return Header(
        kind,
        len(data),
        tensors=tensor_headers(records),
        wrapped=wrapped,
        model_class=kinds.model_class(parsed.value),
        needs=tuple(parsed.foreign),
        has_numpy=parsed.has_numpy,
        facts={
            "format": "legacy torch.save" if is_legacy else "torch.save (zip)",
            "pickle protocol": parsed.protocol,
            "holds": parsed.value.maker if isinstance(parsed.value, pickles.Object) else type(parsed.value).__name__,
        },
        record=parsed.value,
    )


def _zip(data: Bytes, name: str, walk: nested.Walk) -> pickles.Parsed:
    entries = archive.directory(data, name)
    archive.require_plain(data, entries, name)
    roots = {entry.name.partition("/")[0] for entry in entries}
    if len(roots) != 1:
        raise UnsafeError(f"{name} holds several archives in one: {', '.join(sorted(roots))[:200]}", hint=_ALTERED)
    if any(not _RECORD.fullmatch(entry.name.partition("/")[2]) for entry in entries):
        _require_harmless_inside(data, Kind.ZIP, name, walk)
    parsed = kinds.read_pickle(data, Kind.STATE_DICT, walk.instructions)
    _require_harmless(parsed, name)
    hidden = kinds.pickle_entry(entries).size - parsed.end
    if hidden:
        raise UnsafeError(f"{name} hides {hidden:,} bytes behind its pickle", hint=_ALTERED)
    sizes = {entry.name.partition("/")[2]: entry.size for entry in entries}
    for storage in parsed.storages.values():
        held = sizes.get(f"data/{storage.key}")
        if held is None:
            raise WeightsError(f"{name} lacks the data of storage {storage.key!r:.40}", hint=_DAMAGED)
        if held < storage.nbytes:
            raise UnsafeError(f"{name}: {_stored(storage, held)}", hint=_ALTERED)
    return parsed


def _legacy(data: Bytes, name: str, walk: nested.Walk) -> pickles.Parsed:
    end = 0
    for _ in range(3):  # magic number, protocol version, system info
        end = _data_pickle(data, name, walk, end).end
    parsed = _data_pickle(data, name, walk, end)
    keys = _data_pickle(data, name, walk, parsed.end)
    if not isinstance(keys.value, list) or len(set(map(str, keys.value))) != len(keys.value):
        raise pickles.MalformedError("it does not list its storages")
    position = keys.end
    for key in keys.value:
        storage = parsed.storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise pickles.MalformedError("it stores data of no tensor")
        if position + 8 > len(data):
            raise pickles.MalformedError("its data is cut off")
        held = int.from_bytes(data[position : position + 8], "little") * pickles.DTYPE_BYTES[storage.dtype]
        if held != storage.nbytes:
            raise UnsafeError(f"{name}: {_stored(storage, held)}", hint=_ALTERED)
        position += 8 + held
    if position > len(data) or len(keys.value) != len(parsed.storages):
        raise pickles.MalformedError(f"its data is cut off: {len(data):,} of {position:,} bytes are there")
    if position < len(data):
        raise UnsafeError(f"{name} hides {len(data) - position:,} bytes behind its data", hint=_ALTERED)
    return parsed


def _require_harmless(parsed: pickles.Parsed, name: str, *, program: bool = False) -> None:
    """Refuse what is not data but the classes of a pickled model, and of a TorchScript program (`program`)."""
    is_model = kinds.model_class(parsed.value) is not None
    foreign = _beside_programs(parsed.foreign) if program else parsed.foreign
    danger.require_harmless(foreign, name, parsed.own if is_model else ())


def _beside_programs(foreign: Mapping[str, str]) -> dict[str, str]:
    """Leave out the classes that a TorchScript program defines, and Python has not."""
    return {dotted: how for dotted, how in foreign.items() if how == "changes" or not _PROGRAM_CLASS.fullmatch(dotted)}


def _stored(storage: pickles.Storage, held: int) -> str:
    return f"storage {storage.key!r:.40} declares {storage.nbytes:,} bytes and holds {held:,}"


def require_sound(parsed: pickles.Parsed, name: str) -> None:
    """Raise UnsafeError for tensors that reach outside their storage, or that would be far larger than the file."""
    excess = 0
    for tensor in parsed.tensors:
        wanted = math.prod(size for size in tensor.shape if size) * pickles.DTYPE_BYTES[tensor.dtype]
        if wanted >= 2**63:
            raise UnsafeError(
                f"{name} declares a tensor of {_size(tensor.shape)}: more than memory can address", hint=_ALTERED
            )
        storage = tensor.storage
        if storage is not None:
            last = tensor.offset + sum(
                (size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)
            )
            if tensor.elements and (last + 1) * pickles.DTYPE_BYTES[tensor.dtype] > storage.nbytes:
                raise UnsafeError(
                    f"{name} declares a tensor of {_size(tensor.shape)} that ends outside its storage of "
                    f"{storage.nbytes:,} bytes",
                    hint=_ALTERED,
                )
        held = storage.nbytes if storage else sum(part.nbytes for part in tensor.parts)
        if storage is not None or tensor.parts:
            excess += max(0, tensor.nbytes - held)
    if excess > MAX_EXCESS_BYTES:
        raise UnsafeError(
            f"{name} declares tensors that unfold to {excess:,} bytes more than it holds",
            hint="expanded and sparse tensors may add at most 64 MiB: save them with .clone() or .to_dense()",
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', …' if len(shape) > 8 else ''}]"


def tensor_headers(records: Mapping[str, pickles.Tensor]) -> tuple[TensorHeader, ...]:
    """Return what is declared of the tensors of a state dict."""
    return tuple(_tensor_header(name, record) for name, record in records.items())


def _tensor_header(name: str, record: pickles.Tensor) -> TensorHeader:
    memory = f"{record.storage.key}+{record.offset}" if record.storage and record.elements else None
    has_data = record.storage is not None or bool(record.parts)
    return TensorHeader(name, record.dtype, record.shape, record.elements, record.nbytes, memory, has_data)


def _plain_pickle(data: Bytes, name: str, walk: nested.Walk) -> Header:
    """Describe a pickle that torch.save did not write; anything that it would call is refused."""
    parsed = _data_pickle(data, name, walk)
    if parsed.end != len(data):
        raise UnsafeError(f"{name} hides {len(data) - parsed.end:,} bytes behind its pickle", hint=_ALTERED)
    return Header(Kind.PICKLE, len(data), needs=tuple(parsed.foreign), facts={"pickle protocol": parsed.protocol})


def _data_pickle(data: Bytes, name: str, walk: nested.Walk, start: int = 0) -> pickles.Parsed:
    parsed = pickles.parse(data, start, walk.instructions)
    _require_harmless(parsed, name, program=walk.program)
    return parsed


# safetensors


def _safetensors(data: Bytes, name: str) -> Header:
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise UnsafeError(f"{name} declares a header of {size:,} bytes, more than {MAX_HEADER_BYTES:,}", hint=_ALTERED)
    if 8 + size > len(data):
        raise WeightsError(
            f"{name} is truncated: its header alone needs {8 + size:,} of {len(data):,} bytes", hint=_DAMAGED
        )
    text = data[8 : 8 + size]
    # Counted before parsing: each tensor is one JSON object.
    if text.count(b"{") > pickles.MAX_TENSORS + 2:
        raise UnsafeError(f"{name} declares more than {pickles.MAX_TENSORS:,} tensors", hint=_ALTERED)
    table = _json_table(text, name)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{name}: its __metadata__ is not a table of texts", hint=_DAMAGED)
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
                f"{name}: a name stands twice in its header: readers differ in what they take", hint=_ALTERED
            )
        return made

    try:
        table = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{name}: its header is not JSON: {error}"[:300], hint=_DAMAGED) from error
    if not isinstance(table, dict):
        raise WeightsError(f"{name}: its header is not a table", hint=_DAMAGED)
    return table


def _span(key: str, entry: Any, name: str) -> tuple[int, int, TensorHeader]:
    """Return (start, end, tensor) of one entry of a safetensors header."""
    is_entry = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    dtype = SAFETENSORS_DTYPES.get(str(entry["dtype"])) if is_entry else None
    if dtype is None or not _are_sizes(entry["shape"], 64) or not _are_sizes(entry["data_offsets"], 2):
        raise WeightsError(f"{name}: the header's entry {key!r:.80} is not a tensor's", hint=_DAMAGED)
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    elements = math.prod(shape)
    needed = elements * pickles.DTYPE_BYTES[dtype]
    if needed != end - start or math.prod(size for size in shape if size) >= 2**60:
        raise UnsafeError(
            f"{name}: {key!r:.80} of {_size(shape)} {dtype} has {end - start:,} bytes of data", hint=_ALTERED
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
            raise UnsafeError(f"{name}: {tensor.name!r:.80} {what}", hint=_ALTERED)
        position = end
    if position > held:
        raise WeightsError(f"{name} is truncated: {held:,} of {position:,} bytes of data are there", hint=_DAMAGED)
    if position < held:
        raise UnsafeError(f"{name} hides {held - position:,} bytes behind its tensors", hint=_ALTERED)


# several files


def _sharded(shard_of: Mapping[str, str], path: Path, max_bytes: int | None) -> Header:
    """Read the headers of all shards beside the index; every tensor must be where the index says, and once."""
    names = sorted(set(shard_of.values()))
    for shard in names:
        if not _SHARD_NAME.fullmatch(shard) or shard in (".", ".."):
            raise UnsafeError(f"{path.name} names {shard!r:.120}, which is not a file beside it", hint=_ALTERED)
    missing = [shard for shard in names if not (path.parent / shard).is_file()]
    if missing:
        raise WeightsError(
            f"{len(missing)} of {len(names)} files that {path.name} names are missing: {', '.join(missing[:8])}",
            hint=f"put them into {path.parent}",
        )
    try:
        return _together(names, shard_of, path, max_bytes)
    except WeightsError:
        for shard in names:  # one of the others may be hostile
            with suppress(WeightsError):
                _header(path.parent / shard, max_bytes, may_be_index=False)
        raise


def _together(names: Sequence[str], shard_of: Mapping[str, str], path: Path, max_bytes: int | None) -> Header:
    tensors: dict[str, TensorHeader] = {}
    size = path.stat().st_size
    for shard in names:
        header = _header(path.parent / shard, max_bytes, may_be_index=False)
        if header.kind not in (Kind.SAFETENSORS, Kind.STATE_DICT, Kind.STATE_DICT_LEGACY):
            raise WeightsError(
                f"{shard}, named by {path.name}, is {kinds.with_article(header.kind)}", hint="name weights files only"
            )
        twice = next((tensor.name for tensor in header.tensors if tensor.name in tensors), None)
        if twice is not None:
            raise WeightsError(f"{twice!r:.80} is in {shard} and in another file of {path.name}", hint=_DAMAGED)
        tensors |= {tensor.name: tensor for tensor in header.tensors}
        size += header.size_bytes
    lacking = [key for key in shard_of if key not in tensors]
    if lacking:
        raise WeightsError(
            f"{path.name} lists {len(lacking)} tensors that its files lack, such as {lacking[0]!r:.80}", hint=_DAMAGED
        )
    return Header(Kind.SHARDED, size, tensors=tuple(tensors.values()), facts={"format": "sharded", "files": names})
