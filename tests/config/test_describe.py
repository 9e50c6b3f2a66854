"""Names of classes and units: where they are read from, what is refused, and that nothing changes where they are not said."""

import json
import re
from pathlib import Path

import pytest

from pipeline.config import resolved
from pipeline.config.labels import label_files, labels
from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.run.plan import vocabulary

SIMPLENET = "configs/simplenet.yaml"


def loaded(tmp_path, describe=""):
    config = tmp_path / "mine.yaml"
    text = Path(SIMPLENET).read_text(encoding="utf-8")
    config.write_text(text + (f"\ndescribe: {{{describe}}}\n" if describe else ""))
    return load(config, overrides=(), vocabulary=vocabulary())


def test_without_it_the_recorded_config_is_as_before(tmp_path):
    assert "describe" not in resolved(loaded(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\ndog\n"),
        ("names.json", '["cat", "dog"]'),
        ("names.json", '{"1": "dog", "0": "cat"}'),
        ("config.json", json.dumps({"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}})),
    ],
)
def test_names_are_read_from_a_file_beside_the_config_and_recorded_without_its_folder(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = loaded(tmp_path, f"logits: {{labels: {name}}}, x: {{unit: seconds}}")
    assert labels(config) == {"logits": ("cat", "dog")}
    assert label_files(config) == [tmp_path / name]
    assert resolved(config)["describe"] == {"logits": {"labels": name}, "x": {"unit": "seconds"}}


def test_a_list_of_names_is_recorded_as_it_is(tmp_path):
    config = loaded(tmp_path, "logits: {labels: [cat, dog]}")
    assert labels(config) == {"logits": ("cat", "dog")}
    assert resolved(config)["describe"] == {"logits": {"labels": ["cat", "dog"]}}
    assert label_files(config) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is none"),
        ("cat\n\ndog\n", "one is empty"),
        ("cat\x1b[31m", "not printable"),
    ],
)
def test_a_file_that_holds_no_names_is_one_error_that_says_where(tmp_path, text, why):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        labels(loaded(tmp_path, "logits: {labels: names.txt}"))
    assert re.search(r"mine\.yaml:\d+:\d+: ", caught.value.message)
    assert "a name a line" in caught.value.hint


@pytest.mark.parametrize("text", ['{"0": "cat", "2": "dog"}', "[1, 2]", "3", '{"a": "b"}', "[", '{"id2label": [1]}'])
def test_json_that_holds_no_names_is_one_error(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(ConfigError, match=r"no names of classes in .*names\.json"):
        labels(loaded(tmp_path, "logits: {labels: names.json}"))


def test_a_file_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no names of classes in .*nowhere\.txt"):
        labels(loaded(tmp_path, "logits: {labels: nowhere.txt}"))


@pytest.mark.parametrize(
    ("describe", "said"),
    [
        (
            "logit: {unit: x}",
            r"describe\.logit: 'logit' is neither an input nor an output \(nearest valid: 'logits'\)",
        ),
        ("x: {labels: [a]}", r"describe\.x\.labels: an input has no classes"),
        ("logits: {labels: []}", r"describe\.logits\.labels: expected at least 1"),
        ("logits: {name: x}", r"describe\.logits\.name: unknown key"),
    ],
)
def test_what_describes_nothing_is_an_error_with_its_place(tmp_path, describe, said):
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, describe)
