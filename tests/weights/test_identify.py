from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import warnings
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import WeightsError
from pipeline.weights import headers, inspect, read
from pipeline.weights.kinds import Kind
from tests.weights import assembler as asm
from tests.weights import ir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.fc2 = nn.Linear(20, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Net(), torch.zeros(2, 10)), path)


def _onnx(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((10, 2), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)


def _zip(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as made:
        made.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())


def _sharded(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path.parent / "model-1.safetensors")
    save_file({"b": torch.ones(3)}, path.parent / "model-2.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    path.write_text(json.dumps(index))


FILES: dict[Kind, Callable[[Path], object]] = {
    Kind.STATE_DICT: lambda path: torch.save(Net().state_dict(), path),
    Kind.STATE_DICT_LEGACY: lambda path: torch.save(Net().state_dict(), path, _use_new_zipfile_serialization=False),
    Kind.WRAPPED: lambda path: torch.save({"epoch": 3, "model_state_dict": Net().state_dict()}, path),
    Kind.SEVERAL: lambda path: torch.save({"net": Net().state_dict(), "ema": Net().state_dict()}, path),
    Kind.PICKLED_MODEL: lambda path: torch.save(Net(), path),
    Kind.TORCH_OBJECT: lambda path: torch.save([1, 2], path),
    Kind.PICKLE: lambda path: path.write_bytes(asm.pickle(asm.dict_of({"a": asm.number(3)}), 4)),
    Kind.TORCHSCRIPT: _script,
    Kind.EXPORTED_PROGRAM: lambda path: torch.export.save(torch.export.export(Net(), (torch.zeros(2, 10),)), str(path)),
    Kind.ONNX: _onnx,
    Kind.OPENVINO: lambda path: path.write_text(ir.text()),
    Kind.SAFETENSORS: lambda path: save_file(Net().state_dict(), path),
    Kind.SHARDED: _sharded,
    Kind.NUMPY: lambda path: path.write_bytes(_npz()),
    Kind.HDF5: lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    Kind.TENSORFLOW: lambda path: path.write_bytes(b"\x08\x01\x12\x04\x0a\x02\x0a\x00"),
    Kind.GGUF: lambda path: path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100)),
    Kind.TAR: _tar,
    Kind.ZIP: lambda path: _zip(path, ["weights.pth", "README.md"]),
    Kind.GZIP: lambda path: path.write_bytes(gzip.compress(b"weights")),
    Kind.LFS_POINTER: lambda path: path.write_text(POINTER),
    Kind.HTML: lambda path: path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>"),
    Kind.TEXT: lambda path: path.write_text("It is not a weights file, é.\n" * 400),
    Kind.EMPTY: lambda path: path.write_bytes(b""),
    Kind.UNKNOWN: lambda path: path.write_bytes(b"\xff\xfe\xfd\xfc" * 50),
}


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3), b=np.ones(2))
    return stream.getvalue()


LOADABLE = {Kind.STATE_DICT, Kind.STATE_DICT_LEGACY, Kind.WRAPPED, Kind.SAFETENSORS, Kind.SHARDED}


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
def test_each_kind_is_told_from_its_contents_whatever_its_name(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "weights.jpeg"
    FILES[kind](path)
    description = inspect.description_of(path)
    assert description.kind == kind
    assert description.explanation
    assert description.next


@pytest.mark.parametrize("kind", sorted(set(FILES) - LOADABLE), ids=lambda kind: kind.name)
def test_what_is_no_state_dict_is_refused_with_its_kind_and_a_fix(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "my_model.pth"
    FILES[kind](path)
    with pytest.raises(WeightsError, match=r"^my_model\.pth ") as caught:
        read.load(path)
    assert caught.value.exit_code == 2
    assert str(caught.value.hint).startswith(kind.remedy)


@pytest.mark.parametrize("kind", sorted(LOADABLE), ids=lambda kind: kind.name)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file_is_an_input_error_wherever_it_is_cut(kind: Kind, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    FILES[kind](path)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(WeightsError) as caught:
        read.load(path)
    assert caught.value.hint


def test_a_truncated_torch_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(Net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    assert headers.read(path).kind is Kind.TRUNCATED


def test_a_missing_file_is_answered_with_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("model_best.pth", "other.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match="there is no file") as caught:
        headers.read(tmp_path / "model_bset.pth")
    assert caught.value.hint is not None
    assert "did you mean model_best.pth?" in caught.value.hint
    assert "other.safetensors" in caught.value.hint
    assert "notes.txt" not in caught.value.hint


def test_a_folder_is_answered_with_its_weights_files(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match="is a folder") as caught:
        headers.read(tmp_path)
    assert caught.value.hint == "name one of its files: a.pth"


def test_a_device_is_not_read(tmp_path: Path) -> None:
    link = tmp_path / "endless.pth"
    link.symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match="not a regular file"):
        headers.read(link)


def test_describing_a_file_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "a.pth")
    save_file(Net().state_dict(), tmp_path / "b.safetensors")
    program = (
        "import sys, pathlib\n"
        "from pipeline.weights import inspect\n"
        "for name in sys.argv[1:]: assert len(inspect.description_of(pathlib.Path(name)).tensors) == 4\n"
        "assert not {'torch', 'numpy', 'onnx', 'safetensors'} & set(sys.modules)\n"
    )
    names = [str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
