from __future__ import annotations

import json
import pickle
import struct
import time
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.checkpoint import danger, inspect, kinds, read
from pipeline.errors import UnsafeError, WeightsError
from tests.checkpoint import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = asm.tensor((3,), (1,), asm.storage("0", 3))
DATA = {"data/0": bytes(12)}


def _payloads(marker: Path) -> dict[str, bytes]:
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


NAMES = sorted(_payloads(__import__("pathlib").Path("marker")))
CONTAINERS: dict[str, Callable[[Path, bytes], object]] = {
    "zip": lambda path, body: asm.archive(path, asm.pickle(body), DATA),
    "legacy": lambda path, body: path.write_bytes(
        asm.legacy(body, b"]" + asm.text("0") + b"a", struct.pack("<q", 3) + bytes(12))
    ),
    "plain pickle": lambda path, body: path.write_bytes(asm.pickle(body, 4)),
    "without protocol": lambda path, body: path.write_bytes(body + asm.STOP),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused_and_never_run(name: str, container: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "model.pth"
    CONTAINERS[container](path, _payloads(marker)[name])
    for refuse in (read.load, inspect.describe):
        with pytest.raises(UnsafeError) as caught:
            refuse(path)
        assert caught.value.exit_code == 3
        assert caught.value.hint
    kinds.identify(path)
    assert not marker.exists()


def test_the_payloads_would_run_if_they_were_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payloads = _payloads(marker)
    for name in ("os.system", "INST", "OBJ", "popped before the end", "builtins.eval", "stack global"):
        pickle.loads(asm.pickle(payloads[name]))  # noqa: S301 - shows that the payload is real
        assert marker.exists(), name
        marker.unlink()


def test_the_message_names_the_function_and_what_it_would_have_done(tmp_path: Path) -> None:
    path = asm.archive(tmp_path / "model.pth", asm.pickle(asm.shell(tmp_path / "marker")))
    with pytest.raises(UnsafeError) as caught:
        read.load(path)
    assert "model.pth is hostile: 'os.system' would run a command of the operating system" in caught.value.message


def test_every_deed_is_told_for_submodules_too_and_for_nothing_else() -> None:
    assert danger.deed("subprocess.Popen") == danger.deed("os.system")
    assert danger.deed("urllib.request.urlopen") == "open a network connection"
    assert danger.deed("osprey.nets.Model") is None
    assert danger.deed("builtins.list") is None
    assert danger.deed("builtins.eval") == "run Python code from the file"


def _legacy_parts(tmp_path: Path) -> list[bytes]:
    marker = tmp_path / "marker"
    good = [asm.number(asm.MAGIC), asm.number(1001), asm.EMPTY_DICT, asm.EMPTY_DICT, b"]"]
    # The payload in the protocol version, the system info, and the list of storages.
    return [
        b"".join(asm.pickle(asm.shell(marker) if index == bad else part) for index, part in enumerate(good))
        for bad in (1, 2, 4)
    ]


@pytest.mark.parametrize("index", range(3))
def test_each_of_the_stacked_pickles_of_a_legacy_file_is_checked(index: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(_legacy_parts(tmp_path)[index])
    with pytest.raises(UnsafeError, match=r"os\.system"):
        read.load(path)


def test_bytes_hidden_behind_a_pickle_are_refused(tmp_path: Path) -> None:
    second = asm.pickle(asm.shell(tmp_path / "marker"))
    body = asm.dict_of({"a": GOOD})
    path = asm.archive(tmp_path / "zip.pth", asm.pickle(body) + second, DATA)
    with pytest.raises(UnsafeError, match=r"hides .* bytes behind its pickle"):
        read.load(path)
    path = tmp_path / "legacy.pth"
    path.write_bytes(asm.legacy(body, b"]" + asm.text("0") + b"a", struct.pack("<q", 3) + bytes(12) + second))
    with pytest.raises(UnsafeError, match=r"hides .* bytes behind its data"):
        read.load(path)


def _archive_with(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", asm.pickle(asm.dict_of({"a": GOOD})))
        for name, content in entries:
            made.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("archive/DATA.PKL", "is there twice"),
        ("archive/../../evil.py", "outside its folder"),
        ("/archive/evil.py", "outside its folder"),
        ("archive\\..\\evil.py", "outside its folder"),
        ("C:/archive/evil.py", "outside its folder"),
        ("other/data.pkl", "several archives in one"),
    ],
)
def test_entries_with_two_meanings_are_refused(name: str, problem: str, tmp_path: Path) -> None:
    path = _archive_with(tmp_path / "model.pth", [("archive/data/0", bytes(12)), (name, b"x")])
    with pytest.raises(UnsafeError, match=problem):
        read.load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = _archive_with(tmp_path / "model.pth", [("archive/data/0", bytes(12)), ("archive/data/0", bytes(12))])
    with pytest.raises(UnsafeError, match=r"archive/data/0.* is there twice"):
        read.load(path)


def test_a_local_header_that_contradicts_the_directory_is_refused(tmp_path: Path) -> None:
    path = _archive_with(tmp_path / "model.pth", [("archive/data/0", bytes(12))])
    data = path.read_bytes()
    for old, new, problem in (
        (b"archive/data/0", b"archive/data/1", "is called 'archive/data/1' where its bytes are"),
        (b"PK\x03\x04", b"PK\x03\x05", "is called|lies outside|where its bytes are"),
    ):
        path.write_bytes(data[:60] + data[60:].replace(old, new, 1))
        with pytest.raises(UnsafeError, match=problem):
            read.load(path)


def test_bytes_before_the_archive_are_refused(tmp_path: Path) -> None:
    path = _archive_with(tmp_path / "model.pth", [("archive/data/0", bytes(12))])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as read_back:
        first = read_back.infolist()[0]
    assert first.header_offset == 0
    path.write_bytes(b"PK\x03\x04" + bytes(96) + data)
    with pytest.raises((UnsafeError, WeightsError)):
        read.load(path)


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


def _bomb(tmp_path: Path, value: bytes) -> Path:
    records = {**DATA, "data/1": bytes(16)}
    return asm.archive(tmp_path / "bomb.pth", asm.pickle(asm.dict_of({"a": value})), records)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_headers_within_two_seconds(name: str, tmp_path: Path) -> None:
    path = _bomb(tmp_path, BOMBS[name])
    start = time.monotonic()
    with pytest.raises(UnsafeError) as caught:
        read.load(path)
    assert time.monotonic() - start < 2
    assert caught.value.message.startswith("bomb.pth")


@pytest.mark.parametrize("name", ["stride 0", "deep tuple", "storage larger than its record"])
def test_a_bomb_takes_little_memory(name: str, tmp_path: Path) -> None:
    path = _bomb(tmp_path, BOMBS[name])
    tracemalloc.start()
    with pytest.raises(UnsafeError):
        read.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    body = asm.pickle(asm.dict_of({"a": asm.tensor((2**23,), (1,), asm.storage("0", 2**23))}))
    path = asm.archive(tmp_path / "bomb.pth", body, {"data/0": bytes(2**25)}, method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(UnsafeError, match=r"is compressed \("):
        read.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("name", CRASHES)
def test_what_would_hang_or_crash_a_pickle_reader_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises((UnsafeError, WeightsError)):
        read.load(_bomb(tmp_path, CRASHES[name]))
    assert time.monotonic() - start < 2


def _safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def _entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "size", "problem"),
    [
        (json.dumps({"a": _entry(0, 4), "b": _entry(2, 6)}), 6, "shares bytes"),
        (json.dumps({"a": _entry(0, 4), "b": _entry(8, 12)}), 12, "leaves 4 bytes unused"),
        (json.dumps({"a": _entry(0, 4)}), 40, "hides 36 bytes"),
        (json.dumps({"a": _entry(0, 4, [2**40])}), 4, "has 4 bytes of data"),
        (json.dumps({"a": _entry(0, 0, [0, 2**40, 2**40])}), 0, "has 0 bytes of data"),
        ('{"a": %s, "a": %s}' % ((json.dumps(_entry(0, 4)),) * 2), 4, "stands twice"),
    ],
)
def test_hostile_safetensors_headers_are_refused(header: str, size: int, problem: str, tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "a.safetensors", header.encode(), bytes(size))
    with pytest.raises(UnsafeError, match=problem):
        read.load(path)


def test_a_safetensors_header_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b'{"' + bytes(100))
    with pytest.raises(UnsafeError, match="declares a header of"):
        read.load(path)


