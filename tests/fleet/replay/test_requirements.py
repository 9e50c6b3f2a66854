"""What `--with` asks for."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.fleet.replay.requirements import candidate, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnxruntime==1.32.0", ["onnxruntime==1.32.0"]),
        ("torch==2.14.0, onnxruntime==1.32.0", ["torch==2.14.0", "onnxruntime==1.32.0"]),
        ("torch>=2.13,<2.15,onnx", ["torch>=2.13,<2.15", "onnx"]),
        ("a[b, c]>=1, d", ["a[b,c]>=1", "d"]),
        ("Flat_Thing == 1.0+cpu", ["Flat_Thing==1.0+cpu"]),
    ],
)
def test_sets_are_split_where_a_new_name_begins(text, expected):
    assert [each.text for each in candidate(text).requirements] == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "torch==",
        "-r requirements.txt",
        "--index-url=x",
        "./own.whl",
        "torch @ https://x/y.whl",
        "torch==1,",
        "a; b",
    ],
)
def test_what_is_no_distribution_by_name_is_refused_with_the_fix(text):
    with pytest.raises(InputError) as raised:
        candidate(text)
    assert "NAME==VERSION" in raised.value.hint


def test_a_name_in_two_spellings_is_one_and_cannot_be_asked_for_twice():
    assert normalised("Flat__Thing.x") == "flat-thing-x"
    with pytest.raises(InputError, match="names flat-thing twice"):
        candidate("flat_thing==1, Flat-Thing==2")


def test_weighbridge_itself_cannot_be_replaced_by_what_it_does():
    with pytest.raises(InputError, match="cannot be replaced"):
        candidate("torch==2, Weighbridge==9")
