"""The comparison must close on every defect it can see, and stay open for rounding."""

import numpy as np
import pytest

from pipeline.parity import budget
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare, worst
from pipeline.parity.oracle import Reference

RNG = np.random.default_rng(0)


def reference(values, noise=None, dtypes=None):
    noise = noise or {name: np.full(value.shape, 1e-7) for name, value in values.items()}
    dtypes = dtypes or {
        name: "float32" if value.dtype == np.float64 else value.dtype.name for name, value in values.items()
    }
    return Reference(values, noise, dtypes)


def judge(known, outputs, rule=None):
    names = list(known.values)
    floors = {
        name: budget.floors([known.values[name]] * 3, [known.noise[name]] * 3)[0]
        if "float" in known.dtypes[name] or "complex" in known.dtypes[name]
        else None
        for name in names
    }
    return compare("case", known, floors, outputs, dict.fromkeys(names, rule or Rule()))


def test_float32_rounding_of_the_oracle_itself_passes():
    exact = RNG.standard_normal((4, 8))
    (finding,) = judge(reference({"y": exact}), {"y": exact.astype(np.float32)})
    assert finding.passed
    assert finding.factor < 1


def test_an_error_over_the_limit_fails_and_names_element_and_values():
    exact = RNG.standard_normal((4, 8))
    got = exact.astype(np.float32)
    got[2, 5] += 1e-5
    (finding,) = judge(reference({"y": exact}), {"y": got})
    assert not finding.passed
    assert finding.worst_index == (2, 5)
    assert finding.got == pytest.approx(finding.expected + 1e-5, abs=1e-6)
    assert finding.factor == pytest.approx(100, rel=0.1)


def test_a_defect_in_a_small_channel_is_not_hidden_behind_a_large_one():
    scale = np.array([1000.0, 1.0])
    cases = [RNG.standard_normal((size, 2)) * scale for size in (2, 3, 5)]
    noises = [np.abs(case) * 1e-7 for case in cases]
    floors = budget.floors(cases, noises)
    got = cases[0].astype(np.float32)
    got[:, 1] *= 1.0005  # far below the first channel's noise of 1e-4
    known = reference({"y": cases[0]}, {"y": noises[0]})
    (finding,) = compare("case", known, {"y": floors[0]}, {"y": got}, {"y": Rule()})
    assert not finding.passed
    assert finding.worst_index[1] == 1


def test_one_lucky_case_does_not_set_an_unreachable_standard():
    cases = [RNG.standard_normal((1, 4)) for _ in range(5)]
    noises = [np.full((1, 4), 1e-7) for _ in range(4)] + [np.zeros((1, 4))]
    floors = budget.floors(cases, noises)
    assert floors[-1].min() > 1e-8


def test_cases_without_a_number_do_not_make_the_usual_noise_smaller():
    nothing = [np.full((1, 4), np.nan), np.zeros((1, 4))] * 3
    cases = [RNG.standard_normal((1, 4)) for _ in range(3)] + nothing
    noises = [np.full((1, 4), 1e-6)] * 2 + [np.zeros((1, 4))] + [np.zeros((1, 4))] * len(nothing)
    assert budget.floors(cases, noises)[2].min() > 1e-7


@pytest.mark.parametrize(("telling", "least"), [(1, 1.0), (2, 1.0), (3, 1 / 16)])
def test_where_few_cases_tell_of_noise_a_whole_roundoff_of_the_scale_is_the_least(telling, least):
    cases = [np.full((1,), 8.0)] * telling + [np.full((1,), np.nan)] * 4
    floors = budget.floors(cases, [np.zeros((1,))] * len(cases))
    assert floors[0] == pytest.approx(8.0 * least * budget.UNIT_ROUNDOFF)


def test_an_exact_zero_allows_rounding_of_the_scale_around_it_but_no_more():
    exact = np.array([[0.0, 1.0, -1.0, 0.5]])
    known = reference({"y": exact}, {"y": np.full((1, 4), 6e-8)})
    near, far = exact.astype(np.float32), exact.astype(np.float32)
    near[0, 0], far[0, 0] = 6e-8, 6e-6
    assert judge(known, {"y": near})[0].passed
    assert not judge(known, {"y": far})[0].passed


def test_an_output_that_is_zero_everywhere_must_be_zero():
    known = reference({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 3))})
    assert judge(known, {"y": np.zeros((2, 3), np.float32)})[0].passed
    assert not judge(known, {"y": np.full((2, 3), 1e-9, np.float32)})[0].passed


def test_nan_equals_nan_only_where_the_oracle_has_it():
    exact = np.array([np.nan, 1.0, 2.0])
    known = reference({"y": exact}, {"y": np.array([0.0, 1e-7, 1e-7])})
    assert judge(known, {"y": np.array([np.nan, 1, 2], np.float32)})[0].passed
    (finding,) = judge(known, {"y": np.array([np.nan, np.nan, 2], np.float32)})
    assert not finding.passed
    assert "NaN" in finding.problem
    assert not judge(known, {"y": np.array([0, 1, 2], np.float32)})[0].passed


def test_infinities_must_match_in_sign_and_place():
    known = reference({"y": np.array([np.inf, 1.0])}, {"y": np.array([0.0, 1e-7])})
    assert judge(known, {"y": np.array([np.inf, 1], np.float32)})[0].passed
    assert not judge(known, {"y": np.array([-np.inf, 1], np.float32)})[0].passed
    assert not judge(known, {"y": np.array([3e38, 1], np.float32)})[0].passed


