"""The witness calls networks by hand and agrees with ours; when our binding is broken on purpose, it says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import ArchitectureError, DefectError
from pipeline.parity import oracle
from pipeline.rebuild import calling, outputs, witness
from tests.rebuild.calls import WAYS, Encoder, ThreeOptional, TwoTowers, Way, X, Y, face, floats
from tests.rebuild.test_calling import tensors


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
def test_the_witness_agrees_where_the_binding_is_right(way: Way) -> None:
    module, given = way.make().eval(), tensors(way.interface)
    with torch.inference_mode():
        ours = calling.call(module, calling.bind(module, way.interface), way.interface, given)
    witness.require_agreement(module, way.interface, given, ours)


def swapped(real):
    """Return a binding that gives the first input what was meant for the second, and the other way round."""

    def arguments(self, values):
        first, second, *_ = values
        return real(self, {**values, first: values[second], second: values[first]})

    return arguments


def shifted(real):
    """Return a binding that hands everything over by position, as it once was."""

    def arguments(self, values):
        positional, keywords = real(self, values)
        return [*positional, *keywords.values()], {}

    return arguments


@pytest.mark.parametrize(
    ("sabotage", "module", "interface"),
    [
        (swapped, TwoTowers(), face([X, Y])),
        (swapped, ThreeOptional(), face([floats("a", "batch", 4), floats("b", "batch", 4), X])),
        (shifted, ThreeOptional(), face([X, floats("c", "batch", 4)])),
        (shifted, ThreeOptional(), face([X, floats("b", "batch", 4), floats("c", "batch", 4)])),
    ],
    ids=["swapped", "swapped, optional", "by position", "by position, two"],
)
def test_a_broken_binding_ends_the_oracle_as_a_defect_of_ours(monkeypatch, sabotage, module, interface) -> None:
    monkeypatch.setattr(calling.Binding, "arguments", sabotage(calling.Binding.arguments))
    case = {name: each.numpy() for name, each in tensors(interface).items()}
    with pytest.raises(DefectError, match="otherwise than a call by hand") as caught:
        oracle.evaluate(module.eval(), interface, [case], seed=0)
    assert caught.value.exit_code == 4
    assert "defect of weighbridge" in str(caught.value.hint)


def test_broken_names_of_outputs_are_seen_as_well(monkeypatch) -> None:
    real = outputs.output_paths

    def exchanged(result, interface):
        first, second = real(result, interface).items()
        return {first[0]: second[1], second[0]: first[1]}

    monkeypatch.setattr(outputs, "output_paths", exchanged)
    way = next(way for way in WAYS if way.kind == "a dict, another order")
    case = {name: each.numpy() for name, each in tensors(way.interface).items()}
    with pytest.raises(DefectError):
        oracle.evaluate(way.make().eval(), way.interface, [case], seed=0)


class Counter(nn.Module):
    """Gives something else at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(4, 4), 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * self.calls


def test_a_network_that_keeps_a_state_is_no_defect_of_ours() -> None:
    case = {name: each.numpy() for name, each in tensors(face([X])).items()}
    with pytest.raises(ArchitectureError, match="keeps a state between calls: result came out differently twice"):
        oracle.evaluate(Counter().eval(), face([X]), [case], seed=0)


class Writer(nn.Module):
    """Changes its input while it runs."""

    def forward(self, x):
        x.mul_(2)
        return x + 1


def test_a_network_may_write_to_its_input_without_changing_the_case() -> None:
    case = {name: each.numpy() for name, each in tensors(face([X])).items()}
    before = case["x"].copy()
    (reference,), _ = oracle.evaluate(Writer(), face([X]), [case], seed=0)
    assert (case["x"] == before).all()
    assert abs(reference.values["result"] - (before.astype("float64") * 2 + 1)).max() == 0


def test_a_mask_that_lands_in_the_parameter_in_between_is_told(monkeypatch) -> None:
    """What was once released: the mask as token types, in the oracle too, so that everything agreed."""
    way = WAYS[0]
    monkeypatch.setattr(calling.Binding, "arguments", shifted(calling.Binding.arguments))
    case = {name: each.numpy() for name, each in tensors(way.interface).items()}
    with pytest.raises(DefectError):
        oracle.evaluate(Encoder().eval(), way.interface, [case], seed=0)
