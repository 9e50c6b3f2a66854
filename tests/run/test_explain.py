"""weighbridge explain: what a verdict or an error means, from the page that ships."""

import json

import pytest

from pipeline.run.explain import explain, sections


def test_a_name_gives_its_section(weighbridge):
    done = weighbridge("explain", "undecided")
    assert done.code == 0
    assert done.out.startswith("undecided\n\nThe measurement cannot tell")
    assert "--seconds" in done.out
    assert "### " not in done.out


def test_a_word_of_a_table_gives_the_section_that_it_belongs_to(weighbridge):
    for given, name in (("not compared", "not-compared"), ("Up to date", "up-to-date"), ("FAILED", "verify-failed")):
        assert weighbridge("explain", given).out.startswith(f"{name}\n")


def test_without_a_name_all_are_listed_with_what_they_are(weighbridge):
    done = weighbridge("explain")
    assert done.code == 0
    for each in sections().values():
        assert f"  {each.name}" in done.out
        assert each.summary in done.out
    assert json.loads(weighbridge("explain", "--json").out) == {each.name: each.summary for each in sections().values()}
    assert json.loads(weighbridge("explain", "misfit", "--json").out)["name"] == "misfit"


@pytest.mark.parametrize(
    ("given", "name"), [("undecidd", "undecided"), ("mis-fit", "misfit"), ("unsafe_pickl", "unsafe-pickle")]
)
def test_an_unknown_name_is_answered_with_the_nearest(weighbridge, given, name):
    assert weighbridge("explain", given).failed_with(2, f"nearest valid: '{name}'", "fix:   weighbridge explain")


def test_a_name_in_other_letters_is_the_same_name():
    assert explain("PASS") == explain(" pass ") == sections()["pass"]


def test_an_error_points_to_its_explanation(weighbridge, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    (tmp_path / "c.yaml").write_text("nmae: x\n")
    assert weighbridge("check", tmp_path / "c.yaml").err.endswith("more:  weighbridge explain config\n")
    document = json.loads(weighbridge("check", tmp_path / "c.yaml", "--json").out)
    assert document["checks"][0]["error"]["about"] == "config"
    assert "more:" not in weighbridge("explain", "nothing").err  # its hint says all there is
