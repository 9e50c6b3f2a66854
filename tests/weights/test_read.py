from __future__ import annotations

import collections
import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import WeightsError
from pipeline.weights import files, inspect, read

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"fc.weight": torch.arange(6.0).reshape(3, 2), "fc.bias": torch.ones(3)}


def _float8() -> torch.Tensor:
    return torch.arange(4.0).to(torch.float8_e4m3fn)


def _quantised() -> tuple[torch.Tensor, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        return whole, torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8)


HARMLESS: dict[str, Any] = {
    "ordered": collections.OrderedDict(STATE),
    "parameters": {name: nn.Parameter(tensor) for name, tensor in STATE.items()},
    "state of a module": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(),
    "bfloat16": {"a": torch.ones(3, dtype=torch.bfloat16)},
    "float16": {"a": torch.ones(3, dtype=torch.float16)},
    "float8": {"a": _float8()},
    "float64": {"a": torch.ones(3, dtype=torch.float64)},
    "integers": {f"i{index}": torch.ones(2, dtype=d) for index, d in enumerate((torch.int8, torch.uint8, torch.int64))},
    "unsigned": {"a": torch.ones(2, dtype=torch.uint16), "b": torch.ones(2, dtype=torch.uint64)},
    "bool": {"a": torch.tensor([True, False])},
    "complex": {"a": torch.ones(2, dtype=torch.complex64)},
    "scalar": {"a": torch.tensor(3.0)},
    "empty": {"a": torch.zeros(0, 5), "b": torch.zeros(1)},
    "unicode": {"schön.重み": torch.ones(2), "a b": torch.zeros(1)},
    "quantised": {"a": _quantised()[0]},
    "quantised per channel": {"a": _quantised()[1]},
    "sparse": {"a": torch.eye(3).to_sparse()},
    "transposed view": {"a": torch.arange(6.0).reshape(2, 3).t()},
    "slice of a larger storage": {"a": torch.arange(100.0)[10:20]},
    "expanded": {"position_ids": torch.arange(5).expand(1, -1), "b": torch.ones(1).expand(4, 4)},
    "numpy numbers beside": {"state_dict": STATE, "best": np.float64(0.5), "step": np.int64(3)},
    "numpy arrays beside": {
        "state_dict": STATE,
        "mean": np.arange(3.0),
        "order": np.asfortranarray(np.ones((2, 3), np.int8)),
        "names": np.array(["a", "bc"]),
        "rng": ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0),
        "objects": np.array([1, "a", None, {"b": [2.0]}], object),
        "empty": np.zeros((0, 4)),
    },
    "plain values beside": {"state_dict": STATE, "epoch": 3, "lr": 0.1, "tags": {"a", "b"}, "shape": torch.Size([2])},
    "device and dtype beside": {"state_dict": STATE, "device": torch.device("cpu"), "dtype": torch.float32},
    "bytes beside": {"state_dict": STATE, "rng": b"\x00\xff", "array": bytearray(b"ab")},
    "named weight": {"weight": torch.ones(3)},
}


# torch itself does not read these dtypes back from its legacy format.
NOT_LEGACY = ("float8", "unsigned")


