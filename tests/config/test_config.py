"""Loading a config: what it holds, what it inherits, and what is said about it when it is wrong."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

from pipeline.config import Config, Vocabulary, load, resolved
from pipeline.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]

DESIGN = """\
# configs/simplenet.yaml
name: simplenet
model:
  architecture: pipeline.architectures.simplenet:SimpleNet
  arguments: {input_size: 10, hidden_size: 20, output_size: 2}
  weights: weights/simplenet.pth        # relative to this file; or any fsspec URL (hf://, s3://, https://) with a digest
inputs:
  x: {dtype: float32, shape: [batch, 10]}      # a name is a dynamic dimension, a number a fixed one
dimensions:
  batch: {min: 1, max: 64}
outputs: [logits]
exports:
  - torchscript                          # or {format: torchscript, method: script|trace|auto}
  - onnx                                 # or {format: onnx, opset: 20, …}
backends: [eager, torchscript, onnxruntime-cpu, onnxruntime-cuda]
require: [torchscript, onnxruntime-cpu]  # these must be there and must pass
parity: {limit: 16}                      # × the noise floor; or {atol: …, rtol: …}, per output if wanted
benchmark: {reference: eager, sizes: [{batch: 1}, {batch: 32}], seconds: 20}
release: {sign: null}
"""

SHORTEST = """\
name: net
model: {architecture: "pipeline.architectures.simplenet:SimpleNet", weights: net.pth}
inputs: {x: {dtype: float32, shape: [4, 10]}}
outputs: [y]
exports: [onnx]
backends: [eager, onnxruntime-cpu, onnxruntime-cuda]
"""


class Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Onnx(Plain):
    opset: int = 20


class TorchScript(Plain):
    method: Literal["script", "trace", "auto"] = "auto"


class OnnxRuntime(BaseModel):
    """Third parties' models may be lax: unknown keys are refused all the same."""

    intra_op_num_threads: int | None = None
    level: Literal["all", "none"] | int = "all"


