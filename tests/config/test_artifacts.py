"""Artifacts by name: which backend opens which, what each is made from, and what `check` says of a muddle."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from tests.config.test_config import SHORTEST, _in_folder, problems, read  # noqa: F401 - the fixture applies here too

WRITTEN = "exports: [onnx]"
TWO = "exports: [onnx, {name: onnx-18, format: onnx, opset: 18}]"
RUN = "backends: [eager, onnxruntime-cpu, onnxruntime-cuda]"


def config(exports: str, backends: str = "[eager, onnxruntime-cpu]", more: str = "") -> str:
    assert WRITTEN in SHORTEST
    assert RUN in SHORTEST
    return SHORTEST.replace(WRITTEN, exports).replace(RUN, f"backends: {backends}") + more


def test_a_backend_opens_the_artifact_named_like_its_format_unless_it_says_which() -> None:
    found = read(config(TWO, "[eager, onnxruntime-cpu, {name: ort-18, backend: onnxruntime-cpu, artifact: onnx-18}]"))
    assert [each.artifact for each in found.backends] == [None, "onnx", "onnx-18"]
    assert [(each.name, each.format, each.options) for each in found.exports] == [
        ("onnx", "onnx", {}),
        ("onnx-18", "onnx", {"opset": 18}),
    ]


def test_the_only_artifact_of_a_format_needs_no_naming() -> None:
    found = read(config("exports: [{name: mine, format: onnx}]"))
    assert found.backends[1].artifact == "mine"


def test_options_may_stand_below_options_too() -> None:
    found = read(config("exports: [{format: onnx, options: {opset: 18}}]"))
    assert found.exports[0].options == {"opset": 18}


def test_a_format_that_is_made_from_another_finds_its_source_or_is_told() -> None:
    found = read(config("exports: [onnx, quantised, {name: again, format: quantised, from: onnx}]"))
    assert [each.made_from for each in found.exports] == [None, "onnx", "onnx"]


def test_each_artifact_may_have_a_gate_of_its_own() -> None:
    found = read(config(TWO, more="gates: {onnx-18: {limit: 4}}\n"))
    assert found.gates["onnx-18"].limit == 4


@pytest.mark.parametrize(
    ("exports", "backends", "more", "said"),
    [
        ("exports: [onnx, {format: onnx, opset: 18}]", "[eager]", "", "exports.1: 2 artifacts are named 'onnx': give each its own name"),
        ("exports: [torchscript]", "[eager, onnxruntime-cpu]", "", "backends.1: onnxruntime-cpu runs onnx files, and `exports` has none: add `onnx` to it"),
        (
            "exports: [{name: a, format: onnx}, {name: b, format: onnx}]",
            "[eager, onnxruntime-cpu]",
            "",
            "backends.1: onnxruntime-cpu runs onnx files, and `exports` has several (a, b): say which with `artifact`",
        ),
        (
            "exports: [onnx, torchscript]",
            "[eager, {backend: onnxruntime-cpu, artifact: torchscript}]",
            "",
            "backends.1.artifact: 'torchscript' is no onnx artifact of `exports`",
        ),
        ("exports: [onnx]", "[{backend: eager, artifact: onnx}]", "", "backends.0.artifact: eager runs the network itself: leave `artifact` out"),
        ("exports: [quantised, onnx]", "[eager]", "", "exports.0: quantised is made from onnx, and `exports` has none before it"),
        ("exports: [{format: onnx, from: onnx}]", "[eager]", "", "exports.0.from: 'onnx' is this artifact itself"),
        ("exports: [onnx, {name: q, format: quantised, from: onx}]", "[eager]", "", "exports.1.from: 'onx' is no artifact before this one (nearest valid: 'onnx')"),
        ("exports: [onnx]", "[eager]", "gates: {onx: {limit: 4}}\n", "gates.onx: 'onx' is not in exports (nearest valid: 'onnx')"),
        ("exports: [onnx]", "[eager]", "gates: {onnx: {}}\n", "gates.onnx: expected limit, atol with rtol, outputs or accuracy"),
        ("exports: [onnx]", "[eager]", "gates: {onnx: {limit: 4, atol: 1, rtol: 0}}\n", "gates.onnx.limit: either limit, or atol with rtol"),
        ("exports: [onnx]", "[eager]", "gates: {onnx: {outputs: {nothing: {limit: 4}}}}\n", "gates.onnx.outputs.nothing: 'nothing' is not in outputs"),
    ],
)  # fmt: skip
def test_a_muddle_is_named_where_it_stands(exports: str, backends: str, more: str, said: str) -> None:
    with pytest.raises(ConfigError):
        read(config(exports, backends, more))
    assert [line for line in problems(config(exports, backends, more)) if said in line]
