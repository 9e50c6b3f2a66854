"""weighbridge inspect --save-weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from tests.weights import inert_corpus

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_that_inspect_gives_saves_the_weights_alone(weighbridge: Any, tmp_path: Path) -> None:
    saved = {"state_dict": inert_corpus.state(), "hyper_parameters": inert_corpus.omegaconf({"width": 32})}
    path = inert_corpus.save(saved, tmp_path / "a.ckpt")
    told = weighbridge("inspect", path)
    assert "  hyper_parameters: omegaconf.dictconfig.DictConfig: {width: 32}\n" in told.out
    assert f"next: weighbridge inspect {path} --save-weights weights.safetensors" in told.out.replace("\n", " ")
    target = tmp_path / "weights.safetensors"
    done = weighbridge("inspect", path, "--save-weights", target, "--json")
    assert json.loads(done.out)["saved"] == str(target)
    assert load_file(target).keys() == inert_corpus.state().keys()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.ckpt", "weights.safetensors"]


def test_no_file_is_replaced_and_none_made_of_what_is_no_state_dict(weighbridge: Any, tmp_path: Path) -> None:
    path = inert_corpus.save({"state_dict": inert_corpus.state()}, tmp_path / "a.ckpt")
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"x")
    for target, problem in ((there, "is there already"), (tmp_path / "w.pth", "would be a safetensors file"),
                            (tmp_path / "none" / "w.safetensors", "there is no folder")):  # fmt: skip
        failed = weighbridge("inspect", path, "--save-weights", target)
        assert (failed.code, problem in failed.err) == (2, True)
    (tmp_path / "text").write_text("text")
    failed = weighbridge("inspect", tmp_path / "text", "--save-weights", tmp_path / "w.safetensors")
    assert (failed.code, "is a text file, not a state dict" in failed.err) == (2, True)
    assert there.read_bytes() == b"x"
    assert not (tmp_path / "w.safetensors").exists()
