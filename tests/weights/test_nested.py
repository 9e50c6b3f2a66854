"""What lies in archives, in arrays of objects and in HDF5 files is judged like a file of its own: harmless ones are described."""

from __future__ import annotations

import bz2
import copy
import enum
import gzip
import io
import lzma
import pickle
import struct
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import danger, headers, inspect, nested, pickles, read
from pipeline.weights.files import Part
from pipeline.weights.kinds import Kind
from pipeline.weights.pickle_records import CraftedError
from tests.weights import assembler as asm
from tests.weights import evasions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
STATE = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}


def _npy(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()


def _npz(*, deflated: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if deflated else np.savez)(stream, **arrays)
    return stream.getvalue()


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _objects(*values: Any) -> Any:
    made = np.empty(len(values), object)
    made[:] = values
    return made


class Colour(enum.Enum):
    RED = 1


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colour, self.names, self.sizes, self.flags = Colour.RED, ["a"], {"a": 1}, [True]
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
        self.tensors = [torch.ones(2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tensors[0].sum() if self.colour == Colour.RED else x


def _scripted(module: nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), stream)
    return stream.getvalue()


def _quantised() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _scripted(torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear}))


def _exported() -> bytes:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, y: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"z": x + y["k"]}

    stream = io.BytesIO()
    torch.export.save(torch.export.export(Net(), (torch.zeros(2), {"k": torch.ones(2)})), stream)
    return stream.getvalue()


def _packaged(folder: Path) -> bytes:
    with torch.package.PackageExporter(str(folder / "package.pt")) as made:
        made.extern("**")
        made.save_pickle("model", "model.pkl", nn.Linear(2, 2))
    return (folder / "package.pt").read_bytes()


