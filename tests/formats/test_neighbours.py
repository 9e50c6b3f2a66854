"""A number is moved by one unit in the last place; what no rounding moves stays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pipeline.formats.neighbours import neighbours


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_each_number_has_one_of_its_two_neighbours(dtype):
    array = np.random.default_rng(1).standard_normal((50, 40)).astype(dtype)
    moved = neighbours(array, np.random.default_rng(2))
    assert moved.dtype == array.dtype
    up = np.nextafter(array, np.array(np.inf, dtype))
    down = np.nextafter(array, np.array(-np.inf, dtype))
    assert ((moved == up) | (moved == down)).all()
    assert 0.4 < (moved == up).mean() < 0.6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zeros_infinities_and_what_has_no_finite_neighbour_stay(dtype):
    largest = np.finfo(dtype).max
    array = np.tile(np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype), 20)
    np.testing.assert_array_equal(neighbours(array, np.random.default_rng(0)).tobytes(), array.tobytes())
    masks = neighbours(np.full(200, -largest, dtype), np.random.default_rng(0))
    assert np.isfinite(masks).all()
    assert set(masks.tolist()) == {float(-largest), float(np.nextafter(-largest, dtype(0)))}


def test_whole_numbers_truths_and_nothing_come_back_as_they_are():
    for array in (np.arange(4), np.array([True]), np.zeros((0, 3), np.float32)):
        assert neighbours(array, np.random.default_rng(0)) is array