VOCABULARY = Vocabulary(
    formats={"onnx": Onnx, "torchscript": TorchScript, "quantised": Plain},
    backends={"eager": Plain, "torchscript": Plain, "onnxruntime-cpu": OnnxRuntime, "onnxruntime-cuda": OnnxRuntime},
    opens={"torchscript": "torchscript", "onnxruntime-cpu": "onnx", "onnxruntime-cuda": "onnx", "eager": None},
    derived={"quantised": "onnx"},
    optional=frozenset({"onnxruntime-cuda"}),
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "net.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(text: str, *overrides: str) -> Config:
    return load(write(text), overrides=overrides, vocabulary=VOCABULARY)


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return caught.value.message.splitlines()


def refusal(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, vocabulary=VOCABULARY)
    return caught.value


# --- what a config holds


def test_the_example_of_the_design_loads_as_it_is(tmp_path: Path) -> None:
    config = read(DESIGN)
    assert config.name == "simplenet"
    assert config.model.weights == str(tmp_path / "weights/simplenet.pth")
    assert config.inputs["x"].shape == ["batch", 10]
    assert config.dimensions["batch"].max == 64
    assert [each.format for each in config.exports] == ["torchscript", "onnx"]
    assert config.require == ["torchscript", "onnxruntime-cpu"]
    assert config.benchmark.sizes == [{"batch": 1}, {"batch": 32}]
    assert config.parity.limit == 16.0


def test_the_shortest_config_gets_every_default() -> None:
    config = read(SHORTEST)
    assert config.require == ["eager", "onnxruntime-cpu"]
    assert config.benchmark.reference == "eager"
    assert config.benchmark.sizes == [{}]
    assert (config.benchmark.seconds, config.benchmark.margin, config.benchmark.threads) == (40.0, 0.03, None)
    assert (config.parity.limit, config.parity.seed, config.parity.cap_elements) == (16.0, 0, 2**20)
    assert (config.limits.export_seconds, config.limits.run_seconds) == (600.0, 600.0)
    assert config.release.version is config.samples is config.model.sha256 is None


def test_cuda_backends_are_required_by_default_only_where_there_is_nothing_else() -> None:
    variant = SHORTEST.replace("onnxruntime-cuda]", "{name: fast, backend: onnxruntime-cuda}]")
    assert read(variant).require == ["eager", "onnxruntime-cpu"]
    alone = SHORTEST.replace("[eager, onnxruntime-cpu, onnxruntime-cuda]", "[onnxruntime-cuda]")
    assert read(alone, "benchmark.reference=onnxruntime-cuda").require == ["onnxruntime-cuda"]


def test_formats_and_backends_may_be_mappings_with_options() -> None:
    config = read(
        SHORTEST.replace("[onnx]", "[{format: onnx, opset: 18}]").replace(
            "onnxruntime-cuda]",
            "{name: one-thread, backend: onnxruntime-cpu, options: {intra_op_num_threads: 1}}]",
        )
    )
    assert (config.exports[0].format, config.exports[0].options) == ("onnx", {"opset": 18})
    variant = config.backends[2]
    assert (variant.name, variant.backend, variant.options) == (
        "one-thread",
        "onnxruntime-cpu",
        {"intra_op_num_threads": 1},
    )


def test_benchmark_sizes_left_out_are_the_smallest_allowed() -> None:
    text = DESIGN.replace("shape: [batch, 10]", "shape: [batch, length]").replace(
        "  batch: {min: 1, max: 64}", "  batch: {min: 1, max: 64}\n  length: {min: 10, max: 64, multiple_of: 8}"
    )
    assert read(text).benchmark.sizes == [{"length": 16, "batch": 1}, {"length": 16, "batch": 32}]
    assert read(text, "benchmark.sizes=[]").benchmark.sizes == [{"batch": 1, "length": 16}]


def test_models_are_frozen_and_survive_a_round_trip() -> None:
    config = read(DESIGN)
    with pytest.raises(ValidationError):
        config.name = "other"
    again = Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again.model_dump() == config.model_dump()
    assert again.place("name") == "config"


def test_the_input_kinds_of_real_networks_load() -> None:
    config = read(
        SHORTEST.replace(
            "{x: {dtype: float32, shape: [4, 10]}}",
            "{ids: {dtype: int64, shape: [1, 8], low: 0, high: 30522}, mask: {dtype: int64, shape: [1, 8], values: mask},"
            " state: {dtype: float32, shape: [], values: zeros}, flag: {dtype: bool, shape: [1]},"
            " wave: {dtype: float32, shape: [1], low: -1.0, high: 1.0, values: uniform},"
            " pixels: {dtype: uint8, shape: [3], low: 0, high: 256}}",
        )
    )
    assert (config.inputs["ids"].low, config.inputs["ids"].high) == (0, 30522)
    assert list(config.inputs) == ["ids", "mask", "state", "flag", "wave", "pixels"]


def test_digests_are_lower_case_hex() -> None:
    assert read(SHORTEST, f"model.sha256={'AB' * 32}").model.sha256 == "ab" * 32
    [line] = problems(SHORTEST, "model.sha256=abc")
    assert line == "--set model.sha256=abc: model.sha256: expected 64 hexadecimal digits, given the text 'abc'"


def test_a_digest_of_digits_only_given_on_the_command_line_stays_a_text() -> None:
    assert read(SHORTEST, f"model.sha256='{'1' * 64}'").model.sha256 == "1" * 64


# --- places


def test_place_names_the_value_or_its_nearest_written_parent() -> None:
    config = read(DESIGN, "parity.seed=3")
    assert config.place("model.arguments.hidden_size") == "net.yaml:5:44"
    assert config.place("inputs.x.shape.1") == "net.yaml:8:38"
    assert config.place("parity.cap_elements") == "net.yaml:17:9"
    assert config.place("limits.run_seconds") == "net.yaml:2:1"
    assert config.place("parity.seed") == "--set parity.seed=3"


def test_places_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SHORTEST, "configs/net.yaml").absolute()
    assert load(path, vocabulary=VOCABULARY).place("name") == "configs/net.yaml:1:7"
    monkeypatch.chdir(tmp_path / "configs")
    assert load(Path("../configs/net.yaml"), vocabulary=VOCABULARY).place("name") == "../configs/net.yaml:1:7"


# --- extends, overrides, references


def test_an_extending_config_overrides_keys_and_replaces_lists(tmp_path: Path) -> None:
    write(DESIGN, "base/simplenet.yaml")
    config = read(
        "extends: base/simplenet.yaml\nname: small\nmodel: {arguments: {hidden_size: 5}}\n"
        "exports: [onnx]\nbackends: [onnxruntime-cpu]\nrequire: [onnxruntime-cpu]\n"
        "benchmark: {reference: onnxruntime-cpu}\n"
    )
    assert config.name == "small"
    assert config.model.arguments == {"input_size": 10, "hidden_size": 5, "output_size": 2}
    assert [each.format for each in config.exports] == ["onnx"]
    assert config.place("model.arguments.hidden_size") == "net.yaml:3:34"
    assert config.place("model.arguments.input_size") == "base/simplenet.yaml:5:27"
    assert config.place("exports.1") == "net.yaml:4:10"
    assert config.model.weights == str(tmp_path / "base/weights/simplenet.pth")


def test_paths_are_relative_to_the_file_or_shell_that_gave_them(tmp_path: Path) -> None:
    write(SHORTEST, "base/net.yaml")
    write("extends: ../base/net.yaml\nmodel: {weights: w.pth}\nsamples: s.npz\n", "own/net.yaml")
    config = load(Path("own/net.yaml"), vocabulary=VOCABULARY)
    assert (config.model.weights, config.samples) == (str(tmp_path / "own/w.pth"), str(tmp_path / "own/s.npz"))
    given = load(Path("own/net.yaml"), overrides=["model.weights=x.pth"], vocabulary=VOCABULARY)
    assert given.model.weights == str(tmp_path / "x.pth")


