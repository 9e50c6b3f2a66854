"""Hostile files of our own making: every payload only creates a marker file, and none is ever to run."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UnsafeError
from tests.weights import abuses, evasions
from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GOOD = asm.tensor((3,), (1,), asm.storage("0", 3))
DATA = {"data/0": bytes(12)}


def payloads(marker: Path) -> dict[str, bytes]:
    """Values that run something when they are unpickled, each another way; all would create the marker."""
    touch = asm.text(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    command = asm.text(f"touch {marker}")
    return {
        "os.system": asm.shell(marker),
        "posix.system": asm.call("posix", "system", command),
        "subprocess": asm.call("subprocess", "getoutput", command),
        "builtins.eval": asm.call("builtins", "eval", touch),
        "eval of Python 2": asm.call("__builtin__", "eval", touch),
        "builtins.exec": asm.call("builtins", "exec", touch),
        "open": asm.call("io", "open", asm.text(str(marker)), asm.text("w")),
        "stack global": asm.stack_glob("os", "system") + asm.tuple_of(command) + asm.REDUCE,
        "global in two memo slots": asm.text("os") + b"q\x05" + asm.text("system") + b"\x93" + asm.tuple_of(command) + b"R",
        "INST": asm.MARK + command + b"ios\nsystem\n",
        "OBJ": asm.MARK + asm.glob("os", "system") + command + b"o",
        "getattr": asm.call("builtins", "getattr", asm.glob("os", "path"), asm.text("os")),
        "attribute of an allowed module": asm.call("torch._utils", "_import_dotted_name", asm.text("os.system")),
        "dunder of an allowed class": asm.call("torch", "Tensor.__init__.__globals__"),
        "runpy": asm.call("runpy", "run_path", command),
        "pickle in pickle": asm.call("pickle", "loads", asm.text("x")),
        "torch.load": asm.call("torch.serialization", "load", asm.text("x")),
        "torch.hub": asm.call("torch.hub", "load", asm.text("x/y")),
        "operator": asm.call("operator", "methodcaller", asm.text("system")),
        "functools": asm.call("functools", "partial", asm.glob("os", "system"), command),
        "numpy runstring": asm.call("numpy.testing._private.utils", "runstring", touch, asm.EMPTY_DICT),
        "cpp_extension": asm.call("torch.utils.cpp_extension", "load_inline", touch),
        "unknown function": asm.call("innocent.helpers", "prepare", touch),
        "unknown class with state": asm.glob("innocent", "Thing") + b")" + asm.NEWOBJ + asm.EMPTY_DICT + asm.BUILD,
        "popped before the end": asm.shell(marker) + b"0" + asm.EMPTY_DICT,
        "as a key's value": asm.dict_of({"fc.weight": GOOD, "epoch": asm.shell(marker)}),
        "beside a state dict": asm.dict_of({"state_dict": asm.dict_of({"a": GOOD}), "callback": asm.shell(marker)}),
        "inside a tensor's hooks": asm.call("torch._utils", "_rebuild_parameter", GOOD, b"\x88", asm.shell(marker)),
        "inside a pickled model": asm.glob("torch.nn.modules.linear", "Linear")
        + b")"
        + asm.NEWOBJ
        + asm.dict_of({"_parameters": asm.EMPTY_DICT, "_modules": asm.EMPTY_DICT, "x": asm.shell(marker)})
        + asm.BUILD,
        "named only": asm.dict_of({"a": GOOD, "f": asm.glob("os", "system")}),
        "persistent module": asm.tuple_of(asm.text("module"), asm.glob("os", "system"), b"N", b"N")
        + b"Q"
        + asm.tuple_of(command)
        + asm.REDUCE,
        "extension registry": b"\x82\x01" + asm.tuple_of(command) + asm.REDUCE,
        "reconstructor": asm.call("copyreg", "_reconstructor", asm.glob("os", "system"), command, b"N"),
        "storage allocated by a call": asm.call("torch.storage", "UntypedStorage", asm.number(2**40)),
        "tensor that evades the checks": asm.glob("torch", "Tensor")
        + b")"
        + asm.NEWOBJ
        + asm.tuple_of(asm.storage("0", 3), asm.number(0), asm.tuple_of(asm.number(9)), asm.tuple_of(asm.number(1)))
        + asm.BUILD,
        "subclass": asm.call(
            "torch._tensor", "_rebuild_from_type_v2", asm.glob("os", "system"), asm.glob("torch", "Tensor"),
            asm.tuple_of(command), b"N",
        ),
    }  # fmt: skip


CONTAINERS: dict[str, Callable[[Path, bytes], object]] = {
    "zip": lambda path, body: asm.archive(path, asm.pickle(body), DATA),
    "legacy": lambda path, body: path.write_bytes(
        asm.legacy(body, b"]" + asm.text("0") + b"a", struct.pack("<q", 3) + bytes(12))
    ),
    "plain pickle": lambda path, body: path.write_bytes(asm.pickle(body, 4)),
    "without protocol": lambda path, body: path.write_bytes(body + asm.STOP),
}


def _sparse() -> bytes:
    indices = asm.tensor((2, 1), (1, 1), asm.storage("1", 2, "LongStorage"))
    values = asm.tensor((1,), (1,), asm.storage("0", 3))
    layout = asm.call("torch.serialization", "_get_layout", asm.text("torch.sparse_coo"))
    size = asm.call("torch", "Size", asm.tuple_of(asm.number(2**18), asm.number(2**18)))
    return asm.call("torch._utils", "_rebuild_sparse_tensor", layout, asm.tuple_of(indices, values, size))


def _copies() -> bytes:
    large = asm.EMPTY_DICT + b"(" + b"".join(asm.number(index) + b"N" for index in range(5000)) + b"uq\x07"
    return large + (asm.glob("collections", "OrderedDict") + b"h\x07\x85R0") * 5000


def _many_views() -> bytes:
    view = asm.tensor((2**19,), (0,), asm.storage("0", 3))
    return asm.dict_of({f"t{index}": view for index in range(40)})


THREE = asm.storage("0", 3)
BOMBS = {
    "stride 0": asm.tensor((2**19, 2**19), (0, 0), THREE),
    "stride 0 in many tensors": _many_views(),
    "past its storage": asm.tensor((4,), (1,), THREE),
    "offset past its storage": asm.tensor((1,), (1,), THREE, offset=2**62),
    "storage larger than its record": asm.tensor((2**30,), (1,), asm.storage("0", 2**30)),
    "zero dimension overflow": asm.tensor((0, 2**62, 2**62), (1, 1, 1), THREE),
    "deep tuple": b")" + b"\x85" * 200_000,
    "deep list": b"](" * 100_000 + b"e" * 100_000,
    "dict copied again and again": _copies(),
    "sparse": _sparse(),
}
CRASHES = {
    "nested key": asm.EMPTY_DICT + b")q\x01" + b"h\x01\x86" * 60 + b"Ns",
    "doubled tuples as a key": asm.EMPTY_DICT + b")" + b"2\x86" * 100 + b"Ns",
    "set of nested tuples": asm.call("builtins", "set", b"])" + b"\x85\x85a"),
    "memo index": b"Nr\xff\xff\xff\x7f",
    "string longer than the file": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "deep list item by item": b"]" * 100_000 + b"a" * 99_999,
    "storage as a shape": asm.call("torch", "Size", THREE),
    "bytes of a size": asm.call("builtins", "bytearray", asm.number(2**40)),
    "another codec": asm.call("_codecs", "encode", asm.text("x" * 1000), asm.text("idna")),
    "shape of a million": asm.call("torch", "Size", b"](" + b"K\x01" * 1_000_000 + b"e"),
}


def hostile(folder: Path, marker: Path) -> dict[str, Path]:
    """Write the corpus into `folder`; return name → file."""
    made = ours(folder, marker)
    for name, content in {**evasions.files(marker), **abuses.files(marker)}.items():
        path = folder / f"{len(made):03}.pth"
        path.write_bytes(content)
        made[name] = path
    return made


def ours(folder: Path, marker: Path) -> dict[str, Path]:
    """Write the part of the corpus that nobody published."""
    made: dict[str, Path] = {}
    for container, write in CONTAINERS.items():
        for payload, body in payloads(marker).items():
            path = folder / f"{len(made):03}.pth"
            write(path, body)
            made[f"{payload} in {container}"] = path
    for name, content in _odd_files(marker):
        path = folder / f"{len(made):03}.pth"
        path.write_bytes(content)
        made[name] = path
    for name, value in BOMBS.items():
        path = folder / f"{len(made):03}.pth"
        asm.archive(path, asm.pickle(asm.dict_of({"a": value})), {**DATA, "data/1": bytes(16)})
        made[f"bomb: {name}"] = path
    return made


def require_refused(folder: Path, suffix: str, read: Callable[[Path], object], *, every: int = 1) -> None:
    """Hold that `read` refuses every hostile file, or every nth, under names that end in `suffix`, and runs nothing of any."""
    marker = folder / "marker"
    for name, path in list(hostile(folder, marker).items())[::every]:
        named = path.with_suffix(suffix)
        path.rename(named)
        with pytest.raises(UnsafeError):
            read(named)
        assert not marker.exists(), name


def _odd_files(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Yield evasions that are in the container and not in the payload."""
    shell = asm.shell(marker)
    for protocol in range(6):
        yield f"protocol {protocol}", pickle.dumps(_Reduces(marker), protocol)
    good = asm.pickle(asm.dict_of({"a": GOOD}))
    evil = asm.pickle(shell)
    yield "stacked behind a good pickle", good + evil
    yield "stacked in a zip", asm.zip_of({"archive/data.pkl": good + evil, "archive/data/0": bytes(12)})
    yield "npy of objects", asm.npy_of(evil)
    yield "npz of objects", asm.zip_of({"a.npy": asm.npy_of(evil)})
    yield "npz of objects, deflated", asm.zip_of({"a.npy": asm.npy_of(evil)}, zipfile.ZIP_DEFLATED)
    yield "pickle in a plain zip", asm.zip_of({"model/weights.pkl": evil})
    yield "checkpoint in a zip", asm.zip_of({"weights.pth": asm.zip_of({"archive/data.pkl": evil})})
    yield (
        "checkpoint in a zip in a zip",
        asm.zip_of({"a.zip": asm.zip_of({"w.pth": asm.zip_of({"archive/data.pkl": evil})})}),
    )
    yield (
        "TorchScript with a hostile pickle",
        asm.zip_of({"m/constants.pkl": good, "m/data.pkl": evil, "m/code/x.py": b""}),
    )
    yield (
        "exported program's sample inputs",
        asm.zip_of(
            {"m/archive_format": b"pt2", "m/data/sample_inputs/model.pt": asm.zip_of({"archive/data.pkl": evil})}
        ),
    )
    yield "legacy tar", asm.tar_of({"sys_info": good, "pickle": evil, "storages": b"", "tensors": b""})
    yield "tar around a checkpoint", asm.tar_of({"weights.pth": asm.zip_of({"archive/data.pkl": evil})})
    yield "gzip around a pickle", gzip.compress(evil)
    yield "gzip around a tar around a pickle", gzip.compress(asm.tar_of({"weights.pkl": evil}))
    yield "entry outside the folder", asm.zip_of({"archive/data.pkl": good, "archive/../../evil.py": b"x"})
    yield "absolute entry", asm.zip_of({"archive/data.pkl": good, "/evil.py": b"x"})
    yield "two cases of one name", asm.zip_of({"archive/data.pkl": good, "archive/DATA.PKL": evil})
    yield "two archives in one", asm.zip_of({"archive/data.pkl": good, "other/data.pkl": evil})
    yield "deflated", asm.zip_of({"archive/data.pkl": good, "archive/data/0": bytes(12)}, zipfile.ZIP_DEFLATED)
    whole = asm.zip_of({"archive/data.pkl": good, "archive/data/0": bytes(12)})
    yield "bytes before the archive", asm.shifted(whole)
    yield "local name differs", whole.replace(b"archive/data/0", b"archive/data/1", 1)
    yield "encrypted flag", asm.flagged(whole, 0x1)
    for name, header, size in (
        ("shared bytes", {"a": _entry(0, 4), "b": _entry(2, 6)}, 6),
        ("unused bytes", {"a": _entry(0, 4), "b": _entry(8, 12)}, 12),
        ("hidden bytes", {"a": _entry(0, 4)}, 40),
        ("too large a shape", {"a": _entry(0, 4, [2**40])}, 4),
        ("zero-dimension overflow", {"a": _entry(0, 0, [0, 2**40, 2**40])}, 0),
    ):
        text = json.dumps(header).encode()
        yield f"safetensors: {name}", struct.pack("<Q", len(text)) + text + bytes(size)
    yield "safetensors: header of a tebibyte", struct.pack("<Q", 2**40) + b'{"' + bytes(100)
    for place in ("../x.safetensors", "/etc/passwd", "a/b.safetensors", ".."):
        yield f"index that names {place}", json.dumps({"weight_map": {"a": place}}).encode()


class _Reduces:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.marker}",)


def _entry(start: int, end: int, shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1] if shape is None else shape, "data_offsets": [start, end]}