def test_what_float32_itself_cannot_hold_is_not_held_against_a_backend_but_counted():
    known = reference({"y": np.array([1e300, 1.0])}, {"y": np.array([np.inf, 1e-7])})
    (finding,) = judge(known, {"y": np.array([np.inf, 1], np.float32)})
    assert finding.passed
    assert finding.ties == 1


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({}, "missing"),
        ({"y": np.zeros((3, 2), np.float32)}, r"shape [3, 2] instead of [2, 3]"),
        ({"y": np.zeros((2, 3), np.float64)}, "dtype float64 instead of float32"),
        ({"y": np.zeros((2, 3), np.float16)}, "dtype float16 instead of float32"),
    ],
)
def test_a_missing_reshaped_or_retyped_output_fails_in_words(outputs, problem):
    (finding,) = judge(reference({"y": np.zeros((2, 3))}), outputs)
    assert not finding.passed
    assert problem in finding.problem


def test_an_extra_output_fails():
    exact = RNG.standard_normal((2, 3))
    findings = judge(reference({"y": exact}), {"y": exact.astype(np.float32), "z": exact})
    assert [finding.passed for finding in findings] == [True, False]
    assert "not an output" in findings[1].problem


def test_swapped_outputs_are_called_that():
    first, second = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))
    known = reference({"a": first, "b": second})
    findings = judge(known, {"a": second.astype(np.float32), "b": first.astype(np.float32)})
    assert not any(finding.passed for finding in findings)
    assert "'b' should hold: outputs are swapped" in findings[0].problem


def test_integers_and_booleans_are_exact_except_for_ties():
    exact = np.array([1, 2, 3])
    known = reference({"y": exact}, {"y": np.array([0.0, 1.0, 0.0])}, {"y": "int64"})
    (tied,) = judge(known, {"y": np.array([1, 9, 3])})
    assert tied.passed
    assert tied.ties == 1
    (wrong,) = judge(known, {"y": np.array([1, 2, 4])})
    assert not wrong.passed
    assert wrong.worst_index == (2,)


@pytest.mark.parametrize("error", [0.0, 1e-4, 2e-3, 0.5])
@pytest.mark.parametrize(("atol", "rtol"), [(0, 1e-3), (1e-3, 0), (1e-5, 1e-3)])
def test_explicit_tolerances_mean_what_assert_allclose_means(error, atol, rtol):
    exact = np.array([[-2.0, 0.25, 1.0]])
    got = (exact + np.array([[0, error, 0]])).astype(np.float32)
    (finding,) = judge(reference({"y": exact}), {"y": got}, Rule(atol=atol, rtol=rtol))
    assert finding.passed == np.allclose(got.astype(np.float64), exact, atol=atol, rtol=rtol)
    assert finding.limit == 1


def test_an_empty_output_passes_when_it_is_empty_here_too():
    assert judge(reference({"y": np.zeros((0, 3))}), {"y": np.zeros((0, 3), np.float32)})[0].passed


def test_the_worst_finding_is_the_one_furthest_over_its_own_limit():
    exact = RNG.standard_normal((2, 3))
    findings = judge(
        reference({"a": exact, "b": exact}), {"a": exact.astype(np.float32), "b": (exact * 2).astype(np.float32)}
    )
    assert worst(findings).output == "b"


@pytest.mark.parametrize("keepdims", [True, False])
def test_an_argmax_may_pick_another_element_only_within_the_margin_of_what_both_may_be_off_by(keepdims):
    logits = np.array([[1.0, 1.0 + 1e-7, 0.0], [3.0, 1.0, 2.0]])
    best = logits.argmax(1, keepdims=keepdims)
    known = reference({"logits": logits, "best": best}, {"logits": np.full((2, 3), 1e-7), "best": np.zeros(best.shape)})
    other = best.copy()
    other.reshape(-1)[0] = 0  # 1e-7 below, where 2 × 16 × 1e-7 is allowed
    _, finding = judge(known, {"logits": logits.astype(np.float32), "best": other})
    assert (finding.passed, finding.ties) == (True, 1)
    other.reshape(-1)[1] = 2  # a whole 1.0 below
    _, finding = judge(known, {"logits": logits.astype(np.float32), "best": other})
    assert (finding.passed, finding.ties) == (False, 1)
    assert finding.problem.startswith("1 of 2 elements differ")


def test_integers_that_are_no_argmax_have_no_margin():
    logits = np.array([[1.0, 1.0 + 1e-7, 0.0], [3.0, 1.0, 2.0]])
    second = np.array([0, 2])
    known = reference({"logits": logits, "second": second}, {"logits": np.full((2, 3), 1e-7), "second": np.zeros(2)})
    _, finding = judge(known, {"logits": logits.astype(np.float32), "second": np.array([1, 2])})
    assert not finding.passed


def test_a_tolerance_of_whole_numbers_allows_that_difference_and_no_larger_one():
    known = reference({"i": np.array([[1000, 5]])}, {"i": np.zeros((1, 2))})
    (near,) = judge(known, {"i": np.array([[1001, 4]])}, Rule(atol=1.0, rtol=0.5))
    (far,) = judge(known, {"i": np.array([[1000, 7]])}, Rule(atol=1.0, rtol=0.5))
    (exact,) = judge(known, {"i": np.array([[1000, 6]])})
    assert near.passed
    assert (near.factor, near.max_error) == (1.0, 1.0)
    assert not far.passed
    assert far.problem == "1 of 2 elements differ, by 2 at most; this output may differ by 1"
    assert far.would_pass == 2.0
    assert not exact.passed


def test_a_complex_output_is_compared_by_its_distance():
    known = reference({"y": np.array([[1 + 1j]])}, {"y": np.full((1, 1), 1e-7)}, {"y": "complex64"})
    assert judge(known, {"y": np.array([[1 + 1j]], np.complex64)})[0].passed
    assert not judge(known, {"y": np.array([[1 + 1.001j]], np.complex64)})[0].passed
