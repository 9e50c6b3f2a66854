"""Names of a file and of a network are put together where words, numbers or structure tell, and never by an order."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from pipeline.rebuild.doctor import assignment
from pipeline.rebuild.doctor.matching import match, matches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.rebuild.doctor.difference import Shape


def linears(*names: str, width: int = 8, bias: bool = True) -> dict[str, Shape]:
    """Return linear layers of one shape."""
    parts: dict[str, Shape] = {"weight": (width, width)} | ({"bias": (width,)} if bias else {})
    return {f"{name}.{part}": shape for name in names for part, shape in parts.items()}


def layers(count: int, *names: str, stack: str) -> dict[str, Shape]:
    return linears(*(f"{stack}.{index}.{name}" for index in range(count) for name in names))


def shuffled(shapes: dict[str, Shape], seed: int = 0) -> dict[str, Shape]:
    names = list(shapes)
    random.Random(seed).shuffle(names)
    return {name: shapes[name] for name in names}


def told(ours: dict[str, Shape], theirs: dict[str, Shape]) -> dict[str, str]:
    """Return theirs → ours by module, whatever the order of either side; {} where it is not decided."""
    found = [match(shuffled(ours, seed), shuffled(theirs, seed + 7)) for seed in range(3)]
    modules = [
        {}
        if each is None or each.undecided
        else {t.rpartition(".")[0]: o.rpartition(".")[0] for t, o in each.names.items()}
        for each in found
    ]
    assert modules[0] == modules[1] == modules[2]
    return modules[0]


# What tells


def test_words_tell_modules_of_one_shape() -> None:
    ours = layers(2, "q_proj", "k_proj", "v_proj", "o_proj", stack="layers")
    theirs = layers(
        2,
        "attention.self.key",
        "attention.self.query",
        "attention.self.value",
        "attention.output.dense",
        stack="encoder.layer",
    )
    assert told(ours, theirs) == {
        f"encoder.layer.{index}.attention.{old}": f"layers.{index}.{new}"
        for index in range(2)
        for old, new in (
            ("self.query", "q_proj"),
            ("self.key", "k_proj"),
            ("self.value", "v_proj"),
            ("output.dense", "o_proj"),
        )
    }


def test_what_no_word_tells_follows_if_it_is_the_only_one_left() -> None:
    assert told(linears("query", "key", "mixing"), linears("q", "k", "w")) == {"q": "query", "k": "key", "w": "mixing"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("fc1", "fc2", "fc3"), ("net.0", "net.2", "net.4")),
        (("layers.0", "layers.1"), ("dense1", "dense2")),
        (("block1.conv", "block2.conv"), ("stages.0.conv", "stages.1.conv")),
        (("h.9", "h.10", "h.11"), ("layers.1", "layers.2", "layers.3")),
    ],
)
def test_numbers_tell_by_their_place(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    assert told(linears(*ours), linears(*theirs)) == dict(zip(theirs, ours, strict=True))


def test_shapes_that_occur_once_tell() -> None:
    ours = linears("first", width=3) | linears("second", width=4)
    assert told(ours, linears("b", width=3) | linears("a", width=4)) == {"b": "first", "a": "second"}


def test_what_is_beside_it_tells() -> None:
    """The second layers of both towers differ: so the first ones, which are alike, are told by the tower they are in."""
    ours = linears("x.in", "y.in") | linears("x.out", width=3) | linears("y.out", width=4)
    theirs = linears("b.in", "a.in") | linears("b.out", width=3) | linears("a.out", width=4)
    assert told(ours, theirs) == {"b.in": "x.in", "b.out": "x.out", "a.in": "y.in", "a.out": "y.out"}


def test_the_module_tree_tells() -> None:
    """Both modules hold three layers, but only one of them groups two of these."""
    ours = linears("x.inner.one", "x.inner.two", "x.three", "y.one", "y.two", "y.three")
    found = match(ours, linears("a.e", "a.f", "a.g", "b.p.k", "b.p.l", "b.q"))
    assert found is not None
    assert {(each.theirs, each.ours) for each in found.undecided} == {
        (("b.p.k", "b.p.l"), ("x.inner.one", "x.inner.two")), (("a.e", "a.f", "a.g"), ("y.one", "y.two", "y.three")),
    }  # fmt: skip


def test_other_layers_of_a_stack_tell() -> None:
    """In the first layer shapes tell; in the others, where nothing does by itself, what was told there."""
    ours = linears("layers.0.first", width=3) | linears("layers.0.second", "layers.1.first", "layers.1.second")
    theirs = linears("blocks.0.b", width=3) | linears("blocks.0.a", "blocks.1.b", "blocks.1.a")
    assert told(ours, theirs) == {
        "blocks.0.b": "layers.0.first", "blocks.0.a": "layers.0.second", "blocks.1.b": "layers.1.first",
        "blocks.1.a": "layers.1.second",
    }  # fmt: skip


def test_a_norm_under_old_names_is_told() -> None:
    ours: dict[str, Shape] = {"norm.weight": (8,), "norm.bias": (8,)}
    found = match(ours, {"norm.gamma": (8,), "norm.beta": (8,)})
    assert found is not None
    assert found.names == {"norm.gamma": "norm.weight", "norm.beta": "norm.bias"}
    assert not found.undecided


# What does not


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("first", "second"), ("a", "b")),
        (("query", "key"), ("a", "b")),
        (("query", "key"), ("w1", "w2")),
        (("fc1", "fc2"), ("first", "second")),
        (("fc1", "fc2"), ("linear_a", "linear_b")),
        (("norm_mlp", "norm_attn"), ("ln_1", "ln_2")),
        (("query", "key"), ("p0", "q1")),
        (("attention_norm", "ffn_norm"), ("input_layernorm", "post_attention_layernorm")),
        (("fc1", "fc2"), ("features.0", "features.7")),
        (("left", "right"), ("tower.0", "tower.1")),
        (("down", "up"), ("fc1", "fc2")),
        (("alpha", "beta", "gamma"), ("x", "y", "z")),
        (("encoder", "decoder"), ("net_b", "net_a")),
        (("fc", "other"), ("fc_ema", "head")),
    ],
)
def test_twins_under_names_that_say_nothing_are_left_alone(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    found = match(linears(*ours), linears(*theirs))
    assert found is not None
    assert [(set(each.theirs), set(each.ours)) for each in found.undecided] == [(set(theirs), set(ours))]
    assert not found.names


def test_an_order_is_never_taken_for_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins in any order are open; and without the test for exchanges they would be assigned, so that it is what holds."""
    ours = linears("first", "second")
    for theirs in itertools.permutations(("a", "b")):
        assert told(ours, linears(*theirs)) == {}
    monkeypatch.setattr(assignment, "_tied", lambda *_: [])
    found = match(ours, linears("a", "b"))
    assert found is not None
    assert found.names


