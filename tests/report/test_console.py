"""What a terminal shows: verdicts in words and colours, reasons beside them, and nothing squeezed at any width."""

import io
import json
import re

import pytest

from pipeline.benchmark.document import UNTIMED, Benchmark
from pipeline.parity.document import Parity
from pipeline.report.console import print_figures, print_parity, print_run
from pipeline.report.document import Documents

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """Return what is printed on a terminal of some columns, or into a pipe."""

    def show(printing, columns=None, **environment):
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        file = Terminal() if columns else io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", file)
            printing()
        return file.getvalue()

    return show


def colour(text, word):
    """The colours that a word is written in."""
    return set(re.findall(rf"\x1b\[([0-9;]*)m{re.escape(word)}", text))


def test_verdicts_have_colours_on_a_terminal_and_their_words_everywhere(shown, documents):
    def printing():
        print_run("simplenet", documents)

    terminal, pipe = shown(printing, 200), shown(printing)
    assert colour(terminal, "pass") == colour(terminal, "faster") == {"32"}
    assert colour(terminal, "not compared") == {"33"}
    assert "\x1b" not in pipe
    assert [line.split() for line in COLOURS.sub("", terminal).splitlines()] == [
        line.split() for line in pipe.splitlines()
    ]


def test_no_color_is_honoured_on_a_terminal(shown, documents):
    text = shown(lambda: print_run("simplenet", documents), 200, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)
    assert "pass" in text


def test_a_failing_case_is_red_and_the_first_one(shown, failed):
    text = shown(lambda: print_parity(Parity.read(failed / "parity.json")), 250)
    assert colour(text, "FAIL") == {"1;31"}
    first = COLOURS.sub("", text).splitlines()[1].split()
    assert first[:5] == ["torchscript", "y", "minimum", "batch=1", "FAIL"]
    assert "2.32084012 instead of 2.27533349" in COLOURS.sub("", text)


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_nothing_is_cut_or_squeezed_at_any_width(shown, documents, failed, columns):
    def printing():
        print_run("simplenet", documents)
        print_figures(documents.benchmark)
        print_parity(Parity.read(failed / "parity.json"))

    text = COLOURS.sub("", shown(printing, columns))
    assert "…" not in text
    for line in text.splitlines():
        assert len(line.rstrip()) <= columns or " " in line  # a sentence is folded by the terminal itself
    squeezed = [line for line in text.splitlines() if re.fullmatch(r" {20,}\S{1,12}\s*", line)]
    assert squeezed == []


def undecided(documents, **changes):
    found = json.loads(json.dumps(documents.to_json()))
    found["benchmark"]["sizes"][0]["rows"][1].update(verdict="undecided", **changes)
    return Documents(documents.parity, Benchmark.from_json(found["benchmark"]))


def test_undecided_has_its_reason_below_the_table_and_in_every_page(shown, documents):
    reason = "the interval 0.970 to 1.060 reaches across an edge of ±3 %; about 40 s more would decide"
    found = undecided(documents, reason=reason, ratio=1.02, interval=[0.97, 1.06])
    text = shown(lambda: print_run("simplenet", found), 120)
    assert "undecided 1.02 [0.97, 1.06]" in text
    assert f"batch=1, torchscript: undecided: {reason}" in text


def test_backends_without_a_verdict_for_the_same_reason_share_a_line(shown, documents):
    found = json.loads(json.dumps(documents.to_json()))
    for row in found["benchmark"]["sizes"][0]["rows"][1:3]:
        row.update(verdict="undecided", reason="two copies of eager differ")
    text = shown(lambda: print_run("s", Documents(documents.parity, Benchmark.from_json(found["benchmark"]))))
    assert text.count("two copies of eager differ") == 1
    assert "batch=1, torchscript, onnxruntime-cpu: undecided: two copies of eager differ" in text


def test_a_backend_that_cannot_run_here_says_why(shown, edited):
    def change(found):
        found["parity"]["backends"][1].update(status="unavailable", required=False, reason="onnxruntime is a CPU build")

    text = shown(lambda: print_run("s", Documents(edited(change).parity, UNTIMED)))
    assert "parity, torchscript: unavailable: onnxruntime is a CPU build" in text
