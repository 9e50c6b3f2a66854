"""Two backends that run the network itself: eager, and one that compiles it. Captured only, which needs no C++ compiler."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.errors import UnavailableError
from pipeline.formats import inductor
from pipeline.release import bundle
from pipeline.release.load import load_release

pytestmark = pytest.mark.skipif(bool(inductor.probe(with_python=True)), reason=str(inductor.probe(with_python=True)))

CONFIG = """
name: twice
model: {{architecture: "networks_of_twice:{network}", weights: weights.pth}}
inputs:
  x: {{dtype: float32, shape: [batch, 4]}}
dimensions: {{batch: {{min: 1, max: 16}}}}
outputs: [y]
exports: [onnx]
backends: [eager, onnxruntime-cpu, {{name: captured, backend: torch-compile, options: {{compiler: eager}}}}]
require: [onnxruntime-cpu, captured]
"""
NETWORKS = """
import torch

class Same(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

class Otherwise(Same):
    def forward(self, x):
        y = super().forward(x)
        return y + torch.sin(3 * x).sum(1, keepdim=True) if torch.compiler.is_dynamo_compiling() else y
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "networks_of_twice.py").write_text(NETWORKS)
    (tmp_path / "pyproject.toml").write_text('[tool.weighbridge]\ntrust = ["networks_of_twice"]\n')
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "weights.pth")

    def written(network):
        path = tmp_path / f"{network}.yaml"
        path.write_text(CONFIG.format(network=network))
        return path

    return written


@pytest.mark.slow
def test_a_network_that_is_compiled_is_proven_and_timed_and_no_file_of_it_is_released(config, weighbridge, tmp_path):
    path = config("Same")
    done = weighbridge("export", path, "--no-benchmark", "--json")
    assert done.code == 0, done.err
    release = bundle.find(tmp_path / "artifacts" / "twice")
    manifest = json.loads((release / "manifest.json").read_text())
    assert manifest["backends"]["captured"]["format"] is None
    assert [each["format"] for each in manifest["models"]] == ["onnx"]
    proven = json.loads((release / "report" / "parity.json").read_text())["backends"]
    facts = next(each["facts"] for each in proven if each["name"] == "captured")
    assert facts["graphs"] == 2
    assert facts["graph_breaks"] == 0
    assert load_release(release).backend == "onnxruntime-cpu"
    with pytest.raises(UnavailableError, match="captured runs the network itself"):
        load_release(release, backend="captured")
    assert weighbridge("verify", release).code == 0
    assert weighbridge("verify", release, "--against", path).code == 0
    assert weighbridge("compare", release, release).code == 0


@pytest.mark.slow
def test_one_that_computes_something_else_when_it_is_compiled_closes_the_gate_and_the_line_is_named(
    config, weighbridge
):
    path = config("Otherwise")
    assert weighbridge("export", path, "--no-benchmark").failed_with(1, "captured", "left its error budget")
    done = weighbridge("parity", path, "--explain", "--json")
    assert done.code == 1
    told = next(each for each in json.loads(done.out)["explanations"] if each["backend"] == "captured")
    assert any("networks_of_twice.py:11" in each for each in told["causes"]), told
