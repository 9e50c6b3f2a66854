"""What a weights file declares, checked from its headers before any loader sees it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError, WeightsError, suggestion
from pipeline.weights import (
    archive,
    danger,
    executorch_header,
    files,
    identify,
    kinds,
    nested,
    npy,
    openvino,
    pickles,
    safetensors_header,
    torch_header,
    wrappers,
)
from pipeline.weights.header import Header, TensorHeader
from pipeline.weights.kinds import Kind
from pipeline.weights.pickle_records import CraftedError, MalformedError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.weights.files import Bytes

_CONTAINERS = {*kinds.PROGRAMS, Kind.NUMPY, Kind.ZIP, Kind.TAR, Kind.GZIP, Kind.HDF5}
_OF_NUMBERS = {Kind.SAFETENSORS: safetensors_header.read, Kind.EXECUTORCH: executorch_header.header}
_SHARD_NAME = re.compile(r"[^/\\\x00-\x1f]+")


def read(path: Path, *, key: str | None = None, max_bytes: int | None = None) -> Header:
    """Return what `path` declares, whatever kind of file it is; no tensor data is read and nothing in it is run.

    `key` picks one of several state dicts. Raises UnsafeError for a file made to run code or to exhaust memory, also above
    `max_bytes` (of the file or of its tensors), and WeightsError for one that is missing, cut off or malformed, or that has
    no state dict `key`.
    """
    header = _header(path, max_bytes, key, may_be_index=True)
    if key is not None and not header.wrapped.tensors:
        raise _no_such_key(path.name, key, header)
    return header


def require_harmless(path: Path) -> None:
    """Raise UnsafeError for a file that is hostile by its content, whatever its name; broken ones and all others pass."""
    with suppress(WeightsError):
        read(path)


def _no_such_key(name: str, key: str, header: Header) -> WeightsError:
    """Say which keys there are in place of one that picks nothing, or not one thing alone."""
    known = [state.key for state in header.wrapped.choices]
    if known.count(key) > 1:
        return WeightsError(
            f"{known.count(key)} state dicts of {name} are called {key!r:.80}", hint="save the one you mean by itself"
        )
    if not known:
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
    files.require_below(size, max_bytes, f"{path.name} is {size:,} bytes")
    with files.mapped(path) as data:
        kind = identify.container(data)
        if kind is Kind.SHARDED and may_be_index:
            header = _sharded(identify.shards(data) or {}, path, max_bytes)
        else:
            header = _of_bytes(data, kind, path.name, nested.Walk(), key)
    total = sum(tensor.nbytes for tensor in header.tensors)
    files.require_below(total, max_bytes, f"the tensors of {path.name} need {total:,} bytes")
    return header


def _of_bytes(data: Bytes, kind: Kind, name: str, walk: nested.Walk, key: str | None = None) -> Header:
    """Return the header of a file, or of what lies in one, with every fault as an error of ours."""
    try:
        if kind is Kind.OPENVINO:
            openvino.read(data, name)
        return _of_kind(data, kind, name, walk, key)
    except CraftedError as error:
        danger.require_harmless(error.foreign, name)
        raise UnsafeError(f"{name} is a pickle that no saving function writes: {error}", hint=files.ALTERED) from error
    except (MalformedError, archive.BrokenArchiveError) as error:
        danger.require_harmless(getattr(error, "foreign", {}), name)
        raise WeightsError(f"{name} is truncated or damaged: {error}", hint=files.DAMAGED) from error
    except TooLargeError as error:
        raise UnsafeError(f"{name}: {error}", hint=nested.HINT if walk.depth else files.ALTERED) from error


def _of_kind(data: Bytes, kind: Kind, name: str, walk: nested.Walk, key: str | None) -> Header:
    if kind in _OF_NUMBERS:
        return _OF_NUMBERS[kind](data, name)
    match kind:
        case Kind.STATE_DICT:
            entries = torch_header.entries_of(data, name)
            if torch_header.has_other_entries(entries):
                _require_harmless_inside(data, Kind.ZIP, name, walk)
            parsed = torch_header.parse_zip(data, entries, name, walk)
            return torch_header.read(parsed, len(data), name, key, legacy=False)
        case Kind.STATE_DICT_LEGACY:
            parsed = torch_header.parse_legacy(data, name, walk)
            return torch_header.read(parsed, len(data), name, key, legacy=True)
        case Kind.PICKLE:
            parsed = nested.parse_data(data, name, walk)
            if parsed.end != len(data):
                raise UnsafeError(
                    f"{name} hides {len(data) - parsed.end:,} bytes behind its pickle", hint=files.ALTERED
                )
            return Header(kind, len(data), needs=tuple(parsed.foreign), facts={"pickle protocol": parsed.protocol})
        case Kind.SEALED:
            what = f"{name} is an archive that nobody here looks into ({identify.sealed(data)})"
            raise UnsafeError(what, hint=nested.HINT)
        case Kind.TRUNCATED:
            _require_none(archive.left(data), data, name)
    if kind in _CONTAINERS:
        _require_harmless_inside(data, kind, name, walk)
    return Header(kind, len(data))


def _require_harmless_inside(data: Bytes, kind: Kind, name: str, walk: nested.Walk) -> None:
    """Judge everything in an archive by the rules for a file of its own."""
    if data[: len(npy.MAGIC)] == npy.MAGIC:
        end = npy.walk(data, name, lambda start: nested.parse_data(data, name, walk, start).end)
        if end < len(data):
            _require_nothing_hidden(files.Part(data, end, len(data)), name, walk)
        return
    if kind is Kind.HDF5 and data[:2] != b"PK":
        _require_none(nested.strewn(data), data, name)
        return
    damaged: WeightsError | None = None
    with walk.inside(name, program=kind in kinds.PROGRAMS):
        for place, inner in nested.members(data, kind, name, walk):
            try:
                _require_harmless_member(inner, place, walk)
            except WeightsError as error:  # what comes behind it may be hostile
                damaged = damaged or error
    if damaged is not None:
        raise damaged


def _require_harmless_member(data: Bytes, name: str, walk: nested.Walk) -> None:
    kind = identify.packed(data, walk.instructions)
    if kind is not None:
        _of_bytes(data, kind, name, walk)
    if kind is Kind.TRUNCATED:
        raise WeightsError(f"{name} is cut off", hint=files.DAMAGED)


def _require_nothing_hidden(rest: files.Part, name: str, walk: nested.Walk) -> None:
    """Tell what is there to be found behind an array from what is merely too much."""
    if identify.packed(rest, walk.instructions) is not None:
        raise UnsafeError(f"{name} hides {len(rest):,} bytes behind its array", hint=files.ALTERED)
    raise archive.BrokenArchiveError(f"{len(rest):,} bytes follow its array")


def _require_none(starts: Iterable[int], data: Bytes, name: str) -> None:
    """Refuse bytes that no reader of archives gets at if a hostile pickle begins at one of `starts`."""
    budget = pickles.Budget(pickles.MAX_OPCODES + len(data) // 256)
    for start in starts:
        place = f"{name} (at byte {start:,})"
        try:
            parsed = pickles.parse(data, start, budget)
        except MalformedError as error:
            if danger.runs(error.foreign):
                danger.require_harmless(danger.beside_programs(error.foreign), place)
        else:
            if danger.runs(parsed.foreign):
                danger.require_data(parsed, place, program=True)


# several files


def _sharded(shard_of: Mapping[str, str], path: Path, max_bytes: int | None) -> Header:
    """Read the headers of all shards beside the index; every tensor must be where the index says, and once."""
    names = sorted(set(shard_of.values()))
    for shard in names:
        if not _SHARD_NAME.fullmatch(shard) or shard in (".", ".."):
            raise UnsafeError(f"{path.name} names {shard!r:.120}, which is not a file beside it", hint=files.ALTERED)
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
            raise WeightsError(f"{twice!r:.80} is in {shard} and in another file of {path.name}", hint=files.DAMAGED)
        tensors |= {tensor.name: tensor for tensor in header.tensors}
        size += header.size_bytes
    lacking = [key for key in shard_of if key not in tensors]
    if lacking:
        raise WeightsError(
            f"{path.name} lists {len(lacking)} tensors that its files lack, such as {lacking[0]!r:.80}",
            hint=files.DAMAGED,
        )
    return Header(Kind.SHARDED, size, tensors=tuple(tensors.values()), facts={"format": "sharded", "files": names})
