"""An assembler for pickles and torch archives, good and hostile; payloads only create a marker file."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C

MARK, STOP, REDUCE, TUPLE, BUILD, NEWOBJ, EMPTY_DICT = b"(", b".", b"R", b"t", b"b", b"\x81", b"}"


def proto(version: int = 2) -> bytes:
    return b"\x80" + bytes([version])


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_glob(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def dict_of(items: Mapping[str, bytes]) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return glob(module, name) + tuple_of(*arguments) + REDUCE


def storage(key: str, elements: int, kind: str = "FloatStorage") -> bytes:
    return tuple_of(text("storage"), glob("torch", kind), text(key), text("cpu"), number(elements)) + b"Q"


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], stored: bytes, offset: int = 0) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        stored,
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, stride)),
        b"\x89",
        call("collections", "OrderedDict"),
    )


def shell(marker: Path) -> bytes:
    """A payload that would run a command as soon as it is unpickled."""
    return call("os", "system", text(f"touch {marker}"))


def pickle(body: bytes, version: int = 2) -> bytes:
    return proto(version) + body + STOP


def archive(
    path: Path, data_pkl: bytes, records: Mapping[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED
) -> Path:
    """Write what torch.save would: data.pkl and records of storages under one folder."""
    with zipfile.ZipFile(path, "w", method) as made:
        made.writestr("archive/data.pkl", data_pkl)
        made.writestr("archive/byteorder", b"little")
        for name, content in (records or {}).items():
            made.writestr(f"archive/{name}", content)
        made.writestr("archive/version", b"3\n")
    return path


def legacy(main: bytes, keys: bytes, data: bytes) -> bytes:
    """Return a file as torch.save wrote it before 1.6: magic, protocol, system, value, storage keys, data."""
    stream = io.BytesIO()
    for part in (number(MAGIC), number(1001), EMPTY_DICT, main, keys):
        stream.write(pickle(part))
    stream.write(data)
    return stream.getvalue()


def zip_of(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return stream.getvalue()


def tar_of(entries: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def npy_of(content: bytes, descr: str = "'|O'", version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (63 - (8 + width + len(header)) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(width, "little") + header + content


def shifted(whole: bytes, prefix: bytes = b"PK\x03\x04" + bytes(96)) -> bytes:
    """Put bytes before an archive and correct its offsets, as a self-extracting one does."""
    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        contents = {info.filename: read.read(info) for info in read.infolist()}
    stream = io.BytesIO(prefix)
    with zipfile.ZipFile(stream, "a") as made:
        for name, content in contents.items():
            made.writestr(name, content)
    return stream.getvalue()


def flagged(whole: bytes, flag: int) -> bytes:
    """Set a flag of the last entry, in its local header and in the directory."""
    return _patched(whole, 6, 8, lambda old: old | flag)


def packed_by(whole: bytes, method: int) -> bytes:
    """Say that the last entry is packed by a method."""
    return _patched(whole, 8, 10, lambda _: method)


def _patched(whole: bytes, local: int, listed: int, change: Callable[[int], int]) -> bytes:
    data = bytearray(whole)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", listed)):
        place = data.rfind(magic) + offset
        data[place] = change(data[place])
    return bytes(data)


def unlisted(entries: Mapping[str, bytes], hidden: str) -> bytes:
    """Return a zip archive that holds all entries, of which its directory lists all but one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in entries.items():
            made.writestr(name, content)
        made.filelist = [each for each in made.filelist if each.filename != hidden]
    return stream.getvalue()


def old_tar(whole: bytes) -> bytes:
    """Make the first header of a tar archive one of before POSIX, with its sum."""
    header = bytearray(whole[:512])
    header[257:512], header[148:156] = bytes(255), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + whole[512:]
