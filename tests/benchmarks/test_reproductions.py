"""Every kind of defect is still there, by its network of a few lines: what a newer torch mends is noticed here."""

from dataclasses import replace
from functools import cache

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from benchmarks.zoo import page, reproductions
from benchmarks.zoo.reproductions import KINDS, ROUTES, Came

KNOWN = {kind.name: kind for kind in KINDS}


@pytest.fixture(autouse=True, scope="module")
def one_registry():
    """Every export reads the sources of all of onnxscript's operators, which takes most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.mark.parametrize("name", KNOWN)
def test_a_kind_comes_to_what_the_table_states_by_either_route(name):
    found = {route: reproductions.seen(KNOWN[name], route) for route in ROUTES}
    different = {route: str(each) for route, each in found.items() if not KNOWN[name].stated(route).covers(each)}
    assert not different


def test_what_comes_to_something_else_is_said_and_fails(capsys):
    mended = replace(KNOWN["permutation counted from behind"], torchscript=Came("right"))
    assert reproductions.main(kinds=[mended]) == 1
    said, changed = capsys.readouterr().out.splitlines()
    assert said == "permutation counted from behind, dynamo: right"
    assert changed.startswith("permutation counted from behind, torchscript: does not load (")
    assert changed.endswith("and not as stated: right")


@pytest.mark.parametrize(
    "seen", [Came("right"), Came("wrong", "length=1"), Came("does not run", "length=3", "Reshape")]
)
def test_only_the_same_at_the_same_size_with_the_same_words_is_covered(seen):
    stated = Came("does not run", "length=3", "Gather")
    assert stated.covers(Came("does not run", "length=3", "a node of Gather fails"))
    assert not stated.covers(seen)


def test_every_kind_is_wrong_by_a_route_and_stands_on_the_page():
    assert all(kind.sentence and {kind.dynamo.to, kind.torchscript.to} != {"right"} for kind in KINDS)
    shown = page.as_markdown({}, 0)
    assert all(f"| {kind.name} | {kind.sentence} |" in shown for kind in KINDS)
    assert "python -m benchmarks.zoo.reproductions" in shown
