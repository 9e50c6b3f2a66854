"""What kind of file this is, told from its contents, without torch."""

from __future__ import annotations

import json
import tarfile
import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError
from pipeline.weights import archive, danger, files, npy, opcodes, pickles, protobuf, wrappers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.weights.files import Bytes


class Kind(StrEnum):
    """The kinds of file that people bring; the value is what messages call it."""

    STATE_DICT = "state dict"
    STATE_DICT_LEGACY = "state dict (legacy format)"
    WRAPPED = "checkpoint with a state dict inside"
    SEVERAL = "checkpoint with several state dicts"
    PICKLED_MODEL = "whole pickled model"
    TORCH_OBJECT = "torch file without a state dict"
    PICKLE = "pickle that torch.save did not write"
    TORCHSCRIPT = "TorchScript program"
    EXPORTED_PROGRAM = "exported program (.pt2)"
    ONNX = "ONNX model"
    SAFETENSORS = "safetensors"
    SHARDED = "index of a sharded checkpoint"
    NUMPY = "numpy arrays"
    HDF5 = "HDF5 or Keras file"
    TENSORFLOW = "TensorFlow SavedModel"
    GGUF = "GGUF model"
    TAR = "tar archive"
    ZIP = "zip archive"
    SEALED = "archive of a kind that is not looked into"
    GZIP = "compressed file"
    LFS_POINTER = "Git LFS pointer"
    HTML = "HTML page"
    TEXT = "text file"
    EMPTY = "empty file"
    TRUNCATED = "truncated file"
    UNKNOWN = "unknown file"


TORCH_KINDS = frozenset(
    {Kind.STATE_DICT, Kind.STATE_DICT_LEGACY, Kind.WRAPPED, Kind.SEVERAL, Kind.PICKLED_MODEL, Kind.TORCH_OBJECT}
)
SAVE = "torch.save(model.state_dict(), 'weights.pth')"
"""How to save the weights alone."""