@pytest.mark.parametrize(
    ("name", "legacy"),
    [(name, legacy) for name in HARMLESS for legacy in (False, True) if not (legacy and name in NOT_LEGACY)],
)
def test_harmless_checkpoints_load_and_are_described_as_they_are(name: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(HARMLESS[name], path, _use_new_zipfile_serialization=not legacy)
    wanted = HARMLESS[name].get("state_dict", HARMLESS[name])
    loaded = read.load(path)
    assert list(loaded.tensors) == list(wanted)
    for key, tensor in loaded.tensors.items():
        assert tensor.dtype == wanted[key].dtype
        assert not tensor.requires_grad
        assert _dense(tensor).equal(_dense(wanted[key]))
    described = {tensor.name: tensor for tensor in inspect.description_of(path).tensors}
    for key, tensor in wanted.items():
        assert described[key].shape == tuple(tensor.shape)
        assert f"torch.{described[key].dtype}" == str(tensor.dtype)
        assert described[key].nbytes == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("name", NOT_LEGACY)
def test_what_torch_cannot_read_back_is_an_input_error(name: str, tmp_path: Path) -> None:
    torch.save(HARMLESS[name], tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read"):
        read.load(tmp_path / "a.pth")


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    if tensor.is_quantized:
        return tensor.dequantize()
    return (tensor.to_dense() if tensor.is_sparse else tensor).to(torch.complex128)


WRAPPERS = (None, "state_dict", "model_state_dict", "model_state", "model", "net", "ema", "params", "weights")
PREFIXES = ("", "module.", "_orig_mod.", "encoder.")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_wrapper_prefix_and_kind_of_tensor_together_is_harmless(
    wrapper: str | None, prefix: str, tmp_path: Path
) -> None:
    for name in ("parameters", "bfloat16", "sparse"):
        state = {prefix + key: tensor for key, tensor in HARMLESS[name].items()}
        saved = {wrapper: state, "epoch": 1, "optimizer": {"state": {0: torch.ones(2)}}} if wrapper else state
        torch.save(saved, tmp_path / "a.pth")
        assert list(read.load(tmp_path / "a.pth").tensors) == list(state)
        assert len(inspect.description_of(tmp_path / "a.pth").tensors) == len(state)


def test_tied_weights_stay_tied_and_are_counted_once(tmp_path: Path) -> None:
    shared = torch.ones(4, 2)
    torch.save({"embed.weight": shared, "head.weight": shared, "bias": torch.ones(4)}, tmp_path / "a.pth")
    tensors = read.load(tmp_path / "a.pth").tensors
    assert tensors["embed.weight"].data_ptr() == tensors["head.weight"].data_ptr()
    description = inspect.description_of(tmp_path / "a.pth")
    assert description.tied == (("embed.weight", "head.weight"),)
    assert description.elements == 12
    assert description.tensor_bytes == 48


def test_ten_thousand_tensors_are_loaded(tmp_path: Path) -> None:
    torch.save({f"layer.{index}.weight": torch.zeros(1) for index in range(10_000)}, tmp_path / "a.pth")
    assert len(read.load(tmp_path / "a.pth").tensors) == 10_000


@pytest.mark.parametrize(
    ("saved", "path", "beside"),
    [
        ({"state_dict": STATE, "epoch": 3}, "state_dict", "epoch"),
        (
            {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
            "model_state_dict",
            "epoch, opt",
        ),
        ({"model_state": STATE, "x": 1}, "model_state", "x"),
        ({"model": STATE, "arch": "resnet"}, "model", "arch"),
        ({"net": STATE, "acc": 1.0}, "net", "acc"),
        ({"weights": STATE}, "weights", ""),
        ({"params": STATE, "best": 0.5}, "params", "best"),
        ({"anything": STATE, "step": 1}, "anything", "step"),
        ({"checkpoint": {"model": STATE}, "args": {"lr": 1}}, "checkpoint.model", "args"),
        ({"state_dict": STATE, "optimizer": {"momentum": {"fc.weight": torch.ones(2)}}}, "state_dict", "optimizer"),
    ],
)
def test_wrappers_are_unwrapped_and_said(saved: dict[str, Any], path: str, beside: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "a.pth")
    loaded = read.load(tmp_path / "a.pth")
    assert loaded.tensors.keys() == STATE.keys()
    assert loaded.notes[0].startswith(f"unwrapped {path!r}" + (f" (also holds: {beside}" if beside else ""))
    description = inspect.description_of(tmp_path / "a.pth")
    assert description.wrapper == path


def test_entries_that_are_no_tensors_are_left_out_and_said(tmp_path: Path) -> None:
    torch.save({**STATE, "epoch": 3}, tmp_path / "a.pth")
    assert read.load(tmp_path / "a.pth").notes == ("left out entries that are no tensors: epoch",)


@pytest.mark.parametrize(
    ("saved", "says"), [({}, "holds no tensor"), ({"a": 1}, "holds no tensor"), (3, "holds int, not a state dict")]
)
def test_a_torch_file_without_tensors_is_refused(saved: Any, says: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=says) as caught:
        read.load(tmp_path / "a.pth")
    assert "torch.save(model.state_dict()" in str(caught.value.hint)


def test_safetensors_without_tensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="without any tensor"):
        read.load(tmp_path / "a.safetensors")


def test_meta_tensors_are_refused_for_lack_of_data(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3, device="meta")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="without data"):
        read.load(tmp_path / "a.pth")


def test_a_pickled_model_is_refused_with_its_class_and_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": nn.Sequential(nn.Linear(2, 2)), "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"whole pickled model \(torch\.nn\.modules\.container\.Sequential\)"
    ) as caught:
        read.load(tmp_path / "a.pth")
    assert "torch.save(model.state_dict(), 'weights.pth')" in str(caught.value.hint)


def test_an_object_beside_the_weights_is_left_out_and_said(tmp_path: Path) -> None:
    import argparse

    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    loaded = read.load(tmp_path / "a.pth")
    assert all(loaded.tensors[name].equal(tensor) for name, tensor in STATE.items())
    assert loaded.notes[1] == "left out objects, which are read as data and never made: args (argparse.Namespace)"


def test_nan_and_infinities_are_noted_and_no_error(tmp_path: Path) -> None:
    torch.save(
        {"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([float("inf")]), "c": _float8()}, tmp_path / "a"
    )
    assert read.load(tmp_path / "a").notes == (
        "1 of 3 tensors hold NaN, such as 'a'",
        "1 of 3 tensors hold infinite values, such as 'b'",
    )


def test_safetensors_and_their_digest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    save_file(STATE, path, metadata={"format": "pt"})
    loaded = read.load(path)
    assert all(loaded.tensors[key].equal(tensor) for key, tensor in STATE.items())
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == files.digest(path)


def test_a_sharded_checkpoint_is_put_together(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save_file({"fc.weight": STATE["fc.weight"]}, tmp_path / "1.safetensors")
    torch.save({"fc.bias": STATE["fc.bias"]}, tmp_path / "2.bin")
    index.write_text(json.dumps({"weight_map": {"fc.weight": "1.safetensors", "fc.bias": "2.bin"}}))
    before = read.load(index)
    assert before.tensors.keys() == STATE.keys()
    torch.save({"fc.bias": STATE["fc.bias"] + 1}, tmp_path / "2.bin")
    assert read.load(index).sha256 != before.sha256
    (tmp_path / "2.bin").unlink()
    with pytest.raises(WeightsError, match=r"1 of 2 files .* are missing: 2\.bin"):
        read.load(index)


def test_a_checkpoint_from_a_gpu_loads_on_the_cpu(tmp_path: Path) -> None:
    from tests.weights import assembler as asm

    stored = asm.storage("0", 3).replace(asm.text("cpu"), asm.text("cuda:1"))
    body = asm.dict_of({"a": asm.tensor((3,), (1,), stored)})
    path = asm.archive(tmp_path / "a.pth", asm.pickle(body), {"data/0": np.ones(3, np.float32).tobytes()})
    assert read.load(path).tensors["a"].equal(torch.ones(3))


def test_files_without_checksums_load(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(STATE, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert read.load(tmp_path / "a.pth").tensors.keys() == STATE.keys()
