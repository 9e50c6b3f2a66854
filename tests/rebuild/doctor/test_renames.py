"""Exceptions from strict names: what an entry stands for, and how few entries say all of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.text import parse_value
from pipeline.errors import MisfitError
from pipeline.rebuild.doctor.renames import as_yaml, combined, covers, except_names, renamed, shortest, stems


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("encoder.layer.3.attention.query.weight", "layers.3.q_proj.weight"),
        ("encoder.layer.11.output.dense.bias", "layers.11.output.dense.bias"),
        ("encoder.layers.0.x", "encoder.layers.0.x"),
        ("encoder.layer", "layers"),
        ("head", "fc"),
        ("head_2.weight", "head_2.weight"),
        ("model.a.b", "a.b"),
        ("stages.0.4.conv", "layer1.4.c"),
        ("stages.1.4.conv", "stages.1.4.conv"),
        ("stages.0.x.conv", "stages.0.x.conv"),
    ],
)
def test_an_entry_stands_for_a_name_and_all_below_it_and_a_star_for_a_number(name: str, new: str) -> None:
    rename = {
        "encoder.layer": "layers", "encoder.layer.*.attention.query": "layers.*.q_proj", "head": "fc", "model": "",
        "stages.0.*.conv": "layer1.*.c",
    }  # fmt: skip
    assert renamed(name, rename) == new


def test_the_longest_counts_and_a_number_before_a_star() -> None:
    rename = {"h.*": "layers.*", "h.1": "first", "h.*.attn": "layers.*.attention"}
    assert [renamed(name, rename) for name in ("h.0.x", "h.1.x", "h.1.attn.x")] == [
        "layers.0.x", "first.x", "layers.1.attention.x",
    ]  # fmt: skip


def test_stars_take_the_numbers_in_their_order() -> None:
    assert renamed("a.3.b.5.c", {"a.*.b.*": "x.*.*"}) == "x.3.5.c"
    assert covers("a.*", "a.10.b")
    assert not covers("a.*", "a.b")
    assert not covers("a.*", "a")


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        ({"a.*": "x"}, "two tensors of w.pth the name 'x.w'"),
        ({"a": ""}, "without a name"),
        ({"b.*": "x"}, "stands for no tensor"),
    ],
)
def test_what_leads_nowhere_is_an_error(rename: dict[str, str], told: str) -> None:
    names = ["a.0.w", "a.1.w"] if told != "without a name" else ["a"]
    with pytest.raises(MisfitError, match=told):
        except_names(dict.fromkeys(names), rename, [], "w.pth")


def test_what_is_said_counts_each_tensor_once() -> None:
    names = dict.fromkeys(["h.0.q", "h.0.n", "h.1.q", "h.1.n", "x.0.mask", "x.1.mask"])
    kept, notes = except_names(names, {"h": "layers", "h.*.q": "layers.*.query"}, ["x.*.mask"], "w.pth")
    assert list(kept) == ["layers.0.query", "layers.0.n", "layers.1.query", "layers.1.n"]
    assert notes == (
        "model.ignore: left out 2 tensors of 'x.*.mask'", "model.rename: 2 tensors of 'h' became 'layers'",
        "model.rename: 2 tensors of 'h.*.q' became 'layers.*.query'",
    )  # fmt: skip


# Written short


def test_a_stack_whose_inner_names_differ_is_a_few_entries() -> None:
    names = {
        f"encoder.layer.{index}.{old}.{part}": f"layers.{index}.{new}.{part}"
        for index in range(24)
        for old, new in (("attention.query", "q"), ("attention.key", "k"), ("norm", "norm"), ("mlp.dense", "fc"))
        for part in ("weight", "bias")
    } | {"head.weight": "head.weight"}
    assert shortest(names) == {
        "encoder.layer": "layers",
        "encoder.layer.*.attention.query": "layers.*.q",
        "encoder.layer.*.attention.key": "layers.*.k",
        "encoder.layer.*.mlp.dense": "layers.*.fc",
    }


def test_what_differs_in_more_than_its_number_is_written_out() -> None:
    names = {f"net.{2 * index}.weight": f"fc{index + 1}.weight" for index in range(3)}
    assert shortest(names) == {"net.0": "fc1", "net.2": "fc2", "net.4": "fc3"}


def test_of_several_numbers_the_one_that_is_the_layers_is_the_star() -> None:
    names = {
        f"body.{stage}.{index}.main.{place}.weight": f"layer{stage + 1}.{index}.{part}.weight"
        for stage in range(2)
        for index in range(3)
        for place, part in ((0, "conv1"), (3, "conv2"))
    }
    assert shortest(names) == {
        f"body.{stage}.*.main.{place}": f"layer{stage + 1}.*.{part}"
        for stage in range(2)
        for place, part in ((0, "conv1"), (3, "conv2"))
    }


def test_names_that_stay_are_not_touched() -> None:
    names = {"a.x.weight": "b.x.weight", "a.y.weight": "a.y.weight", "a.z.weight": "b.z.weight"}
    rename = shortest(names)
    assert {name: renamed(name, rename) for name in names} == names


PARTS = st.sampled_from(["a", "b", "layers", "0", "1", "2", "weight", "bias", "x1"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=12))
@example({"a": "a", "b": "a", "b.a": "b.a"})
def test_however_short_it_gives_every_name_what_it_maps_to(names: dict[str, str]) -> None:
    rename = shortest(names)
    assert {name: renamed(name, rename) for name in names} == names


@given(st.lists(NAMES, min_size=1, max_size=12, unique=True), st.data())
def test_left_out_names_are_covered_and_no_others(names: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(names)))
    left_out = [name for name in names[:count] if not any(covers(name, other) for other in names[count:])]
    entries = stems(left_out, names[count:])
    assert all(any(covers(entry, name) for entry in entries) for name in left_out)
    assert not any(covers(entry, name) for entry in entries for name in names[count:])


def test_left_out_layers_are_one_entry() -> None:
    kept = [f"h.{index}.attn.weight" for index in range(9)]
    assert stems([f"h.{index}.attn.mask" for index in range(9)], kept) == ("h.*.attn.mask",)


def test_two_exceptions_one_after_the_other_become_one() -> None:
    names = ["old.fc.weight", "old.a.weight", "old.b.weight", "extra.weight", "mask"]
    rename, ignore = combined(({"old": "net"}, ("mask",)), ({"net.a": "net.first"}, ("extra",)), names)
    assert ignore == ("mask", "extra")
    assert [renamed(name, rename) for name in names[:3]] == ["net.fc.weight", "net.first.weight", "net.b.weight"]


@pytest.mark.parametrize(
    "name", ["a.b", "h.*.attn", "0", "0.1", "1e3", "", "on", "Null", "*.x", "a b", "-x", "a:b", "ü.x"]
)
def test_a_name_is_written_so_that_yaml_reads_it_back_as_text(name: str) -> None:
    assert parse_value(f"{{{as_yaml(name)}: {as_yaml(name)}}}") == {name: name}
