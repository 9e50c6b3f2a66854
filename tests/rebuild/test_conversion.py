"""What transformers makes of a file's tensors is told by what it does: names are found, and tensors that it makes otherwise are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ArchitectureError
from pipeline.rebuild import conversion
from pipeline.weights import pretrained

AGAIN = "weighbridge init … --save-weights new.safetensors"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    tensors = {
        "old.query": torch.rand(4, 4), "old.scale": torch.rand(()), "old.steps": torch.arange(4), "none": torch.zeros(0),
        "extra.head": torch.rand(2),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    return pretrained.read(tmp_path)


def loading(conversion_of, missing=(), unexpected=("extra.head",)):
    """Return a class that loads as transformers does: `conversion_of` is what it makes of a state dict."""

    def from_pretrained(_, *, config, state_dict, output_loading_info, dtype):  # noqa: ARG001 - as transformers has it
        module = SimpleNamespace(state_dict=lambda: conversion_of(state_dict))
        return module, {"missing_keys": set(missing), "unexpected_keys": set(unexpected)}

    return type("Net", (), {"from_pretrained": staticmethod(from_pretrained)})


def renamed(given, **others):
    found = {name.replace("old", "new"): each for name, each in given.items() if name != "extra.head"}
    return found | {"new.made": torch.rand(3)} | others


def test_names_that_transformers_gives_are_found_and_what_it_leaves_out_is_ignored(folder):
    rename, ignore = conversion.exceptions(folder, loading(renamed), None, AGAIN)
    assert rename == {"old": "new"}
    assert ignore == ("extra",)


@pytest.mark.parametrize(
    "make",
    [
        lambda given: {"new.query": given["old.query"].T.contiguous(), "new.other": given["old.query"].T},
        lambda given: {"new.query": given["old.query"][:2], "new.other": given["old.query"][2:]},
        lambda given: {"new.query": torch.stack([given["old.query"]] * 2), "new.other": torch.zeros(3)},
        lambda given: {"new.query": given["old.query"].roll(1, 0), "new.other": torch.zeros(3)},
        lambda given: {"new.query": given["old.query"] * 2, "new.other": torch.zeros(3)},
    ],
    ids=["turned", "split", "merged", "in another order", "scaled"],
)
def test_a_tensor_that_it_makes_otherwise_is_refused_with_the_command_that_saves_it(folder, make):
    with pytest.raises(ArchitectureError, match=r"makes other tensors of old\.query of model\.safetensors") as caught:
        conversion.exceptions(folder, loading(lambda given: renamed(given, **make(given))), None, AGAIN)
    assert AGAIN in caught.value.hint


def test_what_it_makes_is_returned_in_the_precision_of_the_file(folder):
    asked = []

    class Net:
        @staticmethod
        def from_pretrained(_, *, state_dict, dtype, **_others):
            asked.append(dtype)
            return SimpleNamespace(state_dict=lambda: renamed(state_dict)), {"missing_keys": (), "unexpected_keys": ()}

    made = conversion.converted(folder, Net, None, max_bytes=None)
    assert made["new.query"].dtype == asked[0] == torch.float32
    save_file({"a": torch.zeros(2, dtype=torch.bfloat16)}, folder.folder / "model.safetensors")
    with pytest.raises(ArchitectureError, match=r"lacks b, which Net would leave at random"):
        conversion.converted(folder, loading(dict, missing=["b"]), None, max_bytes=None)
