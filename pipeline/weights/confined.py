"""ONNX files whose external data stays where it may: in plain files of their own, beside the model.

Field numbers: onnx/onnx.proto. onnx follows no links at all; onnxruntime 1.32 follows a hard link, so that a model could
read any file of its owner as weights. Both are held to the stricter rule here, from the file's bytes alone.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import files
from pipeline.weights.protobuf import Field, MalformedFieldError, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap
    from pathlib import Path

_MAX_DEPTH = 32
# message → (field → message inside it); only what can hold a tensor is walked.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_HINT = "do not load it; get the model and its data from its maker, in one folder"


class Reference(NamedTuple):
    """Where a tensor's data lies: a file beside the model, and the bytes of it (length None: to the end)."""

    location: str
    offset: int
    length: int | None


def require_confined_onnx(path: Path, *, max_bytes: int | None = None) -> tuple[Path, ...]:
    """Check that an ONNX file and its external data may be opened; return the data files, which lie beside it.

    Call it before any library opens a model that somebody else made. Every tensor is looked at, also those in subgraphs,
    attributes and functions. Raises UnsafeError for data outside the model's folder, behind a symbolic or hard link, in
    something that is no regular file, or past a file's end, and above `max_bytes` in all; WeightsError for a file that
    is missing or no ONNX model.
    """
    files.require_file(path)
    if path.is_symlink():
        raise UnsafeError(f"{path.name} is a symbolic link", hint="name the file itself")
    with files.mapped(path) as data:
        try:
            found = sorted(set(references(data)), key=lambda each: (each.location, each.offset))
        except MalformedFieldError as error:
            raise WeightsError(f"{path.name} is damaged or no ONNX model: {error}", hint=files.COPY_AGAIN) from error
    total = path.stat().st_size
    inside: dict[str, Path] = {}
    for each in found:
        if each.location not in inside:
            inside[each.location] = file_beside(each.location, path)
            total += inside[each.location].stat().st_size
        size = inside[each.location].stat().st_size
        end = each.offset + (each.length or 0)
        if end > size:
            raise UnsafeError(
                f"{path.name}: data ends at byte {end:,} of {each.location}, which has {size:,}", hint=_HINT
            )
    files.require_below(total, max_bytes, f"{path.name} and its data are {total:,} bytes")
    return tuple(inside.values())


def references(data: mmap) -> Iterator[Reference]:
    """Yield where the tensors of the ModelProto in `data` have external data; raises MalformedFieldError."""
    reader = Reader(data)
    pending = [("model", 0, len(data), 0)]
    while pending:
        message, start, stop, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise MalformedFieldError("its messages nest without end")
        entries = []
        for field in reader.fields(start, stop):
            inner = _INSIDE[message].get(field.number)
            if inner is not None and field.wire != 2:
                raise MalformedFieldError(f"field {field.number} of a {message} is no message")
            if inner == "entry":
                entries.append(_entry(reader, field))
            elif inner is not None:
                pending.append((inner, field.start, field.stop, depth + 1))
        if entries:
            yield _reference(entries)


def _entry(reader: Reader, entry: Field) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto; where a field stands twice the last counts, as in protobuf."""
    texts = {1: "", 2: ""}
    for field in reader.fields(entry.start, entry.stop):
        if field.number in texts:
            try:
                texts[field.number] = reader.data[field.start : field.stop].decode()
            except UnicodeDecodeError as error:
                raise MalformedFieldError(f"the name of a data file is no text: {error}") from error
    return texts[1], texts[2]


def _reference(entries: list[tuple[str, str]]) -> Reference:
    keys = [key for key, _ in entries]
    if len(set(keys)) != len(keys):
        raise MalformedFieldError("a tensor says twice where its data lies")
    known = dict(entries)
    try:
        length = int(known["length"]) if "length" in known else None
        reference = Reference(known.get("location", ""), int(known.get("offset", "0")), length)
    except ValueError as error:
        raise MalformedFieldError(f"a tensor's place in its data file is no number: {error}"[:200]) from error
    if reference.offset < 0 or (length is not None and length < 0):
        raise MalformedFieldError("a tensor's place in its data file is negative")
    return reference


def file_beside(location: str, model: Path) -> Path:
    """Return a model's data file, refusing whatever two readers could resolve differently, and any way out of the folder."""
    parts = location.replace("\\", "/").split("/")
    # onnxruntime takes the location "*/_ORT_MEM_ADDR_/*" for an address in memory.
    if not location or any(ord(character) < 32 or character in ":*" for character in location):
        raise UnsafeError(f"{model.name} names {location!r:.120} as its data file", hint=_HINT)
    if ".." in parts or "" in parts or "\\" in location:
        raise UnsafeError(f"{model.name} would read {location!r:.120}, which is outside its folder", hint=_HINT)
    place = model.parent
    for part in parts:
        place = place / part
        if place.is_symlink():
            raise UnsafeError(f"{model.name} would read {location!r:.120} through a symbolic link", hint=_HINT)
    try:
        status = place.stat()
    except OSError as error:
        raise WeightsError(
            f"{model.name} needs {location!r:.120}, which is not beside it", hint="put it into the same folder"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeError(f"{model.name} names {location!r:.120}, which is no regular file, as its data", hint=_HINT)
    if status.st_nlink > 1:
        raise UnsafeError(
            f"{model.name} would read {location!r:.120}, which has {status.st_nlink} names (hard links): it may be "
            "another file of yours",
            hint=f"if it is the model's own, give it a single name: cp {place.name} copy && mv copy {place.name}",
        )
    return place