def test_a_weights_link_keeps_its_own_name(tmp_path: Path) -> None:
    Path("blob").write_bytes(b"")
    Path("net.pth").symlink_to("blob")
    assert read(SHORTEST).model.weights == str(tmp_path / "net.pth")


def test_remote_weights_stay_a_url_and_need_a_digest() -> None:
    url = "https://example.org/a/net.pth"
    assert read(SHORTEST, f"model.weights={url}", f"model.sha256={'0a' * 32}").model.weights == url
    [line] = problems(SHORTEST, f"model.weights={url}")
    assert "model.weights: a URL needs model.sha256" in line


def test_extends_in_a_circle_is_refused() -> None:
    write("extends: net.yaml\n", "other.yaml")
    [line] = problems("extends: other.yaml\n")
    assert line == "other.yaml: extends goes in a circle: net.yaml → other.yaml → net.yaml"


def test_a_chain_of_extends_has_a_limit() -> None:
    for index in range(12):
        write(f"extends: {index + 1}.yaml\n", f"{index}.yaml")
    assert "more than 8 files" in refusal(Path("0.yaml")).message


def test_a_missing_extended_file_is_placed_and_its_neighbours_listed() -> None:
    write(DESIGN, "base.yaml")
    [line] = problems("name: a\nextends: bse.yaml\n")
    assert line.startswith("net.yaml:2:10: extends: there is no file bse.yaml; . holds base.yaml, net.yaml")
    assert line.endswith("(nearest valid: 'base.yaml')")


def test_a_placeholder_must_be_given() -> None:
    template = SHORTEST.replace("name: net", "name: ???")
    assert problems(template)[0].startswith("net.yaml:1:7: name: must be given")
    assert read(template, "name=given").name == "given"


def test_overrides_take_yaml_values_and_list_indices() -> None:
    config = read(
        DESIGN, "model.arguments.hidden_size=30", "inputs.x.shape.1=12", "dimensions={batch: {max: 32}}", "samples=null"
    )
    assert config.model.arguments["hidden_size"] == 30
    assert config.inputs["x"].shape == ["batch", 12]
    assert (config.dimensions["batch"].min, config.dimensions["batch"].max) == (1, 32)


def test_an_override_that_looks_like_a_number_can_be_a_text() -> None:
    assert read(SHORTEST, "release.version=1.0").release.version == "1.0"
    [line] = problems(SHORTEST + "release: {version: 1.0}\n")
    assert line == "net.yaml:7:20: release.version: expected a text; quote it, given the number 1.0"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("name", "--set name: not of the form key.path=value"),
        ("=1", "--set =1: not of the form key.path=value"),
        ("a..b=1", "--set a..b=1: not of the form key.path=value"),
        ("extends=x.yaml", "--set extends=x.yaml: extends can only stand in a file"),
        ("outputs.7=y", "--set outputs.7=y: there is no list item '7'"),
        ("outputs.x=y", "--set outputs.x=y: there is no list item 'x'"),
        ("exports.0.opset=18", "--set exports.0.opset=18: exports.0 is the text 'onnx', not a mapping"),
        ("name=[", "--set name=[: not valid YAML"),
        ("name=!!python/object:os.system x", "cannot be read as !!python/object:os.system"),
        ("name=\udcff", "--set name=\\udcff: not valid YAML: unacceptable character"),
    ],
)
def test_a_malformed_override_is_refused_by_name(override: str, said: str) -> None:
    assert said in problems(SHORTEST, override)[0]


def test_references_to_keys_and_the_environment_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADS", "3")
    monkeypatch.setenv("VERSION", "1.10")
    config = read(
        DESIGN.replace("sizes: [{batch: 1}, {batch: 32}]", "sizes: [{batch: '${dimensions.batch.max}'}]"),
        "benchmark.threads=${oc.env:THREADS}",
        "release.version=${oc.env:VERSION}",
        "release.description=for ${name} ${release.version}, ${oc.env:NOWHERE,nowhere}",
    )
    assert config.benchmark.sizes == [{"batch": 64}]
    assert config.benchmark.threads == 3
    assert config.release.version == "1.10"
    assert config.release.description == "for simplenet 1.10, nowhere"


def test_a_default_is_taken_as_it_is_written_and_null_is_nothing() -> None:
    config = read(
        SHORTEST, "release.version=${oc.env:NOWHERE,1.10}", "benchmark.threads=${oc.env:NOWHERE,007}",
        "release.sign=${oc.env:NOWHERE,null}", "release.license=${release.version}", "parity.seed=${benchmark.threads}",
    )  # fmt: skip
    assert (config.release.version, config.benchmark.threads, config.release.sign) == ("1.10", 7, None)
    assert (config.release.license, config.parity.seed) == ("1.10", 7)


