"""What kind of file this is, told from its contents, without torch."""

from __future__ import annotations

import json
import tarfile
import zlib
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError
from pipeline.weights import archive, danger, executorch_header, npy, opcodes, openvino, pickles, protobuf
from pipeline.weights.kinds import Kind
from pipeline.weights.pickle_calls import MAX_TENSORS
from pipeline.weights.pickle_records import CraftedError, MalformedError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.weights.files import Bytes

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_HEADER_BYTES = 256 * 2**20

_MAX_INDEX_BYTES = 16 * 2**20
_MAX_INDEX_CONTAINERS = 1_000
_MAX_ONNX_VERSION = 100
_MAX_STACKED = 100
_HIGHEST_PROTOCOL = 5
_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x5d\x00\x00")
_SEALED = {
    b"7z\xbc\xaf\x27\x1c": "7z", b"\x28\xb5\x2f\xfd": "Zstandard", b"Rar!\x1a\x07": "RAR", b"\x04\x22\x4d\x18": "LZ4",
    b"LZIP\x01": "lzip", b"\x1f\x9d\x90": "compress", b"MSCF\x00\x00\x00\x00": "cabinet", b"\x89LZO\x00": "lzop",
    b"\xff\x06\x00\x00sNaPpY": "Snappy",
}  # fmt: skip
_MAGICS = (
    (npy.MAGIC, Kind.NUMPY),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"GGUF", Kind.GGUF),
    *((magic, Kind.SEALED) for magic in _SEALED),
    *((magic, Kind.GZIP) for magic in _COMPRESSED),
    (b"version https://git-lfs.github.com/spec/", Kind.LFS_POINTER),
)


def container(data: Bytes) -> Kind:
    """Say what the outermost format is; STATE_DICT and STATE_DICT_LEGACY stand for whatever torch.save wrote."""
    return (
        packed(data)
        or _safetensors_kind(data)
        or (Kind.TRUNCATED if _has_protocol(data) else None)  # a pickle that was cut off
        or (Kind.ZIP if archive.is_behind(data) else None)  # as programs that unpack themselves have it
        or _protobuf_kind(data)
        or _text_kind(data)
        or Kind.UNKNOWN
    )


def packed(data: Bytes, budget: pickles.Budget | None = None) -> Kind | None:
    """Say what kind of pickle, archive or other file with a magic number this is, None for what has none.

    A pickle comes first: it may begin as GGUF files do, or have "ustar" where a tar archive has it.
    """
    kind = _pickle_kind(data, budget)
    if kind is not None:
        return kind
    for magic, kind in _MAGICS:
        if data[: len(magic)] == magic:
            return kind
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(data)
    if executorch_header.is_program(data):
        return Kind.TRUNCATED if executorch_header.is_cut_off(data) else Kind.EXECUTORCH
    if _is_tar(data):
        return Kind.TAR
    return Kind.GZIP if _is_zlib(data) else None


def sealed(data: Bytes) -> str:
    """Return the name of the format of an archive that is not looked into."""
    return next(name for magic, name in _SEALED.items() if data[: len(magic)] == magic)