def test_700_000_tensors_in_a_header_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    entry = '"t%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = "{" + ",".join(entry % index for index in range(700_000)) + "}"
    path = _safetensors(tmp_path / "a.safetensors", header.encode())
    start = time.monotonic()
    with pytest.raises(UnsafeError, match="more than 100,000 tensors"):
        read.load(path)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ' + b"[" * 100_000,
        b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 5000),
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]}}',
        b'{"__metadata__": [1]}',
        b'{"a": NaN}',
    ],
)
def test_malformed_safetensors_headers_are_input_errors(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^a\.safetensors"):
        read.load(_safetensors(tmp_path / "a.safetensors", header, bytes(4)))


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x\\y"])
def test_an_index_names_only_files_beside_it(shard: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UnsafeError, match="not a file beside it"):
        read.load(path)


def test_an_index_that_names_itself_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": path.name}}))
    with pytest.raises(WeightsError, match="is an index of a sharded checkpoint"):
        read.load(path)


def test_the_limit_on_bytes_holds_for_the_file_and_for_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1000), "b": torch.zeros(1, dtype=torch.uint8).expand(1_000_000)}, path)
    with pytest.raises(UnsafeError, match=r"a\.pth is [\d,]+ bytes, more than the limit of 1,000"):
        read.load(path, max_bytes=1000)
    with pytest.raises(UnsafeError, match=r"the tensors of a\.pth need 1,004,000 bytes"):
        read.load(path, max_bytes=100_000)
    assert len(read.load(path, max_bytes=2_000_000).tensors) == 2


def test_a_flipped_bit_in_the_data_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="data/0 does not match its checksum"):
        read.load(path)


def test_bit_flips_and_cuts_of_real_files_give_only_errors_of_ours(tmp_path: Path) -> None:
    import random

    random_ = random.Random(7)
    originals = []
    for name, legacy in (("zip", False), ("legacy", True)):
        path = tmp_path / f"{name}.pth"
        torch.save({"fc.weight": torch.ones(3, 2), "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
        originals.append(path.read_bytes())
    header = json.dumps({"a": _entry(0, 4), "b": _entry(4, 8)}).encode()
    originals.append(struct.pack("<Q", len(header)) + header + bytes(8))
    path = tmp_path / "fuzzed.pth"
    for original in originals:
        for _ in range(150):
            data = bytearray(original)
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
            path.write_bytes(data[: random_.choice([len(data), random_.randrange(1, len(data))])])
            for action in (read.load, inspect.describe, kinds.identify):
                try:
                    action(path)
                except (UnsafeError, WeightsError) as error:
                    assert error.hint  # noqa: PT017 - any of these errors, or none, is right
