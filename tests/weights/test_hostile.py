from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import danger, inspect, read
from tests.effort import at_most
from tests.weights import assembler as asm
from tests.weights.corpus import BOMBS, CONTAINERS, CRASHES, DATA, GOOD, hostile, payloads

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = sorted(payloads(Path("marker")))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused_and_never_run(name: str, container: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "model.pth"
    CONTAINERS[container](path, payloads(marker)[name])
    for refuse in (read.load, inspect.description_of):
        with pytest.raises(UnsafeError) as caught:
            refuse(path)
        assert caught.value.exit_code == 3
        assert caught.value.hint
    assert not marker.exists()


def refusal(act: Callable[[Path], object], path: Path) -> int | None:
    try:
        act(path)
    except (UnsafeError, WeightsError) as error:
        return error.exit_code
    return None


def test_every_file_of_the_corpus_is_refused_from_its_headers(tmp_path: Path) -> None:
    files = hostile(tmp_path, tmp_path / "marker")
    assert len(files) >= 400
    for name, path in files.items():
        for refuse in (read.require_state_dict, inspect.description_of):
            assert refusal(refuse, path) == 3, name
    assert not (tmp_path / "marker").exists()


def test_the_payloads_would_run_if_they_were_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    made = payloads(marker)
    for name in ("os.system", "INST", "OBJ", "popped before the end", "builtins.eval", "stack global"):
        pickle.loads(asm.pickle(made[name]))  # noqa: S301 - shows that the payload is real
        assert marker.exists(), name
        marker.unlink()


def test_the_message_names_the_function_and_what_it_would_have_done(tmp_path: Path) -> None:
    path = asm.archive(tmp_path / "model.pth", asm.pickle(asm.shell(tmp_path / "marker")))
    with pytest.raises(UnsafeError) as caught:
        read.load(path)
    assert "model.pth is hostile: 'os.system' would run a command of the operating system" in caught.value.message


def test_every_deed_is_told_for_submodules_too_and_for_nothing_else() -> None:
    assert danger.harm_of("subprocess.Popen") == danger.harm_of("os.system")
    assert danger.harm_of("urllib.request.urlopen") == "open a network connection"
    assert danger.harm_of("osprey.nets.Model") is None
    assert danger.harm_of("builtins.list") is None
    assert danger.harm_of("builtins.eval") == "run Python code from the file"


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


def _bomb(tmp_path: Path, value: bytes) -> Path:
    records = {**DATA, "data/1": bytes(16)}
    return asm.archive(tmp_path / "bomb.pth", asm.pickle(asm.dict_of({"a": value})), records)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_headers_in_little_time(name: str, tmp_path: Path) -> None:
    path = _bomb(tmp_path, BOMBS[name])
    with at_most(40), pytest.raises(UnsafeError) as caught:
        read.load(path)
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
    with at_most(40), pytest.raises((UnsafeError, WeightsError)):
        read.load(_bomb(tmp_path, CRASHES[name]))


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
    with at_most(20), pytest.raises(UnsafeError, match="more than 100,000 tensors"):
        read.load(path)


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


def test_an_entry_that_starts_outside_the_file_is_damage_and_no_crash(tmp_path: Path) -> None:
    path = _archive_with(tmp_path / "model.pth", [("archive/data/0", bytes(12))])
    data = bytearray(path.read_bytes())
    # The last field of a directory entry's fixed part: where its local header starts.
    struct.pack_into("<L", data, data.find(b"PK\x01\x02") + 42, 2**21)
    path.write_bytes(data)
    with pytest.raises((UnsafeError, WeightsError)):
        read.load(path)


def test_an_unknown_escape_in_a_text_is_no_warning(tmp_path: Path) -> None:
    path = asm.archive(tmp_path / "a.pth", asm.pickle(b"}S'\\e'\n" + GOOD + b"s"), DATA)
    assert inspect.description_of(path).tensors[0].name == "\\e"


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
            for action in (read.load, inspect.description_of):
                try:
                    action(path)
                except (UnsafeError, WeightsError) as error:
                    assert error.hint  # noqa: PT017 - any of these errors, or none, is right
