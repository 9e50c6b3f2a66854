"""An engine's sizes are those that the config declares."""

import pytest

from pipeline.errors import InputError
from pipeline.formats.tensorrt.profiles import Range, in_words, profile
from pipeline.interface import Dimension, InputSpec, Interface

CACHED = Interface(
    (
        InputSpec("ids", "int64", ("batch", "new")),
        InputSpec("past", "float32", ("batch", 4, "past", 32)),
        InputSpec("mask", "int64", ("batch", "total")),
        InputSpec("scale", "float32", ()),
    ),
    (
        Dimension("batch", 1, 16),
        Dimension("new", 1, 8),
        Dimension("past", 0, 60, multiple_of=8),
        Dimension("total", 0, 0, formula="past + new"),
    ),
    ("logits",),
)


def test_each_input_has_the_ends_of_its_range_and_what_follows_from_sizes_follows():
    found = profile(CACHED)
    assert found["ids"] == Range((1, 1), (16, 8), (16, 8))
    assert found["past"] == Range((1, 4, 0, 32), (16, 4, 56, 32), (16, 4, 56, 32))  # 60 is no multiple of 8
    assert found["mask"] == Range((1, 1), (16, 64), (16, 64))
    assert found["scale"] == Range((), (), ())


def test_it_is_tuned_for_the_sizes_that_are_named():
    found = profile(CACHED, {"batch": 1, "past": 8})
    assert (found["ids"].best, found["mask"].best) == ((1, 8), (1, 16))
    assert found["mask"].most == (16, 64)


@pytest.mark.parametrize(
    ("best", "words"),
    [({"bach": 1}, "'bach' is no dimension"), ({"batch": 17}, "batch takes 1 to 16, not 17"), ({"total": 3}, "'total' is no dimension of its own")],
)  # fmt: skip
def test_a_size_that_is_not_declared_is_refused(best, words):
    with pytest.raises(InputError, match=words) as caught:
        profile(CACHED, best)
    assert caught.value.hint


def test_onnxruntime_reads_shapes_by_name():
    found = profile(CACHED)
    assert in_words((name, found[name].least) for name in found) == "ids:1x1,past:1x4x0x32,mask:1x1"
