"""Which arguments nothing decides: neither the config, nor the shapes of the weights, nor what their file says."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.architectures.resnet import ResNet
from pipeline.errors import MisfitError
from pipeline.rebuild import doubts, model, trust
from pipeline.rebuild.definitions import Parameter
from pipeline.rebuild.network import Network
from pipeline.weights import stated
from tests import told

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SAID = {"inputs": 12, "width": 32, "classes": 5, "temperature": 2.5, "residual": True, "activation": "tanh"}
WIDTHS = {"inputs": 12, "width": 32, "classes": 5}


def network(
    folder: Path,
    made: nn.Module,
    arguments: Mapping[str, Any],
    around: Mapping[str, Any] | None = None,
    target: str = "",
) -> Network:
    state = made.state_dict()
    torch.save({"state_dict": state, **around} if around else state, folder / "net.pth")
    named = target or f"tests.told:{type(made).__name__}"
    places = {"model.arguments": "net.yaml:4:3"} | {
        f"model.arguments.{name}": f"net.yaml:5:{len(name)}" for name in arguments
    }
    return Network(named, arguments, str(folder / "net.pth"), ("tests.told", "tests.rebuild.test_doubts"), places)


def undecided(wanted: Network) -> dict[str, str]:
    found = doubts.undecided(wanted)
    assert all(each.is_default for each in found)
    return {each.name: each.why for each in found}


def test_what_neither_shapes_nor_file_decide_is_told_until_it_is_written_out(tmp_path: Path) -> None:
    made = told.Net(**WIDTHS)
    reason = "neither the shapes nor net.pth tell"
    assert undecided(network(tmp_path, made, WIDTHS)) == dict.fromkeys(
        ("temperature", "residual", "activation"), reason
    )
    written = {**WIDTHS, "temperature": 1.0, "activation": "relu"}
    assert undecided(network(tmp_path, made, written)) == {"residual": reason}
    assert undecided(network(tmp_path, made, {**written, "residual": False})) == {}
    said = {"args": {"temperature": 1, "residual": False}}
    assert undecided(network(tmp_path, made, WIDTHS, said)) == {"activation": reason}


def test_an_argument_of_each_kind_is_decided_only_where_other_values_do_not_fit(tmp_path: Path) -> None:
    made = told.Many([3, 8, 4])
    assert undecided(network(tmp_path, made, {"widths": [3, 8, 4]})).keys() == {
        "strides", "clip", "act", "pool", "padding", "extra",
    }  # fmt: skip


class Scaled(nn.Module):
    """Arguments without and with a say in the shapes, of types that cannot simply be doubled."""

    def __init__(
        self,
        multiplier: float = 1.0,
        rates: tuple[float, ...] = (0.1, 0.2),
        sizes: tuple[int, ...] = (2, 3),
        tail: dict[str, int] | None = None,
        eps: float = 0.0,
        axis: int = -1,
    ):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(int(8 * multiplier), size) for size in sizes)
        self.rates, self.tail, self.eps, self.axis = rates, tail or {"a": 1}, eps, axis


class Stubborn(nn.Module):
    """A constructor that takes one value only, and one that is built from data, not from shapes alone."""

    def __init__(self, layers: int = 3, largest: float = 1.0, temperature: float = 1.0):
        super().__init__()
        if layers != 3:
            raise ValueError("only 3")
        self.temperature = temperature
        self.fc = nn.Linear(int(torch.full((1,), 2.0).item() * largest), 2)


def test_numbers_tuples_and_tables_are_tried_with_others(tmp_path: Path) -> None:
    found = undecided(network(tmp_path, Scaled(), {}, target="tests.rebuild.test_doubts:Scaled"))
    assert found.keys() == {"rates", "tail", "eps", "axis"}


def test_what_could_not_be_tried_is_not_taken_for_decided(tmp_path: Path) -> None:
    assert undecided(network(tmp_path, Stubborn(), {}, target="tests.rebuild.test_doubts:Stubborn")).keys() == {
        "layers",
        "temperature",
    }


def test_shapes_that_tell_a_product_do_not_decide_its_factors(tmp_path: Path) -> None:
    made = told.Attention(32, 16, 32)
    assert undecided(network(tmp_path, made, {})).keys() == {"heads", "dim_head"}
    assert undecided(network(tmp_path, made, {"heads": 8})) == {}
    assert undecided(network(tmp_path, made, {"dim_head": 64})) == {}


def test_a_variant_by_number_is_decided_by_the_shapes_of_its_family(tmp_path: Path) -> None:
    wanted = network(tmp_path, ResNet(18, 7), {"num_classes": 7}, target="pipeline.architectures.resnet:ResNet")
    assert "depth" not in undecided(Network(**{**asdict(wanted), "trust": ("pipeline.architectures",)}))


@pytest.mark.parametrize("target", ["build", "decorated"])
def test_a_function_has_its_defaults_too(target: str, tmp_path: Path) -> None:
    wanted = network(tmp_path, told.Net(width=32), {"width": 32}, {"args": {"lr": 1}}, f"tests.told:{target}")
    assert undecided(wanted) == {"temperature": "neither the shapes nor net.pth tell"}


def test_why_is_said_where_the_file_is_of_no_help(tmp_path: Path) -> None:
    around = {"a": {"act": "GELU", "extra": torch.ones(())}, "b": {"clip": 0.1}, "c": {"clip": None}}
    found = undecided(network(tmp_path, told.Many([3, 8, 4]), {"widths": [3, 8, 4]}, around))
    assert found["act"] == "net.pth: a says 'GELU', which does not tell what that is in the code"
    assert found["extra"] == "net.pth: a holds a tensor for it, which is not read"
    assert found["clip"] == "net.pth: b says 0.1, net.pth: c says None"


# What makes no difference


class Dropping(nn.Module):
    """Arguments that change nothing in eval mode, and one that does."""

    def __init__(self, p: float = 0.1, std: float = 0.02, verbose: bool = False, eps: float = 1e-5):
        super().__init__()
        self.fc, self.drop = nn.Linear(4, 4), nn.Dropout(p)
        self.rnn = nn.LSTM(4, 4, 2, dropout=p)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=p)
        self.norm = nn.LayerNorm(4, eps=eps)
        nn.init.normal_(self.fc.weight, std=2 * std if verbose else std)


class Own(nn.Dropout):
    """A layer that may drop out whenever it likes."""


class Kept(nn.Module):
    """What an argument is kept in where nobody can look, or where it may be used."""

    def __init__(self, way: str, p: float = 0.1):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        if way == "attribute":
            self.p = p
        elif way == "closure":
            self.act = lambda x: x * p
        elif way == "hook":
            self.fc.register_forward_hook(lambda _module, _inputs, output: output * p)
        elif way == "buffer":
            self.register_buffer("scale", torch.full((4,), p), persistent=False)
        elif way == "tensor":
            self.scale = torch.full((4,), p)
        elif way == "class":
            self.drop = Own(p)
        elif way == "object":
            self.config = Network("", {"p": p}, "", (), {})


def test_what_makes_no_difference_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    wanted = network(tmp_path, Dropping(), {}, target="tests.rebuild.test_doubts:Dropping")
    assert undecided(wanted).keys() == {"eps"}
    parameters = [Parameter("p", True, 0.1), trust.Parameter("eps", True, 1e-5)]
    of = doubts.Doubts(Dropping, "net.pth", {}, parameters)
    found = [of.about(each, stated.Stated()) for each in parameters]
    assert [each and each.is_idle for each in found] == [True, False]


@pytest.mark.parametrize("way", ["attribute", "closure", "hook", "buffer", "tensor", "class", "object"])
def test_what_may_make_a_difference_is_asked_for(way: str, tmp_path: Path) -> None:
    wanted = network(tmp_path, Kept(way), {"way": way}, target="tests.rebuild.test_doubts:Kept")
    assert undecided(wanted).keys() == {"p"}


# What the checkpoint says, and the network is not built with


def test_a_default_that_the_checkpoint_contradicts_is_an_error_with_both_values_and_the_fix(tmp_path: Path) -> None:
    wanted = network(tmp_path, told.Net(**SAID), WIDTHS, {"hyper_parameters": SAID})
    with pytest.raises(MisfitError) as caught:
        model.load(wanted)
    assert caught.value.message == (
        "net.pth: hyper_parameters says temperature=2.5, residual=True, activation='tanh'; net.yaml:4:3 leaves Net at its "
        "default temperature=1.0, residual=False, activation='relu'"
    )
    assert str(caught.value.hint).startswith(
        "set model.arguments.temperature to 2.5, set model.arguments.residual to True"
    )
    assert caught.value.exit_code == 2


def test_what_is_written_out_is_taken_and_noted(tmp_path: Path) -> None:
    arguments = {**SAID, "temperature": 1.0}
    loaded = model.load(network(tmp_path, told.Net(**SAID), arguments, {"hyper_parameters": SAID}))
    assert loaded.contradictions == (
        "net.pth: hyper_parameters says temperature=2.5, and net.yaml:5:11 says 1.0, which is taken",
    )
    assert loaded.module.temperature == 1.0
    assert model.load(network(tmp_path, told.Net(**SAID), SAID, {"hyper_parameters": SAID})).contradictions == ()


@pytest.mark.parametrize("target", ["build", "decorated"])
def test_a_function_without_parameters_in_its_source_is_held_against_the_checkpoint_too(
    target: str, tmp_path: Path
) -> None:
    around = {"args": {"temperature": 2.5}}
    with pytest.raises(MisfitError, match=r"args says temperature=2\.5"):
        model.load(network(tmp_path, told.Net(width=32), {"width": 32}, around, f"tests.told:{target}"))


def test_a_network_that_needs_real_tensors_is_held_against_the_checkpoint_too(tmp_path: Path) -> None:
    said = {"args": {"temperature": 2.5, "layers": 9, "largest": 3.0}}
    with pytest.raises(MisfitError, match=r"args says temperature=2\.5; net"):
        model.load(network(tmp_path, Stubborn(), {}, said, "tests.rebuild.test_doubts:Stubborn"))


def test_shapes_decide_over_the_file(tmp_path: Path) -> None:
    wrong = {"args": {"inputs": 7, "width": 64, "temperature": 1.0, "residual": False, "activation": "relu"}}
    loaded = model.load(network(tmp_path, told.Net(**WIDTHS), WIDTHS, wrong))
    assert loaded.contradictions == ()
    made = told.Net()
    assert model.load(network(tmp_path, made, {}, wrong)).contradictions == ()
    reason = "and more with which the weights do not fit"
    assert undecided(network(tmp_path, made, {}, wrong)) == {
        "temperature": f"net.pth: args says 1.0, {reason}",
        "residual": f"net.pth: args says False, {reason}",
        "activation": f"net.pth: args says 'relu', {reason}",
    }


def test_arguments_that_only_fit_together_contradict_together(tmp_path: Path) -> None:
    wanted = network(tmp_path, told.Attention(32, 16, 32), {}, {"hparams": {"heads": 16, "dim_head": 32}})
    with pytest.raises(MisfitError, match=r"heads=16, dim_head=32; .* heads=8, dim_head=64"):
        model.load(wanted)
