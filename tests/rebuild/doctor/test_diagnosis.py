from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.errors import MisfitError
from pipeline.rebuild.doctor.diagnosis import diagnose, possible_exceptions
from pipeline.rebuild.doctor.difference import Layout, layout_of_network
from pipeline.rebuild.doctor.prefixes import align_with_exceptions
from pipeline.rebuild.shapes import shapes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.rebuild.doctor.misfit import Misfit

Shapes = dict[str, tuple[int, ...]]


class SimpleNet(nn.Module):
    def __init__(self, input_size: int = 10, hidden_size: int = 20, output_size: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size, bias=bias)
        self.fc2 = nn.Linear(hidden_size, output_size, bias=bias)


class ConvNet(nn.Module):
    """A small residual network: depth picks the number of blocks, as in ResNet."""

    BLOCKS = {18: (2, 2), 34: (3, 4), 50: (3, 6)}  # noqa: RUF012 - a table of this test

    def __init__(self, depth: int = 18, num_classes: int = 1000, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        self.layers = nn.ModuleList(
            nn.Sequential(*[nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width)) for _ in range(count)])
            for count in self.BLOCKS[depth]
        )
        self.fc = nn.Linear(width, num_classes)


class Encoder(nn.Module):
    def __init__(
        self, d_model: int = 32, heads: int = 4, layers: int = 2, feedforward: int = 64, vocab: int = 50
    ) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError("d_model must be a multiple of heads")
        self.embed = nn.Embedding(vocab, d_model)
        self.layer = nn.ModuleList(nn.TransformerEncoderLayer(d_model, heads, feedforward) for _ in range(layers))


class Stack(nn.Module):
    def __init__(self, sizes: tuple[int, ...] = (10, 20, 30, 2)) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(i, o) for i, o in itertools.pairwise(sizes)])


def builder(make: Callable[..., nn.Module]) -> Callable[[Mapping[str, Any]], Shapes]:
    def build(arguments: Mapping[str, Any]) -> Shapes:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in make(**arguments).state_dict().items()}

    return build


def explain(make: Callable[..., nn.Module], configured: dict[str, Any], real: dict[str, Any]) -> Misfit | None:
    build = builder(make)
    return diagnose(
        build(configured),
        build(real),
        arguments=configured,
        build_shapes=build,
        owner=make.__name__,
        weights_name="my_model.pth",
    )


def where(key: str) -> str:
    return f"simplenet.yaml:{key}"


def test_what_fits_is_not_explained() -> None:
    assert explain(SimpleNet, {"hidden_size": 20}, {"hidden_size": 20}) is None


def test_another_argument_is_named_with_both_numbers_and_its_place() -> None:
    misfit = explain(SimpleNet, {"hidden_size": 30}, {"hidden_size": 20})
    assert misfit is not None
    assert misfit.changes == {"hidden_size": 20}
    message = misfit.message(lambda _key: "simplenet.yaml:5:34")
    assert message.startswith(
        "fc1.weight is [20, 10] in my_model.pth and [30, 10] in SimpleNet(hidden_size=30): "
        "set model.arguments.hidden_size to 20 (simplenet.yaml:5:34)"
    )
    assert "other shape (3): fc1.weight [20, 10] instead of [30, 10]" in message


BERT = {"d_model": 32, "heads": 4, "layers": 2, "feedforward": 64, "vocab": 50}
NET = {"input_size": 10, "hidden_size": 20, "output_size": 2, "bias": True}
CNN = {"depth": 18, "num_classes": 1000, "width": 8}


