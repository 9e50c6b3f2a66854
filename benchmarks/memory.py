"""How much memory an export takes, by process, against the size of the weights: the bar is 2.5 × for 3 GB of weights.

    python benchmarks/memory.py [--sizes 0.1 0.5 1 3] [--folder DIRECTORY]

Each size is a stack of linear layers, exported to ONNX (with its weights outside, where they are large) and TorchScript, and held
against the network in float64. The peak of each process is what the kernel counted (VmHWM); "any process" is the largest of
all, the one that was started here included (wait4). Ends with 1 if the largest size misses the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAYERS = 12
BAR = 2.5
NETWORK = f'''"""A network that is all weights."""

import torch
from torch import nn


class Stack(nn.Module):
    """{LAYERS} square linear layers with a tanh after each."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range({LAYERS}))

    def forward(self, x: torch.Tensor):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x
'''
# In a process of its own: what it needs must not count as the peak of those that are started from here.
WEIGHTS = """
import sys, torch
from safetensors.torch import save_file
width, layers, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
generator, state = torch.Generator().manual_seed(0), {}
for index in range(layers):
    state[f"layers.{index}.weight"] = torch.empty(width, width).normal_(0, width**-0.5, generator=generator)
    state[f"layers.{index}.bias"] = torch.zeros(width)
save_file(state, path)
"""


def config(folder: Path, width: int) -> Path:
    """Write a network, its weights and its config into a folder; return the config."""
    (folder / "memory_network.py").write_text(NETWORK)
    weights = folder / "weights.safetensors"
    subprocess.run([sys.executable, "-c", WEIGHTS, str(width), str(LAYERS), str(weights)], check=True)
    path = folder / "stack.yaml"
    path.write_text(f"""
name: stack
model: {{architecture: "memory_network:Stack", arguments: {{width: {width}}}, weights: weights.safetensors}}
inputs: {{x: {{dtype: float32, shape: [batch, {width}]}}}}
dimensions: {{batch: {{min: 1, max: 8}}}}
outputs: [y]
exports: [torchscript, onnx]
backends: [eager, torchscript, onnxruntime-cpu]
require: [torchscript, onnxruntime-cpu]
limits: {{export_seconds: 3600, run_seconds: 3600}}
""")
    return path


def measure(path: Path, out: Path) -> tuple[int, dict[str, int], int]:
    """Export a config; return the exit code, the peak of each step's process and the largest of any, in bytes."""
    command = [
        sys.executable,
        "-m",
        "pipeline.commands",
        "export",
        path.name,
        "--trust",
        "memory_network",
        "--out",
        str(out),
    ]
    pid = subprocess.Popen([*command, "--no-benchmark"], cwd=path.parent, stderr=subprocess.STDOUT).pid
    _, status, usage = os.wait4(pid, 0)
    log = json.loads((out / "stack" / "run.json").read_bytes())
    peaks = {step["step"]: step["peak_bytes"] for step in log["steps"] if "peak_bytes" in step}
    return os.waitstatus_to_exitcode(status), peaks, usage.ru_maxrss * 1024


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.1, 0.5, 1, 3], help="of the weights, in GB")
    parser.add_argument("--folder", type=Path, help="where to work; it takes some 6 times the weights")
    options = parser.parse_args()
    failed = False
    rows = ["| weights GB | any process GB | × weights | by process, × weights | seconds |", "|---|---|---|---|---|"]
    for size_gb in options.sizes:
        width = round((size_gb * 1e9 / 4 / LAYERS) ** 0.5 / 8) * 8
        weights_bytes = LAYERS * 4 * width * (width + 1)
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            path = config(folder, width)
            began_s = time.monotonic()
            code, peaks, largest_bytes = measure(path, folder / "out")
            took_s = time.monotonic() - began_s
        ratio = largest_bytes / weights_bytes
        failed = bool(code) or ratio > BAR
        parts = ", ".join(f"{step} {each / weights_bytes:.2f}" for step, each in peaks.items())
        rows.append(f"| {weights_bytes / 1e9:.2f} | {largest_bytes / 1e9:.2f} | {ratio:.2f} | {parts} | {took_s:.0f} |")
        print("\n".join(rows), flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
