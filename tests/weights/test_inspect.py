from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.weights import guess, inspect
from tests.effort import at_most
from tests.weights.test_identify import FILES, Kind

if TYPE_CHECKING:
    from collections.abc import Callable
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
    with at_most(20):
        assert inspect.description_of(path).tensor_bytes == size


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
    assert guess.likely({"a.weight": (20, 10), "b.weight": (5, 7)}) == "2 linear layers"


def test_what_to_do_next_can_be_copied_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my files.pth"
    torch.save({"fc.weight": torch.ones(2, 3)}, path)
    assert inspect.description_of(path).next[0].startswith(f"weighbridge init '{path}'  ")


def linears() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def partly_half() -> nn.Module:
    module = linears()
    module[0].half()
    return module


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (linears, ()),
        (lambda: linears().half(), ("in half precision (float16)",)),
        (lambda: linears().bfloat16(), ("in half precision (bfloat16)",)),
        (partly_half, ("partly in half precision (float16)",)),
        (lambda: nn.Sequential(linears().half(), nn.BatchNorm1d(4).bfloat16()), ("in half precision (float16 and bfloat16)",)),
    ],
)  # fmt: skip
def test_half_precision_is_said_in_the_first_line(
    make: Callable[[], nn.Module], said: tuple[str, ...], tmp_path: Path, weighbridge: Callable[..., Any]
) -> None:
    torch.save(make().state_dict(), tmp_path / "a.pth")
    assert inspect.description_of(tmp_path / "a.pth").traits == said
    first = weighbridge("inspect", tmp_path / "a.pth").out.splitlines()[0]
    assert first.startswith(", ".join(["a.pth: state dict", *said, ""]).strip())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_torch_quantised_is_said_with_the_way_it_was_done(tmp_path: Path) -> None:
    dynamic = torch.ao.quantization.quantize_dynamic(linears(), {nn.Linear}, dtype=torch.qint8)
    torch.save(dynamic.state_dict(), tmp_path / "dynamic.pth")
    static = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3)).eval()
    static.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
    prepared = torch.ao.quantization.prepare(static)
    prepared(torch.ones(1, 3, 8, 8))
    torch.save(torch.ao.quantization.convert(prepared).state_dict(), tmp_path / "static.pth")
    for name, said in (("dynamic", "dynamically quantised by torch"), ("static", "quantised by torch")):
        description = inspect.description_of(tmp_path / f"{name}.pth")
        assert description.traits == (said,)
        assert "before torch quantised them" in description.next[0]


def test_names_alone_do_not_make_a_state_dict_quantised(tmp_path: Path) -> None:
    torch.save(
        {"scale": torch.ones(1), "zero_point": torch.zeros(1), "fc.weight": torch.ones(2, 3)}, tmp_path / "a.pth"
    )
    assert inspect.description_of(tmp_path / "a.pth").traits == ()


@pytest.mark.parametrize(
    ("name", "said", "index"),
    [
        ("model-00002-of-00003.safetensors", "shard 2 of 3", "model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "shard 1 of 2", "pytorch_model.bin.index.json"),
        ("net_3_of_4.pt", "shard 3 of 4", "net.pt.index.json"),
        ("model-00001-of-00001.safetensors", None, None),
        ("best_7-of-3.pth", None, None),
        ("out-of-10.pth", None, None),
    ],
)
def test_a_shard_says_which_it_is_and_leads_to_the_index(
    name: str, said: str | None, index: str | None, tmp_path: Path
) -> None:
    torch.save(linears().state_dict(), tmp_path / name)
    description = inspect.description_of(tmp_path / name)
    assert description.traits == ((said,) if said else ())
    if index is None:
        assert "which of the networks" in description.next[0]
        return
    command = f"weighbridge init {tmp_path / index} --architecture MODULE:CLASS --trust MODULE"
    assert description.next == (f"{command}  # once the index and the other shards are beside it",)
    (tmp_path / index).touch()
    assert inspect.description_of(tmp_path / name).next == (command,)
