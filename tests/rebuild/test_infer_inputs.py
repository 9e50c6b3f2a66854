"""Networks that meta tensors are not enough for: their constructors or their forward look at values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline.interface import InputSpec
from pipeline.rebuild import infer, infer_inputs, trust
from pipeline.rebuild.shapes import build_for_shapes, needs_values, shapes_of

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

class Loads(nn.Module):
    '''Its constructor loads its own weights and moves itself.'''
    def __init__(self, width: int = 8, device: str = "cpu"):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.load_state_dict(torch.load(Path(__file__).parent / "own.pth", map_location="cpu"))
        self.to(device)

    def forward(self, x):
        return self.proj(x)

class DropPath(nn.Module):
    '''Rates of a schedule, as every timm network has them.'''
    def __init__(self, width: int = 8, depth: int = 2):
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 0.1, depth)]
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Dropout(rate)) for rate in rates)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x

class Indexed(nn.Module):
    '''A buffer whose size depends on values.'''
    def __init__(self, width: int = 8):
        super().__init__()
        self.register_buffer("kept", torch.nonzero(torch.arange(width) % 2).flatten())
        self.proj = nn.Linear(width, width // 2)

    def forward(self, x):
        return self.proj(x)[..., self.kept // 2]

class AsArray(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.proj = nn.Linear(width, 2)
        self.scale = float(torch.ones(3).numpy().mean())

    def forward(self, x):
        return self.proj(x) * self.scale

class Looks(nn.Module):
    '''Only its forward looks at values.'''
    def __init__(self, width: int = 8):
        super().__init__()
        self.embed, self.out = nn.Embedding(30, width), nn.Linear(width, 2)

    def forward(self, ids):
        if (ids >= 0).all().item():
            return self.out(self.embed(ids))
        raise ValueError("no padding here")

class Packs(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.rnn = nn.GRU(width, width, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]

class Optional(nn.Module):
    '''As transformers writes it: everything has a default, and one must be given.'''
    def __init__(self, width: int = 8):
        super().__init__()
        self.embed, self.out = nn.Embedding(30, width), nn.Linear(width, 2)

    def forward(self, ids=None, mask=None, embedded=None):
        if (ids is None) == (embedded is None):
            raise ValueError("You must specify exactly one of ids or embedded")
        return self.out(self.embed(ids) if embedded is None else embedded)

class Strict(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        if x.shape[1] != 1234:
            raise ValueError("x must have 1234 frames")
        return self.out(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "looking.py").write_text(SOURCE)
    torch.save({"proj.weight": torch.zeros(8, 8), "proj.bias": torch.zeros(8)}, tmp_path / "own.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("looking", None)
    return tmp_path


def located(name: str) -> trust.Located:
    return trust.locate(f"looking:{name}", ("looking",))


def inputs_of(name: str, given: dict[str, InputSpec] | None = None) -> infer_inputs.Inputs:
    return infer_inputs.inputs(located(name), {"width": 8}, given or {}, ())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["Loads", "DropPath", "Indexed", "AsArray"])
def test_a_constructor_that_looks_at_values_is_run_on_the_cpu(name: str) -> None:
    made = build_for_shapes(trust.import_architecture(located(name)), {})
    assert not any(each.is_meta for each in made.parameters())
    found = inputs_of(name)
    assert found.interface is not None, found.reason
    assert found.interface.inputs[0] == InputSpec("x", "float32", ("batch", 8))


@pytest.mark.parametrize("width", [8, 16])
def test_a_constructor_that_loads_its_own_weights_is_compared_with_any(width: int, own: Path) -> None:
    """The weights it loads are those of one width, and the file may have another."""
    torch.save({"proj.weight": torch.zeros(width, width), "proj.bias": torch.zeros(width)}, own / "w.pth")
    found = infer.arguments(located("Loads"), own / "w.pth", {}, max_bytes=None)
    assert found.values["width"] == width
    assert "width" not in found.unsure


@pytest.mark.usefixtures("own")
def test_the_shapes_of_a_network_built_for_real_are_those_it_has() -> None:
    make = trust.import_architecture(located("DropPath"))
    assert shapes_of(make, {"depth": 3}) == {name: tuple(t.shape) for name, t in make(depth=3).state_dict().items()}


@pytest.mark.usefixtures("own")
def test_a_forward_that_looks_at_values_is_run_on_the_cpu() -> None:
    found = inputs_of("Looks")
    assert found.interface is not None, found.reason
    assert found.interface.inputs == (InputSpec("ids", "int64", ("batch", "length"), 0, 30, "uniform"),)


@pytest.mark.usefixtures("own")
def test_values_that_were_given_are_what_it_is_run_with() -> None:
    given = {
        "x": InputSpec("x", "float32", ("batch", "length", 8)),
        "lengths": InputSpec("lengths", "int64", ("batch",), 1, 2, "uniform"),
    }
    found = inputs_of("Packs", given)
    assert found.interface is not None, found.reason
    assert found.interface.inputs == tuple(given.values())


@pytest.mark.usefixtures("own")
def test_where_every_input_has_a_default_the_first_is_tried_and_the_others_are_named() -> None:
    found = inputs_of("Optional")
    assert found.interface is not None
    assert [each.name for each in found.interface.inputs] == ["ids"]
    assert "forward runs with it alone; add what else it is to be given (mask, embedded)" in found.comments["ids"]


@pytest.mark.usefixtures("own")
def test_what_forward_raises_itself_is_shown_as_what_it_is() -> None:
    found = inputs_of("Strict")
    assert found.interface is None
    assert found.missing == ("x",)
    assert found.reason == (
        "forward takes none of the likely ones; with x=float32[2,8] it raises ValueError: x must have 1234 frames"
    )
    given = {"x": InputSpec("x", "float32", ("batch", 5, 8))}
    assert inputs_of("Strict", given).reason == "ValueError: x must have 1234 frames"


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        torch.unique,
        torch.nonzero,
        lambda x: x[x > 0],
        lambda x: x + torch.ones(3, device="cpu"),
        lambda x: torch.equal(x, x),
    ],
)  # fmt: skip
def test_that_meta_tensors_have_no_values_is_told_from_other_failures(look: Any) -> None:
    with pytest.raises((RuntimeError, TypeError)) as caught:
        look(torch.zeros(3, device="meta"))
    assert needs_values(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(3, 4, device="meta")(torch.zeros(5, device="meta"))
    assert not needs_values(caught.value)


def test_what_raises_another_error_instead_still_counts() -> None:
    with pytest.raises(ValueError, match="bad") as caught:
        _raise_instead()
    assert needs_values(caught.value)


def _raise_instead() -> None:
    try:
        torch.zeros(1, device="meta").item()
    except RuntimeError as error:
        raise ValueError("bad") from error