def _is_tar(data: Bytes) -> bool:
    """Tell a tar archive by its first header: those of before POSIX have no "ustar", but a sum that is right."""
    if data[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _is_zlib(data: Bytes) -> bool:
    """Tell a zlib stream (RFC 1950), as joblib writes it, by its beginning."""
    head = data[:1024]
    if len(head) < 3 or head[0] & 0x8F != 8 or int.from_bytes(head[:2], "big") % 31:
        return False
    try:
        return bool(zlib.decompressobj().decompress(head, 1 << 16))
    except zlib.error:
        return False


def _zip_kind(data: Bytes) -> Kind:
    try:
        entries = archive.directory(data)
    except archive.BrokenArchiveError:
        return Kind.TRUNCATED
    except UnsafeError:
        return Kind.ZIP
    return _kind_of_names([entry.name for entry in entries])


def _kind_of_names(names: Sequence[str]) -> Kind:
    """Say what a zip archive is from the names in it."""
    # torch looks entries up without regard to upper and lower case.
    inner = {name.partition("/")[2].casefold() for name in names}
    # A library in an archive is loaded with it, whatever else it holds.
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Kind.AOTINDUCTOR
    if "archive_format" in inner or "models/model.json" in inner or "serialized_exported_program.json" in names:
        return Kind.EXPORTED_PROGRAM
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    if "data.pkl" in inner:
        return Kind.STATE_DICT
    if names and all(name.endswith(".npy") for name in names):
        return Kind.NUMPY
    return Kind.HDF5 if "model.weights.h5" in names else Kind.ZIP


def _safetensors_kind(data: Bytes) -> Kind | None:
    if data[8:10] not in (b'{"', b"{}", b"{ ", b"{\n"):
        return None
    size = int.from_bytes(data[:8], "little")
    # A header of text would read as an enormous size; that is then a JSON file with 8 characters before its brace.
    if data[:8].isascii() and data[:8].decode("ascii").isprintable():
        return None
    return Kind.TRUNCATED if len(data) < 8 + size <= _MAX_HEADER_BYTES else Kind.SAFETENSORS


def _pickle_kind(data: Bytes, budget: pickles.Budget | None) -> Kind | None:
    """Recognise a pickle by what it does; a text, or numbers, may begin like one and then do nothing."""
    if data[:1] not in opcodes.CODES:
        return None
    is_binary = _has_protocol(data)
    position = 0
    for _ in range(_MAX_STACKED):
        try:
            first = pickles.parse(data, position, budget)
        except TooLargeError:
            return Kind.PICKLE
        except MalformedError as error:
            return Kind.PICKLE if _acts(error, is_binary=is_binary) else None
        if position == 0 and first.value == _LEGACY_MAGIC and type(first.value) is int:
            return Kind.STATE_DICT_LEGACY
        is_all = first.end == len(data) and isinstance(first.value, dict | list | tuple)
        if is_binary or danger.importable(first.foreign) or is_all:
            return Kind.PICKLE
        position = first.end  # what is behind it may be another one
    return Kind.PICKLE


def _acts(error: MalformedError, *, is_binary: bool) -> bool:
    """Tell a pickle that breaks off, or that no saving function writes, from bytes that only begin like one."""
    is_crafted = isinstance(error, CraftedError)
    is_whole = isinstance(error, CraftedError) and error.is_whole and bool(danger.importable(error.foreign))
    return danger.runs(error.foreign) or (is_binary and (is_crafted or bool(error.foreign))) or is_whole


def _has_protocol(data: Bytes) -> bool:
    return data[:1] == b"\x80" and data[1:2] <= bytes([_HIGHEST_PROTOCOL])


def _protobuf_kind(data: Bytes) -> Kind | None:
    """Recognise an ONNX ModelProto (onnx.proto) or a TensorFlow SavedModel (saved_model.proto)."""
    if data[:1] != b"\x08":
        return None
    seen: dict[int, int] = {}
    kind = None
    try:
        for found in protobuf.Reader(data).fields(0, len(data)):
            seen.setdefault(found.number, found.value)
            if found.number > 40:
                return None
    except protobuf.MalformedFieldError:
        kind = Kind.TRUNCATED if seen.keys() >= {1, 2} or 7 in seen else None
    if 7 in seen and 0 < seen.get(1, 0) < _MAX_ONNX_VERSION:
        return kind or Kind.ONNX
    if seen.keys() == {1, 2} and seen[1] == 1:
        return kind or Kind.TENSORFLOW
    # Cut off inside the graph: version and producer are all that can be read.
    return kind if kind and 0 < seen.get(1, 0) < _MAX_ONNX_VERSION else None


def _text_kind(data: Bytes) -> Kind | None:
    head = data[:4096]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A character may be cut by the end of the piece that was read.
        if len(head) < 4096 or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8-sig")
    if "\x00" in text:
        return None
    lowered = text.lstrip().lower()
    if lowered.startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in lowered[:1024]:
        return Kind.HTML
    if openvino.is_one(text):
        return Kind.OPENVINO
    return Kind.SHARDED if lowered.startswith("{") and shards(data) else Kind.TEXT


def shards(data: Bytes) -> dict[str, str] | None:
    """Return tensor name → file of a shard index (`weight_map`, as Hugging Face writes it); None if it is none."""
    if len(data) > _MAX_INDEX_BYTES:
        return None
    text = data[:]
    if text.count(b"[") + text.count(b"{") > _MAX_INDEX_CONTAINERS or text.count(b'":') > 2 * MAX_TENSORS:
        return None
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        return None
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        return None
    return shard_of
