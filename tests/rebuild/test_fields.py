"""Constructors that take a dataclass: its fields are found, and a config writes the object by its class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.errors import ArchitectureError
from pipeline.rebuild import infer, infer_inputs, trust

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = """
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from fielded_elsewhere import Foreign

@dataclass
class Config:
    inputs: int = 8
    width: int = 16
    slope: float = 0.1
    sizes: list[int] = field(default_factory=lambda: [3, 3])

@dataclass
class Required:
    inputs: int
    width: int

@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor
    loss: torch.Tensor | None = None

class Annotated(nn.Module):
    def __init__(self, config: Config, classes: int = 2):
        super().__init__()
        self.slope, self.sizes = config.slope, config.sizes
        self.stem, self.head = nn.Linear(config.inputs, config.width), nn.Linear(config.width, classes)

    def forward(self, x):
        features = nn.functional.leaky_relu(self.stem(x), self.slope)
        return Output(self.head(features), features)

class ByDefault(Annotated):
    def __init__(self, config=Config(inputs=5), classes: int = 2):
        super().__init__(config, classes)

class Two(nn.Module):
    '''Both configs call their sizes alike.'''
    def __init__(self, encoder: Required, decoder: Required):
        super().__init__()
        self.encoder = nn.Linear(encoder.inputs, encoder.width)
        self.decoder = nn.Linear(decoder.inputs, decoder.width)

    def forward(self, x):
        return self.decoder(self.encoder(x))

class Optional(nn.Module):
    def __init__(self, config: Config | None = None, width: int = 4):
        super().__init__()
        self.fc = nn.Linear(3, width if config is None else config.width)

    def forward(self, x):
        return self.fc(x)

class Untrusted(nn.Module):
    def __init__(self, config: Foreign):
        super().__init__()
        self.fc = nn.Linear(config.width, 2)
"""
ELSEWHERE = "from dataclasses import dataclass\n\n@dataclass\nclass Foreign:\n    width: int = 3\n"
CONFIG, REQUIRED = "fielded:Config", "fielded:Required"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fielded.py").write_text(SOURCE)
    (tmp_path / "fielded_elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("fielded", "fielded_elsewhere"):
        sys.modules.pop(name, None)
    return tmp_path


def found(folder: Path, name: str, saved: Any, given: dict[str, Any] | None = None) -> infer.Arguments:
    torch.save(saved, folder / "w.pth")
    located = trust.locate(f"fielded:{name}", ("fielded",))
    return infer.arguments(located, folder / "w.pth", given or {}, max_bytes=None, trusted=("fielded",))


def two(first: str, inputs: int, width: int, second: str, outputs: int) -> dict[str, torch.Tensor]:
    return nn.ModuleDict({first: nn.Linear(inputs, width), second: nn.Linear(width, outputs)}).state_dict()


def test_fields_follow_from_the_shapes_and_from_what_the_checkpoint_says(own: Path) -> None:
    state = two("stem", 12, 32, "head", 5)
    assert found(own, "Annotated", state).values == {
        "config": {"_target_": CONFIG, "inputs": 12, "width": 32},
        "classes": 5,
    }
    said = {"inputs": 12, "width": 32, "slope": 0.3, "sizes": [1, 2, 3]}
    told = found(own, "Annotated", {"state_dict": state, "hyper_parameters": {"config": said, "lr": 0.1}})
    assert told.values == {"config": {"_target_": CONFIG, **said}, "classes": 5}
    assert told.sources == {"w.pth: hyper_parameters.config": tuple(said)}
    assert told.checks == {}


def test_a_default_tells_the_dataclass_as_an_annotation_does(own: Path) -> None:
    values = found(own, "ByDefault", two("stem", 5, 16, "head", 3)).values
    assert values == {"config": {"_target_": CONFIG, "inputs": 5, "width": 16}, "classes": 3}


def test_fields_of_one_name_are_told_apart_by_their_arguments(own: Path) -> None:
    values = found(own, "Two", two("encoder", 7, 11, "decoder", 13)).values
    assert values == {
        "encoder": {"_target_": REQUIRED, "inputs": 7, "width": 11},
        "decoder": {"_target_": REQUIRED, "inputs": 11, "width": 13},
    }


def test_an_object_that_was_given_is_taken_as_it_is(own: Path) -> None:
    given = {"config": {"_target_": CONFIG, "inputs": 12, "width": 32, "slope": 0.2}}
    values = found(own, "Annotated", two("stem", 12, 32, "head", 5), given).values
    assert values == {**given, "classes": 5}


def test_what_may_be_none_or_is_not_trusted_is_left_as_it_is(own: Path) -> None:
    assert found(own, "Optional", {"fc.weight": torch.ones(9, 3), "fc.bias": torch.ones(9)}).values == {"width": 9}
    with pytest.raises(ArchitectureError, match=r"give what it needs \(config\)|could not be built"):
        found(own, "Untrusted", {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)})


def test_the_config_that_is_written_is_checked_and_a_dataclass_is_returned(
    own: Path, weighbridge: Callable[..., Any]
) -> None:
    said = {"inputs": 12, "width": 32, "slope": 0.3, "sizes": [3]}
    torch.save(
        {"state_dict": two("stem", 12, 32, "head", 5), "hyper_parameters": {"config": said}},
        own / "w.pth",
    )
    command = ("--architecture", "fielded:Annotated", "--trust", "fielded")
    done = weighbridge("init", own / "w.pth", *command, "--output", own / "w.yaml")
    assert done.code == 0, done.err
    text = (own / "w.yaml").read_text()
    assert '{config: {_target_: "fielded:Config", inputs: 12, width: 32, slope: 0.3, sizes: [3]}, classes: 5}' in text
    assert "outputs: [logits, features]" in text
    done = weighbridge("check", own / "w.yaml", "--trust", "fielded")
    assert done.code == 0, done.err
    assert "not decided" not in done.out


def test_inputs_are_found_with_the_object_made(own: Path) -> None:
    located = trust.locate("fielded:Annotated", ("fielded",))
    values = {"config": {"_target_": CONFIG, "inputs": 6}}
    taken = infer_inputs.inputs(located, values, {}, (), ("fielded",))
    assert taken.interface is not None
    assert taken.interface.inputs[0].shape == ("batch", 6)
    assert own.is_dir()