def test_of_a_stack_one_question_is_asked() -> None:
    found = match(layers(3, "first", "second", stack="layers"), layers(3, "a", "b", stack="layers"))
    assert found is not None
    assert [(each.theirs, each.ours) for each in found.undecided] == [
        (("layers.*.a", "layers.*.b"), ("layers.*.first", "layers.*.second"))
    ]


def test_what_is_left_over_must_not_be_as_likely() -> None:
    found = match(linears("fc"), linears("head", "other"))
    assert found is not None
    assert found.undecided[0].theirs == ("head", "other")
    assert told(linears("pooler"), linears("pool_dense", "other")) == {"pool_dense": "pooler"}


def test_a_network_that_is_there_twice_is_not_chosen() -> None:
    ours = linears("fc1", "fc2")
    found = match(ours, linears("generator.fc1", "generator.fc2", "generator_ema.fc1", "generator_ema.fc2"))
    assert found is not None
    assert [(each.theirs, each.ours) for each in found.undecided] == [(("generator", "generator_ema"), ("",))]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("query", "value"), ("layernorm_before", "layernorm_after"), ("q_proj", "attention.output"), ("left", "right")],
)
def test_names_that_contradict_are_no_match_even_if_they_are_all_that_is_left(ours: str, theirs: str) -> None:
    assert match(linears(ours), linears(theirs)) is None


def test_a_tensor_by_itself_needs_more_than_its_shape() -> None:
    assert match({"temperature": ()}, {"logit_scale": ()}) is None
    assert match({"cls_token": (1, 1, 8)}, {"class_embedding": (1, 1, 8)}) is not None
    assert match({"fc.weight": (8, 8)}, {"fc.kernel": (8, 8)}) is None  # TensorFlow's is transposed


def test_a_list_of_tensors_may_be_numbered_in_any_order() -> None:
    found = match(linears("fc1", "fc2", bias=False), {"t0": (8, 8), "t1": (8, 8)})
    assert found is None or found.undecided


def test_a_file_that_nests_its_layers_the_other_way_round_is_not_matched_by_position() -> None:
    ours = linears(*(f"towers.{t}.layers.{n}" for t in range(2) for n in range(2)))
    theirs = linears(*(f"layers.{n}.towers.{t}" for t in range(2) for n in range(2)))
    right = {f"layers.{n}.towers.{t}": f"towers.{t}.layers.{n}" for t in range(2) for n in range(2)}
    assert told(ours, theirs) in ({}, right)


def test_too_few_tensors_are_no_match() -> None:
    assert match(linears("a", "b"), linears("c")) is None
    assert match(linears("a"), linears("c", width=3)) is None


# What is left


def by_module(ways: Iterable[object]) -> list[dict[str, str]]:
    return [{t.rpartition(".")[0]: o.rpartition(".")[0] for t, o in way.items()} for way in ways]  # type: ignore[attr-defined]


def test_each_way_that_is_left_is_there_once() -> None:
    ours, theirs = linears("query", "key", "first", "second"), linears("q", "k", "a", "b")
    found = by_module(matches(ours, theirs))
    fixed = {"q": "query", "k": "key"}
    assert len(found) == 2
    assert fixed | {"a": "first", "b": "second"} in found
    assert fixed | {"b": "first", "a": "second"} in found


def test_a_stack_is_exchanged_as_one() -> None:
    found = list(matches(layers(5, "a", "b", "c", stack="h"), layers(5, "x", "y", "z", stack="h")))
    assert len(found) == 6
    assert all(len(set(way.values())) == len(way) == 30 for way in found)


def test_what_is_decided_is_the_only_way() -> None:
    assert len(list(matches(linears("query", "key"), linears("q", "k")))) == 1
    assert list(matches(linears("query"), linears("value"))) == []


def test_either_of_two_networks_is_a_way() -> None:
    found = list(matches(linears("fc1", "fc2"), linears("a.fc1", "a.fc2", "b.fc1", "b.fc2")))
    assert sorted(next(iter(way)).partition(".")[0] for way in found) == ["a", "b"]
