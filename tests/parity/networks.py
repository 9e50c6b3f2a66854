"""A small network with what an audit must see through, and its export."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.formats.format import FromNetwork
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 3, 8)),), (Dimension("batch", 1, 16),), ("logits", "hidden"))


class Audited(nn.Module):
    """Batch norm to fold, a padded convolution, an epsilon, a GELU, a weight behind a unit that is always off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(6, eps=1e-3)
        self.norm = nn.LayerNorm(48, eps=1e-12)
        self.fc1 = nn.Linear(48, 16)
        self.fc2 = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)
            self.bn.weight.normal_()
            self.bn.bias.normal_()
            self.fc1.bias[3] = -1000.0  # a dead unit: nothing behind it can be seen in outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.bn(self.conv(x)))
        x = self.norm(x.flatten(1))
        hidden = torch.relu(self.fc1(x))
        return self.head(nn.functional.gelu(self.fc2(hidden))), hidden


def audited() -> Audited:
    torch.manual_seed(3)
    return Audited().eval().requires_grad_(False)


def job(module, folder) -> FromNetwork:
    examples = cases.make(INTERFACE, cases.example_sizes(INTERFACE), seed=0, name="exporter").inputs
    return FromNetwork(module, INTERFACE, examples, folder / "model.onnx", {"name": "audited"})


RARE = Interface((InputSpec("x", "float32", ("batch", 16)),), (Dimension("batch", 1, 8),), ("probability",))


class Rare(nn.Module):
    """Probabilities of rare labels: about 4e-5, where a sigmoid of absolute accuracy has few digits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(nn.functional.gelu(self.hidden(x))))
