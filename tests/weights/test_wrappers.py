"""Which dicts in a file are state dicts, and that one of several is asked for and never assumed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import headers, inspect, read, wrappers
from pipeline.weights.files import split_key
from pipeline.weights.kinds import Kind

if TYPE_CHECKING:
    from pathlib import Path


def _state(width: int = 3) -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.rand(width, 2), "fc.bias": torch.rand(width)}


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return network, optimizer


def _averaged() -> dict[str, Any]:
    network = nn.Sequential(nn.Linear(2, 3))
    return {"model": network.state_dict(), "average": AveragedModel(network).state_dict()}


def _torch_ema() -> dict[str, Any]:
    network, optimizer = _trained()
    shadow = [parameter.clone() for parameter in network.parameters()]
    return {
        "model": network.state_dict(),
        "ema": {"decay": 0.99, "num_updates": 7, "shadow_params": shadow, "collected_params": None},
        "optimizer": optimizer.state_dict(),
    }


SEVERAL: dict[str, tuple[Any, list[str]]] = {
    "two networks": ({"discriminator": _state(), "generator": _state(5), "epoch": 3}, ["discriminator", "generator"]),
    "weights and their average": ({"state_dict": _state(), "ema_state_dict": _state()}, ["state_dict", "ema_state_dict"]),
    "timm": ({"epoch": 1, "arch": "x", "state_dict": _state(), "state_dict_ema": _state()}, ["state_dict", "state_dict_ema"]),
    "basicsr": ({"params": _state(), "params_ema": _state()}, ["params", "params_ema"]),
    "model beside model_ema": ({"model": _state(), "model_ema": _state()}, ["model", "model_ema"]),
    "nested average": ({"ema": {"decay": 0.9, "shadow": _state()}, "generator": _state()}, ["ema.shadow", "generator"]),
    "student and teacher": ({"student": _state(), "teacher": _state(), "loss": _state(1)}, ["student", "teacher"]),
    "encoder of momentum": ({"encoder": _state(), "momentum_encoder": _state()}, ["encoder", "momentum_encoder"]),
    "actor and critic": (
        {"actor": _state(), "critic": _state(1), "actor_optim": {"state": _state(), "param_groups": []}},
        ["actor", "critic"],
    ),
    "a list of networks": ({"models": [_state(), _state(), _state()], "scores": [0.1, 0.2]}, ["models.0", "models.1", "models.2"]),
    "a pair at the top": ((_state(), _state(4)), ["0", "1"]),
    "numbered": ({"folds": {0: _state(), 1: _state()}}, ["folds.0", "folds.1"]),
    "flat beside a nested one": ({**_state(), "ema": _state(), "epoch": 1}, [".", "ema"]),
    "flat with plain names beside a nested one": (
        {"weight": torch.ones(3, 2), "bias": torch.ones(3), "ema": {"weight": torch.ones(3, 2), "bias": torch.ones(3)}},
        [".", "ema"],
    ),
    "one behind a prefix": (
        {"net": _state(), "net_ddp": {f"module.{name}": tensor for name, tensor in _state().items()}},
        ["net", "net_ddp"],
    ),
    "an averaged model": (_averaged(), ["model", "average"]),
    "within a callback": (
        {"state_dict": _state(), "callbacks": {"EMA{'decay': 0.9}": {"ema_weights": _state()}}},
        ["state_dict", "callbacks.EMA{'decay': 0.9}.ema_weights"],
    ),
}  # fmt: skip

ONE: dict[str, tuple[Any, str]] = {
    "optimizer": ({"net": _trained()[0].state_dict(), "any_name": _trained()[1].state_dict()}, "net"),
    "momentum by name": ({"net": _state(), "optimizer": {"momentum": _state()}}, "net"),
    "moments by name": ({"net": _state(), "state": {"exp_avg": _state(), "exp_avg_sq": _state()}}, "net"),
    "optimizer of another name": ({"net": _state(), "muon": {"state": _state(), "param_groups": []}}, "net"),
    "optimizers in a list": ({"state_dict": _state(), "optimizer_states": [{"state": {0: _state()}}]}, "state_dict"),
    "scheduler, scaler, random states": (
        {
            "model": _state(),
            "lr_scheduler": {"base": {"weight": torch.ones(1)}},
            "scaler": {"scale": torch.ones(1)},
            "rng": {"torch": torch.get_rng_state(), "cuda": [torch.get_rng_state()]},
        },
        "model",
    ),
    "loss with weights": ({"model": _state(), "criterion": {"weight": torch.ones(5)}, "arcface_loss": _state()}, "model"),
    "statistics": ({"model": _state(), "normalizer": {"mean": torch.ones(3), "std": torch.ones(3)}}, "model"),
    "metrics of a callback": ({"state_dict": _state(), "callbacks": {"M": {"best_score": torch.tensor(1.0)}}}, "state_dict"),
    "numbers beside": ({"state_dict": _state(), "mean": torch.ones(3), "acc": torch.tensor(0.5)}, "state_dict"),
    "metadata": ({"model": _state(), "_metadata": {"weights": _state()}}, "model"),
    "extra state of a layer": ({**_state(), "fc._extra_state": {"scale.weight": torch.ones(1)}}, "."),
    "tensors without names": (_torch_ema(), "model"),
    "in a list of one": ([_state()], "0"),
    "names unlike parameters": ({"table": {"a": torch.ones(2)}, "step": 1}, "table"),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "keys"), SEVERAL.values(), ids=SEVERAL)
def test_one_of_several_is_asked_for_and_each_key_picks_its_own(saved: Any, keys: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(saved, path)
    described = inspect.description_of(path)
    assert described.kind == Kind.SEVERAL
    assert [candidate.key for candidate in described.candidates] == keys
    for take in (read.load, read.require_state_dict):
        with pytest.raises(WeightsError) as caught:
            take(path)
        assert f"net.pth holds {len(keys)} state dicts, and nothing says which one is meant" in caught.value.message
        assert all(f"\n  {key} " in caught.value.message for key in keys)
        assert f"model.key: {keys[0]}` in the config, or net.pth#{keys[0]}" in str(caught.value.hint)
    for key, candidate in zip(keys, described.candidates, strict=True):
        tensors = read.load(path, key=key).tensors
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            tensor.name: tensor.shape for tensor in candidate.tensors
        }
        wanted = saved
        for step in () if key == "." else _steps(saved, key):
            wanted = wanted[step]
        assert all(tensor.equal(wanted[name]) for name, tensor in tensors.items())


def _steps(saved: Any, key: str) -> tuple[Any, ...]:
    states = wrappers.unwrap(saved, lambda value: isinstance(value, torch.Tensor)).choices
    return next(state.steps for state in states if state.key == key)


@pytest.mark.parametrize(("saved", "key"), ONE.values(), ids=ONE)
def test_what_is_no_network_is_no_candidate(saved: Any, key: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "net.pth")
    assert inspect.description_of(tmp_path / "net.pth").candidates == ()
    taken, picked = read.load(tmp_path / "net.pth"), read.load(tmp_path / "net.pth", key=key)
    assert taken.tensors.keys() == picked.tensors.keys()
    assert taken.notes == picked.notes


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        (SEVERAL["weights and their average"][0], "the same names and shapes as state_dict: an average of it"),
        (SEVERAL["two networks"][0], "other names or shapes than discriminator: another network"),
        (
            SEVERAL["one behind a prefix"][0],
            "the same names and shapes as net, but for the prefix 'module.': an average",
        ),
        (
            SEVERAL["an averaged model"][0],
            "the same names and shapes as model, but for the prefix 'module.': an average",
        ),
    ],
)
def test_an_average_is_told_from_another_network(saved: Any, says: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "net.pth")
    assert says in inspect.description_of(tmp_path / "net.pth").candidates[1].relation
    with pytest.raises(WeightsError, match="2 state dicts") as caught:
        read.load(tmp_path / "net.pth")
    assert says in caught.value.message


def test_tensors_without_names_are_told_and_not_taken(tmp_path: Path) -> None:
    torch.save(_torch_ema(), tmp_path / "net.pth")
    says = "ema.shadow_params holds 2 tensors without names: no state dict, so it is not taken"
    assert says in read.load(tmp_path / "net.pth").notes
    assert inspect.description_of(tmp_path / "net.pth").unnamed == (says,)
    torch.save(_torch_ema()["ema"], tmp_path / "ema.pth")
    with pytest.raises(WeightsError, match="holds no state dict: shadow_params holds 2 tensors without names"):
        read.load(tmp_path / "ema.pth")


@pytest.mark.parametrize(
    ("saved", "key", "says"),
    [
        (SEVERAL["two networks"][0], "genrator", "no state dict 'genrator' (nearest valid: 'generator')"),
        (SEVERAL["nested average"][0], "ema", "no state dict 'ema' (valid: 'ema.shadow', 'generator')"),
        ({"model": _state()}, "modle", "no state dict 'modle' (nearest valid: 'model')"),
        ({"model": _state()}, "optimizer", "no state dict 'optimizer' (valid: 'model')"),
        (_state(), "", "no state dict '' (valid: '.')"),
        ({"a": {"b": _state()}, "a.b": _state()}, "a.b", "2 state dicts of net.pth are called 'a.b'"),
        ({"epoch": 3}, "model", "torch file without a state dict: there is no 'model' to pick"),
    ],
)
def test_a_key_that_picks_nothing_is_answered_with_those_there_are(
    saved: Any, key: str, says: str, tmp_path: Path
) -> None:
    torch.save(saved, tmp_path / "net.pth")
    for take in (read.load, read.require_state_dict, inspect.description_of):
        with pytest.raises(WeightsError) as caught:
            take(tmp_path / "net.pth", key=key)  # type: ignore[operator]
        assert says in caught.value.message


def test_a_file_of_one_kind_of_thing_has_nothing_to_pick(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(_state(), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="is a safetensors: there is no 'ema' to pick in it") as caught:
        read.load(tmp_path / "net.safetensors", key="ema")
    assert caught.value.hint == "take model.key, or what stands behind the #, away"


def test_dicts_that_share_without_measure_are_refused_in_time(tmp_path: Path) -> None:
    deep: Any = {"weight": torch.ones(1)}
    for _ in range(4):
        deep = {f"k{index}": deep for index in range(60)}
    torch.save({"model": deep}, tmp_path / "net.pth")
    with pytest.raises(UnsafeError, match="refer to one another again and again"):
        headers.read(tmp_path / "net.pth")


def test_what_a_file_calls_its_parts_cannot_break_a_message(tmp_path: Path) -> None:
    torch.save({"a\n\x1b[31mfix: run it": _state(), "b": _state(4)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError) as caught:
        read.load(tmp_path / "net.pth")
    assert "\x1b" not in caught.value.message
    assert caught.value.message.count("\n") == 2
    assert asdict(inspect.description_of(tmp_path / "net.pth"))["candidates"][1]["key"] == "b"


def test_a_key_stands_behind_the_file(tmp_path: Path) -> None:
    for name in ("net.pth", "a#b.pth"):
        (tmp_path / name).write_bytes(b"x")
    for given, wanted in {
        "net.pth": ("net.pth", None),
        "net.pth#ema.shadow": ("net.pth", "ema.shadow"),
        "net.pth#": ("net.pth", ""),
        "net.pth#a#b": ("net.pth", "a#b"),
        "a#b.pth": ("a#b.pth", None),
        "a#b.pth#g": ("a#b.pth", "g"),
        "gone.pth#g": ("gone.pth", "g"),
    }.items():
        assert split_key(f"{tmp_path}/{given}") == (f"{tmp_path}/{wanted[0]}", wanted[1])
    assert split_key("https://example.org/net.pth#ema") == ("https://example.org/net.pth", "ema")
