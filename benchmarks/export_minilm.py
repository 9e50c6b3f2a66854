"""Wall time of export and parity for MiniLM (ONNX only, every case), against `optimum-cli export onnx` in the same run.

    python benchmarks/export_minilm.py --optimum .venv-optimum/bin/optimum-cli --model FOLDER [--runs 5]

FOLDER holds the published model as optimum wants it: config.json, tokenizer files, model.safetensors. Both write the ONNX
file and check it: optimum on one input against atol 1e-5 with a warning, we on every case against the noise floor, and
we also write the release. Runs alternate, so that a machine that slows down slows both; the ratio is the figure.
`make bench-export` sets all of this up.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """\
extends: {config}
exports: [onnx]
backends: [onnxruntime-cpu]
require: [onnxruntime-cpu]
benchmark: {{reference: onnxruntime-cpu}}
"""


def seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "minilm-onnx.yaml"
        config.write_text(CONFIG.format(config=Path("configs/minilm.yaml").resolve()))
        weighbridge = [sys.executable, "-m", "pipeline.commands", "export", str(config), "--out", folder]
        optimum = [
            str(options.optimum),
            "export",
            "onnx",
            "--model",
            str(options.model),
            "--task",
            "feature-extraction",
        ]
        for index in range(options.runs + 1):
            pair = (
                seconds([*weighbridge, "--no-benchmark", "--rebuild"], environment),
                seconds([*optimum, f"{folder}/optimum-{index}"], environment),
            )
            if index:  # the first pair warms the file cache
                ours.append(pair[0])
                theirs.append(pair[1])
            print(f"{index or 'warm-up'}: weighbridge {pair[0]:.1f} s, optimum {pair[1]:.1f} s", flush=True)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(f"median: weighbridge {statistics.median(ours):.1f} s, optimum {statistics.median(theirs):.1f} s")
    print(f"ratio, pair by pair: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