def test_a_text_that_only_becomes_question_marks_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSURE", "???")
    config = read(SHORTEST, "release.license=${oc.env:UNSURE}", "release.description=${release.license}")
    assert (config.release.license, config.release.description) == ("???", "???")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${oc.env:NOWHERE}", "environment variable NOWHERE is not set"),
        ("${nmae}", "${nmae}: there is no key 'nmae' (nearest valid: 'name')"),
        ("${model}", "${model} is a mapping, and only single values"),
        ("${release.description}", "${…} goes in a circle: release.description → release.description"),
        ("${oc.decode:1}", "only ${key.path}, ${oc.env:VARIABLE}"),
        ("${oc.create:{a: 1}}", "only ${key.path}"),
        ("${a${b}}", "only ${key.path}"),
        ("${.license}", "only ${key.path}"),
        ("${", "only ${key.path}"),
        ("\\${name}", "only ${key.path}"),
        ("${outputs.99999999999999999999}", "there is no key"),
    ],
)
def test_a_reference_that_cannot_be_filled_in_is_placed(value: str, said: str) -> None:
    lines = problems(f"{SHORTEST}release:\n  description: '{value}'\nlimits: {{runseconds: 1}}\n")
    assert lines[0].startswith("net.yaml:8:16: release.description: ")
    assert said in lines[0]
    assert lines[1] == "net.yaml:9:10: limits.runseconds: unknown key (nearest valid: 'run_seconds')"


def test_references_cannot_grow_without_measure() -> None:
    doubling = "".join(
        f"  a{index}: '${{model.arguments.a{index + 1}}}${{model.arguments.a{index + 1}}}'\n" for index in range(25)
    )
    text = SHORTEST.replace(
        'model: {architecture: "pipeline.architectures.simplenet:SimpleNet", weights: net.pth}',
        f"model:\n architecture: a.b:C\n weights: w\n arguments:\n{doubling}  a25: end\n",
    )
    # 2^25 times the shortest would not fit into memory.
    assert any("longer than 65536 characters" in line for line in problems(text))


def test_the_environment_is_not_read_for_more_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERSION", "${oc.env:HOME}")
    assert "holds what a config value cannot" in problems(SHORTEST, "release.version=${oc.env:VERSION}")[0]


# --- what is said about a wrong config


