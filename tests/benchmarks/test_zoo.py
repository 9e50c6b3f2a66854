"""The ledger of networks that others wrote says what became of each, and a regression against it fails."""

import json

import pytest

from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import page, row

RIGHT = {"exported": True, "right": True, "reason": ""}
WRONG = {"exported": True, "right": False, "reason": "'odd' (batch=3), y: 400 × the noise floor"}
REFUSED = {"exported": False, "right": False, "reason": "no such operator"}
RELEASED = {"released": True, "checked": None}
FAILED = {"released": False, "exit": 1, "reason": "left its error budget"}


@pytest.mark.parametrize(
    ("ours", "plain", "unknown", "outcome"),
    [
        (RELEASED, [RIGHT, REFUSED], None, "released"),
        (RELEASED | {"checked": "y: far off"}, [RIGHT, RIGHT], None, "wrong release"),
        (FAILED, [RIGHT, WRONG], None, "missed"),
        (FAILED, [REFUSED, WRONG], None, "defect of an exporter or runtime"),
        (FAILED, [REFUSED, REFUSED], None, "refused by torch"),
        (FAILED | {"exit": 2}, [REFUSED, REFUSED], None, "cannot be said in a config"),
        (FAILED, [], "the network draws random numbers", "cannot be said in a config"),
    ],
)
def test_a_row_says_what_became_of_a_network(ours, plain, unknown, outcome):
    assert row._outcome(ours, dict(zip(row.ROUTES, plain, strict=False)), unknown)[0] == outcome


def test_a_network_is_released_checked_by_hand_and_held_against_plain_exports():
    found = row.row("torch.nn/rnn-tanh", brief=True)
    assert found["outcome"] == "released"
    assert found["plain"]["torchscript"]["right"]
    assert found["dimensions"] == {"batch": {"min": 1, "max": 4}, "time": {"min": 1, "max": 24}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "RESULTS", tmp_path)
    monkeypatch.setattr(zoo, "LEDGER", tmp_path / "ledger.json")
    return tmp_path


def test_rows_of_other_code_are_made_again_unless_older_ones_are_asked_for(folder):
    made = [{"name": "a", "outcome": "released", "made": "now"}, {"name": "b", "outcome": "released", "made": "before"}]
    (folder / "zoo.jsonl").write_text("".join(json.dumps(each) + "\n" for each in made) + '{"name": "c", "outc')
    assert set(zoo._kept("now", older=False)) == {"a"}
    assert set(zoo._kept("now", older=True)) == {"a", "b"}


def test_a_network_that_fares_worse_than_in_the_ledger_fails_the_sweep(folder):
    rows = {"a": {"outcome": "released", "reason": ""}, "b": {"outcome": "refused by torch", "reason": "no"}}
    (folder / "ledger.json").write_text(page.as_json(rows))
    assert zoo._compared(rows) == 0
    assert zoo._compared({**rows, "b": {"outcome": "released", "reason": ""}}) == 0
    assert zoo._compared({**rows, "a": {"outcome": "missed", "reason": "left its budget"}}) == 1


def test_the_committed_ledger_has_no_network_that_was_missed_or_released_wrongly():
    ledger = json.loads(zoo.LEDGER.read_text(encoding="utf-8"))["networks"]
    assert ledger
    assert not [name for name, each in ledger.items() if each["outcome"] in {"missed", "wrong release"}]
