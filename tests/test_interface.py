"""Formulas of sizes: what they hold, what they give, how far they reach, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.interface import (
    Dimension,
    complete_sizes,
    formula_bounds,
    formula_names,
    formula_value,
    free_dimensions,
    linear_formula,
    ordered_dimensions,
)

NAMES = ("past", "new", "n")
SIZES = st.fixed_dictionaries({name: st.integers(0, 50) for name in NAMES})
FORMULAS = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda each: f"({each[0]} {each[1]} {each[2]})"),
    max_leaves=6,
)


@given(FORMULAS, SIZES)
def test_a_formula_gives_what_arithmetic_gives_and_lies_within_its_bounds(formula: str, sizes: dict[str, int]) -> None:
    value = formula_value(formula, sizes)
    assert value == eval(formula, {}, dict(sizes))  # noqa: S307 - made of names, numbers and signs above
    low, high = formula_bounds(formula, dict.fromkeys(NAMES, (0, 50)))
    assert low <= value <= high


@given(FORMULAS, SIZES)
def test_a_linear_form_is_the_formula(formula: str, sizes: dict[str, int]) -> None:
    found = linear_formula(formula)
    if found is not None:
        factors, added = found
        assert formula_value(formula, sizes) == added + sum(each * sizes[name] for name, each in factors.items())


def test_products_of_names_are_not_linear() -> None:
    assert linear_formula("2 * past + new - 3") == ({"past": 2, "new": 1}, -3)
    assert linear_formula("past * new") is None
    assert linear_formula("n * n") is None


@pytest.mark.parametrize(
    "formula",
    ["", "past +", "past / 2", "past ** 2", "past // 2", "f(past)", "past.size", "past[0]", "1.5 * past", "True", "'a'", "-past",
     "past if new else n", "past; new", "lambda: 1", "past := 1", "(" * 300, "9999999999999", "a" * 201],
)  # fmt: skip
def test_anything_else_is_refused_in_words(formula: str) -> None:
    with pytest.raises(ValueError, match=r"formula|sizes are made of"):
        formula_names(formula)


def test_sizes_that_follow_are_filled_in_whatever_their_order() -> None:
    chain = (
        Dimension("c", 0, 9, formula="b + 1"),
        Dimension("b", 0, 9, formula="2 * a"),
        Dimension("a", 1, 4),
    )
    assert complete_sizes(chain, {"a": 3}) == {"c": 7, "b": 6, "a": 3}
    assert [each.name for each in free_dimensions(chain)] == ["a"]


def test_a_circle_is_told() -> None:
    circle = (Dimension("a", 0, 9, formula="b"), Dimension("b", 0, 9, formula="a"))
    with pytest.raises(ValueError, match="a, b follow from one another in a circle"):
        ordered_dimensions(circle)