def test_every_problem_is_listed_at_once_in_order_with_its_place() -> None:
    lines = problems(
        DESIGN.replace("hidden_size: 20", "hidden_size: 20")
        .replace("name: simplenet", "name: Simple Net")
        .replace("dtype: float32", "dtype: flaot32")
        .replace("limit: 16", "limt: 16")
        .replace("seconds: 20", "seconds: soon")
        .replace("- onnx ", "- onx ")
        .replace("require: [torchscript,", "require: [torchscrip,"),
        "modle.weights=x",
    )
    assert lines == [
        "net.yaml:2:7: name: expected lower-case letters, digits, '.', '_' and '-', given the text 'Simple Net'",
        "net.yaml:8:14: inputs.x.dtype: the text 'flaot32' is not valid (nearest valid: 'float32')",
        "net.yaml:14:5: exports.1: unknown format 'onx' (nearest valid: 'onnx')",
        "net.yaml:16:11: require.0: 'torchscrip' is not in backends (nearest valid: 'torchscript')",
        "net.yaml:17:10: parity.limt: unknown key (nearest valid: 'limit')",
        "net.yaml:18:74: benchmark.seconds: expected a number, given the text 'soon'",
        "--set modle.weights=x: modle: unknown key (nearest valid: 'model')",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[batch, 10]", "[bach, 10]", "net.yaml:8:31: inputs.x.shape.0: 'bach' is not in dimensions (nearest valid: 'batch')"),
        ("[batch, 10]", "[1, 10]", "net.yaml:10:3: dimensions.batch: no input has a dimension 'batch'"),
        ("[batch, 10]", "[batch, 0]", "inputs.x.shape.1: expected a size from 1 to 2147483647, given the number 0"),
        ("[batch, 10]", "[batch, 1.5]", "inputs.x.shape.1: expected a size or a dimension's name, given the number 1.5"),
        ("[batch, 10]", "[batch, true]", "inputs.x.shape.1: expected a size or a dimension's name, given true"),
        ("dtype: float32", "dtype: int64", "inputs.x.dtype: int64 inputs need low and high"),
        ("dtype: float32", "dtype: int8, low: 0, high: 129", "inputs.x.high: 129 is outside int8, which holds -128 to 127"),
        ("dtype: float32", "dtype: int8, low: 0, high: 1.5", "inputs.x.high: expected an integer, given the number 1.5"),
        ("dtype: float32", "dtype: float32, low: 2, high: 1", "inputs.x.high: 1 is not above low, which is 2"),
        ("dtype: float32", "dtype: float32, low: 2", "inputs.x.high: is missing: low is given"),
        ("dtype: float32", "dtype: float32, low: '2'", "inputs.x.low: expected a number, given the text '2'"),
        ("dtype: float32", "dtype: bool, low: 0, high: 1", "inputs.x.low: a bool has no range"),
        ("dtype: float32", "dtype: float32, scale: 0", "inputs.x.scale: should be greater than 0, given the number 0"),
        ("  x: {", "  x y: {", "net.yaml:8:3: inputs.x y: 'x y' is not a name"),
        ("{min: 1, max: 64}", "{min: 65, max: 64}", "dimensions.batch.max: 64 is below min, which is 65"),
        ("{min: 1, max: 64}", "{min: 9, max: 15, multiple_of: 8}", "dimensions.batch.multiple_of: no multiple of 8 lies"),
        ("{min: 1, max: 64}", "{min: 1}", "net.yaml:10:10: dimensions.batch.max: is missing"),
        ("{batch: 32}", "{batch: 65}", "benchmark.sizes.1.batch: 65 is outside batch, which goes from 1 to 64"),
        ("{batch: 32}", "{bacth: 32}", "benchmark.sizes.1.bacth: 'bacth' is not in dimensions (nearest valid: 'batch')"),
        ("reference: eager", "reference: eagre", "benchmark.reference: 'eagre' is not in backends (nearest valid: 'eager')"),
        ("backends: [eager,", "backends: [", "benchmark.reference: 'eager' is not in backends"),
        ("[eager, torch", "[eager, eager, torch", "net.yaml:15:19: backends.1: 2 backends are named 'eager'"),
        ("[eager, torch", "[egaer, eager, torch", "backends.0: unknown backend 'egaer' (nearest valid: 'eager')"),
        ("[eager, torch", "[{name: a}, eager, torch", "net.yaml:15:12: backends.0.backend: is missing"),
        ("[eager, torch", "[5, eager, torch", "net.yaml:15:12: backends.0: expected a mapping, given the number 5"),
        ("require: [torchscript,", "require: [onnxruntime-cpu,", "require.1: 'onnxruntime-cpu' is already there"),
        ("outputs: [logits]", "outputs: [logits, logits]", "net.yaml:11:19: outputs.1: 'logits' is already there"),
        ("outputs: [logits]", "outputs: []", "net.yaml:11:10: outputs: expected at least 1, given a list"),
        ("{limit: 16}", "{limit: 16, outputs: {logit: {limit: 2}}}", "parity.outputs.logit: 'logit' is not in outputs"),
        ("{limit: 16}", "{outputs: {logits: {}}}", "parity.outputs.logits: expected limit, or atol with rtol"),
        ("{limit: 16}", "{atol: 0.1}", "parity.atol: goes with rtol, which is missing"),
        ("{limit: 16}", "{limit: 16, atol: 0, rtol: 0.1}", "parity.limit: either limit, or atol with rtol"),
        ("{limit: 16}", "{limit: .inf}", "'.inf' cannot be read as !!float: not a finite number"),
        ("{limit: 16}", "nothing", "net.yaml:17:9: parity: expected a mapping, given the text 'nothing'"),
        ("- onnx ", "- {format: onnx, opste: 20} ", "net.yaml:14:20: exports.1.opste: unknown key (nearest valid: 'opset')"),
        ("- onnx ", "- {format: onnx, opset: new} ", "net.yaml:14:27: exports.1.opset: expected an integer, given the text 'new'"),
        ("- onnx ", "- {fromat: onnx} ", "exports.1.format: is missing"),
        ("{sign: null}", "{sing: null}", "net.yaml:19:11: release.sing: unknown key (nearest valid: 'sign')"),
        ("release:", "samples: x.txt\nrelease:", "samples: expected a .npz or .safetensors file"),
        (":SimpleNet\n", "\n", "expected package.module:Class"),
        ("outputs: [logits]", "outputs: [x]", "net.yaml:11:11: outputs.0: 'x' is the name of an input too"),
        ("outputs: [logits]", "outputs: {logits: 1.5}", "net.yaml:11:19: outputs.logits: expected a text"),
        ("outputs: [logits]", "outputs: {}", "net.yaml:11:10: outputs: expected at least 1"),
        ("outputs: [logits]", "constants: {x: 1}\noutputs: [logits]", "constants.x: 'x' is an input already"),
        ("outputs: [logits]", "constants: {a b: 1}\noutputs: [logits]", "constants.a b: 'a b' is not a name"),
        ("  batch: {min", "  other: batch + n\n  batch: {min", "dimensions.other: expected the names of other dimensions: 'n' is not in"),
        ("  batch: {min", "  other: other + batch\n  batch: {min", "dimensions.other: goes in a circle: other → other"),
        ("  batch: {min", "  other: batch / 2\n  batch: {min", "dimensions.other: 'batch / 2' holds 'batch / 2', and sizes are made of"),
        ("  batch: {min", "  other: batch - 1\n  batch: {min", "dimensions.other: no input has a dimension 'other'"),
        ("  batch: {min", "  other: {formula: batch + 1, max: 4}\n  batch: {min", "dimensions.other.max: a size that follows from others has no range"),
        ("  batch: {min", "  other: 2 - batch\n  batch: {min", "dimensions.other: can be -62 to 1, and a size is not below 0"),
        ("  batch: {min", "  other: ''\n  batch: {min", "dimensions.other: '' is no formula"),
        ("  x: {", "  x.0: {dtype: float32, shape: [2]}\n  x: {", "inputs.x.0: 'x' is a tensor, and cannot hold others as well"),
        ("  x: {", "  y.1: {dtype: float32, shape: [2]}\n  x: {", "inputs.y.1: the positions in 'y' are not 0 to 0"),
        ("  x: {", "  y: [{dtype: flaot32, shape: [2]}]\n  x: {", "net.yaml:8:15: inputs.y.0.dtype: the text 'flaot32' is not valid"),
        ("  x: {", "  y: {a: {b: {dtype: float32, shpae: [2]}}}\n  x: {", "inputs.y.a.b.shpae: unknown key (nearest valid: 'shape')"),
        ("  x: {", "  y: {a_b: {dtype: float32, shape: []}, a: {b: {dtype: float32, shape: []}}}\n  x: {", "would both be 'y_a_b' in an exported file"),
        ("release:", "reference: x.txt\nrelease:", "reference.file: expected a .npz or .safetensors file"),
        ("release:", "reference: {file: x.npz, atol: 1}\nrelease:", "reference.atol: goes with rtol, which is missing"),
        (":SimpleNet\n", ":SimpleNet\n  rename: {h: layers.*}\n", "model.rename: 'layers.*' has more * than 'h'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_would_be_right(old: str, new: str, said: str) -> None:
    assert old in DESIGN
    assert any(said in line for line in problems(DESIGN.replace(old, new, 1))), problems(DESIGN.replace(old, new, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{intra_op_num_thread: 1}", "backends.1.options.intra_op_num_thread: unknown key (nearest valid: 'intra_op_num_threads')"),
        ("{intra_op_num_threads: x}", "backends.1.options.intra_op_num_threads: "),
        ("{level: some}", "backends.1.options.level: "),
        ("[]", "backends.1.options: expected a mapping, given a list"),
    ],
)  # fmt: skip
def test_options_of_a_backend_are_held_against_its_model(options: str, said: str) -> None:
    variant = f"[eager, {{name: a, backend: onnxruntime-cpu, options: {options}}}]"
    [line] = problems(SHORTEST.replace("[eager, onnxruntime-cpu, onnxruntime-cuda]", variant))
    assert said in line


def test_missing_keys_are_listed_at_the_mapping_that_lacks_them() -> None:
    lines = problems("name: a\nmodel: {weights: w}\n")
    assert "net.yaml:2:8: model.architecture: is missing" in lines
    assert [line.split(": ")[1] for line in lines if line.startswith("net.yaml:1:1")] == [
        "inputs", "outputs", "exports", "backends",
    ]  # fmt: skip


# --- files that are no configs


def test_a_missing_config_lists_its_neighbours() -> None:
    write(SHORTEST, "configs/simplenet.yaml")
    write(SHORTEST, "configs/resnet.yaml")
    said = refusal(Path("configs/simplnet.yaml")).message
    assert said == (
        "there is no file configs/simplnet.yaml; configs holds resnet.yaml, simplenet.yaml (nearest valid: 'simplenet.yaml')"
    )
    assert "there is no folder config either" in refusal(Path("config/simplenet.yaml")).message


def test_a_weights_file_given_as_config_points_to_inspect() -> None:
    error = refusal(Path("model.pth"))
    assert error.message == "model.pth is a weights file, not a config"
    assert error.hint == "weighbridge inspect model.pth"
    assert error.exit_code == 2


def test_folders_and_unreadable_and_foreign_files_are_refused() -> None:
    write(SHORTEST, "folder/a.yaml")
    error = refusal(Path("folder"))
    assert "folder is a folder" in error.message
    assert "a.yaml" in str(error.hint)
    Path("latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    assert refusal(Path("latin.yaml")).message == "latin.yaml is not UTF-8 text: byte 9 cannot be read"
    Path("big.yaml").write_bytes(b"#" * (2**20 + 1))
    assert "big.yaml has 1048577 bytes, the limit is 1048576" in refusal(Path("big.yaml")).message
    os.mkfifo("pipe.yaml")
    assert "there is no file pipe.yaml" in refusal(Path("pipe.yaml")).message
    Path("loop.yaml").symlink_to("loop.yaml")
    assert "loop.yaml" in refusal(Path("loop.yaml")).message
    assert "cannot be read" in refusal(Path("x" * 300 + ".yaml")).message
    assert refusal(write("", "empty.yaml")).message == "empty.yaml is empty"
    assert refusal(write("# nothing\n", "empty.yaml")).message == "empty.yaml is empty"


def test_a_byte_order_mark_is_allowed() -> None:
    Path("bom.yaml").write_bytes(b"\xef\xbb\xbf" + SHORTEST.encode())
    assert load(Path("bom.yaml"), vocabulary=VOCABULARY).place("name") == "bom.yaml:1:7"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "net.yaml:1:1: expected a mapping of keys, given a list"),
        ("name: a\nname: b", "net.yaml:2:1: key 'name' is already there at line 1"),
        ("name: [a\nb: c", "net.yaml:2:2: not valid YAML"),
        ("name: a\x01", "net.yaml:1:8: not valid YAML: unacceptable character"),
        (
            "name: !!python/object/apply:os.system [id]",
            "net.yaml:1:7: tag !!python/object/apply:os.system is not allowed",
        ),
        ("name: !!python/name:os.system x", "net.yaml:1:7: "),
        ("name: !evil x", "'x' cannot be read as !evil"),
        ("name: !!int x", "'x' cannot be read as !!int"),
        ("name: !!set {a, b}", "tag !!set is not allowed"),
        ("5: a", "net.yaml:1:1: a key must be a text, given the number 5"),
        ("[a]: b", "net.yaml:1:1: a key must be a text, given a list"),
        ("a: &x {b: 1}\n<<: *x", "net.yaml:2:1: merge keys (<<) are not supported: use extends"),
        ("a: *x", "found undefined alias"),
        ("a: &x [*x]", "aliases (*name) expand without end"),
        ("a: " + "[" * 60, "net.yaml:1:35: nested deeper than 32 levels"),
        ("? " * 5000, "nested deeper than 32 levels"),
        ("a: [" + "1," * 50_000 + "]", "more than 20000 values"),
        ("a: " + "9" * 40, "too long a number"),
        ("a: 99999999999999999999", "beyond 64 bits"),
        ('a: "\\ud800"', "surrogates not allowed"),
        ("a: b\n---\nc: d", "expected a single document"),
        ("%YAML 1.1\n---\na: yes", "'yes' cannot be read as !!bool"),
    ],
)
def test_hostile_or_broken_yaml_is_refused_with_its_place(text: str, said: str) -> None:
    assert said in problems(text)[0]


