from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.benchmark.measurements import ArmMeasurements, Block, Launch, Measurements, Plan, WarmUp, WorkerFacts
from pipeline.benchmark.statistics import Row, analyse, holm, quantile, quantile_ranks, t_interval
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTROL = "eager (A/A)"


def measured(times_ms: Mapping[str, Sequence[Sequence[float]]], *, settled: bool = True) -> Measurements:
    """Measurements in which an arm's round r of launch l took `times_ms[arm][l][r]` a call."""
    warm_up = WarmUp(settled=settled, calls=3, medians_ns=(1e6, 1e6, 1e6))
    launches = []
    for index in range(max(map(len, times_ms.values()))):
        taken = {name: each[index] for name, each in times_ms.items() if index < len(each)}
        arms = {
            name: ArmMeasurements(
                WorkerFacts(), warm_up, tuple(block(number, [time] * 3) for number, time in enumerate(rounds))
            )
            for name, rounds in taken.items()
        }
        launches.append(Launch(tuple(taken), (), arms, 0.0, 0.0, 0.0, 0.0))
    return Measurements("eager", CONTROL, tuple(times_ms), Plan(seconds=20), tuple(launches), 20.0)


def block(number: int, calls_ms: Sequence[float]) -> Block:
    durations = tuple(round(each * 1e6) for each in calls_ms)
    return Block(number, len(durations), sum(durations), durations)


def steady(
    time_ms: float, effects: Sequence[float] = (0.001, -0.002, 0.003, -0.003, 0.002, -0.001)
) -> list[list[float]]:
    return [[time_ms * math.exp(effect)] * 5 for effect in effects]


def row(taken: Measurements, name: str = "onnx", margin: float = 0.03) -> Row:
    rows = {each.name: each for each in analyse(taken, margin=margin).rows}
    return rows[name]


def flat(time_ms: float) -> list[list[float]]:
    return [[time_ms] * 5] * 6


def against_eager(onnx: Sequence[Sequence[float]]) -> Measurements:
    return measured({"eager": flat(10), "onnx": onnx, CONTROL: flat(10)})


@pytest.mark.parametrize(
    ("time_ms", "verdict"),
    [
        (5, "faster"),
        (9.6, "faster"),
        (9.71, "undecided"),
        (9.9, "same"),
        (10, "same"),
        (10.2, "same"),
        (10.3, "undecided"),
        (10.5, "slower"),
        (20, "slower"),
    ],
)
def test_the_verdict_is_the_region_that_holds_the_whole_interval(time_ms: float, verdict: str) -> None:
    found = row(against_eager(steady(time_ms)))
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(time_ms / 10, rel=1e-6)


def test_ratio_and_interval_are_students_t_over_the_launches() -> None:
    effects = (0.01, -0.02, 0.03, -0.03, 0.02, -0.01)
    found = row(against_eager(steady(12, effects)))
    # t(5, 0.975) = 2.570582 from a table; the sum of squares is 28e-4
    reach = 2.570582 * math.sqrt(28e-4 / 5) / math.sqrt(6)
    assert found.interval is not None
    assert found.interval == pytest.approx((1.2 * math.exp(-reach), 1.2 * math.exp(reach)), rel=1e-6)
    assert found.median_interval_ms == pytest.approx((12 * math.exp(-reach), 12 * math.exp(reach)), rel=1e-6)
    assert found.median_ms == pytest.approx(12, rel=1e-6)


def test_what_slows_both_in_a_round_or_launch_cancels() -> None:
    eager = [[10, 40, 10, 12, 10], [20, 21, 22, 23, 90], [10, 10, 10, 10, 10]]
    onnx = [[each * 2 for each in launch] for launch in eager]
    taken = measured({"eager": eager, "onnx": onnx, CONTROL: eager})
    assert row(taken).interval == pytest.approx((2, 2))


def test_a_burst_in_less_than_half_of_the_rounds_or_calls_changes_nothing() -> None:
    calm = against_eager(steady(10))
    launch = calm.launches[2]
    blocks = launch.arms["onnx"].blocks
    call = blocks[0].durations_ns[0] / 1e6
    hit = (block(0, [50.0, 50.0, 50.0]), *(block(each.round, [call, 50.0, call]) for each in blocks[1:]))
    arms = {**launch.arms, "onnx": dataclasses.replace(launch.arms["onnx"], blocks=hit)}
    disturbed = dataclasses.replace(
        calm, launches=(*calm.launches[:2], dataclasses.replace(launch, arms=arms), *calm.launches[3:])
    )
    assert row(disturbed).interval == row(calm).interval


@pytest.mark.parametrize("control_ms", [9.6, 10.4])
def test_nothing_within_what_the_reference_differs_from_itself_has_a_verdict(control_ms: float) -> None:
    taken = measured(
        {"eager": flat(10), "onnx": steady(10.38 if control_ms < 10 else 9.62), CONTROL: steady(control_ms)}
    )
    analysis = analyse(taken, margin=0.03)
    assert not analysis.can_tell
    assert analysis.reason == (
        f"two copies of eager differ by a factor of {control_ms / 10:.3f}, more than the margin of 0.03: "
        "this machine is too unsteady now"
    )
    assert [(each.verdict, each.reason) for each in analysis.rows[1:]] == [("undecided", analysis.reason)] * 2
    assert row(taken).ratio == pytest.approx(1.0, rel=0.04)


