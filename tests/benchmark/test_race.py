"""Races with a planted truth: who leaves and when, what is confirmed, and what is not said where it is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import race_truth
from pipeline.benchmark import race, racing
from pipeline.benchmark.race import ALPHA, Gap, Heat
from pipeline.benchmark.racing import Rules


class Scripted:
    """Launches in which each candidate takes what it is said to, with a little noise; who took part is kept.

    `ms`: by name, or by phase and name where new launches differ from the race. `tails`: the share of calls that take 100 ms.
    """

    def __init__(self, ms, *, noise=0.002, tails=None, peaks=None, fails=None, twin=1.0, seconds=1.0, calls=400):
        self.ms, self.noise, self.tails, self.peaks = ms, noise, tails or {}, peaks or {}
        self.fails, self.twin, self.seconds, self.calls = fails or {}, twin, seconds, calls
        self.rng, self.made = np.random.default_rng(0), []

    def of(self, phase, name):
        return self.ms.get((phase, name)) or self.ms[name]

    def logs(self, ms):
        shift = self.rng.normal(0, self.noise)
        return {index: math.log(ms) + shift + float(self.rng.normal(0, self.noise)) for index in range(5)}

    def calls_ns(self, name, ms):
        slow = round(self.calls * self.tails.get(name, 0.0))
        return [100_000_000] * slow + [int(ms * 1e6)] * (self.calls - slow)

    def __call__(self, phase, index, names, leader):
        self.made.append((phase, names, leader))
        failing = {name: why for name, (when, why) in self.fails.items() if name in names and (phase, index) == when}
        if leader in failing:
            return Heat({}, leader, {}, self.seconds, failures={leader: failing[leader]})
        there = [name for name in names if name not in failing]
        return Heat(
            {name: self.logs(self.of(phase, name)) for name in there},
            leader,
            self.logs(self.of(phase, leader) * self.twin),
            self.seconds,
            {name: self.calls_ns(name, self.of(phase, name)) for name in there},
            {name: self.peaks.get(name, 1_000_000) for name in there},
            failing,
        )


def run(launches, *, seconds=100, sizes=None, **limits):
    names = list(dict.fromkeys(name for name in launches.ms if isinstance(name, str)))
    return racing.run(names, launches, Rules(seconds, **limits), sizes or dict.fromkeys(names, 1))


def left(outcome):
    return {each.name: each.left for each in outcome.standings if each.left}


def test_no_wrong_winner_is_named_in_races_whose_truth_is_known():
    by_world, by_kind = race_truth.tally(35, seed=3)
    total = sum(by_world.values(), start=race_truth.Counter())
    assert total.total() == 35
    assert total["WRONG"] == 0
    assert total["not told apart, the best not among them"] == 0
    assert by_kind[race_truth.FAR]["right"] >= 0.6 * by_kind[race_truth.FAR].total()


def test_whoever_leads_after_three_launches_is_often_the_wrong_one():
    """What the rules are for: without them the same races would be lost."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(49):
        truth = race_truth.planted(rng, "normal, sd 1 %")
        launches = race_truth.Simulated(truth, rng, race_truth.worlds(rng)[truth.world])
        names = tuple(truth.medians_ms)
        heats = [launches("race", each, names, names[0]) for each in range(3)]
        wrong += race.ranked(heats, names)[0] != truth.best
    assert wrong >= 5


def test_the_levels_of_all_bounds_that_can_put_one_candidate_out_add_up_to_no_more_than_that_of_the_race():
    for candidates in (2, 3, 17):
        spent = sum((candidates - 1) * race.level(ALPHA, candidates, look) for look in range(1, 10_000))
        assert 0.99 * ALPHA < spent <= ALPHA


def test_a_winner_is_named_after_new_launches_against_the_closest():
    launches = Scripted({"a": 2.0, "b": 1.0, "c": 1.5})
    outcome = run(launches)
    assert (outcome.result, outcome.chosen, outcome.tied) == ("best", "b", ("b",))
    phases = [phase for phase, *_ in launches.made]
    assert phases == ["race"] * 3 + ["confirmation"] * racing.LEAST_CONFIRMING
    assert launches.made[-1][1] == ("b", "c")
    assert left(outcome)["a"].launch == 3
    assert "in 4 new launches c, the closest, was" in outcome.why


