"""Dataclasses within dataclasses, and members of Enums: found by init, asked for by check, held against what the checkpoint says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.rebuild import infer, trust
from pipeline.weights.members import member_of
from pipeline.weights.pickle_records import Object

SOURCE = """
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

import torch
from torch import nn

class Act(Enum):
    RELU = "relu"
    TANH = "tanh"

class Level(IntEnum):
    LOW = 1
    HIGH = 2

@dataclass
class Inner:
    width: int = 16
    slope: float = 0.1
    act: Act = Act.RELU

@dataclass
class Wider(Inner):
    shift: float = 0.0

@dataclass
class Outer:
    inputs: int = 8
    inner: Inner = field(default_factory=Inner)
    scale: float = 2.0

class Net(nn.Module):
    def __init__(self, config: Outer, classes: int = 2):
        super().__init__()
        self.config = config
        self.stem, self.head = nn.Linear(config.inputs, config.inner.width), nn.Linear(config.inner.width, classes)

    def forward(self, x):
        act = torch.tanh if self.config.inner.act is Act.TANH else torch.relu
        return self.head(act(self.stem(x))) * self.config.scale + self.config.inner.slope

class Flat(nn.Module):
    def __init__(self, width: int = 16, act: Act = Act.RELU, level: Level = Level.LOW):
        super().__init__()
        assert isinstance(act, Act)
        self.act, self.level = act, level
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 2)

    def forward(self, x):
        y = self.stem(x)
        return self.head(torch.tanh(y) if self.act is Act.TANH else torch.relu(y)) * int(self.level)
