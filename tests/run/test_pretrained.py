"""`weighbridge init` of a Hugging Face folder: what it refuses, and where transformers is installed, what it writes."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks import pretrained as sweep
from pipeline.config.labels import labels
from pipeline.errors import ArchitectureError, InputError, UnsafeError
from pipeline.run import pretrained
from pipeline.run.init import Request
from pipeline.run.plan import Settings, plan

REAL = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed: make sweep-pretrained"
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    save_file({"a": np.zeros(3, np.float32)}, path / "model.safetensors")
    return path


def stated(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return Request(folder, "")


def test_a_network_whose_code_came_with_the_folder_is_not_run(folder):
    request = stated(folder, architectures=["Net"], auto_map={"AutoModel": "modeling.Net"})
    with pytest.raises(ArchitectureError, match=r"auto_map.*is not run"):
        pretrained.init(request, None)


def test_a_folder_that_does_not_say_its_network_is_asked_for_it(folder):
    with pytest.raises(ArchitectureError, match=r"does not say which network") as caught:
        pretrained.init(stated(folder, model_type="bert"), None)
    assert "--architecture transformers:" in caught.value.hint


def test_transformers_must_be_trusted_and_the_whole_command_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeError, match="transformers is not trusted") as caught:
        pretrained.init(stated(folder, architectures=["BertModel"]), None)
    assert f"weighbridge init {folder} --trust transformers" in caught.value.hint


def test_a_config_that_is_there_is_not_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.yaml is there already"):
        pretrained.init(stated(folder, architectures=["BertModel"]), None)


@REAL
@pytest.mark.parametrize("name", ["bert", "vit", "t5", "gpt2-cache"])
def test_a_saved_network_becomes_a_release_that_equals_from_pretrained(name, tmp_path):
    folder = sweep.save(name, tmp_path)
    release = sweep.released(folder)
    assert not isinstance(release, str), release
    assert sweep.difference(folder, release) < sweep.ALLOWED


@REAL
def test_names_are_those_that_transformers_gives_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = sweep.save("vit", tmp_path)
    draft = pretrained.init(Request(folder, "", ("transformers",)), None)
    assert "vit.encoder.layer.*.attention.attention.query: vit.layers.*.attention.q_proj" in draft.text
    assert "as transformers itself has it" in draft.text


@REAL
def test_whole_numbers_among_the_weights_and_more_tensors_than_bfloat16_can_count_keep_their_names(
    tmp_path, monkeypatch
):
    import transformers

    monkeypatch.chdir(tmp_path)
    counted = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    deep = transformers.LlamaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=40, num_attention_heads=2, intermediate_size=8
    )
    for name, network in (
        ("resnet", transformers.ResNetForImageClassification(counted)),
        ("deep", transformers.LlamaForCausalLM(deep).to(torch.bfloat16)),
    ):
        network.save_pretrained(tmp_path / name)
        draft = pretrained.init(Request(tmp_path / name, "", ("transformers",)), None)
        assert "rename" not in draft.text
        assert "ignore" not in draft.text


@REAL
def test_a_config_of_another_network_is_one_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = sweep.save("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ArchitectureError, match=r"does not take these weights"):
        pretrained.init(Request(folder, "", ("transformers",)), None)


@REAL
def test_weights_of_another_network_are_refused_with_what_they_lack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = sweep.save("bert", tmp_path)
    request = Request(folder, "transformers:BertForMaskedLM", ("transformers",))
    with pytest.raises(ArchitectureError, match=r"lacks cls\.predictions.* at random"):
        pretrained.init(request, None)


@REAL
@pytest.mark.parametrize(
    ("name", "why"), [("t5", "keep two caches"), ("bert", "takes nothing of what it computed before")]
)
def test_a_network_without_a_step_is_refused_with_its_reason(name, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = Request(sweep.save(name, tmp_path), "", ("transformers",))
    with pytest.raises(ArchitectureError, match=why):
        pretrained.init(request, None, wishes=pretrained.Wishes(with_cache=True))


@REAL
def test_tensors_that_transformers_merges_are_saved_by_the_command_that_the_refusal_names(tmp_path, monkeypatch):
    import transformers
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16,
        num_local_experts=4, max_position_embeddings=16,
    )  # fmt: skip
    network = transformers.MixtralForCausalLM(config).eval()
    network.save_pretrained(tmp_path / "mixtral")
    request = Request(tmp_path / "mixtral", "", ("transformers",))
    with pytest.raises(ArchitectureError, match=r"makes other tensors of .*experts") as caught:
        pretrained.init(request, None)
    assert caught.value.hint.endswith(
        f"weighbridge init {tmp_path / 'mixtral'} --trust transformers --save-weights mixtral.safetensors"
    )
    new = tmp_path / "mixtral.safetensors"
    draft = pretrained.init(request, None, wishes=pretrained.Wishes(save_weights=new))
    saved, theirs = load_file(new), network.state_dict()
    assert {name: torch.equal(each, theirs[name]) for name, each in saved.items()} == dict.fromkeys(theirs, True)
    assert "experts_implementation: batched_mm" in draft.text
    assert 'weights: "mixtral.safetensors"' in draft.text
    with pytest.raises(InputError, match="is there already"):
        pretrained.init(request, tmp_path / "again.yaml", wishes=pretrained.Wishes(save_weights=new))


@pytest.mark.parametrize("named", ["transformers:AutoModel", "transformers:AutoModelForCausalLM"])
def test_an_auto_class_is_answered_with_the_class_that_the_folder_names(named, folder):
    stated(folder, architectures=["BertForMaskedLM"])
    with pytest.raises(ArchitectureError, match=rf"{named} is no network") as caught:
        pretrained.init(Request(folder, named, ("transformers",)), None)
    assert "--architecture transformers:BertForMaskedLM" in caught.value.hint


@REAL
def test_names_of_classes_come_from_its_config_where_somebody_named_them(tmp_path, monkeypatch):
    import transformers

    monkeypatch.chdir(tmp_path)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    for name, more in (("named", {"id2label": {0: "cat", 1: "dog", 2: "cow"}}), ("unnamed", {"num_labels": 3})):
        network = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, **more))
        network.save_pretrained(tmp_path / name)
        draft = pretrained.init(Request(tmp_path / name, "", ("transformers",)), None)
        assert ('describe: {logits: {labels: "named/config.json"}}' in draft.text) == (name == "named")
    planned = plan(tmp_path / "named.yaml", Settings(out=tmp_path, trust=("transformers",)))
    assert labels(planned.config) == {"logits": ("cat", "dog", "cow")}