def test_a_billion_laughs_are_refused_quickly() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
    )
    assert "aliases" in problems(text)[0]  # written out, it would not fit into memory


def test_a_modest_alias_is_fine() -> None:
    assert read(SHORTEST.replace("[y]", "[&y y]") + "release: {description: *y}\n").release.description == "y"


# --- the recorded form


def test_the_recorded_form_holds_no_folder_key_or_time_limit(tmp_path: Path) -> None:
    plain = resolved(read(DESIGN, "samples=real/in.npz", "release.sign=/keys/me.pem"))
    text = json.dumps(plain, sort_keys=True)
    assert str(tmp_path) not in text
    assert "me.pem" not in text
    assert "run_seconds" not in text
    assert (plain["model"]["weights"], plain["samples"]) == ("simplenet.pth", "in.npz")
    assert "beside" not in plain["release"]  # as in releases of before


def test_files_beside_the_network_are_found_from_the_config_and_told_by_name(tmp_path: Path) -> None:
    write(SHORTEST + "release: {beside: [bert/vocab.txt]}\n", "own/net.yaml")
    config = load(Path("own/net.yaml"), vocabulary=VOCABULARY)
    assert config.release.beside == [str(tmp_path / "own/bert/vocab.txt")]
    assert resolved(config)["release"]["beside"] == ["vocab.txt"]


