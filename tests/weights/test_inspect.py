from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.weights import guess, inspect
from tests.weights.test_identify import FILES, Kind

if TYPE_CHECKING:
    from pathlib import Path


def test_a_description_is_json(tmp_path: Path) -> None:
    for kind, write in FILES.items():
        if kind not in (Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM):
            write(tmp_path / "file")
            assert json.loads(json.dumps(dataclasses.asdict(inspect.description_of(tmp_path / "file"))))["kind"] == kind


def test_an_onnx_model_is_described_without_onnx(tmp_path: Path) -> None:
    FILES[Kind.ONNX](tmp_path / "model")
    description = inspect.description_of(tmp_path / "model")
    assert description.details["inputs"] == ["x"]
    assert description.details["outputs"] == ["y"]
    assert description.details["opsets"] == {"ai.onnx": 20}
    assert description.details["nodes"] == 1
    assert dataclasses.astuple(description.tensors[0]) == ("weight", "float32", (10, 2), 20, 80)


def test_a_pointer_tells_what_it_stands_for(tmp_path: Path) -> None:
    FILES[Kind.LFS_POINTER](tmp_path / "a.pth")
    assert inspect.description_of(tmp_path / "a.pth").details == {"oid": "sha256:4d7a", "size": "12345"}


def test_a_pickled_model_tells_the_classes_it_needs(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "a.pth")
    description = inspect.description_of(tmp_path / "a.pth")
    assert description.needs[0] == "torch.nn.modules.container.Sequential"
    assert "torch.nn.modules.linear.Linear" in description.needs


def test_a_wrapped_checkpoint_tells_what_else_is_inside(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 3,
        "model_state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "hparams": {"a": 1},
    }
    torch.save(saved, tmp_path / "a.pth")
    description = inspect.description_of(tmp_path / "a.pth")
    assert description.wrapper == "model_state_dict"
    assert description.beside == ("epoch", "optimizer", "hparams")
    assert [tensor.name for tensor in description.tensors] == ["weight", "bias"]
    assert description.elements == 8


def test_20_gigabytes_are_described_from_the_header_within_a_second(tmp_path: Path) -> None:
    size = 20 * 2**30
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # a sparse file
    start = time.process_time()
    assert inspect.description_of(path).tensor_bytes == size
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2)), "a stack of 2 linear layers: 10 → 20 → 2"),
        (nn.LSTM(40, 64, 3), "an LSTM: hidden size 64, 3 layers"),
        (nn.LSTM(40, 64, bidirectional=True), "an LSTM: hidden size 64, 1 layer, both directions"),
        (nn.GRU(40, 16), "a GRU: hidden size 16, 1 layer"),
        (nn.LSTMCell(40, 16), "an LSTM: hidden size 16, 1 layer"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)),
            "a convolutional network: 1 2-D convolution, 3 input channels, 5 outputs",
        ),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4), 3, enable_nested_tensor=False),
            "a transformer: width 32, 3 layers (the number of heads is not in the shapes)",
        ),
        (nn.BatchNorm1d(3), None),
    ],
)
def test_the_network_is_guessed_from_names_and_shapes(network: nn.Module, says: str | None, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "a")
    assert inspect.description_of(tmp_path / "a").likely == says


def test_layers_that_do_not_feed_one_another_are_no_stack() -> None:
    assert guess.likely({"a.weight": (20, 10), "b.weight": (5, 7)}) is None


def test_what_to_do_next_can_be_copied_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my files.pth"
    torch.save({"fc.weight": torch.ones(2, 3)}, path)
    assert inspect.description_of(path).next[0].startswith(f"weighbridge init '{path}'  ")
