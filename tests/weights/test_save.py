"""The weights alone: the same names, dtypes and values, in a file that any reader of safetensors takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import WeightsError
from pipeline.weights import inspect, read, save
from tests.weights import inert_corpus

if TYPE_CHECKING:
    from pathlib import Path


def test_every_tensor_is_there_as_it_was_and_tied_ones_under_each_name(tmp_path: Path) -> None:
    state = {
        **inert_corpus.state(),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "spread": torch.ones(1).expand(3, 3),
    }
    path = inert_corpus.save({"state_dict": state, "config": inert_corpus.NetConfig()}, tmp_path / "a.ckpt")
    save.save(read.load(path).tensors, tmp_path / "w.safetensors")
    for loaded in (load_file(tmp_path / "w.safetensors"), read.load(tmp_path / "w.safetensors").tensors):
        assert loaded.keys() == state.keys()
        for name, tensor in state.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name].double(), tensor.double())
    assert not inspect.description_of(tmp_path / "w.safetensors").needs


def test_a_view_that_is_read_in_another_way_is_saved_as_it_reads(tmp_path: Path) -> None:
    value = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    save.save({"a": value}, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["a"].equal(value.resolve_conj())


def test_what_safetensors_does_not_hold_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'a' is sparse"):
        save.save({"a": torch.eye(2).to_sparse()}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors could not be written"):
        save.save({"a": torch.ones(1, dtype=torch.complex128)}, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
