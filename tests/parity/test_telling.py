"""A case in which no defect would show says nothing, and an output of which no case says anything is not proven."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import GateError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import oracle, truth
from pipeline.parity.budget import Rule
from pipeline.rebuild import cases


def known_of(network, *, rule=Rule(), **spec):  # noqa: B008 - frozen
    """The truth of a network with one linear layer, and the cases that were added."""
    torch.manual_seed(0)
    spec = {"dtype": "float32", **spec}
    interface = Interface((InputSpec("x", shape=("batch", 6), **spec),), (Dimension("batch", 1, 8),), ("y",))
    sampled = cases.sample(interface, seed=0, cap_elements=1000)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x):
            return network(self.layer, x)

    module = Net().eval().requires_grad_(False)
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=0)
    added = oracle.signals(module, interface, sampled, references, seed=0)
    every = (*sampled, *(case for case, _ in added))
    return truth.truth(every, (*references, *(each for _, each in added)), reason, {"y": rule}), [
        case.name for case, _ in added
    ]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda layer, x: torch.softmax(layer(x) * 1e9, 1), "saturated at 0 and 1"),
        (lambda layer, x: torch.sigmoid(layer(x) + 1e6), "constant at 1"),
        (lambda layer, x: torch.relu(layer(x) - 1e6), "all zero"),
        (lambda layer, x: layer(x) * float("nan"), "nowhere finite"),
        (lambda layer, x: (layer(x) - torch.tensor([1e9, 0, 0, 0])).argmin(1), "all zero"),
    ],
)
def test_an_output_that_no_weight_moves_closes_the_gate_and_it_is_said_what_it_is_and_what_to_do(network, said):
    known, _ = known_of(network)
    with pytest.raises(GateError, match=rf"no case could show a defect:\n.*'y'.*{said}") as caught:
        truth.require_telling(known)
    assert "`samples:`" in caught.value.hint


def test_an_output_that_is_the_same_for_all_inputs_closes_the_gate_too():
    known, _ = known_of(lambda layer, x: layer(torch.relu(x - 1e6)))
    assert any(each.tells("y") for each in known.references)  # the bias moves it
    with pytest.raises(GateError, match="output 'y' is the same whatever the inputs"):
        truth.require_telling(known)


@pytest.mark.parametrize(
    "network",
    [
        lambda layer, x: torch.zeros_like(x[:, :4]).detach() + layer.bias * (x[:, :4] > 1e6).logical_not(),
        lambda layer, x: layer.weight.T[(x.sum(1) > 1e6).long()].sum(0, keepdim=True),
    ],
)
def test_an_output_that_is_always_the_same_and_shows_every_weight_on_its_way_is_no_reason(network):
    known, _ = known_of(network)
    assert all(each.tells("y") for each in known.references)
    truth.require_telling(known)


def test_an_output_behind_a_dead_layer_and_a_softmax_shows_the_last_bias_alone():
    known, _ = known_of(lambda layer, x: torch.softmax(layer(torch.relu(x - 1e6)), 1))
    with pytest.raises(GateError, match="output 'y' is the same whatever the inputs"):
        truth.require_telling(known)


@pytest.mark.parametrize(
    "network",
    [
        lambda layer, x: layer(x),
        lambda layer, x: layer(x * 0 + torch.arange(6.0)) + x[:, :4],
        lambda layer, x: layer(x).argmax(1),
        lambda layer, x: layer(x).argmax(1).float(),
        lambda layer, x: layer(x) > 0,
        lambda layer, x: torch.softmax(layer(x), 1),
        lambda _, x: x > 0,
        lambda _, x: x,
        lambda _, x: torch.arange(x.shape[0]),
        lambda _, x: torch.ones_like(x),
        lambda layer, x: layer(x)[:, :0],
        lambda layer, x: layer(x).sum(),
        lambda layer, x: torch.fft.rfft(layer(x)),
    ],
)
def test_ordinary_outputs_are_not_refused(network):
    known, added = known_of(network)
    truth.require_telling(known)
    assert added == []


def test_an_output_that_is_meant_to_be_constant_passes_where_the_config_says_so():
    known, _ = known_of(lambda layer, x: layer(x) * 0, rule=Rule(constant=True))
    truth.require_telling(known)


def test_inputs_with_signal_are_looked_for_and_named():
    known, added = known_of(lambda layer, x: torch.relu(layer(x) - 600))
    assert added == ["values × 1000"]
    truth.require_telling(known)
    assert truth.silent_cases(known).startswith("8 of 9 cases say nothing: 'minimum', 'odd'")


def test_inputs_with_signal_stay_within_their_bounds_and_what_they_are_declared_to_be():
    specs = (
        InputSpec("x", "float32", (64,), low=0.0, high=1.0, values="uniform"),
        InputSpec("free", "float32", (64,)),
        InputSpec("ids", "int64", (64,), low=3, high=9),
    )
    largest = {}
    for case in cases.signals(Interface(specs, (), ("y",)), {}, seed=0):
        assert 0 <= case.inputs["x"].min() <= case.inputs["x"].max() <= 1
        assert 3 <= case.inputs["ids"].min() <= case.inputs["ids"].max() < 9
        largest[case.name] = (case.inputs["x"].max(), case.inputs["free"].max())
    assert largest["values × 0.01"][0] <= 0.01
    assert largest["values × 100"][1] > 50


def test_the_weights_are_as_they_were_afterwards():
    network = nn.Linear(6, 2).requires_grad_(False)
    before = network.weight.clone()
    interface = Interface((InputSpec("x", "float32", (2, 6)),), (), ("y",))
    oracle.evaluate(network, interface, [{"x": np.ones((2, 6), np.float32)}], seed=0)
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, before)
