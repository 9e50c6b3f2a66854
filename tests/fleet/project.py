"""A project as a user has it: a package of networks below src, a config that extends another one, and files beside both."""

from __future__ import annotations

import torch

NETWORK = """
import torch
from mynets.helper import width


class Net(torch.nn.Module):
    def __init__(self, inputs: int = 4):
        super().__init__()
        self.fc = torch.nn.Linear(inputs, width())

    def forward(self, x):
        return self.fc(x)
"""
BASE = """
model: {architecture: "mynets.net:Net", weights: ../data/net.pth}
inputs: {x: {dtype: float32, shape: [batch, 4]}}
dimensions: {batch: {min: 1, max: 8}}
outputs: [y]
exports: [onnx]
backends: [eager, onnxruntime-cpu]
require: [onnxruntime-cpu]
"""
CONFIG = """
extends: ../base/base.yaml
name: net
describe: {y: {labels: ../data/labels.txt}}
release: {beside: [../data/README.txt]}
parity: {seed: "${oc.env:MYSEED}"}
"""


def written(root):
    """Write the project below `root`; return its config."""
    files = {
        "pyproject.toml": '[tool.weighbridge]\ntrust = ["mynets"]\n',
        "src/mynets/__init__.py": "",
        "src/mynets/net.py": NETWORK,
        "src/mynets/helper.py": "def width():\n    return 3\n",
        "src/mynets/unused.txt": "no code",
        "base/base.yaml": BASE,
        "configs/net.yaml": CONFIG,
        "data/labels.txt": "a\nb\nc\n",
        "data/README.txt": "what belongs to it\n",
        "data/other.txt": "what does not\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    torch.manual_seed(0)
    torch.save({"fc.weight": torch.randn(3, 4), "fc.bias": torch.randn(3)}, root / "data/net.pth")
    return root / "configs/net.yaml"