@pytest.mark.parametrize(("call_ms", "verdict"), [(5, "faster"), (20, "slower"), (10, "undecided"), (9.7, "undecided")])
def test_what_is_farther_off_than_the_reference_from_itself_is_decided_all_the_same(
    call_ms: float, verdict: str
) -> None:
    taken = measured({"eager": flat(10), "onnx": steady(call_ms), CONTROL: steady(10.4)})
    found = row(taken)
    assert found.verdict == verdict
    assert not analyse(taken, margin=0.03).can_tell
    assert ("two copies of eager may be apart" in found.reason) == (verdict != "undecided")


def test_the_control_within_the_margin_is_said_to_be_so() -> None:
    analysis = analyse(against_eager(steady(5)), margin=0.03)
    assert analysis.can_tell
    assert analysis.reason == "two copies of eager agree within the margin of 0.03"
    assert [each.verdict for each in analysis.rows] == ["reference", "faster", "same"]


def test_two_launches_are_too_few() -> None:
    taken = measured({"eager": flat(10)[:2], "onnx": steady(5)[:2], CONTROL: flat(10)[:2]})
    found = row(taken)
    assert (found.verdict, found.ratio, found.interval) == ("undecided", None, None)
    assert found.reason == "2 launches; an interval needs at least 3: raise benchmark.seconds"


def test_a_failed_arm_is_undecided_with_its_reason() -> None:
    taken = measured({"eager": flat(10), "onnx": [[]], CONTROL: flat(10)})
    found = row(dataclasses.replace(taken, failures={"onnx": "onnx was ended by SIGSEGV"}))
    assert (found.verdict, found.reason) == ("undecided", "dropped out: onnx was ended by SIGSEGV")
    assert (found.ratio, found.median_ms, found.p50, found.calls, found.settled) == (None, None, None, 0, False)


def test_a_backend_surely_enough_alone_is_undecided_among_many() -> None:
    # 2.8 standard errors beyond the margin, in 6 launches: enough alone, too little for one of three.
    effects = (0.03, -0.03, 0.02, -0.02, 0.01, -0.01)
    onnx = steady(10 * 1.03 * math.exp(2.8 * math.sqrt(28e-4 / 5 / 6)), effects)
    alone = row(against_eager(onnx))
    others = {f"other {index}": steady(10.3) for index in range(2)}
    among = row(measured({"eager": flat(10), "onnx": onnx, **others, CONTROL: flat(10)}))
    assert alone.verdict == "slower"
    assert alone.p_value == pytest.approx(0.0380, abs=2e-4)
    assert among.verdict == "undecided"
    assert among.p_value == pytest.approx(3 * alone.p_value)
    assert among.interval == alone.interval
    assert "not surely enough for one of 3 backends" in among.reason


def spending(taken: Measurements, *, fixed_s: float, round_s: float) -> Measurements:
    """Measurements of launches that took this long to prepare and for each of their five rounds."""
    launches = tuple(
        dataclasses.replace(each, round_orders=(("eager",),) * 5, start_s=fixed_s, measure_s=5 * round_s)
        for each in taken.launches
    )
    return dataclasses.replace(taken, launches=launches, elapsed_s=len(launches) * (fixed_s + 5 * round_s))


def test_how_long_would_decide_is_what_the_launches_differ_by_and_cost() -> None:
    # 2 % between launches, 0.0256 from the margin: t(2)·0.02/√3 = 0.050 and t(3)·0.02/√4 = 0.032 reach further, t(4)·0.02/√5 = 0.0248 does not.
    eager, onnx = [[10.0] * 5] * 3, steady(10 * 1.004, (0.02, -0.02, 0.0))
    taken = measured({"eager": eager, "onnx": onnx, CONTROL: eager})
    found = row(spending(taken, fixed_s=4.0, round_s=0.2))
    assert found.verdict == "undecided"
    assert "reaches across an edge of ±3 %" in found.reason
    # 5 launches of 4 s and 5 rounds of 0.2 s, or what another launch is worth: 3 × √(4 × 0.2) = 2.7 s
    assert found.decides_in_s == pytest.approx(5 * (4 + 3 * math.sqrt(0.8)), abs=1)
    assert "about 19 s more would decide" in found.reason


def test_a_reference_that_nothing_is_held_against_may_be_undecided_with_itself() -> None:
    taken = measured({"eager": [[10.0] * 5] * 3, CONTROL: steady(10, (0.06, -0.06, 0.0))})
    assert row(spending(taken, fixed_s=4.0, round_s=0.2), CONTROL).verdict == "undecided"


