"""Fuzz every parser of ours; run by `make sweep-fuzz`. Only our own errors are allowed, and none after two seconds.

Hypothesis makes bytes that look like each format; and real files are cut, and have one bit turned, at 1,000 seeded
places each. EXAMPLES in the environment sets how many examples each property gets.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pipeline.config import load
from pipeline.config.text import parse_value
from pipeline.errors import WeighbridgeError
from pipeline.formats.torchscript import safety as torchscript
from pipeline.rebuild import trust
from pipeline.release import standalone
from pipeline.release.verify import check
from pipeline.run import init
from pipeline.run.plan import vocabulary
from pipeline.weights import confined, inspect, read
from tests.formats.torchscript import programs
from tests.release.forgery import state
from tests.weights import assembler as asm
from tests.weights import test_opcodes
from tests.weights.corpus import payloads
from tests.weights.test_identify import FILES, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("EXAMPLES", "2000"))
PLACES = 1000
SECONDS = 2.0
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def allowed(act: Callable[[], Any], *errors: type[Exception]) -> None:
    """Do something that may fail only with our own errors, and only soon."""
    start = time.process_time()
    try:
        act()
    except (WeighbridgeError, *errors):
        pass
    assert time.process_time() - start < SECONDS


def every_reader(path: Path) -> None:
    readers = (
        inspect.description_of, read.require_state_dict, confined.require_confined_onnx, torchscript.require_inert,
    )  # fmt: skip
    for reader in readers:
        allowed(lambda reader=reader: reader(path))


OPCODES = [bytes([code]) for code in range(256)]
PIECES = st.one_of(
    st.sampled_from(OPCODES),
    st.binary(max_size=6),
    st.sampled_from([asm.glob("os", "system"), asm.glob("torch", "FloatStorage"), asm.text("storage"), asm.number(2**40)]),
    st.builds(asm.text, st.text(max_size=4)),
    st.builds(asm.number, st.integers(-(2**63), 2**63)),
)  # fmt: skip


@often
@given(body=st.lists(PIECES, max_size=40).map(b"".join), container=st.sampled_from(["bare", "zip", "legacy"]))
def test_pickles(body: bytes, container: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pth"
    if container == "zip":
        asm.archive(path, asm.pickle(body), {"data/0": bytes(12)})
    else:
        path.write_bytes(asm.pickle(body) if container == "bare" else asm.legacy(body, b"]", b""))
    every_reader(path)


@often
@given(seed=st.integers(0, 2**64))
def test_unpicklers_do_nothing_unseen(seed: int) -> None:
    test_opcodes.require_seen(test_opcodes.program(random.Random(seed)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I64", "?"]) | JSON,
        "shape": st.lists(st.integers(-1, 2**62), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
    }
)


@often
@given(header=st.dictionaries(st.text(max_size=5), ENTRY | JSON, max_size=4), size=st.integers(0, 80))
def test_safetensors_headers(header: dict[str, Any], size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    every_reader(path)


@often
@given(index=st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=4), JSON, max_size=3) | JSON}))
def test_shard_indices(index: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.index.json"
    path.write_text(json.dumps(index))
    every_reader(path)


@often
@given(
    content=st.binary(max_size=200),
    magic=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x08\x08", b"\x1f\x8b\x08", b"\x93NUMPY\x01\x00", b'{"']),
)
def test_bytes_that_begin_like_a_format(content: bytes, magic: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(magic + content or b"x")
    every_reader(path)


YAML = st.text(st.sampled_from("abc:-[]{}&*!|>'\"#%@,?~ \n\t0123456789.$"), max_size=80)


@often
@given(text=YAML)
def test_configs(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    allowed(lambda: parse_value(text), ValueError)
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(f"name: a\nmodel: {{weights: w.pth}}\n{text}", encoding="utf-8")
    allowed(lambda: load(path, vocabulary=vocabulary()))


@often
@given(dotted=st.text(st.sampled_from("abpipeline.architectures:SimpleNet_ \n/\\é"), max_size=60))
def test_names_of_architectures(dotted: str) -> None:
    allowed(lambda: trust.locate(dotted, (trust.ALWAYS_TRUSTED,)))


@often
@given(text=st.text(st.sampled_from("xids=float32int64[batch,10]:0..mask-e "), max_size=40))
def test_inputs_on_the_command_line(text: str) -> None:
    allowed(lambda: init.parse_input(text))


CODE = st.lists(
    st.sampled_from(
        ["torch", "ops", ".", "aten", "prim", "c10d", "classes", "save", "from_file", "getattr", "(", ")", ",", '"save"', '"sa"',
         '"ve"', "'", "\\", "#", "\n", " ", "x", "=", '"\\163ave"', "__setstate__", "é"]
    ),
    max_size=30,
)  # fmt: skip


@often
@given(pieces=CODE)
def test_code_of_programs(pieces: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    code = "".join(pieces)
    with zipfile.ZipFile(path, "w") as made:
        for name, content in (("data.pkl", asm.pickle(b"}")), ("constants.pkl", asm.pickle(b")")), ("code/x.py", code)):
            made.writestr(f"archive/{name}", content)
    try:
        torchscript.require_inert(path)
    except WeighbridgeError:
        return
    # Whoever splits it into words, as the loader does, finds none that does harm.
    words = re.split(r"[^A-Za-z0-9_]+", code)
    assert not {"save", "from_file", "__setstate__"} & set(words), code
    assert not re.search(r"\b(ops\s*\.\s*c10d|torch\s*\.\s*classes)\b", code)


@often
@given(manifest=st.dictionaries(st.sampled_from(["schema_version", "files", "models", "config", "signed_by"]), JSON))
def test_manifests(manifest: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "release"
    (folder / "report").mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema_version": 1, **manifest}).encode()
    allowed(lambda: check(state(folder, text)))
    allowed(lambda: standalone.read_manifest(folder), standalone.DamagedError)


GOLDEN_NAME = st.sampled_from(["a/input/x", "a/output/y", "a/floor/y", "a/floor/z", "a", "a/b", "//"])


@often
@given(header=st.dictionaries(GOLDEN_NAME, ENTRY), metadata=JSON, size=st.integers(0, 80))
def test_golden_cases(
    header: dict[str, Any], metadata: Any, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "golden.safetensors"
    limits = {"limit": "16", "tolerances": json.dumps(metadata)}
    text = json.dumps({**header, "__metadata__": limits}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    allowed(lambda: standalone.read_golden(path), standalone.DamagedError)


def real_files(folder: Path) -> dict[str, Path]:
    made = {}
    for kind in (
        Kind.STATE_DICT,
        Kind.STATE_DICT_LEGACY,
        Kind.WRAPPED,
        Kind.ONNX,
        Kind.TAR,
        Kind.NUMPY,
        Kind.PICKLED_MODEL,
    ):
        made[str(kind)] = folder / f"{len(made)}.real"
        FILES[kind](made[str(kind)])
    made["safetensors"] = folder / "real.safetensors"
    save_file(nn.Linear(3, 2).state_dict(), made["safetensors"])
    made["TorchScript"] = programs.saved(programs.AddOne(), folder / "program.real")
    return made


REAL = (
    Kind.STATE_DICT,
    Kind.STATE_DICT_LEGACY,
    Kind.WRAPPED,
    Kind.ONNX,
    Kind.TAR,
    Kind.NUMPY,
    Kind.PICKLED_MODEL,
    "safetensors",
    "TorchScript",
)


@pytest.mark.parametrize("name", [str(name) for name in REAL])
def test_real_files_cut_and_with_a_bit_turned(name: str, tmp_path: Path) -> None:
    original = real_files(tmp_path)[name].read_bytes()
    source = random.Random(name)
    path = tmp_path / "fuzzed"
    for _ in range(PLACES):
        data = bytearray(original)
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        path.write_bytes(data)
        every_reader(path)
        path.write_bytes(original[: source.randrange(1, len(original))])
        every_reader(path)


@pytest.mark.parametrize("name", [str(Kind.STATE_DICT), str(Kind.STATE_DICT_LEGACY), "safetensors"])
def test_what_loads_after_a_turned_bit_holds_tensors_only(name: str, tmp_path: Path) -> None:
    original = real_files(tmp_path)[name].read_bytes()
    source = random.Random(name)
    path = tmp_path / "fuzzed"
    for _ in range(PLACES // 4):
        data = bytearray(original)
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        path.write_bytes(data)
        try:
            loaded = read.load(path)
        except WeighbridgeError:
            continue
        assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.tensors.values())


@pytest.mark.parametrize("payload", sorted(payloads(Path("marker"))))
def test_no_turned_bit_makes_a_hostile_pickle_pass(payload: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    original = asm.pickle(asm.dict_of({"a": payloads(marker)[payload]}))
    source = random.Random(payload)
    path = tmp_path / "fuzzed.pth"
    for _ in range(60):
        data = bytearray(original)
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        asm.archive(path, bytes(data), {"data/0": bytes(12)})
        allowed(lambda: read.load(path))
        assert not marker.exists()
