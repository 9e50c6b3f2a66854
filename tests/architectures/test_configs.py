"""The shipped configs fit the networks they name; how a config is read is tested elsewhere."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.architectures.resnet import ResNet

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ["efficientnet-lite0", "facenet-pnet", "minilm", "resnet18", "silero-vad", "simplenet"]


def _read(name):
    return YAML(typ="safe").load(CONFIGS / f"{name}.yaml")


def _build(model):
    module, _, attribute = model["architecture"].partition(":")
    return getattr(importlib.import_module(module), attribute)(**model.get("arguments", {})).eval()


def _draw(spec, sizes):
    shape = [sizes.get(size, size) for size in spec["shape"]]
    return torch.zeros(shape, dtype=getattr(torch, spec["dtype"])) + (spec.get("values") == "mask")


def test_every_config_is_tested_here():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_names_the_schema_for_editors(name):
    first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schema/config.schema.json"


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_are_those_of_forward_at_the_smallest_sizes(name):
    config = _read(name)
    network = _build(config["model"])
    assert list(config["inputs"]) == list(inspect.signature(network.forward).parameters)
    smallest = {dimension: limits["min"] for dimension, limits in config["dimensions"].items()}
    with torch.no_grad():
        outputs = network(*(_draw(spec, smallest) for spec in config["inputs"].values()))
    assert len(config["outputs"]) == (len(outputs) if isinstance(outputs, tuple) else 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_to_time_lie_within_the_dimensions(name):
    config = _read(name)
    assert len(config["benchmark"]["sizes"]) == 2
    for sizes in config["benchmark"]["sizes"]:
        assert sizes.keys() == config["dimensions"].keys()
        assert all(
            config["dimensions"][key]["min"] <= size <= config["dimensions"][key]["max"] for key, size in sizes.items()
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resnet18"])
def test_the_weights_have_the_digest_and_fit_the_arguments(name, weights):
    config = _read(name)
    state = weights(name)
    path = CONFIGS / config["model"]["weights"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == config["model"]["sha256"]
    _build(config["model"]).load_state_dict(state)


def test_resnet18_is_open_to_the_users_own_weights():
    model = _read("resnet18")["model"]
    assert "sha256" not in model
    assert _build(model).state_dict().keys() == ResNet(depth=18).state_dict().keys()
