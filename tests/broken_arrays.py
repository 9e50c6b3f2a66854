"""Files of arrays that are not what they should be, each in its own way, and what it should end with."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

INPUT, UNSAFE = 2, 3
SLOW_TO_MAKE = "a bomb beyond what is read"
"""Whose making takes a quarter of a minute."""


def rows(count: int, seed: int) -> np.ndarray:
    """Return inputs of SimpleNet, a row a sample."""
    return np.random.default_rng(seed).standard_normal((count, 10)).astype(np.float32)


@dataclass(frozen=True)
class Broken:
    """What stands where samples should: how it is put there, the ending of its name, and the exit codes that are right."""

    put: Callable[[Path], object]
    suffix: str = ".npz"
    codes: tuple[int, ...] = (INPUT,)


def _npz(**arrays: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def _npy(header: str, content: bytes = b"") -> bytes:
    """Return a .npy file with a header of one's own."""
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(line).to_bytes(4, "little") + line + content


def _zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return held.getvalue()


def _twice(name: str, content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(name, content)
        archive.writestr(f"./{name}", content)
    return held.getvalue().replace(f"./{name}".encode(), f"{name}\0\0".encode())


def _bomb(size_bytes: int) -> bytes:
    """Return an array of zeros, compressed a thousandfold, that is whole and as declared."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size_bytes // 40}, 10), }}"
    held = io.BytesIO()
    with (
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as to,
    ):
        to.write(_npy(header))
        for _ in range(size_bytes // 2**20):
            to.write(bytes(2**20))
    return held.getvalue()


def _headers(content: bytes) -> tuple[int, int]:
    return content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")


def _encrypted(content: bytes) -> bytes:
    """Return an archive whose first entry says that it is encrypted."""
    local, central = _headers(content)
    changed = bytearray(content)
    changed[local + 6] |= 1
    changed[central + 8] |= 1
    return bytes(changed)


def _method(content: bytes, method: int) -> bytes:
    """Return an archive whose first entry is compressed by another method."""
    local, central = _headers(content)
    changed = bytearray(content)
    changed[local + 8] = changed[central + 10] = method
    return bytes(changed)


def _damaged(content: bytes) -> bytes:
    middle = _headers(content)[1] // 2
    return content[:middle] + bytes(each ^ 0xFF for each in content[middle : middle + 40]) + content[middle + 40 :]


def _safetensors(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + content


def _with_pickle(marker: Path) -> bytes:
    held = io.BytesIO()
    np.save(held, np.array([None], object))
    head = held.getvalue()[: held.getvalue().index(b"\n") + 1]
    return _zipped({"x.npy": head + asm.pickle(asm.shell(marker))})


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _symlink(to: Path | str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(to)


def broken(marker: Path) -> dict[str, Broken]:
    """Return what may stand where samples should, by what is wrong with it."""
    good = rows(64, 9)
    whole = _npz(x=good)
    head = b'{"x":{"dtype":"F32","shape":[64,10],"data_offsets":[0,2560]}}'
    strange = rows(64, 9)
    strange[7, 3] = np.nan
    endless = rows(64, 9)
    endless[0, 0] = np.inf
    plain = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
    return {
        "missing": Broken(lambda _: None),
        "empty": Broken(_bytes(b"")),
        "truncated": Broken(_bytes(whole[: len(whole) // 2])),
        "cut off at the end": Broken(_bytes(whole[:-7])),
        "a turned bit": Broken(_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])),
        "not an archive": Broken(_bytes(b"x" * 4000)),
        "no arrays": Broken(_bytes(_zipped({}))),
        "another file in it": Broken(_bytes(_zipped({"readme.txt": b"hello"}))),
        "float64": Broken(_bytes(_npz(x=good.astype(np.float64)))),
        "whole numbers": Broken(_bytes(_npz(x=good.astype(np.int32)))),
        "complex": Broken(_bytes(_npz(x=good.astype(np.complex64)))),
        "text": Broken(_bytes(_npz(x=np.array(["a", "b"])))),
        "records": Broken(_bytes(_npz(x=np.zeros(4, [("a", "f4")])))),
        "too narrow": Broken(_bytes(_npz(x=good[:, :9]))),
        "one axis": Broken(_bytes(_npz(x=good[0]))),
        "no axis": Broken(_bytes(_npz(x=np.float32(1)))),
        "four axes": Broken(_bytes(_npz(x=good.reshape(4, 4, 4, 10)))),
        "no rows": Broken(_bytes(_npz(x=good[:0]))),
        "another name": Broken(_bytes(_npz(y=good))),
        "NaN": Broken(_bytes(_npz(x=strange))),
        "infinity": Broken(_bytes(_npz(x=endless))),
        "pickled objects": Broken(_bytes(_with_pickle(marker)), codes=(INPUT, UNSAFE)),
        "a pickle under this name": Broken(_bytes(asm.pickle(asm.shell(marker))), codes=(UNSAFE,)),
        SLOW_TO_MAKE: Broken(lambda path: path.write_bytes(_bomb(5 * 2**30))),
        "a bomb that says less": Broken(lambda path: path.write_bytes(_bomb(2**28).replace((2**28).to_bytes(4, "little"), bytes([9, 0, 0, 0]))), codes=(INPUT, UNSAFE)),
        "a huge header": Broken(_bytes(_zipped({"x.npy": _npy(" " * 2**24 + plain % "(4, 10)", bytes(160))}, 8))),
        "a huge shape": Broken(_bytes(_zipped({"x.npy": _npy(plain % "(2**62, 10)")}))),
        "an enormous shape": Broken(_bytes(_zipped({"x.npy": _npy(plain % f"({2**62}, 10)")}))),
        "a negative shape": Broken(_bytes(_zipped({"x.npy": _npy(plain % "(-4, 10)", bytes(160))}))),
        "a shape of nothing, large": Broken(_bytes(_zipped({"x.npy": _npy(plain % f"(0, {2**62})")}))),
        "a header that calls": Broken(_bytes(_zipped({"x.npy": _npy("__import__('os').system('true')")}))),
        "a deep header": Broken(_bytes(_zipped({"x.npy": _npy("(" * 9000)}))),
        "one name twice": Broken(_bytes(_twice("x.npy", _npy(plain % "(4, 10)", bytes(160)))), codes=(UNSAFE,)),
        "a name of escapes": Broken(_bytes(_npz(**{"\x1b[31mx\nerror: no": good}))),
        "encrypted": Broken(_bytes(_encrypted(whole)), codes=(UNSAFE,)),
        "a damaged stream": Broken(_bytes(_damaged(_zipped({"x.npy": _npy(plain % "(64, 10)", good.tobytes())}, zipfile.ZIP_DEFLATED)))),
        "a damaged lzma stream": Broken(_bytes(_damaged(_zipped({"x.npy": _npy(plain % "(64, 10)", good.tobytes())}, zipfile.ZIP_LZMA))), codes=(INPUT, UNSAFE)),
        "a damaged bzip2 stream": Broken(_bytes(_damaged(_zipped({"x.npy": _npy(plain % "(64, 10)", good.tobytes())}, zipfile.ZIP_BZIP2))), codes=(INPUT, UNSAFE)),
        "a method nobody knows": Broken(_bytes(_method(whole, 77)), codes=(UNSAFE,)),
        "a folder": Broken(lambda path: path.mkdir()),
        "a link to nothing": Broken(_symlink("nothing.npz")),
        "a link to itself": Broken(lambda path: path.symlink_to(path.name)),
        "a link to a device": Broken(_symlink("/dev/zero")),
        "a pipe": Broken(os.mkfifo),
        "safetensors, empty": Broken(_bytes(b""), ".safetensors"),
        "safetensors, truncated": Broken(_bytes(_safetensors(head, good.tobytes()[:-9])), ".safetensors"),
        "safetensors, a huge header": Broken(_bytes(_safetensors(head, good.tobytes(), 2**40)), ".safetensors", (INPUT, UNSAFE)),
        "safetensors, no JSON": Broken(_bytes(_safetensors(b"{" * 9000)), ".safetensors", (INPUT, UNSAFE)),
        "safetensors, beyond its end": Broken(_bytes(_safetensors(head.replace(b"2560", b"9999"), good.tobytes())), ".safetensors", (INPUT, UNSAFE)),
        "safetensors, a pickle": Broken(_bytes(asm.pickle(asm.shell(marker))), ".safetensors", (UNSAFE,)),
    }  # fmt: skip


def fine() -> dict[str, Broken]:
    """Return what looks odd and is none the less what it should be."""
    good = rows(64, 9)
    return {
        "a link to a file": Broken(lambda path: (path.with_name("there.npz").write_bytes(_npz(x=good)), path.symlink_to("there.npz")), codes=(0,)),
        "safetensors": Broken(_bytes(_safetensors(b'{"x":{"dtype":"F32","shape":[64,10],"data_offsets":[0,2560]}}', good.tobytes())), ".safetensors", (0,)),
        "in order of columns": Broken(_bytes(_npz(x=np.asfortranarray(good))), codes=(0,)),
    }  # fmt: skip
