"""The JSON Schema of a config: it takes what `load` takes, and tells an editor what every key means."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from pipeline.config import Vocabulary, schema

EXAMPLE = """\
name: simplenet
model:
  architecture: pipeline.architectures.simplenet:SimpleNet
  arguments: {input_size: 10, hidden_size: 20, output_size: 2}
  weights: weights/simplenet.pth
inputs:
  x: {dtype: float32, shape: [batch, 10]}
dimensions:
  batch: {min: 1, max: 64}
outputs: [logits]
exports:
  - torchscript
  - {format: onnx, opset: 20}
backends: [eager, torchscript, {name: one, backend: onnxruntime-cpu, options: {threads: 1}}]
require: [torchscript, one]
parity: {limit: 16, outputs: {logits: {atol: 0, rtol: 1.0e-3}}}
benchmark: {reference: eager, sizes: [{batch: 1}, {batch: 32}], seconds: 20}
release: {sign: null}
"""

_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
}  # fmt: skip


class Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Onnx(Plain):
    opset: int = 20


class TorchScript(Plain):
    method: Literal["script", "trace", "auto"] = "auto"


class Level(Plain):
    name: str


class OnnxRuntime(Plain):
    threads: int | None = None
    level: Level | None = None


VOCABULARY = Vocabulary(
    formats={"onnx": Onnx, "torchscript": TorchScript},
    backends={"eager": Plain, "torchscript": Plain, "onnxruntime-cpu": OnnxRuntime},
    opens={"torchscript": "torchscript", "onnxruntime-cpu": "onnx", "eager": None},
)
SCHEMA = schema(VOCABULARY)


def accepts(node: dict[str, Any], value: Any) -> bool:  # noqa: C901, PLR0911 - a keyword, a line
    """Judge a value by the part of JSON Schema 2020-12 that the schema uses; an unknown keyword fails the test."""
    known = {
        "$ref", "type", "enum", "const", "anyOf", "pattern", "minLength", "maxLength", "minimum", "exclusiveMinimum", "maximum",
        "minItems", "minProperties", "items", "properties", "additionalProperties", "required", "description", "default", "$defs",
        "title", "$schema", "not",
    }  # fmt: skip
    assert node.keys() <= known, node.keys() - known
    if "$ref" in node:
        target = SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")]
        if not accepts(target, value):
            return False
    if "type" in node and (
        not isinstance(value, _TYPES[node["type"]]) or (isinstance(value, bool) and node["type"] != "boolean")
    ):
        return False
    if "enum" in node and value not in node["enum"]:
        return False
    if "const" in node and value != node["const"]:
        return False
    if "not" in node and accepts(node["not"], value):
        return False
    if "anyOf" in node and not any(accepts(each, value) for each in node["anyOf"]):
        return False
    if isinstance(value, str):
        return not ("pattern" in node and not re.search(node["pattern"], value)) and len(value) <= node.get(
            "maxLength", 10**6
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, above, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
        return not (
            (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
        )
    if isinstance(value, list):
        return len(value) >= node.get("minItems", 0) and all(accepts(node.get("items", {}), item) for item in value)
    return accepts_mapping(node, value) if isinstance(value, dict) else True


def accepts_mapping(node: dict[str, Any], value: dict[str, Any]) -> bool:
    others = node.get("additionalProperties", True)
    if len(value) < node.get("minProperties", 0) or not set(node.get("required", [])) <= value.keys():
        return False
    for key, item in value.items():
        inner = node.get("properties", {}).get(key, others)
        if inner is False or (isinstance(inner, dict) and not accepts(inner, item)):
            return False
    return True


def example(**changes: Any) -> Any:
    tree = YAML(typ="safe", pure=True).load(EXAMPLE)
    for path, value in changes.items():
        parent = tree
        *parents, last = path.split("__")
        for part in parents:
            parent = parent[part]
        parent[last] = value
    return tree


def test_the_example_of_the_design_is_valid() -> None:
    assert accepts(SCHEMA, example())


@pytest.mark.parametrize(
    "changes",
    [
        {"modle": {}},
        {"name": "Simple Net"},
        {"inputs__x": {"dtype": "flaot32", "shape": []}},
        {"inputs__x": [{"key": {"dtype": "float32", "shpae": []}}]},
        {"outputs": {}},
        {"outputs": {"logits": 1.5}},
        {"dimensions__batch": 5},
        {"dimensions__batch__min": -1},
        {"exports": []},
        {"exports": ["onx"]},
        {"exports": [{"format": "onnx", "opste": 20}]},
        {"exports": [{"format": "onnx", "opset": "new"}]},
        {"exports": [{"format": "onnx", "method": "trace"}]},
        {"backends": [{"name": "a"}]},
        {"backends": [{"backend": "onnxruntime-cpu", "options": {"thread": 1}}]},
        {"backends": [{"backend": "onnxruntime-cpu", "options": {"level": {"nmae": "x"}}}]},
        {"parity__limit": 0},
        {"parity__limit": "sixteen"},
        {"release__sing": None},
        {"benchmark__sizes": [{"batch": "two"}]},
    ],
)
def test_a_wrong_config_is_invalid(changes: dict[str, Any]) -> None:
    assert not accepts(SCHEMA, example(**changes))


@pytest.mark.parametrize(
    "path",
    ["name", "parity__limit", "dimensions__batch__max", "model__sha256", "inputs__x__dtype", "benchmark__threads"],
)
def test_a_reference_may_stand_for_any_scalar(path: str) -> None:
    assert accepts(SCHEMA, example(**{path: "${oc.env:VALUE}"}))


def test_nothing_is_required_of_a_config_that_extends_another() -> None:
    assert accepts(SCHEMA, {"extends": "base.yaml", "model": {"arguments": {"a": 1}}, "inputs": {"x": {"low": 0}}})
    assert not accepts(SCHEMA, {"name": "a"})


def test_every_key_has_a_description() -> None:
    def undescribed(node: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, each in node.get("properties", {}).items():
            if not each.get("description"):
                found.append(f"{path}.{name}")
            found += undescribed(each, f"{path}.{name}")
        return found

    ours = {name: each for name, each in SCHEMA["$defs"].items() if "." not in name}
    assert not undescribed({"properties": SCHEMA["properties"]}, "")
    assert not [line for name, each in ours.items() for line in undescribed(each, name)]


def test_the_schema_is_json_and_holds_no_leftover_of_the_models() -> None:
    text = json.dumps(SCHEMA, allow_nan=False)
    references = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text))
    assert references <= SCHEMA["$defs"].keys()
    assert "Field(" not in text
    assert SCHEMA["$schema"].endswith("2020-12/schema")