_UNPACK = "unpack it, and run weighbridge inspect on the weights file inside"
REMEDIES = {
    Kind.SEVERAL: "say which one is meant",
    Kind.PICKLED_MODEL: f"whoever made it can save its weights alone, in the code that made it: {SAVE}",
    Kind.TORCH_OBJECT: f"save the network's state dict: {SAVE}",
    Kind.PICKLE: f"save the weights with torch.save, not with pickle: {SAVE}",
    Kind.TORCHSCRIPT: "in the code that made it, save the weights beside it: torch.save(module.state_dict(), "
    "'weights.pth'); to compare the program itself, use weighbridge parity CONFIG --candidate FILE",
    Kind.EXPORTED_PROGRAM: "in the code that made it, save the weights beside it: torch.save(program.state_dict, "
    "'weights.pth')",
    Kind.ONNX: "a release is made from the state dict that it was exported from (.pth or .safetensors); to compare this "
    "file with the network, use weighbridge parity CONFIG --candidate FILE",
    Kind.NUMPY: "convert it: torch.save({name: torch.from_numpy(array) for name, array in numpy.load(file, "
    "allow_pickle=False).items()}, 'weights.pth')",
    Kind.HDF5: "Keras weights do not carry over by themselves: convert them to a PyTorch state dict first",
    Kind.TENSORFLOW: "TensorFlow weights do not carry over by themselves: convert them to a PyTorch state dict first",
    Kind.GGUF: "take the original .safetensors that it was quantised from",
    Kind.TAR: _UNPACK,
    Kind.ZIP: _UNPACK,
    Kind.SEALED: _UNPACK,
    Kind.GZIP: _UNPACK,
    Kind.LFS_POINTER: "it only names the weights: fetch them with `git lfs pull`",
    Kind.HTML: "a web page was saved in place of the weights, often a login page: download the file itself",
    Kind.TEXT: "name the weights file (.pth, .pt or .safetensors)",
    Kind.EMPTY: "the copy or download failed, or saving never ended: get it again",
    Kind.TRUNCATED: "it was cut off on its way: copy or download it again",
    Kind.UNKNOWN: "name a state dict saved with torch.save or safetensors",
}
"""What to do with a file that is no state dict."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 256 * 2**20

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


def identify(path: Path) -> Kind:
    """Say what `path` is by its contents; nothing in it is run, and tensor data is not read.

    Raises WeightsError if there is no such file; its hint lists what lies beside it.
    """
    files.require_file(path)
    if path.stat().st_size == 0:
        return Kind.EMPTY
    with files.mapped(path) as data:
        kind = container(data)
        if kind not in (Kind.STATE_DICT, Kind.STATE_DICT_LEGACY):
            return kind
        try:
            value = read_pickle(data, kind).value
            return of_pickle(value, wrappers.unwrap(value, is_tensor), legacy=kind is Kind.STATE_DICT_LEGACY)
        except (pickles.CraftedError, pickles.TooLargeError, UnsafeError):
            return Kind.UNKNOWN
        except (pickles.MalformedError, archive.BrokenArchiveError):
            return Kind.TRUNCATED


def container(data: Bytes) -> Kind:
    """Say what the outermost format is; STATE_DICT and STATE_DICT_LEGACY stand for whatever torch.save wrote."""
    for recognise in (packed, _safetensors_kind, _cut_pickle_kind, _late_zip_kind, _protobuf_kind, _text_kind):
        found = recognise(data)
        if found is not None:
            return found
    return Kind.UNKNOWN


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
    return kind_of_names([entry.name for entry in entries])


def _late_zip_kind(data: Bytes) -> Kind | None:
    """Recognise a zip archive behind something else, as programs that unpack themselves have it."""
    return Kind.ZIP if archive.is_behind(data) else None


def kind_of_names(names: Sequence[str]) -> Kind:
    """Say what a zip archive is from the names in it."""
    # torch looks entries up without regard to upper and lower case.
    inner = {name.partition("/")[2].casefold() for name in names}
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
    return Kind.TRUNCATED if len(data) < 8 + size <= MAX_PICKLE_BYTES else Kind.SAFETENSORS


def _pickle_kind(data: Bytes, budget: pickles.Budget | None) -> Kind | None:
    """Recognise a pickle by what it does; a text, or numbers, may begin like one and then do nothing."""
    if data[:1] not in opcodes.CODES:
        return None
    is_binary = _has_protocol(data)
    position = 0
    for _ in range(_MAX_STACKED):
        try:
            first = pickles.parse(data, position, budget)
        except pickles.TooLargeError:
            return Kind.PICKLE
        except pickles.MalformedError as error:
            return Kind.PICKLE if _acts(error, is_binary=is_binary) else None
        if position == 0 and first.value == LEGACY_MAGIC and type(first.value) is int:
            return Kind.STATE_DICT_LEGACY
        is_all = first.end == len(data) and isinstance(first.value, dict | list | tuple)
        if is_binary or danger.importable(first.foreign) or is_all:
            return Kind.PICKLE
        position = first.end  # what is behind it may be another one
    return Kind.PICKLE


def _acts(error: pickles.MalformedError, *, is_binary: bool) -> bool:
    """Tell a pickle that breaks off, or that no saving function writes, from bytes that only begin like one."""
    is_crafted = isinstance(error, pickles.CraftedError)
    is_whole = isinstance(error, pickles.CraftedError) and error.is_whole
    named = bool(danger.importable(error.foreign))
    return danger.runs(error.foreign) or (is_binary and (is_crafted or bool(error.foreign))) or (is_whole and named)


def _cut_pickle_kind(data: Bytes) -> Kind | None:
    return Kind.TRUNCATED if _has_protocol(data) else None


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
    return Kind.SHARDED if lowered.startswith("{") and shards(data) else Kind.TEXT


def shards(data: Bytes) -> dict[str, str] | None:
    """Return tensor name → file of a shard index (`weight_map`, as Hugging Face writes it); None if it is none."""
    if len(data) > _MAX_INDEX_BYTES:
        return None
    text = data[:]
    if text.count(b"[") + text.count(b"{") > _MAX_INDEX_CONTAINERS or text.count(b'":') > 2 * pickles.MAX_TENSORS:
        return None
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        return None
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        return None
    return shard_of


def read_pickle(data: Bytes, kind: Kind, budget: pickles.Budget | None = None) -> pickles.Parsed:
    """Return the records of the main pickle of what torch.save wrote.

    Raises MalformedError or BrokenArchiveError for what is cut off, TooLargeError and UnsafeError for what is hostile.
    """
    if kind is Kind.STATE_DICT_LEGACY:
        end = 0
        for _ in range(3):  # magic number, protocol version, system info
            end = pickles.parse(data, end, budget).end
        return pickles.parse(data, end, budget)
    entry = pickle_entry(archive.directory(data))
    return pickles.parse(archive.content(data, entry, MAX_PICKLE_BYTES), 0, budget)


def pickle_entry(entries: Sequence[archive.Entry]) -> archive.Entry:
    """Return the entry with the main pickle of what torch.save wrote."""
    return next(entry for entry in entries if entry.name.partition("/")[2].casefold() == "data.pkl")


def of_pickle(value: Any, found: wrappers.Unwrapped | None, *, legacy: bool) -> Kind:
    """Say what a file is from the value of its main pickle, as records, and the state dicts found there."""
    if model_class(value) is not None:
        return Kind.PICKLED_MODEL
    if found is not None and found.choices and not found.tensors:
        return Kind.SEVERAL
    if found is None or not found.tensors:
        return Kind.TORCH_OBJECT
    if found.path:
        return Kind.WRAPPED
    return Kind.STATE_DICT_LEGACY if legacy else Kind.STATE_DICT


def is_tensor(value: Any) -> bool:
    """Tell whether a record is a tensor."""
    return isinstance(value, pickles.Tensor)


def model_class(value: Any) -> str | None:
    """Return the class of a pickled nn.Module, at the top or under a wrapper's key; None if there is none."""
    candidates = [value, *(value.values() if isinstance(value, dict) else ())]
    return next((item.maker for item in candidates if pickles.is_module(item)), None)


def with_article(kind: Kind) -> str:
    """Return "a state dict", "an ONNX model"."""
    return f"{'an' if kind[0].lower() in 'aeio' or kind in (Kind.HTML, Kind.HDF5, Kind.UNKNOWN) else 'a'} {kind}"