def test_what_was_seen_in_the_race_does_not_confirm_itself():
    luck = {"a": 1.0, "b": 1.1, ("confirmation", "a"): 1.1, ("confirmation", "b"): 1.0}
    outcome = run(Scripted(luck))
    assert outcome.result == "not told apart"
    assert set(outcome.tied) == {"a", "b"}
    assert "contradict the race: b was better in them" in outcome.why


def test_time_goes_to_those_that_cannot_be_told_apart_yet():
    launches = Scripted({"far": 9.0, "a": 1.0, "b": 1.04}, noise=0.02)
    run(launches, seconds=30)
    raced = [names for phase, names, _ in launches.made if phase == "race"]
    assert len(raced) > 4
    assert all("far" not in names for names in raced[4:])
    assert all({"a", "b"} <= set(names) for names in raced)


@pytest.mark.parametrize("seconds", [12, 30, 60])
def test_a_race_keeps_its_budget(seconds):
    outcome = run(Scripted({f"c{index}": 1 + 0.001 * index for index in range(9)}, noise=0.05), seconds=seconds)
    assert outcome.seconds <= seconds
    assert outcome.result == "not told apart"


def test_the_least_launches_are_made_whatever_the_budget():
    outcome = run(Scripted({"a": 1.0, "b": 3.0}), seconds=0.1)
    assert outcome.launches == 3
    assert outcome.confirmations == racing.LEAST_CONFIRMING


def test_equals_are_called_that_and_the_one_with_the_least_memory_then_the_smallest_file_is_taken():
    ms = {"a": 1.0, "b": 1.001, "c": 1.0005, "d": 1.0}
    peaks = {"a": 2_000_000, "b": 1_000_000, "c": 1_000_100, "d": 1_000_050}
    outcome = run(Scripted(ms, peaks=peaks), sizes={"a": 1, "b": 9, "c": 5, "d": 5})
    assert outcome.result == "not told apart"
    assert outcome.chosen == "c"  # of d's size, and named before it
    assert set(outcome.tied) == set(ms)
    assert outcome.more_s is None
    assert outcome.confirmations == 0
    assert "differ by less than 0.03" in outcome.why


def test_memory_does_not_decide_for_those_that_were_seen_to_be_slower():
    ms = {"a": 1.0} | {f"slower {index}": 1.6 for index in range(6)}
    peaks = dict.fromkeys(ms, 1_000) | {"a": 9_000_000}
    outcome = run(Scripted(ms, noise=0.03, peaks=peaks), seconds=3)
    assert outcome.result == "not told apart"
    assert len(outcome.tied) > racing.MOST_RIVALS + 1
    assert outcome.chosen == "a"


def test_the_fastest_that_breaks_its_p99_is_not_taken_and_puts_nobody_out():
    launches = Scripted({"a": 1.0, "b": 3.0, "c": 4.0}, tails={"a": 0.03})
    outcome = run(launches, p99_ms=20)
    assert outcome.chosen == "b"
    assert "its p99 is above 100 ms, and p99_ms is 20" in left(outcome)["a"].why
    assert not left(outcome)["a"].is_slower
    assert left(outcome)["c"].is_slower


def test_a_mean_that_keeps_the_limit_is_no_p99_that_does():
    calls = [1_000_000] * 9_800 + [100_000_000] * 200
    assert sum(calls) / len(calls) < 5e6
    assert race.keeps(calls, 5, 0.01) == "no"


@pytest.mark.parametrize(("count", "found"), [(458, "not shown"), (459, "yes")])
def test_a_p99_is_shown_to_be_kept_from_459_calls_on(count, found):
    assert race.keeps([1_000_000] * count, 5, 0.01) == found


def test_a_bound_of_the_p99_is_passed_no_more_often_than_it_says():
    rng, truth_ms = np.random.default_rng(2), -math.log(0.01)
    bounds = [race.p99_bounds_ms([int(each) for each in rng.exponential(1e6, 2000)], 0.01) for _ in range(300)]
    assert sum(low > truth_ms for low, _ in bounds) <= 8
    assert sum(high < truth_ms for _, high in bounds) <= 8


def test_too_few_calls_to_show_a_p99_name_nobody_and_say_so():
    outcome = run(Scripted({"a": 1.0, "b": 2.0}, calls=5), p99_ms=5, seconds=10)
    assert (outcome.result, outcome.chosen) == ("not shown", None)
    assert "p99 lies between" in outcome.why
    assert outcome.more_s == outcome.seconds