@pytest.mark.parametrize(
    ("make", "configured", "change"),
    [
        (SimpleNet, NET, {"bias": False}),
        (SimpleNet, NET, {"output_size": 5}),
        (SimpleNet, NET, {"input_size": 7, "output_size": 3}),
        (SimpleNet, NET, {"input_size": 7, "hidden_size": 64, "output_size": 3}),
        (SimpleNet, NET, {"hidden_size": 64, "bias": False}),
        (ConvNet, CNN, {"num_classes": 5}),
        (ConvNet, CNN, {"depth": 34}),
        (ConvNet, CNN, {"depth": 50, "num_classes": 10}),
        (ConvNet, CNN, {"depth": 34, "num_classes": 10, "width": 16}),
        (Encoder, BERT, {"layers": 6}),
        (Encoder, BERT, {"vocab": 99}),
        (Encoder, BERT, {"layers": 3, "vocab": 99}),
        (Encoder, BERT, {"d_model": 64, "feedforward": 128}),
        (Encoder, BERT, {"layers": 1, "feedforward": 100}),
        (Stack, {"sizes": (10, 20, 30, 2)}, {"sizes": (10, 25, 30, 2)}),
        (Stack, {"sizes": [10, 20, 30, 2]}, {"sizes": [12, 20, 40, 3]}),
    ],
)
def test_the_change_that_makes_it_fit_is_found(
    make: Callable[..., nn.Module], configured: dict[str, Any], change: dict[str, Any]
) -> None:
    misfit = explain(make, configured, {**configured, **change})
    assert misfit is not None
    assert misfit.changes == change
    message = misfit.message(where).splitlines()[0]
    assert all(f"set model.arguments.{name} to {value!r}" in message for name, value in change.items())


def test_a_change_of_a_value_that_must_go_with_another_is_found() -> None:
    # 30 is no multiple of 4 heads: neither value can be tried alone.
    misfit = explain(Encoder, BERT, {**BERT, "d_model": 24, "heads": 3})
    assert misfit is not None
    assert misfit.changes is not None
    assert builder(Encoder)({**BERT, **misfit.changes}) == builder(Encoder)({**BERT, "d_model": 24, "heads": 3})


def test_a_value_that_shapes_do_not_tell_is_marked_as_such() -> None:
    misfit = explain(Encoder, {**BERT, "heads": 16}, {**BERT, "heads": 4, "d_model": 24})
    assert misfit is not None
    assert misfit.changes is not None
    assert "heads" in misfit.changes
    assert any(note.startswith("the shapes do not tell heads") for note in misfit.notes)


def test_no_fix_is_claimed_where_none_was_verified() -> None:
    build = builder(SimpleNet)
    # One tensor too many, and one too few: no argument adds or removes them.
    found = {**build({**NET, "hidden_size": 64}), "extra.weight": (3, 3, 3)}
    del found["fc2.bias"]
    misfit = diagnose(
        build(NET), found, arguments=NET, build_shapes=build, owner="SimpleNet", weights_name="my_model.pth"
    )
    assert misfit is not None
    assert misfit.changes is None
    assert misfit.closest == ({"hidden_size": 64}, 2)
    message = misfit.message(where)
    assert "no value of model.arguments was found with which it fits" in message
    assert "closest: hidden_size=64 leaves 2 names that differ" in message
    assert "set model.arguments" not in message
    assert "unexpected (1): extra.weight" in message


def test_a_builder_that_always_fails_gives_the_lists_and_no_fix() -> None:
    def build(_: Mapping[str, Any]) -> Shapes:
        raise RuntimeError("cannot be built")

    misfit = diagnose(
        {"a": (3,)}, {"a": (2,)}, arguments={"size": 3}, build_shapes=build, owner="Net", weights_name="w.pth"
    )
    assert misfit is not None
    assert misfit.changes is None
    assert misfit.closest is None
    assert "a is [2] in w.pth and [3] in Net(size=3)" in misfit.message(where)


