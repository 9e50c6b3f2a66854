"""SimpleNet: two fully connected layers, the smallest network worth exporting.

Ours; the weights in `configs/weights/simplenet.pth` come from `scripts/train_simplenet.py` (Apache-2.0).
"""

import torch
from torch import nn


class SimpleNet(nn.Module):
    """A multi-layer perceptron with one hidden layer: fc1 → ReLU → fc2.

    `input_size` is the number of features of a row, `hidden_size` that of hidden units, `output_size` that of classes.
    """

    def __init__(self, input_size: int = 10, hidden_size: int = 20, output_size: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float `[batch, input_size]` to logits `[batch, output_size]`."""
        logits: torch.Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits
