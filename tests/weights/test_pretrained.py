"""A Hugging Face folder is read from its files: what it holds, what it is for, what belongs to it; nothing of it is run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import pretrained

CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "vocab_size": 100,
    "id2label": {"0": "bad", "1": "good"},
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a.weight": np.zeros((3, 4), np.float32)}, path / "model.safetensors")
    for name in ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "preprocessor_config.json", "training_args.bin", "notes.txt"):  # fmt: skip
        (path / name).write_text("{}")
    return path


def test_it_says_the_network_what_it_is_for_its_labels_and_what_prepares_its_inputs(folder):
    found = pretrained.read(folder)
    assert found.architecture == "BertForSequenceClassification"
    assert found.task == "text classification"
    assert found.labels == ("bad", "good")
    assert found.sizes == {"vocab_size": 100, "hidden_size": 32}
    assert found.weights.name == "model.safetensors"
    names = ["preprocessor_config.json", "sentencepiece.bpe.model", "tokenizer.json", "vocab.txt"]
    assert [each.name for each in found.beside] == names


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: apache-2.0\n---\n# It", "apache-2.0"),
        ('---\ntags:\n- a\nlicense: "mit"\n---\n', "mit"),
        ("# It\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("\xff\xfe", None),
    ],
)
def test_the_license_is_what_the_head_of_the_card_states(folder, card, stated):
    (folder / "README.md").write_text(card, encoding="latin-1")
    assert pretrained.read(folder).license == stated


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["pytorch_model.bin"], "pytorch_model.bin"),
        (["model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors.index.json"),
        (["pytorch_model.bin.index.json"], "pytorch_model.bin.index.json"),
    ],
)
def test_the_weights_are_looked_for_where_transformers_does(folder, there, taken):
    (folder / "model.safetensors").unlink()
    for name in there:
        (folder / name).write_text("{}")
    assert pretrained.read(folder).weights.name == taken


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_a_config_that_cannot_be_read_is_one_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        pretrained.read(folder)


def test_a_config_without_end_is_not_read(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UnsafeError, match=r"config\.json has 1,073,741,824 bytes"):
        pretrained.read(folder)


def test_a_folder_without_weights_says_what_it_looked_for(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"none of model\.safetensors, ") as caught:
        pretrained.read(folder)
    assert "training_args.bin" in caught.value.hint


def test_inspect_describes_it_with_its_tensors_and_the_next_command(folder):
    found = pretrained.describe(pretrained.read(folder))
    assert (found.name, found.kind) == ("mine", "Hugging Face folder")
    assert found.details["network"] == "BertForSequenceClassification"
    assert found.details["labels"] == "bad, good"
    assert "tokenizer.json" in found.details["beside them"]
    assert [each.name for each in found.tensors] == ["a.weight"]
    assert found.next == (f"weighbridge init {folder} --trust transformers",)


def test_what_the_folder_says_of_itself_cannot_write_to_a_terminal(folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "a\x1b[31mred\n"}))
    assert pretrained.describe(pretrained.read(folder)).details["model type"] == r"a\x1b[31mred\n"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        (
            {
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5],
                "image_std": [0.2],
            },
            {"divide_by": 255.0, "mean": [0.5], "scale": [0.2]},
        ),
        ({"do_rescale": True, "rescale_factor": 1 / 127.5, "image_mean": [0.5]}, {"divide_by": 127.5}),
        ({"do_normalize": True, "image_mean": [0.5, 1], "image_std": "0.2"}, {"mean": [0.5, 1]}),
        ({"do_rescale": True, "rescale_factor": 0, "do_normalize": True, "image_mean": [True], "image_std": []}, {}),
        ([], {}),
    ],
)
def test_what_an_image_processor_does_to_pixels_is_said_as_a_config_says_it(folder, stated, found):
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    assert pretrained.pixels(pretrained.read(folder)) == found


def test_where_no_image_processor_is_saved_nothing_is_said_of_pixels(folder):
    (folder / "preprocessor_config.json").unlink()
    assert pretrained.pixels(pretrained.read(folder)) == {}
