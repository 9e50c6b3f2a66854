"""The statistics of accuracy: exact for shares, without a distribution for means, and honest about what is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks import accuracy_gate
from pipeline.parity.accuracy import agrees, judge_mean, judge_share, mean_verdict, sqnr_db


def test_sqnr_is_ten_times_the_logarithm_of_the_power_over_the_noise():
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference, reference + np.array([0.03, 0.04])) == pytest.approx(40)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_sqnr_neither_overflows_nor_vanishes(scale):
    reference = np.array([3.0, 4.0]) * scale
    assert sqnr_db(reference, reference * 1.01) == pytest.approx(40)


def test_what_is_not_finite_has_to_be_the_same():
    reference = np.array([1.0, np.inf, np.nan])
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(reference, np.array([1.0, -np.inf, np.nan])) == -math.inf
    assert sqnr_db(np.ones(2), np.array([1.0, np.nan])) == -math.inf
    assert sqnr_db(np.ones(2), np.ones(3)) == -math.inf


def test_agreement_is_of_every_position_and_whole_numbers_are_equal():
    scores = np.array([[1.0, 2.0], [4.0, 3.0]])
    assert agrees(scores, np.array([[0.0, 0.1], [9.0, 3.0]]))
    assert not agrees(scores, np.array([[0.0, 0.1], [2.0, 3.0]]))
    assert not agrees(scores, np.array([[0.0, np.nan], [9.0, 3.0]]))
    assert agrees(np.array([1, 2]), np.array([1, 2]))
    assert not agrees(np.array([1, 2]), np.array([1, 3]))


def test_the_bounds_are_those_of_clopper_and_pearson():
    found = judge_share(45, 50, 0.8, 0.95)
    # At the bounds what was seen, or more (less), has a probability of exactly 5 %.
    assert binom.sf(44, 50, found.lower) == pytest.approx(0.05)
    assert binom.cdf(45, 50, found.upper) == pytest.approx(0.05)
    assert (judge_share(50, 50, 0.8, 0.95).upper, judge_share(0, 50, 0.8, 0.95).lower) == (1.0, 0.0)


@given(st.integers(1, 400), st.floats(0.01, 0.999), st.floats(0.5, 0.999), st.data())
def test_a_verdict_is_what_the_bounds_say(samples, share, confidence, data):
    hits = data.draw(st.integers(0, samples))
    found = judge_share(hits, samples, share, confidence)
    tight = 1e-9
    if found.lower > share + tight:
        assert found.verdict == "pass"
    elif found.upper < share - tight:
        assert found.verdict == "fail"
    elif found.lower < share - tight and found.upper > share + tight:
        assert found.verdict == "undecided"


@pytest.mark.parametrize(("hits", "samples", "fewest"), [(28, 28, 1), (10, 10, 19), (20, 25, 78)])
def test_the_fewest_samples_that_decide_are_just_enough(hits, samples, fewest):
    found = judge_share(hits, samples, 0.9, 0.95)
    assert (found.verdict, found.fewest) == ("undecided", fewest)
    assert judge_share(hits + fewest, samples + fewest, 0.9, 0.95).verdict == "pass"
    assert judge_share(hits + fewest - 1, samples + fewest - 1, 0.9, 0.95).verdict != "pass"
    assert found.more >= found.fewest


def test_a_mean_is_decided_both_ways_and_its_bounds_agree_with_the_verdict():
    rng = np.random.default_rng(0)
    for mean, verdict in ((0.0, "pass"), (-0.2, "fail")):
        found = judge_mean(rng.normal(mean, 0.05, 500).clip(-1, 1), 0.05, 1.0, 0.95)
        assert found.verdict == verdict
        assert found.lower < found.value < found.upper
        assert (found.lower > -0.05) == (verdict == "pass")
        assert (found.upper < -0.05) == (verdict == "fail")


def test_pairs_that_never_differ_do_not_prove_what_few_of_them_cannot_show():
    """A t interval would: its variance is 0. With a drop of 1 in 100, 100 pairs show none of it in 37 of 100 files."""
    assert mean_verdict(np.zeros(100), 0.01, 1.0, 0.95) == "undecided"
    assert mean_verdict(np.zeros(1000), 0.01, 1.0, 0.95) == "pass"
    found = judge_mean(np.zeros(100), 0.01, 1.0, 0.95)
    assert found.lower < -0.01
    assert judge_mean(np.zeros(100 + found.fewest), 0.01, 1.0, 0.95).verdict == "pass"
    assert judge_mean(np.zeros(99 + found.fewest), 0.01, 1.0, 0.95).verdict == "undecided"


def test_the_verdict_does_not_depend_on_the_order_or_the_unit():
    rng = np.random.default_rng(1)
    seen = rng.choice([-1.0, 0.0, 1.0], 700, p=[0.01, 0.98, 0.01])
    first = judge_mean(seen, 0.02, 1.0, 0.95)
    again = judge_mean(rng.permutation(seen) * 100, 2.0, 100.0, 0.95)
    assert (first.verdict, first.fewest, first.more) == (again.verdict, again.fewest, again.more)
    assert again.lower == pytest.approx(100 * first.lower)


RUNS = 200


@pytest.mark.parametrize("name", accuracy_gate.MEANS)
def test_a_drop_at_the_margin_seldom_passes_and_none_does_with_the_advised_number(name):
    draw = accuracy_gate.MEANS[name]
    assert accuracy_gate.mean_at_margin(draw, 1000, RUNS, 0) <= 0.05
    found = accuracy_gate.looked_twice(lambda rng: accuracy_gate._mean_run(draw, rng, 0.0), 40, 0)
    assert found.end >= 0.8  # of 40: make bench-accuracy has the figure


@pytest.mark.parametrize("name", accuracy_gate.SHARES)
def test_a_share_at_the_limit_passes_in_a_twentieth_of_files_at_most(name):
    limit, _ = accuracy_gate.SHARES[name]
    assert max(accuracy_gate.share_at_limit(limit, count) for count in (59, 300, 1000)) <= 0.05
