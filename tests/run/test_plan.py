"""What is wrong with a config is said before any work starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.run.keys import of_release
from pipeline.run.plan import Settings, plan

SIMPLENET = Path("configs/simplenet.yaml")


def planned(*overrides):
    settings = Settings(out=Path("artifacts"), overrides=overrides)
    return plan(SIMPLENET, settings), settings


def test_a_file_that_is_to_lie_beside_the_network_and_is_not_there_is_named_with_its_place():
    with pytest.raises(ConfigError, match=r"release\.beside\.0|--set.*: there is no file .*/nowhere\.json"):
        planned("release.beside=[nowhere.json]")


def test_a_file_beside_the_network_that_would_hide_one_of_the_releases_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(InputError, match=r"model\.onnx has the name of another file"):
        planned(f"release.beside=[{tmp_path / 'model.onnx'}]")


def test_a_change_of_a_file_beside_the_network_is_a_reason_to_build_again(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    found = []
    for text in ("a", "b"):
        vocabulary.write_text(text)
        found.append(of_release(*planned(f"release.beside=[{vocabulary}]")))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {"beside it, vocab.txt"}