def test_the_recorded_form_is_the_same_from_any_folder_and_differs_with_any_value() -> None:
    write(DESIGN, "elsewhere/other.yaml")
    base = resolved(read(DESIGN))
    assert resolved(load(Path("elsewhere/other.yaml"), vocabulary=VOCABULARY)) == base
    assert resolved(read(DESIGN, "model.arguments.hidden_size=21")) != base
    assert resolved(read(DESIGN, "parity.limit=16.0")) == base


def test_the_recorded_form_of_a_url_keeps_no_query() -> None:
    config = read(SHORTEST, "model.weights=https://example.org/a/net.pth?token=secret", f"model.sha256={'0a' * 32}")
    assert resolved(config)["model"]["weights"] == "net.pth"


def test_the_order_of_inputs_survives_sorted_keys() -> None:
    two = "{dtype: float32, shape: [1]}"
    first = SHORTEST.replace("{x: {dtype: float32, shape: [4, 10]}}", f"{{a: {two}, b: {two}}}")
    second = SHORTEST.replace("{x: {dtype: float32, shape: [4, 10]}}", f"{{b: {two}, a: {two}}}")
    assert json.dumps(resolved(read(first)), sort_keys=True) != json.dumps(resolved(read(second)), sort_keys=True)


# --- speed, and whatever else may come


def test_importing_leaves_the_parsers_out() -> None:
    script = "import sys; import pipeline.config;print(sorted({'ruamel.yaml', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(below for key, item in items for below in _paths(item, (*path, key)))]