def _streamed() -> bytes:
    """Return a zip as it is written to a pipe: sizes stand behind the bytes."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.made = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: Any) -> int:
            self.made += bytes(piece)
            return len(piece)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as made:  # type: ignore[call-overload]
        made.writestr("a.txt", b"text")
        made.writestr("w.pth", _saved(STATE))
    return pipe.made


ARRAYS = {
    "texts": _objects("a", "bc", ""),
    "numbers and nothing": _objects(1, 2.5, None, True, 10**30, 1j),
    "dictionaries": _objects({"name": "a", "sizes": [1, 2]}, {"b": {"c": None}}),
    "lists and tuples": _objects([1, [2, ["x"]]], (1, ("y",)), []),
    "sets and bytes": _objects({1, 2}, frozenset("ab"), b"\x00\xff", b"", bytearray(b"a")),
    "arrays of numbers": _objects(np.arange(3.0), np.ones((2, 3), np.int8), np.zeros(0, np.float16)),
    "arrays of arrays": _objects(_objects(np.arange(2), "a"), np.array(["x", "yz"])),
    "arrays in another order": _objects(np.asfortranarray(np.ones((2, 3))), np.ones((4, 4))[::2, ::2]),
    "numbers of numpy's": _objects(np.float32(1), np.int64(2), np.bool_(True), np.str_("a"), np.complex64(1j)),
    "dates": _objects(np.array(["2026-01-01"], "M8[D]"), np.timedelta64(3, "h")),
    "the same twice": _objects(*[np.arange(2)] * 3, *["a"] * 3),
    "a large array": _objects(np.zeros(100_000), "x" * 100_000),
    "no object": np.empty((0, 3), object),
    "a matrix of objects": np.array([["a", 1], [None, [2]]], object),
}


def _plain(folder: Path) -> dict[str, bytes]:
    """Return harmless files of every kind that holds others, or pickles."""
    pth, objects = _saved({"state_dict": STATE, "epoch": 3}), _npy(ARRAYS["dictionaries"])
    texts = {
        "README.md": b"# Weights\n",
        "train.py": b"import os\nos.system('ls')\n",
        "c.txt": b"cat\ndog\ncar\nbus\na\nb\n",
    }
    h5 = evasions.HDF5 + np.random.default_rng(1).bytes(300_000) + b"conv\nbias\ncell\nkernel\n"
    return {
        "npz of numbers": _npz(a=np.ones(3), b=np.zeros((2, 2), np.int8)),
        "npz of objects": _npz(a=ARRAYS["texts"], b=ARRAYS["arrays of numbers"]),
        "npz of objects, deflated": _npz(deflated=True, a=ARRAYS["texts"], b=ARRAYS["lists and tuples"]),
        "npz of more than is unpacked": _npz(deflated=True, a=np.zeros(2**26 + 1, np.int8), b=ARRAYS["texts"]),
        "arrays with names of their own": _npz(
            a=np.zeros(2, [("x", "<f4"), ("y", "U3")]), b=np.array(["2026"], "M8[Y]")
        ),
        "several arrays in one file": _npy(np.ones(3)) + objects + _npy(np.zeros(2)),
        "an array as Python 2 wrote it": _npy(np.ones(3)).replace(b"(3,), }", b"(3L,),}"),
        "zip of a checkpoint": asm.zip_of({**texts, "weights.pth": pth}),
        "zip of a checkpoint, deflated": asm.zip_of({**texts, "weights.pth": pth}, zipfile.ZIP_DEFLATED),
        "zip written to a pipe": _streamed(),
        "zip in a zip": asm.zip_of({"a.zip": asm.zip_of({"w.pth": pth, "w.npy": objects})}),
        "tar of many kinds": asm.tar_of({**texts, "w.pth": pth, "w.npy": objects, "w.safetensors": save(STATE)}),
        "tar of before POSIX": asm.old_tar(asm.tar_of({"w.pth": pth})),
        "tar in gzip": gzip.compress(asm.tar_of({"w.pth": pth, "w.npz": _npz(a=ARRAYS["texts"])})),
        "pickle in bzip2": bz2.compress(pickle.dumps({"a": np.ones(3)})),
        "checkpoint in xz": lzma.compress(pth),
        "array in zlib": zlib.compress(objects),
        "two gzip streams": gzip.compress(pth[:100]) + gzip.compress(pth[100:]),
        "whole model in a zip": asm.zip_of({"model.pt": _saved(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))}),
        "whole transformer": _saved(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, activation="gelu", batch_first=True), 1)
        ),
        "TorchScript": _scripted(Scripted()),
        "TorchScript in a zip": asm.zip_of({"w.pt": _scripted(Scripted())}),
        "quantised TorchScript": _quantised(),
        "exported program": _exported(),
        "package": _packaged(folder),
        "HDF5": h5 + h5[::-1],
        "HDF5 with pickles": h5
        + b"".join(pickle.dumps({"a": [np.float64(1), "é"]}, protocol) for protocol in range(6)),
        "Keras file": asm.zip_of({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": h5}),
        **{
            f"pickle of protocol {index}": pickle.dumps({"a": np.ones(3), "b": [None, "c"]}, index)
            for index in range(6)
        },
    }


@pytest.mark.parametrize("name", ARRAYS)
def test_harmless_arrays_of_objects_are_described_wherever_they_lie(name: str, tmp_path: Path) -> None:
    for suffix, content in {
        ".npy": _npy(ARRAYS[name]),
        ".npz": _npz(a=ARRAYS[name]),
        ".npz, deflated": _npz(deflated=True, a=ARRAYS[name]),
        ".pkl": pickle.dumps([ARRAYS[name]], 4),
    }.items():
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        description = inspect.description_of(path)
        assert not description.needs
        if description.kind == Kind.NUMPY:
            with pytest.raises(WeightsError) as caught:
                read.require_state_dict(path)
            assert "allow_pickle=False" in str(caught.value.hint)


def test_harmless_archives_programs_and_pickles_are_described(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for name, content in _plain(tmp_path).items():
        path.write_bytes(content)
        assert inspect.description_of(path).kind not in (Kind.UNKNOWN, Kind.TRUNCATED, Kind.TEXT), name


def test_no_advice_runs_a_pickle_of_somebody_elses() -> None:
    for remedy in (kind.remedy for kind in Kind):
        assert "numpy.load(" not in remedy or "allow_pickle=False" in remedy
        assert not any(
            word in remedy for word in ("allow_pickle=True", "weights_only=False", "torch.load", "pickle.load")
        )


def test_what_unpacks_to_too_much_is_unsafe_and_not_passed_over(tmp_path: Path) -> None:
    evasions.much_content(tmp_path / "a.zip")
    with pytest.raises(UnsafeError, match=r"a\.zip.* unpacks to more than 64 MiB") as caught:
        inspect.description_of(tmp_path / "a.zip")
    assert caught.value.hint == "unpack it, and run weighbridge inspect on what is inside"


# The sweep holds the limits themselves; their files take seconds to write.
@pytest.mark.parametrize(
    ("limit", "above", "word"),
    [
        (nested.Walk(members=4), nested.Walk(members=3), "holds more than"),
        (nested.Walk(unpacked=300), nested.Walk(unpacked=30), "unpacks to more than"),
        (nested.Walk(depth=3), nested.Walk(depth=4), "lies in 4 archives"),
        (
            nested.Walk(1, instructions=pickles.Budget(70)),
            nested.Walk(1, instructions=pickles.Budget(7)),
            "instructions",
        ),
    ],
)
def test_all_is_looked_at_up_to_each_limit_and_nothing_is_let_through_beyond(
    limit: nested.Walk, above: nested.Walk, word: str, tmp_path: Path
) -> None:
    shell = asm.pickle(asm.shell(tmp_path / "marker"), 4)
    entries = {f"{index}.pkl": asm.pickle(b"](NNe") for index in range(3)}
    harmless, hostile = (asm.zip_of(each, zipfile.ZIP_DEFLATED) for each in (entries, {**entries, "w.pkl": shell}))
    assert headers._of_bytes(harmless, Kind.ZIP, "a.zip", copy.deepcopy(limit)).kind is Kind.ZIP
    with pytest.raises(UnsafeError, match="is hostile"):
        headers._of_bytes(hostile, Kind.ZIP, "a.zip", copy.deepcopy(limit))
    with pytest.raises(UnsafeError, match=word):
        headers._of_bytes(hostile, Kind.ZIP, "a.zip", copy.deepcopy(above))


@pytest.mark.parametrize(
    "sealed", [b"7z\xbc\xaf\x27\x1c", b"\x28\xb5\x2f\xfd", b"Rar!\x1a\x07\x01\x00", b"\x04\x22\x4d\x18"]
)
def test_an_archive_that_nobody_looks_into_is_unsafe_with_the_way_out(sealed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.7z"
    path.write_bytes(sealed + bytes(100))
    with pytest.raises(UnsafeError, match="nobody here looks into") as caught:
        inspect.description_of(path)
    assert caught.value.hint == "unpack it, and run weighbridge inspect on what is inside"


def test_a_sharded_checkpoint_with_one_hostile_file_is_unsafe_even_beside_a_damaged_one(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name, path in evasions.sharded(tmp_path, marker):
        for refuse in (inspect.description_of, read.require_state_dict, read.load):
            with pytest.raises(UnsafeError):
                refuse(path)
        assert not marker.exists(), name


@pytest.mark.parametrize("module", ["my_models", "torchvision.models.resnet", "__main__"])
def test_a_model_may_be_made_of_its_own_classes_and_of_nothing_else(module: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    state = {"_parameters": b"}", "_modules": b"}", "training": b"\x88"}

    def model(**more: bytes) -> bytes:
        return asm.glob(module, "Net") + b")\x81" + asm.dict_of({**state, **more}) + asm.BUILD

    asm.archive(path, asm.pickle(model(activation=asm.glob("torch.nn.functional", "relu"))))
    assert inspect.description_of(path).kind == Kind.PICKLED_MODEL
    for other in (
        asm.glob(module, "activation"),
        asm.glob("torch.nn.functional", "torch.save"),
        asm.glob("torch.nn.functional", "relu") + b")R",
        asm.glob(module, "Config") + b")\x81}b",
        asm.call(module, "Net", asm.text("x")),
        asm.glob(module, "Net") + asm.dict_of({"forward": b"N"}) + asm.BUILD,
    ):
        asm.archive(path, asm.pickle(model(extra=other)))
        with pytest.raises(UnsafeError):
            inspect.description_of(path)


def test_classes_of_python_itself_are_no_networks(tmp_path: Path) -> None:
    for module, name in (
        ("collections", "deque"),
        ("dbm.dumb", "_Database"),
        ("shelve", "Shelf"),
        ("os", "_wrap_close"),
    ):
        body = asm.glob(module, name) + b")\x81" + asm.dict_of({"_parameters": b"}", "_modules": b"}"}) + asm.BUILD
        asm.archive(tmp_path / "model.pth", asm.pickle(body))
        with pytest.raises(UnsafeError):
            inspect.description_of(tmp_path / "model.pth")


def test_a_list_of_words_is_a_text_though_it_reads_as_a_pickle(tmp_path: Path) -> None:
    for text in (
        "cat\ndog\ncar\nbus\na\nb\n",
        "class Net:\n    pass\n",
        "ipdb\n",
        "(C) 1995 this software\nis provided (as is\nhere). So",
        "N. Wirth\n",
        "I am\n",
        "copyright\nnobody\n",
    ):
        (tmp_path / "a.txt").write_text(text)
        assert inspect.description_of(tmp_path / "a.txt").kind == Kind.TEXT
    assert danger.runs({"innocent.x": "calls"})
    assert danger.runs({"sys.modules": "changes"})
    assert not danger.runs({"at.dog": "changes", "ar.bus": "names"})


def test_what_is_left_of_a_hostile_archive_is_hostile_and_of_a_harmless_one_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    body = asm.dict_of({"a": asm.shell(tmp_path / "marker"), "b": evasions.GOOD})
    hostile = asm.archive(path, asm.pickle(body), {"data/0": bytes(5000)}).read_bytes()
    for share in (0.3, 0.9, 0.999):
        path.write_bytes(hostile[: int(share * len(hostile))])
        with pytest.raises(UnsafeError, match=r"weights\.pth \(at byte .*os\.system"):
            inspect.description_of(path)
        path.write_bytes(asm.zip_of({"w.pth": path.read_bytes()}))
        with pytest.raises(UnsafeError, match=r"\(w\.pth\) \(at byte .*os\.system"):
            inspect.description_of(path)
        for harmless in (_saved(STATE), _scripted(Scripted())):
            path.write_bytes(harmless[: int(share * len(harmless))])
            assert inspect.description_of(path).kind == Kind.TRUNCATED


def test_a_damaged_file_in_an_archive_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for name, content in {
        "w.pth": _saved(STATE)[:-200],
        "w.npy": _npy(np.ones(100))[:-9],
        "w.gz": b"\x1f\x8b\x08",
    }.items():
        path.write_bytes(asm.zip_of({name: content}))
        with pytest.raises(WeightsError, match=rf"a\.zip \({name}\)|{name}") as caught:
            inspect.description_of(path)
        assert caught.value.hint


def test_what_comes_behind_damage_is_looked_at_too(tmp_path: Path) -> None:
    path, shell = tmp_path / "a.zip", asm.pickle(asm.shell(tmp_path / "marker"), 4)
    damaged = {"w.pth": _saved(STATE)[:-200], "w.npy": _npy(np.ones(100))[:-9], "w.gz": gzip.compress(b"weights")[:-4]}
    inner = asm.zip_of({"b.zip": asm.zip_of(damaged)})
    for name, content in {**damaged, "w.zip": inner}.items():
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path.write_bytes(asm.zip_of({name: content, "z.zip": asm.zip_of({"z.pkl": shell})}, method))
            with pytest.raises(UnsafeError, match=r"z\.pkl"):
                inspect.description_of(path)
    whole = bytearray(asm.zip_of({"a.txt": _npy(np.arange(999)), "z.pkl": shell}, zipfile.ZIP_DEFLATED))
    whole[100:200] = b"\xff" * 100
    path.write_bytes(whole)
    with pytest.raises(UnsafeError, match=r"z\.pkl"):
        inspect.description_of(path)


def test_a_deflated_entry_that_breaks_off_behind_a_hostile_pickle_is_hostile(tmp_path: Path) -> None:
    shell = asm.pickle(asm.shell(tmp_path / "marker"), 4) + np.random.default_rng(2).bytes(200_000)
    whole = bytearray(asm.zip_of({"w.pkl": shell}, zipfile.ZIP_DEFLATED))
    whole[150_000:150_400] = b"\xff" * 400
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(UnsafeError, match=r"os\.system"):
        inspect.description_of(tmp_path / "a.zip")


def test_a_part_of_a_file_reads_like_a_file_of_its_own() -> None:
    part = Part(b"0123456789", 2, 8)
    assert (len(part), part[0], part[-1], part[1:3], part[4:99], part[:]) == (
        6,
        ord("2"),
        ord("7"),
        b"34",
        b"67",
        b"234567",
    )
    assert (part.find(b"4"), part.find(b"9"), part.rfind(b"7"), part.find(b"2", 1)) == (2, -1, 5, -1)
    assert (part.read(2), part.tell(), part.read(), part.read(1)) == (b"23", 2, b"4567", b"")
    assert (part.seek(-1, 2), part.read(), part.seek(1), part.read(1)) == (5, b"7", 1, b"3")
    assert Part(part, 1, 3)[:] == b"34"
    with pytest.raises(IndexError):
        part[6]


def test_numbers_of_tensors_in_a_program_are_no_pickles_whatever_they_spell(tmp_path: Path) -> None:
    shell = asm.pickle(asm.shell(tmp_path / "marker"), 4)
    data = asm.pickle(asm.glob("__torch__", "Net") + b")\x81")
    entries = {"m/data.pkl": data, "m/constants.pkl": asm.pickle(b")"), "m/code/x.py": b""}
    path = tmp_path / "program.pt"
    path.write_bytes(asm.zip_of({**entries, "m/data/0": b"(" * 4096}))
    assert inspect.description_of(path).kind == Kind.TORCHSCRIPT
    path.write_bytes(asm.zip_of({**entries, "m/data/x": shell}))
    with pytest.raises(UnsafeError):
        inspect.description_of(path)


def test_a_numpy_array_is_declared_exactly_or_refused() -> None:
    dtype = asm.call("numpy", "dtype", asm.text("f8"), b"\x89", b"\x88")
    for held, taken in ((8, True), (7, False), (16, False)):
        buffer = b"\x8e" + struct.pack("<Q", held) + bytes(held)
        body = asm.call("numpy._core.numeric", "_frombuffer", buffer, dtype, asm.tuple_of(asm.number(1)), asm.text("C"))
        if taken:
            assert pickles.parse(asm.pickle(body, 4)).declared.has_numpy
        else:
            with pytest.raises(CraftedError, match="holds more or less"):
                pickles.parse(asm.pickle(body, 4))


def test_an_array_is_made_of_numpys_own_class_or_refused() -> None:
    for module, name in (("collections", "OrderedDict"), ("torch", "FloatStorage"), ("numpy", "dtype")):
        body = asm.call(
            "numpy._core.multiarray", "_reconstruct", asm.glob(module, name), asm.tuple_of(asm.number(0)), asm.text("b")
        )
        with pytest.raises(CraftedError, match="not made as numpy does"):
            pickles.parse(asm.pickle(body, 4))


def test_an_archive_that_readers_take_differently_is_unsafe_though_it_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    whole = _saved(STATE)
    for altered in (whole + b"x", evasions._with_count(whole, 1), asm.shifted(whole, b"PK\x03\x04" + bytes(30))):
        path.write_bytes(altered)
        with pytest.raises(UnsafeError, match=r"weights\.pth"):
            read.require_state_dict(path)
