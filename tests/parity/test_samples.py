"""A file of samples is taken row by row, or refused with what is wrong, where, and what to do."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import samples

BATCH = Interface(
    (InputSpec("ids", "int64", ("batch", "length"), 0, 50), InputSpec("x", "float32", ("batch", 3), -1, 1)),
    (Dimension("batch", 2, 8, 2), Dimension("length", 4, 16)),
    ("y",),
)
FIXED = Interface((InputSpec("x", "float32", (1, 3)),), (), ("y",))


def given(**changed):
    rng = np.random.default_rng(0)
    made = {"ids": rng.integers(0, 50, (13, 6)), "x": rng.random((13, 3), dtype=np.float32)}
    return {name: each for name, each in {**made, **changed}.items() if each is not None}


def test_every_sample_is_fed_once_in_batches_of_an_allowed_size():
    found = samples.parse(given(labels=np.arange(13)), BATCH, "x.npz")
    batches = list(found.batches())
    assert [index for each in batches for index in each.rows] == list(range(13))
    assert {each.fed for each in batches} <= {2, 4, 6, 8}
    for each in batches:
        assert {len(array) for array in each.inputs.values()} == {each.fed}
        assert np.array_equal(
            each.inputs["ids"][: len(each.rows)], found.inputs["ids"][each.rows.start : each.rows.stop]
        )
    last = batches[-1]
    assert len(split := found.split("y", np.arange(last.fed), last)) == len(last.rows)
    assert [int(each) for each in split] == list(range(len(last.rows)))
    assert found.row(7)["labels"] == 7


def test_a_file_with_fewer_samples_than_the_smallest_batch_is_filled_up_with_its_own_rows():
    found = samples.parse({name: each[:1] for name, each in given().items()}, BATCH, "x.npz")
    (batch,) = found.batches()
    assert (batch.rows, batch.fed) == (range(1), 2)


def test_memory_is_bounded_by_the_elements_of_a_batch():
    wide = Interface((InputSpec("x", "float32", ("batch", 2**18)),), (Dimension("batch", 1, 64),), ("y",))
    found = samples.parse({"x": np.zeros((9, 2**18), np.float32)}, wide, "x.npz")
    assert max(each.fed for each in found.batches()) == 4


def test_each_sample_may_be_a_call_of_its_own():
    found = samples.parse({"x": np.zeros((5, 1, 3), np.float32)}, FIXED, "x.npz")
    assert [each.inputs["x"].shape for each in found.batches()] == [(1, 3)] * 5
    stacked = samples.parse(
        {"ids": np.zeros((5, 4, 6), np.int64), "x": np.zeros((5, 4, 3), np.float32)}, BATCH, "x.npz"
    )
    assert stacked.batch is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (given(x=None), "no array for input 'x'; there are ids"),
        (given(x=np.zeros((13, 3))), r"'x' is float64 \[13, 3\], and samples of it are float32 \[samples, 3\]"),
        (given(x=np.zeros((13, 3, 1, 1), np.float32)), r"samples of it are float32 \[samples, 3\]"),
        (given(x=np.zeros((12, 3), np.float32)), "'x' has 12 rows and 'ids' 13"),
        (given(labels=np.zeros(4)), "'labels' has 4 rows and 'ids' 13"),
        (given(x=np.full((13, 3), np.nan, np.float32)), "'x' is not finite in row 0"),
        (given(ids=np.full((13, 6), 50)), "'ids' is 50 in row 0, and declared is 0 to 49"),
        (given(x=np.full((13, 3), 1.5, np.float32)), "'x' is 1.5 in row 0, and declared is -1 to 1"),
        (given(ids=np.zeros((13, 3), np.int64)), "length is 3, and declared is 4 to 16"),
        (given(x=np.zeros((13, 4), np.float32)), "'x' has size 4 where 3 is 3"),
        ({name: each[:0] for name, each in given().items()}, "there is no sample in it"),
    ],
)
def test_a_file_that_is_not_as_declared_is_refused(arrays, said):
    with pytest.raises(InputError, match=said) as caught:
        samples.parse(arrays, BATCH, "x.npz")
    assert caught.value.message.startswith("x.npz: ")
    assert caught.value.hint


def test_rows_that_depend_on_one_another_are_no_samples():
    with pytest.raises(InputError, match="rows along batch depend on one another"):
        samples.parse(given(), BATCH, "x.npz", dependent=True)
    stacked = {"ids": np.zeros((5, 4, 6), np.int64), "x": np.zeros((5, 4, 3), np.float32)}
    assert samples.parse(stacked, BATCH, "x.npz", dependent=True).count == 5


def test_a_dimension_that_other_sizes_depend_on_is_no_batch():
    inputs = (InputSpec("x", "float32", ("n", 3)), InputSpec("pairs", "float32", ("n", "n")))
    assert samples.batch_dimension(Interface(inputs, (Dimension("n", 1, 9),), ("y",))) is None
    formula = Interface(inputs[:1], (Dimension("n", 1, 9), Dimension("m", 1, 10, 1, "n + 1")), ("y",))
    assert samples.batch_dimension(formula) is None


def test_rows_are_shared_only_if_they_are_the_same_in_every_input():
    some = given()
    others = {name: each[[3, 5, 5]] for name, each in some.items()}
    assert samples.shared_rows(some, others, ["ids", "x"]) == 2
    assert samples.shared_rows(some, {**others, "x": others["x"] + 1}, ["ids", "x"]) == 0
    assert samples.shared_rows(some, {**others, "x": others["x"] + 1}, ["ids"]) == 2
    assert samples.shared_rows(some, {"z": some["x"]}, ["ids", "x"]) == 0