VALID = YAML(typ="safe", pure=True).load(DESIGN)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["${name}", "${oc.env:HOME}", "${", "???", "-", "*x", "!!int 5", "<<", "onnx", "eager", "batch"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(path=st.sampled_from(_paths(VALID)[1:]), value=VALUES, delete=st.booleans(), extra=st.text(max_size=8))
def test_any_mutation_of_a_valid_config_loads_or_is_a_config_error(
    path: tuple[str | int, ...], value: Any, delete: bool, extra: str
) -> None:
    tree = copy.deepcopy(VALID)
    parent = tree
    for part in path[:-1]:
        parent = parent[part]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
        if isinstance(parent, dict) and extra:
            parent[extra] = value
    # JSON is YAML, and quotes whatever needs it.
    _loads_or_config_error(json.dumps(tree))


@QUIET
@given(
    start=st.integers(0, len(DESIGN)), length=st.integers(0, 12), text=st.text(st.characters(codec="utf-8"), max_size=6)
)
def test_any_edit_of_the_text_loads_or_is_a_config_error(start: int, length: int, text: str) -> None:
    _loads_or_config_error(DESIGN[:start] + text + DESIGN[start + length :])


@QUIET
@given(
    key=st.sampled_from([".".join(map(str, path)) for path in _paths(VALID)[1:]]) | st.text(max_size=12),
    value=st.text(max_size=12)
    | st.sampled_from(["[]", "{}", "null", "${oc.env:HOME}", "&a [*a]", "1e999", "0x", "=", "- -"]),
)
def test_any_override_loads_or_is_a_config_error(key: str, value: str) -> None:
    _loads_or_config_error(DESIGN, f"{key}={value}")


def _loads_or_config_error(text: str, *overrides: str) -> None:
    path = Path("mutant.yaml")
    path.write_bytes(text.encode())
    try:
        config = load(path, overrides=overrides, vocabulary=VOCABULARY)
    except ConfigError as error:
        assert error.message  # noqa: PT017 - either outcome is right
        assert re.match(r"mutant\.yaml|--set ", error.message)  # noqa: PT017 - and an error says where
    else:
        json.dumps(resolved(config), allow_nan=False)


GROWN = """\
name: step
model: {architecture: pipeline.architectures.simplenet:SimpleNet, weights: step.pth, call: decode}
inputs:
  ids: {dtype: int64, shape: [batch, new], low: 0, high: 9}
  past:
    - {key: {dtype: float32, shape: [batch, past, 4]}, value: {dtype: float32, shape: [batch, past, 4]}}
    - key: {dtype: float32, shape: [batch, past, 4]}
      value: {dtype: float32, shape: [batch, past, 4], scale: "${oc.env:WB_SCALE}"}
  mask: {dtype: int64, shape: [batch, total], values: mask}
constants: {use_cache: true, kind: greedy}
dimensions: {batch: {max: 4}, past: {min: 0, max: 8}, new: {max: 3}, total: past + new}
outputs: {logits: 0, new_past.0.key: past.0.key}
exports: [onnx]
backends: [eager, onnxruntime-cpu]
benchmark: {sizes: [{past: 8}]}
reference: {file: recorded.npz, atol: 1.0e-3, rtol: 0}
"""


def test_nested_inputs_formulas_constants_and_places_of_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WB_SCALE", "0.5")
    file = tmp_path / "step.yaml"
    file.write_text(GROWN)
    config = load(file, overrides=["inputs.past.0.value.scale=2"], vocabulary=VOCABULARY)
    names = ["ids", *(f"past.{index}.{name}" for index in (0, 1) for name in ("key", "value")), "mask"]
    assert list(config.inputs) == names
    assert config.inputs["past.1.key"].shape == ["batch", "past", 4]
    assert (config.inputs["past.0.value"].scale, config.inputs["past.1.value"].scale) == (2, 0.5)
    assert (config.model.call, config.constants) == ("decode", {"use_cache": True, "kind": "greedy"})
    assert config.dimensions["total"].formula == "past + new"
    assert (config.outputs, config.output_paths) == (
        ["logits", "new_past.0.key"],
        {"logits": "0", "new_past.0.key": "past.0.key"},
    )
    assert config.reference is not None
    assert config.reference.file == str(tmp_path / "recorded.npz")
    # What follows from other sizes is left out, and nothing is timed on an empty input by itself.
    assert config.benchmark.sizes == [{"batch": 1, "past": 8, "new": 1}]
    plain = resolved(config)
    assert plain["reference"]["file"] == "recorded.npz"
    assert str(tmp_path) not in json.dumps(plain)
    place = config.place("inputs.past.1.key.shape")
    assert place.startswith("step.yaml:7:")


def test_a_size_that_follows_is_not_timed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WB_SCALE", "1")
    file = tmp_path / "step.yaml"
    file.write_text(GROWN.replace("{past: 8}", "{total: 8}"))
    with pytest.raises(ConfigError, match=r"benchmark\.sizes\.0\.total: total follows from others, as past \+ new"):
        load(file, vocabulary=VOCABULARY)