def _without_builder(expected: Shapes, found: Shapes) -> Misfit:
    misfit = diagnose(expected, found, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
    assert misfit is not None
    assert misfit.changes is None
    return misfit


def test_a_rename_is_the_fix_and_its_doubt_is_said() -> None:
    expected = builder(SimpleNet)(NET)
    found = {name.replace("fc1", "net.0").replace("fc2", "net.2"): shape for name, shape in expected.items()}
    misfit = diagnose(expected, found, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
    assert misfit is not None
    assert misfit.rename == {"net.0": "fc1", "net.2": "fc2"}
    assert "set model.rename to {net.0: fc1, net.2: fc2}" in misfit.message(where).splitlines()[0]
    assert any("do not prove that each weight is where it belongs" in note for note in misfit.notes)


def test_a_rename_and_another_argument_are_found_together() -> None:
    build = builder(SimpleNet)
    found = {n.replace("fc", "dense"): s for n, s in build({**NET, "hidden_size": 7}).items()}
    misfit = diagnose(build(NET), found, arguments=NET, build_shapes=build, owner="SimpleNet", weights_name="w.pth")
    assert misfit is not None
    assert misfit.changes == {"hidden_size": 7}
    assert misfit.rename == {"dense1": "fc1", "dense2": "fc2"}


def test_what_the_network_lacks_may_be_left_out_deliberately() -> None:
    build = builder(SimpleNet)
    found = {**build({**NET, "hidden_size": 64}), "decoder.a.weight": (3, 3), "decoder.b.weight": (3, 3)}
    misfit = diagnose(build(NET), found, arguments=NET, build_shapes=build, owner="SimpleNet", weights_name="w.pth")
    assert misfit is not None
    assert misfit.changes == {"hidden_size": 64}
    assert misfit.ignore == ("decoder",)
    assert "if the network does without 2 tensors of the file, set model.ignore to [decoder]" in misfit.message(where)


def test_the_same_shapes_in_another_order_are_no_rename() -> None:
    misfit = _without_builder({"a": (1,), "b": (2,)}, {"c": (2,), "d": (1,)})
    assert not any("renamed" in note for note in misfit.notes)


TWINS: Shapes = {"first.weight": (4, 4), "first.bias": (4,), "second.weight": (4, 4), "second.bias": (4,)}


def named(shapes: Shapes, **modules: str) -> Shapes:
    return {
        f"{modules[name.partition('.')[0]]}.{name.partition('.')[2]}": shape
        for name, shape in shapes.items()
        if name.partition(".")[0] in modules
    }


def test_where_nothing_decides_nothing_is_proposed_and_both_sides_are_named() -> None:
    misfit = _without_builder(TWINS, named(TWINS, first="b", second="a"))
    message = misfit.message(where).splitlines()
    assert "nothing decides which of these is which" in message[0]
    assert message[1] == "  b, a in w.pth: first, second in Net"
    assert "set model." not in misfit.message(where)
    assert "another architecture" not in misfit.message(where)
    assert misfit.hint is not None
    assert "write model.rename for these by hand" in misfit.hint
    assert "reference" in misfit.hint


def test_a_rename_is_one_message_and_says_what_it_follows() -> None:
    misfit = diagnose(
        named(TWINS, first="q_proj", second="k_proj"), named(TWINS, second="query", first="key"), arguments={},
        build_shapes=None, owner="Net", weights_name="w.pth",
    )  # fmt: skip
    assert misfit is not None
    message = misfit.message(where)
    assert "set model.rename to {key: k_proj, query: q_proj}" in message.splitlines()[0]
    assert "told by the words of their names: " in message
    assert "another architecture" not in message
    assert misfit.hint is None


def test_a_name_that_yaml_would_take_for_a_number_is_quoted() -> None:
    found = {name.replace("fc1", "0").replace("fc2", "2"): shape for name, shape in builder(SimpleNet)(NET).items()}
    misfit = diagnose(
        builder(SimpleNet)(NET), found, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth"
    )
    assert misfit is not None
    assert 'set model.rename to {"0": fc1, "2": fc2}' in misfit.message(where)


def test_free_sizes_do_not_tell_which_of_two_layers_is_which() -> None:
    """Under both assignments there are arguments with which it fits: shapes decide nothing then."""
    found: Shapes = {"a.weight": (5, 7), "a.bias": (5,), "b.weight": (7, 5), "b.bias": (7,)}
    misfit = diagnose(
        builder(SimpleNet)(NET),
        found,
        arguments=NET,
        build_shapes=builder(SimpleNet),
        owner="Net",
        weights_name="w.pth",
    )
    assert misfit is not None
    assert misfit.changes is None
    assert misfit.undecided


def test_a_bias_that_the_network_lacks_is_not_left_out() -> None:
    misfit = _without_builder({"norm.weight": (4,)}, {"ln.weight": (4,), "ln.bias": (4,)})
    assert misfit.ignore == ()


def test_masks_that_a_file_keeps_in_every_layer_are_left_out_as_one_entry() -> None:
    ours = {f"blocks.{index}.attn.{name}.weight": (4, 4) for index in range(3) for name in ("q", "k")}
    theirs = {name.replace("blocks", "h"): shape for name, shape in ours.items()}
    masks = {f"h.{index}.attn.mask": (1, 9, 9) for index in range(3)}
    misfit = diagnose(ours, theirs | masks, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
    assert misfit is not None
    assert (misfit.rename, misfit.ignore) == ({"h": "blocks"}, ("h.*.attn.mask",))
    assert "without 3 tensors of the file, set model.ignore to [h.*.attn.mask]" in misfit.message(where)


def test_of_a_tied_tensor_one_name_is_looked_for_or_both_if_there_are_two() -> None:
    ours = Layout({"embed.weight": (9, 4), "head.weight": (9, 4)}, {"head.weight": "embed.weight"})
    for found, rename in (
        ({"tok.weight": (9, 4)}, {"tok": "embed"}),
        ({"old.embed.weight": (9, 4), "old.head.weight": (9, 4), "old.extra.x": (1,)}, {"old": ""}),
    ):
        misfit = diagnose(ours, found, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
        assert misfit is not None
        assert misfit.rename == rename


def test_what_is_left_is_every_exchange_and_each_loads_strictly() -> None:
    theirs = named(TWINS, first="b", second="a") | {"third.x": (1,)}
    ways = list(possible_exceptions(TWINS, theirs))
    assert {frozenset(rename.items()) for rename, _ in ways} == {
        frozenset({("b", "first"), ("a", "second")}), frozenset({("a", "first"), ("b", "second")}),
    }  # fmt: skip
    tensors = {name: torch.zeros(shape) for name, shape in theirs.items()}
    for rename, ignore in ways:
        assert ignore == ("third",)
        assert align_with_exceptions(tensors, list(TWINS), rename, ignore, "w.pth")[0].keys() == TWINS.keys()


def test_too_many_ways_are_said_to_be_so() -> None:
    ours: Shapes = {f"{name}.weight": (4, 4) for name in ("red", "green", "blue", "white", "black")}
    theirs: Shapes = {f"{name}.weight": (4, 4) for name in "abcde"}
    assert len(list(possible_exceptions(ours, theirs, limit=120))) == 120
    with pytest.raises(MisfitError, match="more than 64 ways are left"):
        next(possible_exceptions(ours, theirs))


def test_what_is_decided_is_all_that_is_left_and_what_does_not_fit_leaves_nothing() -> None:
    assert [
        rename for rename, _ in possible_exceptions(TWINS, named(TWINS, first="net.first", second="net.second"))
    ] == [{"net": ""}]
    assert list(possible_exceptions(TWINS, {"a.weight": (4, 4)})) == []
    assert list(possible_exceptions({"a.weight": (4, 4)}, {"a.weight": (4, 3)})) == []


def test_transposed_weights_are_recognised() -> None:
    misfit = _without_builder({"a.weight": (3, 5), "a.bias": (3,)}, {"a.weight": (5, 3), "a.bias": (3,)})
    assert any("transposed, such as a.weight" in note for note in misfit.notes)


def test_another_head_is_recognised() -> None:
    misfit = explain(ConvNet, CNN, {**CNN, "num_classes": 5})
    assert misfit is not None
    assert "only fc differs: 5 outputs in the file, 1000 in the network" in misfit.notes


@pytest.mark.parametrize(
    ("key", "meaning"),
    [("fc.weight_g", "weight normalisation"), ("fc._packed_params", "quantised"), ("fc.lora_A.weight", "LoRA")],
)
def test_rewritten_layers_are_recognised(key: str, meaning: str) -> None:
    misfit = _without_builder({"fc.weight": (3, 3)}, {key: (3, 1)})
    assert any(meaning in note for note in misfit.notes)


def test_weights_of_another_architecture_are_said_to_be_so() -> None:
    misfit = _without_builder({"a": (1,)}, {"b": (2,), "c": (1,)})
    assert any("another architecture" in note for note in misfit.notes)


def test_long_lists_are_cut_with_their_number() -> None:
    misfit = _without_builder({f"a{index}": (1,) for index in range(40)}, {"b": (1,)})
    assert "missing (40): a0, a1," in misfit.message(where)
    assert "a11 … and 28 more" in misfit.message(where)


class Normalises(nn.Module):
    """Mean and deviation of its inputs, as ordinary buffers."""

    def __init__(self, classes: int = 5, scaled: bool = True) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "fc": nn.Linear(8, classes)})
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        if scaled:
            self.register_buffer("scale", torch.ones(1))


def inner(classes: int = 5) -> dict[str, tuple[int, ...]]:
    return {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (classes, 8), "fc.bias": (classes,)}


def diagnosed(found: Mapping[str, tuple[int, ...]], make: Callable[..., nn.Module], **arguments: Any) -> Misfit:
    misfit = diagnose(
        shapes_of(make, arguments),
        found,
        arguments=arguments,
        build_shapes=lambda changes: shapes_of(make, {**arguments, **changes}),
        owner=make.__name__,
        weights_name="w.pth",
    )
    assert misfit is not None
    return misfit


BUFFERS = (
    "mean, std, scale are in Normalises and not in w.pth: buffers that the constructor fills: "
    "register_buffer(…, persistent=False) keeps them out of the state dict"
)


def test_buffers_that_a_constructor_fills_are_told_beside_the_renames_for_the_rest() -> None:
    misfit = diagnosed(inner(), Normalises)
    assert not misfit.is_mended
    lines = misfit.message(lambda _: "config.yaml:1:1").splitlines()
    assert lines[0] == BUFFERS
    assert lines[1].endswith("not in w.pth: set model.rename to {conv: net.conv, fc: net.fc}")
    assert misfit.hint == (
        "in the code of Normalises, register mean, std, scale with persistent=False, then set what is said here"
    )


def test_buffers_that_a_constructor_fills_are_told_beside_the_arguments_for_the_rest() -> None:
    found = {f"net.{name}": shape for name, shape in inner(7).items()}
    lines = diagnosed(found, Normalises, classes=5).message(lambda _: "config.yaml:1:1").splitlines()
    assert lines[0] == BUFFERS
    assert "set model.arguments.classes to 7" in lines[1]


def test_a_buffer_that_is_all_that_lacks_is_told_alone() -> None:
    found = {f"net.{name}": shape for name, shape in inner().items()} | {"mean": (1, 3, 1, 1), "std": (1, 3, 1, 1)}
    misfit = diagnosed(found, Normalises)
    (line,) = misfit.message(lambda _: "").splitlines()
    assert line.startswith("scale is in Normalises and not in w.pth: a buffer that the constructor fills")
    assert misfit.hint == "in the code of Normalises, register scale with persistent=False"


def test_an_argument_that_does_without_a_buffer_goes_before_another_constructor() -> None:
    found = {f"net.{name}": shape for name, shape in inner().items()} | {"mean": (1, 3, 1, 1), "std": (1, 3, 1, 1)}
    misfit = diagnosed(found, Normalises, scaled=True)
    assert (misfit.changes, misfit.filled) == ({"scaled": False}, ())


def test_what_may_be_in_the_file_is_not_taken_for_filled_nor_are_statistics() -> None:
    found = {f"net.{name}": shape for name, shape in inner().items()} | {
        "scale": (1,),
        "a": (1, 3, 1, 1),
        "b": (1, 3, 1, 1),
    }
    assert diagnosed(found, Normalises).filled == ()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    shapes = layout_of_network(network)
    assert shapes.filled == frozenset()
    left = {name: shape for name, shape in shapes.items() if "running" not in name}
    misfit = diagnose(shapes, left, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
    assert misfit is not None
    assert misfit.filled == ()


def test_weights_of_another_network_are_not_excused_by_a_buffer() -> None:
    misfit = diagnosed({"encoder.weight": (3, 3), "decoder.bias": (9,)}, Normalises)
    assert misfit.filled == ()
    assert "not one name is in both" in misfit.message(lambda _: "")
