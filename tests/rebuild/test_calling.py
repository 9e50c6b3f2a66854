"""Inputs reach the parameters that the config names, outputs get their names, and what cannot be bound is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.errors import ArchitectureError
from pipeline.rebuild import calling, cases
from pipeline.rebuild.outputs import output_paths
from tests.rebuild.calls import (
    WAYS,
    AllKeywords,
    Encoder,
    KeywordOnly,
    Many,
    NamedOut,
    Returns,
    ThreeOptional,
    TwoTowers,
    Way,
    X,
    Y,
    Z,
    face,
    floats,
)

if TYPE_CHECKING:
    from pipeline.interface import Interface


def tensors(interface: Interface, seed: int = 0) -> dict[str, torch.Tensor]:
    sizes = cases.example_sizes(interface)
    return calling.tensors_from(cases.make(interface, sizes, seed=seed, name="call").inputs)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
def test_a_call_is_the_call_by_hand(way: Way) -> None:
    module, given = way.make().eval(), tensors(way.interface)
    with torch.no_grad():
        ours = calling.call(module, calling.bind(module, way.interface), way.interface, given)
        wanted = way.by_hand(module, given)
    assert list(ours) == list(way.interface.outputs)
    for name in ours:
        assert torch.equal(ours[name], wanted[name]), name


def test_the_order_of_the_config_does_not_matter_where_names_decide() -> None:
    module, given = TwoTowers().eval(), tensors(face([X, Y]))
    for inputs in ([X, Y], [Y, X]):
        interface = face(inputs)
        found = calling.call(module, calling.bind(module, interface), interface, given)
        assert torch.equal(found["result"], module(given["x"], given["y"]))


def test_names_of_its_own_go_by_position_and_that_is_told() -> None:
    binding = calling.bind(ThreeOptional(), face([floats("image", "batch", 4), floats("prior", "batch", 4)]))
    assert binding.renamed_inputs() == ["image → x", "prior → a"]


class Undecorated(nn.Module):
    """As a decorator leaves it that does not say what it wraps."""

    def forward(self, *_: Any, **kwargs: Any) -> torch.Tensor:
        return kwargs["x"] - kwargs["y"]


class Variadic(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return sum(inputs)  # type: ignore[return-value]


def test_a_forward_that_hides_its_names_is_called_by_keyword() -> None:
    interface, given = face([X, Y]), tensors(face([X, Y]))
    module = Undecorated()
    found = calling.call(module, calling.bind(module, interface), interface, given)
    assert torch.equal(found["result"], given["x"] - given["y"])


@pytest.mark.parametrize(
    ("module", "interface", "said"),
    [
        (ThreeOptional(), face([X, floats("aa", "batch", 4)]), "ThreeOptional.forward has no parameter 'aa' (nearest valid: 'a')"),
        (TwoTowers(), face([X]), "TwoTowers.forward needs y, which has no default and is no input of the config"),
        (AllKeywords(), face([floats("left", "batch", 4)]), "needs right"),
        (AllKeywords(), face([X, Y]), "takes 0 inputs (none), the config names 2: x, y"),
        (TwoTowers(), face([floats("a", "batch", 4), floats("b", "batch", 4), Z]), "takes 2 inputs (x, y), the config names 3: a, b, z"),
        (Variadic(), face([X, Y]), "takes x, y through *args, which has no names to bind them to"),
        (TwoTowers(), face([X], method="encod"), "TwoTowers has no method 'encod' (nearest valid: 'encode')"),
        (TwoTowers(), face([X], method="encode", constants={"normalized": True}), "has no parameter 'normalized' (nearest valid: 'normalised')"),
        (KeywordOnly(), face([X, floats("constnat", "batch", 1)]), "has no parameter 'constnat' (nearest valid: 'constant')"),
        (Many(), face([floats("feats", "batch", 4), Y]), "takes a list of tensors for feats, and the config gives one tensor"),
        (nn.Module(), face([X]), "Module has no method 'forward'"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)  # fmt: skip
def test_what_cannot_be_bound_is_refused_with_the_fix(module: nn.Module, interface: Interface, said: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(said)) as caught:
        calling.bind(module, interface)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("module", "interface", "said", "fix"),
    [
        (NamedOut(), face([X], "out logits"), "output 'logits': the network returns no 'logits'", "in order"),
        (NamedOut(), face([X], "a b c"), "returns 2 outputs (out, aux), the config names 3", "list 2 names"),
        (Encoder(), face([floats("x", "batch", 4)], "a b"), "returns 1 outputs (one value), the config names 2", "list 1 names"),
        (
            Returns(lambda a, b, c: (a, 7, b.shape[0], c)),
            face([X], "y classes n best"),
            "every output must be a tensor, and classes is the int 7, n is the int 2",
            "leave them out: outputs: {y: 0, best: 3}",
        ),
        (
            Returns(lambda a, _, c: (a, 7, c)),
            face([X], "y best"),
            "returns 3 outputs (0, 1, 2), the config names 2: y, best; 1 is the int 7",
            "outputs: {y: 0, best: 2}",
        ),
        (
            Returns(lambda a, b, _: {"y": a, "more": {1: b}}),
            face([X], "y z", paths={"z": "more.2"}),
            "output 'z': the network returns no 'more.2' (nearest valid: 'more.1')",
            "as they are called there",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)  # fmt: skip
def test_outputs_that_are_not_there_are_refused_with_the_fix(
    module: nn.Module, interface: Interface, said: str, fix: str
) -> None:
    result = module(torch.ones(2, 4)) if not isinstance(module, Encoder) else torch.ones(2)
    with pytest.raises(ArchitectureError, match=re.escape(said)) as caught:
        output_paths(result, interface)
    assert fix in str(caught.value.hint)


def test_the_tensors_of_a_nested_input_are_called_by_their_path() -> None:
    tree = {"past": [{"key": 1, "value": 2}, {"key": 3, "value": 4}], "x": 5}
    flat = {path: value for name, each in tree.items() for path, value in _flat(each, name)}
    assert {name: calling.assemble(flat, name) for name in tree} == tree


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return [(path, value)]
    return [found for key, each in items for found in _flat(each, f"{path}.{key}")]
