"""A sweep that was interrupted goes on where it stopped, and only there."""

import pytest

from benchmarks import progress
from benchmarks.progress import Rows


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FOLDER", tmp_path)
    return tmp_path


def rows(asked=1):
    return Rows("parity_health", {"seeds": asked}, total=3)


def unexpected():
    raise AssertionError("made again")


def test_what_was_found_before_an_interruption_is_not_made_again_and_half_a_line_is(folder):
    first = rows()
    first.get("a", lambda: {"factor": 1.5})
    first.get("b", lambda: {"factor": 2.5})
    with next(folder.iterdir()).open("a") as file:
        file.write('{"key": "c", "fac')
    again = rows()
    assert again.get("a", unexpected) == {"factor": 1.5}
    assert again.get("b", unexpected) == {"factor": 2.5}
    assert again.get("c", lambda: {"factor": 3.5}) == {"factor": 3.5}
    assert set(rows().rows) == {"a", "b", "c"}


def test_another_question_takes_up_nothing():
    rows().get("a", lambda: {"factor": 1.5})
    assert rows(asked=2).rows == {}
    assert set(rows().rows) == {"a"}


def test_what_other_code_or_versions_found_is_not_taken_up(monkeypatch):
    rows().get("a", lambda: {"factor": 1.5})
    monkeypatch.setattr(progress, "tools", lambda: {"torch": "another"})
    assert rows().rows == {}


def test_a_sweep_that_ended_leaves_nothing():
    ended = rows()
    ended.get("a", dict)
    ended.forget()
    assert rows().rows == {}
