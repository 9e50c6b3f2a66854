"""Train SimpleNet on a small synthetic task and save its state dict; one torch build writes the same bytes every time.

The task: of ten numbers, is the sum of the first five larger than that of the last five?
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from pipeline.architectures.simplenet import SimpleNet

SEED = 20
ROWS = 4096
STEPS = 300
DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "weights" / "simplenet.pth"


def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 rows `[ROWS, 10]` and their int64 labels `[ROWS]`."""
    rows = torch.randn(ROWS, 10, generator=generator)
    return rows, (rows[:, :5].sum(1) > rows[:, 5:].sum(1)).long()


def train() -> tuple[SimpleNet, float]:
    """Return the trained network and the share of unseen rows that it classifies rightly."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums split over threads differ in their last bits
    generator = torch.Generator().manual_seed(SEED)
    network = SimpleNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    rows, labels = draw(generator)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(rows), labels).backward()
        optimizer.step()
    rows, labels = draw(generator)
    with torch.no_grad():
        accuracy = (network(rows).argmax(1) == labels).float().mean().item()
    return network.eval(), accuracy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=DEFAULT, help="file to write (default: configs/weights/simplenet.pth)"
    )
    out: Path = parser.parse_args().out
    network, accuracy = train()
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), out)
    print(f"simplenet: {accuracy:.1%} of {ROWS} unseen rows are right; wrote {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
