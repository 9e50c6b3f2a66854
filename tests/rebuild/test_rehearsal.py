"""Every case runs, or the message says which does not, where in the user's code, and what would help, which was tried."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name of it

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases, rehearsal
from tests.rebuild.calls import X, face, floats


def rehearsed(module: nn.Module, interface: Interface) -> rehearsal.Rehearsal:
    return rehearsal.rehearse(module.eval(), interface, cases.sample(interface, seed=0, cap_elements=2**16))


class UNet(nn.Module):
    """Sides must be multiples of `step`."""

    def __init__(self, levels: int = 2) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(levels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(1, 1, 2, 2) for _ in range(levels))

    def forward(self, image):
        seen = [image]
        for each in self.down:
            seen.append(each(seen[-1]))
        out = seen.pop()
        for each in self.up:
            out = each(out) + seen.pop()
        return out


class Frames(nn.Module):
    """Cuts a signal into frames without a rest."""

    def forward(self, x):
        return x.view(x.shape[0], -1, 5).sum(-1)


class Positions(nn.Module):
    """Has a table of 12 positions, and needs three."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Parameter(torch.ones(12, 4)), nn.Conv1d(4, 4, 3)

    def forward(self, x):
        return self.conv((x + self.table[: x.shape[1]]).transpose(1, 2))


class Step(nn.Module):
    """A decoder's step: the mask is as long as what is cached and what is new."""

    def forward(self, x, past, mask):
        return F.scaled_dot_product_attention(x, torch.cat([past, x], 1), torch.cat([past, x], 1), mask[:, None].bool())


class Stereo(nn.Module):
    def forward(self, coarse, fine):
        return F.interpolate(coarse, scale_factor=3, mode="nearest") + fine[..., 1:]


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * 7, 2)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, 4)

    def forward(self, ids):
        return self.table(ids)


class CacheByDefault(nn.Module):
    def forward(self, x, use_cache: bool = True):
        return (x * 2, object()) if use_cache else x * 2


def sides(low: int, high: int) -> Interface:
    dims = (Dimension("batch", 1, 2), Dimension("height", low, high), Dimension("width", low, high))
    return face([floats("image", "batch", 1, "height", "width")], dims=dims)


def lengths(low: int, high: int, *shape: int | str) -> Interface:
    return face(
        [floats("x", "batch", "length", *shape)], dims=(Dimension("batch", 1, 3), Dimension("length", low, high))
    )


BATCHES = Dimension("batch", 1, 3)
STEP = face(
    [floats("x", "batch", "new", 4), floats("past", "batch", "past", 4), floats("mask", "batch", "total")],
    dims=(BATCHES, Dimension("new", 1, 5), Dimension("past", 1, 9), Dimension("total", 2, 14)),
)
STEREO = face(
    [floats("coarse", "batch", 2, "n"), floats("fine", "batch", 2, "m")],
    dims=(BATCHES, Dimension("n", 2, 9), Dimension("m", 7, 28)),
)


@pytest.mark.parametrize(
    ("module", "interface", "advice"),
    [
        (UNet(2), sides(8, 60), ["set dimensions.height.multiple_of=4", "set dimensions.width.multiple_of=4"]),
        (UNet(3), sides(8, 40), ["set dimensions.height.multiple_of=8", "set dimensions.width.multiple_of=8"]),
        (Frames(), lengths(1, 30), ["set dimensions.length.multiple_of=5"]),
        (Positions(), lengths(1, 40, 4), ["set dimensions.length.min=3, dimensions.length.max=12"]),
        (Positions(), lengths(3, 100, 4), ["set dimensions.length.max=12"]),
        (Step(), STEP, ["total follows from others: dimensions: {total: new + past}"]),
        (Stereo(), STEREO, ["m follows from others: dimensions: {m: 3 * n + 1}"]),
        (OneSize(), lengths(1, 20, 4), ["write 7 in place of length in the shapes"]),
        (Lookup(), face([InputSpec("ids", "int64", ("batch", 3), 0, 40)]), ["set inputs.ids.high to 13"]),
    ],
    ids=["multiples of 4", "multiples of 8", "frames", "min and max", "max", "a sum", "a multiple and one", "one size", "a table"],
)  # fmt: skip
def test_what_helps_is_found_and_every_case_runs_with_it(
    module: nn.Module, interface: Interface, advice: list[str]
) -> None:
    with pytest.raises(ArchitectureError, match="the network itself fails on") as caught:
        rehearsed(module, interface)
    assert caught.value.exit_code == 2
    assert "; ".join(advice) in str(caught.value.hint)
    assert re.search(r"tried: all \d+ cases run then", str(caught.value.hint))


def test_the_case_its_sizes_the_error_and_the_line_are_told() -> None:
    with pytest.raises(ArchitectureError) as caught:
        rehearsed(Frames(), lengths(1, 30))
    told = caught.value.message
    assert "'minimum' (batch=1, length=1): RuntimeError: shape '[1, -1, 5]' is invalid for input of size 1" in told
    assert "tests/rebuild/test_rehearsal.py:" in told
    assert "in forward: return x.view(x.shape[0], -1, 5).sum(-1)" in told


def test_a_constant_that_changes_what_is_returned_is_found() -> None:
    with pytest.raises(ArchitectureError, match="returns 2 outputs") as caught:
        rehearsed(CacheByDefault(), face([X]))
    assert "set constants: {use_cache: false} (tried" in str(caught.value.hint)


class Never(nn.Module):
    def forward(self, x):
        raise ValueError(f"this network is not finished: {x.ndim}")


def test_where_nothing_helps_nothing_is_advised() -> None:
    with pytest.raises(ArchitectureError, match="ValueError: this network is not finished") as caught:
        rehearsed(Never(), lengths(1, 20))
    assert "no min, max, multiple_of, related size or constant was found" in str(caught.value.hint)


def test_where_names_do_not_say_it_what_goes_where_is_told() -> None:
    found = rehearsed(nn.Linear(4, 4), face([floats("image", "batch", 4)], "logits"))
    assert found.binding == ("image → input, by position",)
    assert len(found.outputs) == len(cases.sample(face([X]), seed=0, cap_elements=100))
    assert (
        rehearsed(nn.Bilinear(4, 4, 2), face([floats("input1", "batch", 4), floats("input2", "batch", 4)])).binding
        == ()
    )


def test_an_empty_input_is_a_case() -> None:
    class Joined(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, y], 0)

    interface = Interface(
        (X, InputSpec("y", "float32", ("past", 4))), (Dimension("batch", 1, 4), Dimension("past", 0, 4)), ("z",)
    )
    found = rehearsed(Joined(), interface)
    assert found.outputs[0]["z"].shape == (1, 4)