"""
OUTER, INNER, ACT = "deep_fields:Outer", "deep_fields:Inner", "deep_fields:Act"
TRUST = ("--trust", "deep_fields")


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "deep_fields.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("deep_fields", None)
    return importlib.import_module("deep_fields")


def state(width=24, inputs=8):
    return nn.ModuleDict({"stem": nn.Linear(inputs, width), "head": nn.Linear(width, 2)}).state_dict()


def found(name, saved):
    torch.save(saved, "w.pth")
    located = trust.locate(f"deep_fields:{name}", ("deep_fields",))
    return infer.arguments(located, Path("w.pth"), {}, max_bytes=None, trusted=("deep_fields",))


@pytest.mark.usefixtures("own")
def test_fields_of_a_dataclass_within_a_dataclass_follow_from_the_shapes():
    inferred = found("Net", state(inputs=5))
    assert inferred.values == {
        "config": {"_target_": OUTER, "inputs": 5, "inner": {"_target_": INNER, "width": 24}},
        "classes": 2,
    }
    assert {"config.inner.slope", "config.inner.act", "config.scale"} == set(inferred.checks)


def test_what_a_checkpoint_keeps_in_objects_within_objects_is_read(own):
    held = own.Outer(inner=own.Inner(24, 0.3, own.Act.TANH), scale=3.0)
    inferred = found("Net", {"state_dict": state(), "hyper_parameters": {"config": held}})
    inner = {"_target_": INNER, "width": 24, "slope": 0.3, "act": {"_target_": ACT, "_args_": ["tanh"]}}
    assert inferred.values["config"] == {"_target_": OUTER, "inputs": 8, "inner": inner, "scale": 3.0}
    assert inferred.checks == {}


@pytest.mark.parametrize("said", ["member", "tanh", "TANH"])
def test_a_member_of_an_enum_is_found_as_itself_by_value_and_by_name(own, said):
    act = own.Act.TANH if said == "member" else said
    inferred = found("Flat", {"state_dict": state(), "hyper_parameters": {"act": act, "level": own.Level.HIGH}})
    assert inferred.values["act"] == {"_target_": ACT, "_args_": ["tanh"]}
    assert inferred.values["level"] == {"_target_": "deep_fields:Level", "_args_": [2]}
    assert "act" not in inferred.checks


def test_a_member_that_the_code_does_not_have_is_left_to_the_user(own):
    inferred = found("Flat", {"state_dict": state(), "hyper_parameters": {"act": "gelu", "width": 24}})
    assert "act" not in inferred.values
    assert "'gelu'" in inferred.checks["act"]
    assert member_of(own.Act, Object("somebody.Else", ("tanh",))) is None
    assert member_of(own.Act, Object("__main__.Act", ("tanh",))) is own.Act.TANH  # saved by a script
    assert member_of(own.Act, Object("__main__.Act", ("gelu",))) is None
    assert member_of(own.Level, True) is None


def test_what_init_writes_is_taken_by_check_and_what_is_open_is_asked_for(own, weighbridge):
    torch.save(state(), "w.pth")
    done = weighbridge("init", "w.pth", "--architecture", "deep_fields:Net", *TRUST, "--output", "c.yaml")
    assert "# CHECK config.inner.slope: 0.1" in done.out
    assert f'# CHECK config.inner.act: {{"_target_": "{ACT}", "_args_": ["relu"]}} is the default' in done.out
    asked = weighbridge("check", "c.yaml", *TRUST)
    assert asked.code == 0, asked.err
    for part in (
        "config.inner.slope=0.1 (default of its class)",
        "config.scale=2.0",
        f'config.inner.act={{"_target_": "{ACT}"',
    ):
        assert part in asked.out
    answered = (f"inner.act={{_target_: '{ACT}', _args_: [relu]}}", "inner.slope=0.1", "scale=2.0")
    settings = [word for each in answered for word in ("--set", f"model.arguments.config.{each}")]
    done = weighbridge("check", "c.yaml", *TRUST, *settings)
    assert done.code == 0, done.err
    assert "not decided" not in done.out
    assert own.Act.TANH


@pytest.mark.parametrize("name", ["Net", "Flat"])
def test_a_field_or_member_left_at_a_default_that_the_checkpoint_contradicts_is_an_error_whose_fix_works(
    own, weighbridge, name
):
    from tests.fixes import Error, fixed

    held = {"config": own.Outer(inner=own.Inner(24, 0.3, own.Act.TANH), scale=3.0)}
    flat = {"width": 24, "act": own.Act.TANH, "level": own.Level.HIGH}
    torch.save({"state_dict": state(), "hyper_parameters": held if name == "Net" else flat}, "w.pth")
    assert weighbridge("init", "w.pth", "--architecture", f"deep_fields:{name}", *TRUST, "--output", "c.yaml").code == 0
    text = Path("c.yaml").read_text()
    dropped = (
        f', slope: 0.3, act: {{_target_: "{ACT}", _args_: [tanh]}}'
        if name == "Net"
        else f', act: {{_target_: "{ACT}", _args_: [tanh]}}'
    )
    assert dropped in text
    Path("c.yaml").write_text(text.replace(dropped, ""))
    command = ["check", "c.yaml", *TRUST]
    failed = weighbridge(*command)
    place = "config.inner.act" if name == "Net" else "act"
    assert failed.failed_with(
        2, f"set model.arguments.{place} to {{'_target_': '{ACT}', '_args_': ['tanh']}}", "explain contradicted"
    )
    again = weighbridge(*fixed(command, Error.read(failed.err), None).arguments)
    assert again.code == 0, again.err


def test_an_object_of_a_derived_class_is_asked_for_its_own_fields(own, weighbridge):
    torch.save(state(), "w.pth")
    weighbridge("init", "w.pth", "--architecture", "deep_fields:Net", *TRUST, "--output", "c.yaml")
    derived = "model.arguments.config.inner={_target_: 'deep_fields:Wider', width: 24, slope: 0.1}"
    done = weighbridge("check", "c.yaml", *TRUST, "--set", derived)
    assert done.code == 0, done.err
    assert "config.inner.shift=0.0" in done.out
    assert own.Wider


def test_many_fields_of_a_librarys_config_are_told_in_one_line():
    from pipeline.rebuild.doubts import Doubt
    from pipeline.run.check import _undecided

    doubts = [Doubt(f"config.f{index}", "1", True, "nothing tells", False) for index in range(20)]
    (line,) = _undecided("Net", doubts)
    assert line.startswith("20 fields of config are left at their defaults")
    assert len(list(_undecided("Net", doubts[:6]))) == 6