def test_memory_beyond_the_limit_is_left_out_and_where_all_are_nobody_is_named():
    peaks = {"a": 5_000_000, "b": 1_000_000}
    outcome = run(Scripted({"a": 1.0, "b": 2.0}, peaks=peaks), memory_bytes=2_000_000)
    assert outcome.chosen == "b"
    assert left(outcome)["a"].why == "takes 5,000,000 bytes of memory at its peak, and memory_bytes is 2,000,000"
    none = run(Scripted({"a": 1.0, "b": 2.0}, peaks=peaks), memory_bytes=2_000)
    assert (none.result, none.chosen, none.tied) == ("no candidate", None, ())


@pytest.mark.parametrize("when", [("race", 0), ("race", 2), ("confirmation", 1)])
def test_one_that_dies_drops_out_with_its_reason_even_if_it_leads(when):
    outcome = run(Scripted({"a": 1.0, "b": 1.2, "c": 3.0}, fails={"a": (when, "ended by SIGSEGV")}))
    assert outcome.chosen == "b"
    assert left(outcome)["a"].why == "dropped out: ended by SIGSEGV"


def test_where_two_copies_of_one_differ_nobody_leaves_for_less():
    steady, unsteady = ({each.name for each in run(Scripted({"a": 1.0, "b": 1.1}, twin=twin)).standings if each.left}
                        for twin in (1.0, 1.2))  # fmt: skip
    assert (steady, unsteady) == ({"b"}, set())


def test_one_candidate_alone_is_taken_without_a_rival():
    outcome = run(Scripted({"a": 1.0}))
    assert (outcome.result, outcome.chosen, outcome.launches, outcome.confirmations) == ("best", "a", 3, 0)


def test_rounds_are_paired_and_a_launch_without_one_of_the_two_is_left_out():
    heats = [
        Heat({"a": {0: 1.0, 1: 9.0, 2: 2.0}, "b": {0: 0.5, 1: 8.5}}, "a", {}, 1),
        Heat({"a": {0: 1.0}}, "a", {}, 1),
    ]
    assert race.gap(heats, "a", "b").logs == (0.5,)


def test_the_order_does_not_depend_on_who_is_named_first():
    launches = Scripted({"a": 1.02, "b": 1.0, "c": 1.05, "d": 1.01}, noise=0.05)
    heats = [launches("race", index, ("a", "b", "c", "d"), "a") for index in range(5)]
    orders = {
        tuple(race.ranked(heats, names)) for names in (("a", "b", "c", "d"), ("d", "c", "b", "a"), ("c", "a", "d", "b"))
    }
    assert len(orders) == 1


def test_too_few_launches_bound_nothing_and_launches_that_agree_bound_exactly():
    assert Gap((0.1, 0.1)).low(0.5) == -math.inf
    assert Gap((0.1, 0.1, 0.1)).low(1e-6) == pytest.approx(0.1)
    assert Gap((0.1, 0.2, 0.3)).low(0.025) == pytest.approx(0.2 - 4.30265 * 0.1 / math.sqrt(3), rel=1e-5)


def test_launches_that_differ_a_hundredfold_do_not_hide_that_all_of_them_are_behind():
    heats = [Heat({"a": {0: 0.0}, "b": {0: behind}}, "a", {0: 0.0}, 1) for behind in (1.0, 5.5, 1.1, 6.0, 1.2, 3.0)]
    alpha = race.level(ALPHA, 8, 4)
    assert race.gap(heats, "b", "a").low(alpha) < 0
    assert race.beaten(heats, ["a", "b"], "a", alpha, 0.03).keys() == {"b"}
    unsure = [*heats[:5], Heat({"a": {0: 0.0}, "b": {0: -0.3}}, "a", {0: 0.0}, 1)]
    assert race.beaten(unsure, ["a", "b"], "a", alpha, 0.03) == {}


def test_progress_says_how_many_are_left_and_how_long_it_may_take():
    told = []
    launches = Scripted({"a": 1.0, "b": 3.0})
    racing.run(["a", "b"], launches, Rules(20), {"a": 1, "b": 1}, told.append)
    assert [(each.phase, each.launch) for each in told[:4]] == [
        ("race", 1),
        ("race", 2),
        ("race", 3),
        ("confirmation", 1),
    ]
    assert [each.left_s for each in told] == [20 - index for index in range(len(told))]