def test_launches_that_differ_too_much_are_not_said_to_be_decided_by_a_longer_run() -> None:
    eager, onnx = [[10.0] * 5] * 3, steady(10 * 1.02, (0.5, -0.5, 0.0))
    found = row(spending(measured({"eager": eager, "onnx": onnx, CONTROL: eager}), fixed_s=4.0, round_s=0.2))
    assert found.decides_in_s is None
    assert found.reason.endswith("; 6 launches that differ as these do would not decide")


def test_a_run_that_is_not_settled_says_so() -> None:
    times = {"eager": flat(10), "onnx": steady(5), CONTROL: flat(10)}
    assert row(measured(times)).settled
    assert not row(measured(times, settled=False)).settled


def test_a_row_counts_calls_rounds_and_launches() -> None:
    found = row(against_eager(steady(5)))
    assert (found.calls, found.rounds, found.launches) == (6 * 5 * 3, 6 * 5, 6)


def test_quantiles_without_enough_calls_are_left_out() -> None:
    found = row(against_eager(steady(5)))  # 90 calls
    assert found.p50 is not None
    assert found.p90 is not None
    assert found.p95 is not None
    assert found.p99 is None


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_a_margin_of_nothing_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match="margin is"):
        analyse(against_eager(steady(5)), margin=margin)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="confidence is"):
        analyse(against_eager(steady(5)), margin=0.03, confidence=confidence)


def test_holm_adjusts_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    for adjusted, each in zip(holm(p_values), p_values, strict=True):
        assert each <= adjusted <= min(1, len(p_values) * each)


@pytest.mark.parametrize(("share", "needed"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459)])
def test_a_quantile_needs_as_many_calls_as_the_binomial_bound_says(share: float, needed: int) -> None:
    assert quantile_ranks(needed - 1, share, 0.01) is None
    assert quantile_ranks(needed, share, 0.01) is not None


@given(
    st.integers(1, 60),
    st.sampled_from([(1, 2), (9, 10), (19, 20), (1, 4)]),
    st.sampled_from([(1, 100), (1, 40), (1, 10)]),
)
def test_ranks_are_the_tightest_that_keep_each_tail(count: int, share: tuple[int, int], tail: tuple[int, int]) -> None:
    quantile_, allowed = Fraction(*share), Fraction(*tail)

    def at_most(below: int) -> Fraction:
        """Chance that at most `below` of the samples lie below the quantile."""
        terms = (math.comb(count, k) * quantile_**k * (1 - quantile_) ** (count - k) for k in range(below + 1))
        return sum(terms, Fraction(0))

    lows = [rank for rank in range(1, count + 1) if at_most(rank - 1) <= allowed]
    highs = [rank for rank in range(1, count + 1) if 1 - at_most(rank - 1) <= allowed]
    expected = (lows[-1], highs[0]) if lows and highs else None
    assert quantile_ranks(count, float(quantile_), float(allowed)) == expected


def test_quantiles_are_observed_calls_in_milliseconds() -> None:
    durations_ns = np.arange(1, 1001) * 1e6
    found = quantile(durations_ns, 0.9)
    ranks = quantile_ranks(1000, 0.9, 0.01)
    assert found is not None
    assert (found.value_ms, (found.low_ms, found.high_ms)) == (900.0, ranks)


def test_quantile_bounds_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    ranks = quantile_ranks(100, 0.9, 0.01)
    assert ranks is not None
    samples = np.sort(rng.pareto(1.5, (20_000, 100)), axis=-1)
    truth = 10 ** (1 / 1.5) - 1
    assert np.mean(samples[:, ranks[0] - 1] > truth) <= 0.0115
    assert np.mean(samples[:, ranks[1] - 1] < truth) <= 0.0115


@pytest.mark.parametrize("launches", [3, 4, 6, 10])
def test_the_95_percent_interval_holds_the_truth_in_93_to_97_percent(launches: int) -> None:
    """Launch effects, noise of rounds, and heavy-tailed bursts that hit some blocks; `benchmarks/` has the long version."""
    rng = np.random.default_rng(11)
    turns = rng.normal(0, 0.01, (4000, launches, 12, 2))
    turns += np.where(rng.random(turns.shape) < 0.2, np.log1p(0.1 * rng.pareto(1.5, turns.shape)), 0)
    effects = rng.normal(0, 0.01, (4000, launches, 2))
    ratios = turns[..., 1] - turns[..., 0] + (effects[..., 1] - effects[..., 0])[..., None]
    low, high = t_interval(np.median(ratios, axis=-1) + 0.05, 0.95)
    assert 0.93 <= np.mean((low <= 0.05) & (high >= 0.05)) <= 0.97


def test_identical_backends_are_called_faster_or_slower_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(300):
        times = {
            name: np.exp(rng.normal(2, 0.02, (6, 1)) + rng.normal(0, 0.02, (6, 5)))
            for name in ("eager", "a", "b", CONTROL)
        }
        verdicts = {each.verdict for each in analyse(measured(times), margin=0.01).rows}  # type: ignore[arg-type]
        alarms += bool(verdicts & {"faster", "slower"})
    assert alarms <= 15
