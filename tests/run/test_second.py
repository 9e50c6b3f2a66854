"""A wrong file is made by its format's other way before a gate closes on it; what neither way gives is refused with both reasons."""

from __future__ import annotations

import torch

from pipeline.run.parity import Request, parity
from pipeline.run.plan import Settings
from pipeline.worker.inprocess import InProcessRunner
from tests.formats import networks

CONFIG = """
name: tried
model: {{architecture: "tests.formats.networks:{network}", weights: tried.pth}}
inputs:
  x: {{dtype: float32, shape: [batch, 4]}}
dimensions: {{batch: {{min: 1, max: 8}}}}
outputs: [y]
exports: [torchscript, onnx]
backends: [torchscript, onnxruntime-cpu]
benchmark: {{reference: torchscript}}
"""


def judged(network, folder):
    """Return parity.json of a network of which both formats are made as they like best."""
    torch.save(networks.made(network).state_dict(), folder / "tried.pth")
    config = folder / "tried.yaml"
    config.write_text(CONFIG.format(network=type(network).__name__))
    settings = Settings(out=folder / "out", trust=("tests.formats",), benchmark=False, runner=InProcessRunner())
    return parity(config, settings, Request())


def test_where_the_first_way_is_wrong_the_second_is_taken_and_says_so(tmp_path):
    found = judged(networks.Twofold(), tmp_path)
    assert found.passed
    for each, first in zip(found.exports, ("script", "export"), strict=True):
        assert each.facts["method"] == "trace"
        assert f"the file by `method: {first}` was wrong" in each.notes[0]
        assert "output 'y' in case" in each.notes[0]
        assert each.audit is not None
        assert each.audit.passed


def test_where_no_way_is_right_the_artifact_is_refused_with_the_line_and_what_the_file_does(tmp_path):
    found = judged(networks.Signed(), tmp_path)
    verdicts = {each.name: each for each in found.backends}
    assert verdicts["torchscript"].status == "pass"
    refused = verdicts["onnxruntime-cpu"]
    assert refused.status == "unavailable"
    assert "if x.sum() > 0" in (refused.reason or "")
    assert "`method: trace`: its file is wrong: output 'y'" in (refused.reason or "")
