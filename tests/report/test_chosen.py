"""The choice in a report: what tune found, or how what was timed compares, with a plot where there is something to see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.benchmark import race
from pipeline.benchmark.leading import in_a_line
from pipeline.benchmark.recommended import Candidate, Choice, Limits, Recommended, in_words
from pipeline.report import chosen, html, markdown
from pipeline.report.charts import charts
from pipeline.report.chosen import Point
from pipeline.report.console import print_recommended
from pipeline.report.document import Documents


def candidate(name, ms, file_bytes, factor, left=None):
    choice = Choice(variant=name, backend="onnxruntime-cpu", artifact="onnx", options={})
    return Candidate(
        name=name, choice=choice, precision="own", factor=factor, file_bytes=file_bytes, median_ms=ms, p99=None,
        peak_bytes=1_000_000, ratio=ms, interval=(ms * 0.99, ms * 1.01), launches=3, left=left,
    )  # fmt: skip


def found(*candidates, **changes):
    first = candidates[0]
    made = Recommended(
        schema_version=1, digest="0" * 64, processor="A processor, 0123", cores=2, objective="latency", sizes={"batch": 1},
        callers="one", limits=Limits(), margin=0.03, result="best", choice=first.choice, chosen=first.name, tied=(first.name,),
        why="in 4 new launches b, the closest, was 50.0% behind it, and at least 40.0%", candidates=candidates, launches=3,
        confirmations=4, seconds=20.0, budget_s=30.0, more_s=None, tools={}, notes=(),
    )  # fmt: skip
    return made.model_copy(update=changes)


THREE = (
    candidate("a", 1.0, 5000, 2.0),
    candidate("b", 1.5, 2000, 4.0, "launch 3: behind"),
    candidate("c", 2.0, 6000, 5.0),
)


@pytest.fixture
def documents(parity, benchmark):
    return Documents(parity, benchmark, found(*THREE))


def test_a_report_of_a_release_that_was_tuned_says_what_is_recommended_and_why(documents):
    text = markdown.render("it", documents)
    assert "## The choice" in text
    assert "The fastest is a: in 4 new launches b, the closest, was 50.0% behind it" in text
    assert "| a | recommended |" in text
    assert "launch 3: behind" in text
    assert "on A processor, 0123, 2 processors" in text


def test_the_plot_shows_each_candidate_and_rings_those_that_nothing_beats(documents):
    caption, spec = charts(documents)[chosen.PARETO]
    rows = spec["datasets"][spec["data"]["name"]]
    assert {row["candidate"]: row["best"] for row in rows} == {"a": "yes", "b": "yes", "c": "no"}
    assert "ringed" in caption
    assert caption in html.render("it", documents)


def test_with_two_candidates_there_is_a_table_and_no_plot(documents):
    two = replace(documents, recommended=found(*THREE[:2]))
    assert chosen.PARETO not in charts(two)
    (section,) = chosen.sections(two)
    assert section.charts == ()
    assert len(section.body) == 2


def test_a_release_that_was_only_timed_shows_its_files_where_there_are_more_than_two(documents, benchmark):
    untuned = replace(documents, recommended=None)
    names = [each.name for each in chosen.points(untuned)]
    assert names == [
        row.name for row in benchmark.sizes[0].rows if row.name in {"eager", "torchscript", "onnxruntime-cpu"}
    ]
    assert chosen.PARETO in charts(untuned)
    (section,) = chosen.sections(untuned)
    assert "weighbridge tune CONFIG" in section.text[0]


def test_one_is_beaten_only_by_another_that_is_nowhere_worse():
    one = Point("one", 1.0, 10, 1.0, "")
    assert not chosen.is_beaten(one, [one, replace(one, name="same")])
    assert not chosen.is_beaten(one, [replace(one, ms=0.5, factor=2.0)])
    assert chosen.is_beaten(one, [replace(one, file_bytes=9)])


def test_what_cannot_be_told_apart_is_said_with_all_names_and_how_one_was_taken():
    said = in_words(found(*THREE, result="not told apart", tied=("a", "b"), why="they differ by less than 0.03"))
    assert said.startswith("cannot be told apart: a, b (they differ by less than 0.03); a is taken")


def test_the_terminal_shows_a_line_a_candidate_and_the_sentence(capsys):
    print_recommended(found(*THREE))
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["a", "b", "c"]
    assert "The fastest is a: in 4 new launches" in out


def test_a_benchmark_alone_names_the_fastest_of_its_files_or_those_that_it_cannot_tell_apart(benchmark, monkeypatch):
    assert in_a_line(benchmark) == "the fastest of those timed: onnxruntime-cpu"
    monkeypatch.setattr(race, "beaten", lambda *_: {})
    assert in_a_line(benchmark) == "cannot be told apart by this benchmark: onnxruntime-cpu, torchscript, eager"


def test_with_one_file_there_is_nothing_to_choose(benchmark):
    figures = benchmark.figures.model_copy(
        update={
            "backends": tuple(each.model_copy(update={"file_bytes": None}) for each in benchmark.figures.backends[:2])
        }
    )
    assert in_a_line(benchmark.model_copy(update={"figures": figures})) is None
