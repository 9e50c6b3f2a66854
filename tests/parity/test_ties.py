"""A tie is no error, and what is no tie is one."""

import numpy as np
import pytest

from pipeline.parity import ties
from pipeline.parity.ties import Choice

VALUES = np.array([[3.0, 1.0, 3.0, 3.0 + 1e-9, 0.0]])
FLOOR = np.full((1, 1), 1e-10)


def choice(indices, table=None):
    indices = np.asarray(indices)
    return Choice(VALUES, FLOOR, indices.astype(np.int64), np.arange(5) if table is None else table)


def test_an_index_whose_value_is_as_good_is_a_tie_and_another_is_not():
    known = [choice([[0]])]
    assert ties.good(known, np.array([[2]]), 16).all()
    assert ties.good(known, np.array([[3]]), 16).all()
    assert not ties.good(known, np.array([[3]]), 1).any()
    assert not ties.good(known, np.array([[1]]), 16).any()
    assert not ties.good(known, np.array([[5]]), 16).any()
    assert not ties.good(known, np.array([[-1]]), 16).any()


def test_a_topk_that_names_one_of_its_tied_elements_twice_is_wrong():
    known = [choice([[0, 2]])]
    assert ties.good(known, np.array([[2, 3]]), 16).all()
    assert not ties.good(known, np.array([[2, 2]]), 16).any()


def test_an_index_that_was_divided_stands_for_several_elements():
    known = [choice([[0]], table=np.array([0, 0, 1, 1, 2]))]
    assert ties.good(known, np.array([[1]]), 16).all()
    assert not ties.good(known, np.array([[2]]), 16).any()


def test_where_nothing_is_known_nothing_is_a_tie():
    assert not ties.good([choice([[-1]])], np.array([[2]]), 16).any()


@pytest.mark.parametrize(("index", "tied"), [(0, True), (3, True), (1, False), (4, False)])
def test_it_is_known_beforehand_where_an_index_may_come_out_otherwise(index, tied):
    assert ties.undecided([choice([[index]])], (1, 1), 16).all() == tied


def test_nan_and_infinity_are_as_good_as_their_like():
    values = np.array([[np.nan, np.nan, np.inf, np.inf, 0.0]])
    known = [Choice(values, FLOOR, np.array([[0]]), np.arange(5))]
    assert ties.good(known, np.array([[1]]), 16).all()
    assert not ties.good(known, np.array([[4]]), 16).any()
