"""A table against an older one: what is proven worse closes it, and only that; the rest is undecided and said."""

from __future__ import annotations

import json

import pytest

from pipeline.fleet.league.against import against
from pipeline.fleet.league.table import collect
from pipeline.report.league import League
from tests.fleet.releases import ELSEWHERE, UNTIMED, backend, benchmark, failed, parity, release, timed


@pytest.fixture
def held(content, tmp_path):
    """Hold what one call of `now` writes against what one of `was` does."""

    def hold(was, now, margin=0.05):
        tables = []
        for name, write in (("was", was), ("now", now)):
            write(tmp_path / name)
            tables.append(collect([tmp_path / name]))
        return against(tables[1], League.from_text(json.dumps(tables[0].to_json())), margin=margin)

    def of(**stated):
        return lambda root: release(root, content, **stated)

    hold.of = of
    return hold


def shown(found, outcome):
    return [(each.what.partition(" [")[0], each.where, each.required) for each in found.of(outcome)]


def times(ours_ms, **more):
    return benchmark(timed("eager", 2.0, verdict="reference"), timed("onnxruntime-cpu", ours_ms, ratio=0.5), **more)


def test_a_table_is_as_good_as_itself(held):
    found = held(held.of(), held.of())
    assert (found.shifts, found.notes, found.closes) == ((), (), False)
    assert found.same == 5  # a size, two factors, two latencies


def test_a_latency_that_is_proven_worse_closes_and_one_that_is_not_is_undecided(held):
    found = held(held.of(times=times(1.0)), held.of(times=times(1.2)))
    assert shown(found, "worse") == [("latency", "onnxruntime-cpu, batch=1", True)]
    assert found.closes
    wide = benchmark(timed("eager", 2.0, verdict="reference"), timed("onnxruntime-cpu", 1.2, ratio=0.5, spread=0.3))
    found = held(held.of(version="a", times=times(1.0)), held.of(version="a", times=wide))
    assert (shown(found, "worse"), shown(found, "undecided"), found.closes) == (
        [],
        [("latency", "onnxruntime-cpu, batch=1", True)],
        False,
    )


def test_what_is_not_required_closes_nothing(held):
    judged = parity(backend("eager", 1.0), backend(required=False))
    found = held(held.of(judged=judged, times=times(1.0)), held.of(judged=judged, times=times(1.2)))
    assert (shown(found, "worse"), found.closes) == ([("latency", "onnxruntime-cpu, batch=1", False)], False)


def test_timings_of_different_kinds_of_nodes_are_not_compared_and_that_is_said(held):
    found = held(held.of(times=times(1.0)), held.of(times=times(2.0, on=ELSEWHERE)))
    assert found.shifts == ()
    assert "different kinds of nodes" in found.notes[0]
    assert "Xeon" in found.notes[0]


def test_a_factor_that_grew_within_its_budget_is_a_note_and_one_beyond_it_is_worse(held):
    def judged(factor, status="pass"):
        return parity(backend("eager", 1.0), backend(factor=factor, status=status))

    found = held(held.of(judged=judged(1.5)), held.of(judged=judged(9.0)))
    assert found.shifts == ()
    assert "grew from 1.5 to 9 × the noise floor, within its budget of 16" in found.notes[0]
    found = held(held.of(version="a", judged=judged(1.5)), held.of(version="a", judged=judged(40.0, "fail")))
    assert ("verdict", "onnxruntime-cpu", True) in shown(found, "worse")
    assert ("parity", "onnxruntime-cpu", True) in shown(found, "worse")
    better = held(held.of(version="b", judged=judged(9.0)), held.of(version="b", judged=judged(1.5)))
    assert better.shifts == ()


@pytest.mark.parametrize(
    ("status", "outcome"), [("fail", "worse"), ("crashed", "worse"), ("unavailable", "undecided"), (None, "undecided")]
)
def test_a_verdict_that_is_no_longer_a_pass_is_worse_and_one_that_is_not_there_is_undecided(held, status, outcome):
    now = [backend("eager", 1.0)] + ([backend(status=status, reason="why")] if status else [])
    found = held(held.of(times=UNTIMED), held.of(judged=parity(*now), times=UNTIMED))
    assert shown(found, outcome) == [("verdict", "onnxruntime-cpu", True)]
    assert found.closes == (outcome == "worse")


def test_a_name_that_lost_its_release_is_worse_and_one_that_got_one_better(held, content):
    def lost(root):
        release(root, content)
        failed(root, "tiny")

    found = held(held.of(), lost)
    assert ("verdict", "", True) in shown(found, "worse")
    assert found.closes
    assert shown(held(lost, held.of(version="2")), "better") == [("verdict", "", True)]


def test_a_name_that_only_one_table_has_is_said(held):
    found = held(held.of(name="old"), held.of(name="new"))
    assert found.notes == ("new is new",)
    assert [(each.name, each.outcome, each.reason) for each in found.shifts] == [
        ("old", "undecided", "not in this table")
    ]


def test_of_many_latencies_chance_alone_makes_no_regression(content, tmp_path):
    """Each of a hundred is a little beyond the margin: alone it would be proven, and of as many some are by chance."""
    tables = {}
    for ours_ms in (1.0, 1.065):
        release(tmp_path / f"{ours_ms}", content, times=times(ours_ms))
        tables[ours_ms] = collect([tmp_path / f"{ours_ms}"])
    before, after = (each.entries[0] for each in tables.values())

    def of(*entries):
        named = tuple(each.model_copy(update={"name": f"net-{index}"}) for index, each in enumerate(entries))
        return tables[1.0].model_copy(update={"entries": named})

    assert shown(against(of(after), of(before), margin=0.05), "worse")
    found = against(of(*[after] * 100), of(*[before] * 100), margin=0.05)
    assert shown(found, "worse") == []
    assert "not sure enough for one of 200 latencies" in found.of("undecided")[0].reason


def test_the_command_exits_1_on_what_is_proven_and_with_strict_on_what_is_undecided(content, tmp_path, weighbridge):
    release(tmp_path / "was", content, times=times(1.0))
    release(tmp_path / "now", content, times=times(1.2))
    release(tmp_path / "gone" / "x", content, name="other")
    old = tmp_path / "old.json"
    old.write_text(weighbridge("league", tmp_path / "was", "--json").out)
    for given in (old, tmp_path / "was"):
        done = weighbridge("league", tmp_path / "now", "--against", given, "--json")
        assert (done.code, json.loads(done.out)["passed"]) == (1, False)
    shown = weighbridge("league", tmp_path / "now", "--against", old)
    assert shown.failed_with(1, "weighbridge explain regression")
    assert "proven worse" in shown.out
    assert weighbridge("league", tmp_path / "was", "--against", old).code == 0
    assert weighbridge("league", tmp_path / "gone", "--against", old).code == 0
    assert weighbridge("league", tmp_path / "gone", "--against", old, "--strict").code == 1
    again = json.loads(weighbridge("league", tmp_path / "now", "--against", old, "--json").out)
    (tmp_path / "again.json").write_text(json.dumps(again))  # what was held against an older one is a table too
    assert weighbridge("league", tmp_path / "now", "--against", tmp_path / "again.json").code == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 2, "machines": [], "entries": []}', "[" * 99_999])
def test_what_is_no_table_is_refused(content, tmp_path, text, weighbridge):
    release(tmp_path / "now", content)
    (tmp_path / "old.json").write_text(text)
    done = weighbridge("league", tmp_path / "now", "--against", tmp_path / "old.json")
    assert done.failed_with(2, "is no table of releases", "weighbridge league --json")
