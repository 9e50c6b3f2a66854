"""A file's tensors get the names that a network expects, and what was done is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import MisfitError
from pipeline.rebuild.doctor.prefixes import align, align_with_exceptions


def _tensors(names: list[str]) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(index)) for index, name in enumerate(names)}


EXPECTED = ["encoder.0.weight", "encoder.0.bias", "head.weight"]


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (["module." + name for name in EXPECTED], "removed prefix 'module.' from 3 of 3 keys"),
        (["_orig_mod." + name for name in EXPECTED], "removed prefix '_orig_mod.' from 3 of 3 keys"),
        (["model." + name for name in EXPECTED], "removed prefix 'model.' from 3 of 3 keys"),
        (["anything.net." + name for name in EXPECTED], "removed prefix 'anything.net.' from 3 of 3 keys"),
        (
            ["encoder._orig_mod.0.weight", "encoder._orig_mod.0.bias", "head.weight"],
            "removed prefix '_orig_mod.' from 2 of 3 keys",
        ),
    ],
)
def test_prefixes_are_removed_and_said(found: list[str], note: str) -> None:
    tensors, notes = align(_tensors(found), EXPECTED)
    assert list(tensors) == EXPECTED
    assert [float(tensor) for tensor in tensors.values()] == [0.0, 1.0, 2.0]
    assert notes == (note,)


def test_several_prefixes_are_removed_one_after_the_other() -> None:
    tensors, notes = align(_tensors(["module._orig_mod." + name for name in EXPECTED]), EXPECTED)
    assert list(tensors) == EXPECTED
    assert 1 <= len(notes) <= 2


def test_of_two_networks_under_prefixes_none_is_taken_whatever_the_order() -> None:
    for prefixes in (("student.", "teacher."), ("teacher.", "student.")):
        names = [prefix + name for prefix in prefixes for name in EXPECTED]
        assert align(_tensors(names), EXPECTED) == (_tensors(names), ())
    wrapped = ["module." + name for name in EXPECTED] + ["ema." + name for name in EXPECTED]
    assert set(EXPECTED) <= align(_tensors(wrapped), EXPECTED)[0].keys()


def test_of_two_networks_the_whole_one_is_taken() -> None:
    names = ["discriminator." + name for name in EXPECTED[:2]] + ["generator." + name for name in EXPECTED]
    tensors, notes = align(_tensors(names), EXPECTED)
    assert [float(tensors[name]) for name in EXPECTED] == [2.0, 3.0, 4.0]
    assert notes == ("removed prefix 'generator.' from 3 of 5 keys",)


def test_names_that_match_are_left_alone() -> None:
    names = ["module.weight", "module.bias"]
    assert align(_tensors(names), names) == (_tensors(names), ())


def test_nothing_is_dropped_or_overwritten_by_removing_a_prefix() -> None:
    names = ["model.a", "a", "extra.b"]
    tensors, notes = align(_tensors(names), ["a"])
    assert list(tensors) == names
    assert notes == ()


def test_counters_of_old_batch_norms_are_added_and_said() -> None:
    expected = list(nn.BatchNorm2d(3).state_dict())
    names = [f"bn.{name}" for name in expected]
    tensors, notes = align(_tensors(names[:-1]), names)
    assert set(tensors) == set(names)
    assert int(tensors["bn.num_batches_tracked"]) == 0
    assert notes[0].startswith("added num_batches_tracked to 1 BatchNorm layers")


def test_the_exceptions_of_a_config_are_applied_and_said() -> None:
    tensors = _tensors(["net.0.weight", "net.0.bias", "net.1.weight", "decoder.weight"])
    found, notes = align_with_exceptions(
        tensors, ["fc.weight", "fc.bias", "net.1.weight"], {"net.0": "fc"}, ["decoder"], "w.pth"
    )
    assert {name: float(tensor) for name, tensor in found.items()} == {
        "fc.weight": 0.0, "fc.bias": 1.0, "net.1.weight": 2.0,
    }  # fmt: skip
    assert notes == (
        "model.ignore: left out 1 tensors of 'decoder'",
        "model.rename: 2 tensors of 'net.0' became 'fc'",
    )


@pytest.mark.parametrize(
    ("rename", "ignore", "told"),
    [
        ({"absent": "fc"}, [], "model.rename 'absent' stands for no tensor of w.pth"),
        ({}, ["net.0.w"], "model.ignore 'net.0.w' stands for no tensor of w.pth"),
        ({"net.0": "net.1"}, [], "two tensors of w.pth the name 'net.1.weight'"),
    ],
)
def test_an_exception_that_is_wrong_is_an_error(rename: dict[str, str], ignore: list[str], told: str) -> None:
    with pytest.raises(MisfitError, match=told):
        align_with_exceptions(_tensors(["net.0.weight", "net.1.weight"]), ["x"], rename, ignore, "w.pth")
