"""Files made to exhaust whoever reads them, each through the commands that would read it, in a process of its own.

    python -m tests.sweeps.bombs FOLDER RELEASE [EVERY]

With EVERY = 4 every fourth command is run. Prints a JSON line for each: what, the command, its exit code, seconds of processor time, bytes over the start.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from tests.release.forgery import forge, state
from tests.sweeps.hostile_commands import CONFIG, NETWORK, SIMPLENET, run
from tests.weights import assembler as asm
from tests.weights.corpus import BOMBS, CRASHES, DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 700_000
ZEROS = 2**28


def safetensors(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape: str, end: int) -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}'


def many_tensors() -> bytes:
    entry = _entry("[0]", 0)
    return ("{" + ",".join([f'"t{index:06}":{entry}' for index in range(MANY)]) + "}").encode()


@cache
def tensor_files() -> dict[str, bytes]:
    """Return headers in the safetensors format; also what a release's golden cases and `predict`'s inputs may be."""
    deep = "[" * 100_000 + "]" * 100_000
    huge = f"[{'9' * 100_000}]"
    return {
        "700,000 tensors": safetensors(many_tensors()),
        "duplicate keys": safetensors(f'{{"a":{_entry("[1]", 4)},"a":{_entry("[1]", 4)}}}'.encode(), bytes(4)),
        "zero-dimension overflow": safetensors(f'{{"a":{_entry(f"[0,{2**40},{2**40}]", 0)}}}'.encode()),
        "deep header": safetensors(f'{{"a":{deep}}}'.encode()),
        "huge integer": safetensors(f'{{"a":{_entry(huge, 4)}}}'.encode(), bytes(4)),
        "header of a tebibyte": struct.pack("<Q", 2**40) + b'{"' + bytes(100),
    }


def weights(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield files that somebody may bring as weights."""
    for name, value in {**BOMBS, **CRASHES}.items():
        path = folder / "bomb.pth"
        yield name, asm.archive(path, asm.pickle(asm.dict_of({"a": value})), {**DATA, "data/1": bytes(16)})
    body = asm.pickle(asm.dict_of({"a": asm.tensor((ZEROS // 4,), (1,), asm.storage("0", ZEROS // 4))}))
    deflated = zipfile.ZIP_DEFLATED
    yield "deflate", asm.archive(folder / "deflated.pth", body, {"data/0": bytes(ZEROS)}, method=deflated)
    for name, content in {**tensor_files(), **_others()}.items():
        path = folder / "bomb.bin"
        path.write_bytes(content)
        yield name, path


def _others() -> dict[str, bytes]:
    flood = b"\x2a\x00" * 3_000_000  # empty initializers, two bytes each
    length = bytes(
        [len(flood) & 0x7F | 0x80, len(flood) >> 7 & 0x7F | 0x80, len(flood) >> 14 & 0x7F | 0x80, len(flood) >> 21]
    )
    return {
        "gzip": gzip.compress(bytes(ZEROS)),
        "deep index": b'{"weight_map":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "index of many": json.dumps({"weight_map": {f"t{index}": "x.pth" for index in range(MANY)}}).encode(),
        "ONNX of 3,000,000 tensors": b"\x08\x08\x3a" + length + flood,
    }


def configs() -> dict[str, str]:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{index}: &a{index} [{', '.join([f'*a{index - 1}'] * 10)}]\n" for index in range(1, 12)
    )
    return {
        "billion laughs": laughs,
        "deep YAML": "a: " + "[" * 100_000,
        "huge integer in YAML": f"name: a\ndimensions: {{batch: {{max: {'9' * 100_000}}}}}\n",
        "duplicate keys in YAML": "name: a\n" * 100_000,
        "merge keys": "a0: &a0 {x: 1}\n"
        + "".join(f"a{index}: &a{index} {{<<: [{', '.join([f'*a{index - 1}'] * 10)}]}}\n" for index in range(1, 12)),
    }  # fmt: skip


def inputs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield files that somebody may give as an input of a release."""
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("x.npy", bytes(ZEROS))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 10)})
    contents = {
        "deflate.npz": deflated.getvalue(),
        "shape.npy": huge.getvalue(),
        "deep.json": b"[" * 100_000 + b"]" * 100_000,
        "integer.json": b"[[" + b"9" * 100_000 + b"]]",
        "lists.json": b"[" + b"[]," * 10_000_000 + b"[]]",
        **{f"{name.replace(' ', '-')}.safetensors": content for name, content in tensor_files().items()},
    }
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        yield name, path


def manifests() -> dict[str, bytes]:
    return {
        "deep": b'{"schema_version":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep enough to be read": b'{"schema_version":1,"a":' + b"[" * 500 + b"]" * 500 + b"}",
        "many lists": b'{"schema_version":1,"a":[' + b"[]," * 650_000 + b"[]]}",
        "huge integer": b'{"schema_version":' + b"9" * 100_000 + b"}",
        "duplicate keys": b'{"schema_version":1,' + b'"a":1,' * 300_000 + b'"b":1}',
        "64 MB": b'{"schema_version":1,"a":"' + b"x" * 2**26 + b'"}',
    }


def commands(folder: Path, release: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield what it is, and a command line that must refuse it."""
    config = folder / "bomb.yaml"
    for name, path in weights(folder):
        config.write_text(CONFIG.format(network=NETWORK, weights=path.name))
        yield name, ["check", str(config)]
        yield name, ["parity", str(SIMPLENET), "--candidate", str(path), "--out", str(folder / "out")]
        if not name.endswith(("index", "of many")) and name != "gzip":  # those it describes, without following them
            yield name, ["inspect", str(path)]
    for name, text in configs().items():
        config.write_text(text)
        yield name, ["check", str(config)]
    for name, path in inputs(folder):
        yield name, ["predict", str(release), "--input", f"x={path}"]
    copy = folder / "release"
    for name, content in tensor_files().items():
        shutil.copytree(release, copy)
        forge(copy, {"golden.safetensors": content})
        yield f"golden cases: {name}", ["verify", str(copy)]
        shutil.rmtree(copy)
    for name, content in manifests().items():
        shutil.copytree(release, copy)
        state(copy, content)
        yield f"manifest: {name}", ["verify", str(copy)]
        yield f"manifest: {name}", ["predict", str(copy), "--input", str(folder / "shape.npy")]
        shutil.rmtree(copy)


def main() -> None:
    """Run every command and print what it took."""
    folder, release, every = Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv[3:], "1")[0])
    starting = run(["--version"]).memory - psutil.Process().memory_info().rss
    for index, (name, arguments) in enumerate(commands(folder, release)):
        if index % every:
            continue
        baseline = (
            psutil.Process().memory_info().rss + starting
        )  # what this process holds by now, which a fork starts with
        ran = run(arguments)
        row = {"what": name, "command": arguments[0], "code": ran.code, "seconds": ran.seconds}
        print(json.dumps({**row, "wall_s": ran.wall_s, "bytes": ran.memory - baseline, "seen": ran.seen}), flush=True)


if __name__ == "__main__":
    main()
