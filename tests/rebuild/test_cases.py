import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases

IMAGE = Interface(
    (InputSpec("image", "float32", ("batch", 3, "height", "width"), 0.0, 1.0, "uniform"),),
    (Dimension("batch", 1, 8), Dimension("height", 12, 512), Dimension("width", 12, 512)),
    ("boxes",),
)
TEXT = Interface(
    (
        InputSpec("ids", "int64", ("batch", "length"), 5, 100, "uniform"),
        InputSpec("mask", "int64", ("batch", "length"), 0, 2, "mask"),
    ),
    (Dimension("batch", 1, 32), Dimension("length", 1, 64)),
    ("hidden",),
)
FIXED = Interface((InputSpec("x", "float32", (1, 4)),), (), ("y",))

dimensions = st.builds(
    lambda low, extra, step: Dimension("n", low, max(low + extra, -(-low // step) * step), step),
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(1, 8),
)


def test_exporters_see_sizes_of_at_least_two_that_differ_from_each_other_and_from_every_fixed_size():
    sizes = cases.example_sizes(IMAGE)
    assert min(sizes.values()) >= 2
    assert len({*sizes.values(), 3}) == 4


@given(dimensions)
def test_every_allowed_size_is_in_range_and_a_multiple(dimension):
    sizes = list(cases.allowed(dimension))
    assert sizes
    assert all(dimension.min <= size <= dimension.max and size % dimension.multiple_of == 0 for size in sizes)


@given(dimensions, dimensions)
def test_cases_stay_in_the_declared_ranges_and_visit_both_ends(first, second):
    first, second = (
        Dimension(name, each.min, each.max, each.multiple_of) for name, each in (("a", first), ("b", second))
    )
    interface = Interface((InputSpec("x", "float32", ("a", "b")),), (first, second), ("y",))
    sampled = cases.sample(interface, seed=0, cap_elements=2**20)
    for dimension in (first, second):
        seen = {case.sizes[dimension.name] for case in sampled}
        assert seen <= set(cases.allowed(dimension))
        assert {cases.allowed(dimension)[0], cases.allowed(dimension)[-1]} <= seen


def test_a_size_no_exporter_saw_is_among_the_cases():
    shown = cases.example_sizes(TEXT)
    sampled = cases.sample(TEXT, seed=0, cap_elements=2**20)
    for name, size in shown.items():
        assert {case.sizes[name] for case in sampled} - {size, 1}


def test_the_cap_bounds_every_input_and_is_said_in_the_name():
    sampled = cases.sample(IMAGE, seed=0, cap_elements=50_000)
    assert all(array.size <= 50_000 for case in sampled for array in case.inputs.values())
    assert any("capped" in case.name for case in sampled)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (cases.sample(IMAGE, seed=seed, cap_elements=9_000) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.inputs["image"].tobytes() == two.inputs["image"].tobytes()
        if one.name not in {"zeros", "constant"}:
            assert one.inputs["image"].tobytes() != three.inputs["image"].tobytes()


def test_integers_stay_in_their_range_and_masks_have_padding_but_no_empty_row():
    for case in cases.sample(TEXT, seed=3, cap_elements=2**20):
        assert case.inputs["ids"].dtype == np.int64
        assert case.inputs["ids"].min() >= 5
        assert case.inputs["ids"].max() < 100
        mask = case.inputs["mask"]
        assert set(np.unique(mask)) <= {0, 1}
        assert mask[..., 0].all(), "every row keeps its first position"
        assert (np.diff(mask, axis=-1) <= 0).all(), "ones come first"
    assert any((case.inputs["mask"] == 0).any() for case in cases.sample(TEXT, seed=3, cap_elements=2**20))


def test_declared_bounds_hold_for_every_kind_of_value():
    for case in cases.sample(IMAGE, seed=0, cap_elements=9_000):
        assert 0 <= case.inputs["image"].min() <= case.inputs["image"].max() <= 1


def test_a_network_without_dynamic_dimensions_has_cases_for_every_kind_of_value():
    assert [case.name for case in cases.sample(FIXED, seed=0, cap_elements=99)] == [
        "minimum",
        "zeros",
        "constant",
        "large",
        "tiny",
    ]


def test_samples_are_taken_as_a_case_with_their_sizes():
    arrays = {"ids": np.full((3, 7), 9), "mask": np.ones((3, 7), np.int64)}
    case = cases.from_samples(TEXT, arrays)
    assert case.sizes["batch"] == 3
    assert case.sizes["length"] == 7


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.zeros((2, 3), np.int64)}, "no array for input 'mask'"),
        ({"ids": np.zeros((2, 3), np.int32), "mask": np.zeros((2, 3), np.int64)}, "'ids' is int32"),
        ({"ids": np.zeros(3, np.int64), "mask": np.zeros((2, 3), np.int64)}, r"'ids' is int64 \[3\]"),
        ({"ids": np.zeros((2, 3), np.int64), "mask": np.zeros((2, 4), np.int64)}, "size 4 where length is 3"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_the_numbers(arrays, message):
    with pytest.raises(InputError, match=message):
        cases.from_samples(TEXT, arrays)


def test_where_an_input_may_be_empty_it_is_counted_at_sizes_at_which_it_is_not():
    ids, past = InputSpec("ids", "int64", ("new",), 0, 9), InputSpec("past", "float32", ("past", 8))
    never = Interface((ids, past), (Dimension("new", 1, 9), Dimension("past", 1, 9)), ("y",))
    assert cases.fewest_elements(never) == 8
    empty = Interface((ids, past), (Dimension("new", 1, 9), Dimension("past", 0, 9)), ("y",))
    odd = next(each for each in cases.sample(empty, seed=0, cap_elements=10**6) if each.name == "odd")
    assert cases.fewest_elements(empty) == odd.inputs["past"].size > 8
