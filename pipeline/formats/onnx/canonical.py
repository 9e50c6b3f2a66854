"""The same bytes from the same network: ONNX files without paths, stack traces, or what depends on order or time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.storage.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import onnx
    from onnx.external_data_helper import ExternalDataInfo

IDENTITY_PREFIX = "weighbridge."
"""What the keys of the identity begin with in an ONNX model's metadata."""

EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights beyond this go into a file of their own: one protobuf message holds at most 2 GiB, the graph included."""

_EXTERNAL_TENSOR_FROM_BYTES = 1024
_CHUNK_BYTES = 1 << 20
_PAGE_BYTES = 4096  # external tensors start on a page, so that runtimes can map them

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_EXPLAINING = {
    _STACK_TRACE: "stack_trace",
    "pkg.torch.onnx.name_scopes": "name_scopes",
    "pkg.torch.onnx.class_hierarchy": "class_hierarchy",
}
# A file of a traceback, /two/components or more, C:\ or \\share. Scopes such as "M/fc1: Linear" are none of these.
_PATH = re.compile(r'File "|(?<![\w.)\]])/(?:[\w.+@~-]+/)+[\w.+@~-]+|(?<!\w)[A-Za-z]:[\\/]|\\\\\w')


@dataclass(frozen=True, slots=True)
class Stripped:
    """What was written (`files[0]` is the one to open) and, by node, what was known of it before stripping."""

    files: tuple[Path, ...]
    nodes: Mapping[str, Mapping[str, str]]


def from_file(source: Path, target: Path, *, identity: Mapping[str, str]) -> Stripped:
    """Write an ONNX model's canonical form to `target`, its external weights, if any, to `target`.data.

    Raises ExportError if it is no ONNX model.
    """
    import onnx

    try:
        model = onnx.load(str(source), load_external_data=False)
    except import_module("google.protobuf.message").DecodeError as error:
        raise ExportError(
            f"{source.name} is not an ONNX model: {error}", hint="leave `onnx` out of `exports`"
        ) from error
    return from_model(model, source.parent, target, identity=identity)


def from_model(model: onnx.ModelProto, folder: Path, target: Path, *, identity: Mapping[str, str]) -> Stripped:
    """Write a loaded model's canonical form to `target`; its external weights, if any, lie in `folder`.

    Removes stack traces and whatever metadata or doc string holds a path; sorts the rest; adds the identity.
    Changes `model`. Returns the nodes' stack traces, name scopes and class hierarchies.
    """
    import onnx

    every = list(messages(model))
    nodes = _explanations(message for message in every if isinstance(message, onnx.NodeProto))
    for message in every:
        _strip(message)
    for name, value in sorted(identity.items()):
        model.metadata_props.add(key=f"{IDENTITY_PREFIX}{name}", value=value)
    _sort_metadata(model)
    with disk_errors(target):
        tensors = [message for message in every if isinstance(message, onnx.TensorProto)]
        weights = _write_external(tensors, folder, target.with_name(f"{target.name}.data"))
        target.write_bytes(model.SerializeToString(deterministic=True))
    return Stripped((target, *weights), nodes)


def messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and every one inside it: graphs, functions, nodes, attributes, tensors."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in (value,) if hasattr(value, "ListFields") else value:
                yield from messages(child)


def _explanations(nodes: Iterable[onnx.NodeProto]) -> dict[str, dict[str, str]]:
    explained: dict[str, dict[str, str]] = {}
    for node in nodes:
        known = {_EXPLAINING[prop.key]: prop.value for prop in node.metadata_props if prop.key in _EXPLAINING}
        if known:
            explained.setdefault(node.name or "|".join(node.output), known)
    return explained


def _strip(message: Any) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    if "doc_string" in fields and _PATH.search(message.doc_string):
        message.ClearField("doc_string")
    if "metadata_props" in fields and message.metadata_props:
        leaking = [prop for prop in message.metadata_props if prop.key == _STACK_TRACE or _PATH.search(prop.value)]
        for prop in leaking:
            message.metadata_props.remove(prop)
        _sort_metadata(message)


def _sort_metadata(message: Any) -> None:
    message.metadata_props.sort(key=lambda prop: (prop.key, prop.value))


def _write_external(tensors: list[onnx.TensorProto], source: Path, target: Path) -> tuple[Path, ...]:
    """Move weights into `target` one tensor at a time, in the graph's order; return the files written."""
    from onnx import TensorProto
    from onnx.external_data_helper import ExternalDataInfo

    is_large = sum(len(tensor.raw_data) for tensor in tensors) > EXTERNAL_DATA_BYTES
    outside = [
        tensor
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL
        or (is_large and len(tensor.raw_data) >= _EXTERNAL_TENSOR_FROM_BYTES)
    ]
    if not outside:
        return ()
    with target.open("wb") as file:
        for tensor in outside:
            file.write(bytes(-file.tell() % _PAGE_BYTES))
            offset_bytes = file.tell()
            if tensor.data_location == TensorProto.EXTERNAL:
                # Not through the message: it gives back no memory until the whole model goes.
                length_bytes = _copy_external(ExternalDataInfo(tensor), source, file)
            else:
                length_bytes = file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
            _refer(tensor, target.name, offset_bytes, length_bytes)
    return (target,)


def _copy_external(where: ExternalDataInfo, source: Path, file: IO[bytes]) -> int:
    """Append what a tensor refers to to a file; return its length in bytes."""
    path, offset_bytes = source / where.location, where.offset or 0
    length_bytes: int = where.length or path.stat().st_size - offset_bytes
    left_bytes = length_bytes
    with path.open("rb") as content:
        content.seek(offset_bytes)
        while left_bytes:
            chunk = content.read(min(left_bytes, _CHUNK_BYTES))
            if not chunk:
                raise ExportError(
                    f"{where.location} ends before the weights in it do", hint="leave `onnx` out of `exports`"
                )
            left_bytes -= file.write(chunk)
    return length_bytes


def _refer(tensor: onnx.TensorProto, location: str, offset_bytes: int, length_bytes: int) -> None:
    from onnx import TensorProto

    del tensor.external_data[:]
    for name, value in (("location", location), ("offset", offset_bytes), ("length", length_bytes)):
        tensor.external_data.add(key=name, value=str(value))
    tensor.data_location = TensorProto.EXTERNAL
