"""Which names of a network are one tensor, and that a file needs only one of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.rebuild.doctor.difference import difference_of, layout_of, tied_names
from pipeline.rebuild.shapes import shapes_only
from tests.formats.networks import Ties


@pytest.mark.parametrize("is_meta", [True, False])
def test_ties_are_told_by_memory_also_where_there_is_none(is_meta: bool) -> None:
    if is_meta:
        with shapes_only():
            layout = layout_of(Ties().state_dict())
    else:
        layout = layout_of(Ties().state_dict())
    assert layout.tied == {
        "more.weight": "embed.weight", "head.weight": "embed.weight", "other.bias": "head.bias", "again": "scale",
        "decoder.0.weight": "encoder.0.weight", "decoder.0.bias": "encoder.0.bias", "last.running_var": "norm.running_var",
    }  # fmt: skip


def test_what_only_has_the_same_values_or_another_shape_is_not_tied() -> None:
    memory = torch.zeros(4, 4)
    state = {"a": torch.zeros(2), "b": torch.zeros(2), "whole": memory, "turned": memory.t(), "part": memory[:2]}
    assert not layout_of(state).tied
    assert layout_of(state | {"same": memory[:, :]}).tied == {"same": "whole"}


@pytest.mark.parametrize("kept", ["embed.weight", "more.weight", "head.weight"])
def test_any_name_of_a_tied_tensor_is_enough(kept: str) -> None:
    layout = layout_of(Ties().state_dict())
    names = {"embed.weight", "more.weight", "head.weight"}
    found = {name: shape for name, shape in layout.items() if name not in names - {kept}}
    assert difference_of(layout, found).names == 0
    assert tied_names(layout, found) == dict.fromkeys(sorted(names - {kept}, key=list(layout).index), kept)
    del found[kept]
    assert set(difference_of(layout, found).missing) == names


def test_a_tensor_of_another_shape_is_said_to_be_so() -> None:
    layout = layout_of(nn.ModuleDict({"a": nn.Linear(2, 2)}).state_dict())
    assert difference_of(layout, {"a.weight": (3, 2), "a.bias": (2,)}).misshaped == (("a.weight", (3, 2), (2, 2)),)
