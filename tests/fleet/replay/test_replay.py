"""May I upgrade? A wrong version is found and named, a harmless one passes, and nothing that is installed here is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UnavailableError
from pipeline.fleet.replay.environment import Change, Environment
from pipeline.fleet.replay.replay import Replayed, Row, Tried, verdict
from pipeline.fleet.replay.requirements import candidate
from pipeline.fleet.replay.told import answer, times
from pipeline.fleet.replay.trial import Checked, Finding, Result, Way
from pipeline.release import bundle
from tests import wheels

WAY = Way("engine", "engine", "onnx", "model.onnx", {}, is_required=True)


@pytest.fixture(scope="module")
def ground(tmp_path_factory, content):
    """A folder with version 1 installed, an index with others, and a release that was proven on version 1."""
    folder = tmp_path_factory.mktemp("ground")
    site = wheels.install(folder / "site", wheels.engine("1"))
    index = folder / "index"
    wheels.serve(index, wheels.engine("2"))
    wheels.serve(index, wheels.engine("3", wheels.WRONG))
    wheels.serve(index, wheels.plain("bystander", "2"))
    stated = replace(content, manifest=wheels.manifest("engine"), models=content.models[:1])
    return site, index, bundle.write(stated, folder / "artifacts")


@pytest.fixture(scope="module")
def replayed(ground, tmp_path_factory):
    """Return the exit code and the JSON of a replay with several candidates, and whether what is installed stayed as it was."""
    site, index, release = ground
    asked = ("weighbridge-engine==2", "weighbridge-engine==3, bystander==2", "bystander==7")
    options = [word for each in asked for word in ("--with", each)]
    before = wheels.contents(site)
    options += ["--out", str(tmp_path_factory.mktemp("out")), "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", wheels.UNZIPPING, str(index), "replay", str(release), *options],
        env=wheels.variables(site, index),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), wheels.contents(site) == before


def test_each_candidate_gets_an_answer_of_its_own_and_nothing_that_is_installed_is_touched(replayed):
    code, found, is_untouched = replayed
    assert code == 1
    assert found["may_upgrade"] == {
        "weighbridge-engine==2": True,
        "weighbridge-engine==3, bystander==2": False,
        "bystander==7": None,
    }
    assert is_untouched


def test_a_wrong_version_is_named_with_its_file_output_and_multiple_and_the_right_one_of_two_is_blamed(replayed):
    results = {each["backend"]: each for each in replayed[1]["candidates"][1]["results"]}
    assert {name: each["verdict"] for name, each in results.items()} == {
        "engine": "would break",
        "onnxruntime-cpu": "holds",
    }
    broken = results["engine"]
    assert (broken["file"], broken["required"], broken["blame"]) == ("model.onnx", True, ["weighbridge-engine 1 → 3"])
    worst = broken["then"]["findings"][0]
    assert (worst["output"], worst["factor"] > 1000) == ("logits", True)
    assert broken["today"]["factor"] < 1


def test_a_harmless_version_passes_and_one_that_is_not_to_be_had_stops_no_other(replayed):
    harmless, _, missing = replayed[1]["candidates"]
    assert (harmless["exit_code"], missing["exit_code"]) == (0, 4)
    assert [each["verdict"] for each in harmless["results"]] == ["holds", "holds"]
    assert "no such file" in missing["error"]["message"]


def result(outcome, factor=None, reason=""):
    return Result(WAY, outcome, factor, (Finding(reason),) if reason else ())


@pytest.mark.parametrize(
    ("today", "then", "expected"),
    [
        ("holds", "holds", "holds"),
        ("holds", "breaks", "would break"),
        ("holds", "cannot run", "would break"),
        ("breaks", "breaks", "fails today as well"),
        ("breaks", "cannot run", "fails today as well"),
        ("breaks", "holds", "mended"),
        ("cannot run", "holds", "holds"),
        ("cannot run", "breaks", "would break"),
        ("cannot run", "cannot run", "not judged"),
    ],
)
def test_what_a_candidate_makes_of_a_backend_follows_from_what_it_is_today(today, then, expected):
    assert verdict(result(today), result(then)) == expected


def tried(*rows, error=None):
    asked = candidate("weighbridge-engine==2")
    environment = None if error else Environment(asked, Path("x"), (Change("weighbridge-engine", "1", "2"),))
    return Tried(asked, environment, error, rows)


def row(verdict_, *, required=True, blame=()):
    way = replace(WAY, is_required=required)
    outcome = {"would break": "breaks", "not judged": "cannot run"}.get(verdict_, "holds")
    found = Result(way, outcome, None, (Finding("no device"),))
    return Row(Checked(Path("r"), "tiny", "abc", (way,)), way, found, found, verdict_, blame)


@pytest.mark.parametrize(
    ("rows", "code", "first"),
    [
        ([row("holds")], 0, "yes: with weighbridge-engine==2 1 of 1 backends hold"),
        ([row("holds"), row("would break", required=False)], 0, "yes: "),
        ([row("holds"), row("would break", blame=("x 1 → 2",))], 1, "no: "),
        ([row("holds"), row("fails today as well")], 1, "no: "),
        ([row("holds"), row("not judged")], 4, "unknown: "),
        ([row("would break"), row("not judged")], 1, "no: "),
        ([row("holds"), row("not judged", required=False)], 0, "yes: "),
        ([], 4, "unknown: "),
    ],
)
def test_the_exit_code_and_the_last_line_say_the_same(rows, code, first):
    found = Replayed((), (), (tried(*rows),))
    (line,) = answer(found)
    assert found.exit_code == code
    assert line.startswith(first)
    assert "next: " in line


def test_a_backend_that_breaks_and_is_not_required_is_named_beside_the_yes():
    (line,) = answer(Replayed((), (), (tried(row("holds"), row("would break", required=False)),)))
    assert "not required, and would break: engine" in line


def test_what_breaks_outweighs_what_could_not_be_made():
    failed = tried(error=UnavailableError("no", hint="do"))
    assert Replayed((), (), (failed, tried(row("would break")))).exit_code == 1
    assert Replayed((), (), (failed, tried(row("holds")))).exit_code == 4


def test_multiples_are_written_as_people_read_them():
    assert [times(each) for each in (0.03125, 1.5, 141_860.4, 3.2e9, float("inf"))] == [
        *("0.0312", "1.5", "141,860", "3.2e+09", "beyond any"),
    ]
