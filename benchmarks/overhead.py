"""Whether the median we report is that of a bare loop around `session.run`: the bar is 3 %.

For SimpleNet on onnxruntime: one process alternates between our timed blocks, through the whole way (parent, socket, worker's
job), and a plain loop in a process of its own over the same file, threads and inputs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from pipeline.backends.variant import Variant
from pipeline.benchmark.timing import WorkerScenarios
from pipeline.rebuild import cases
from pipeline.release import bundle, standalone
from pipeline.worker.process import LOCAL
from pipeline.worker.session import opened

LOOP = """
import sys, time, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.force_spinning_stop", "1")
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {"x": np.random.default_rng(0).normal(size=(1, 10)).astype(np.float32)}
for _ in sys.stdin:
    durations = []
    for _ in range(5000):
        start = time.perf_counter_ns()
        session.run(["logits"], feed)
        durations.append(time.perf_counter_ns() - start)
    print(statistics.median(durations), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("release", nargs="?", default="artifacts/simplenet")
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=20)
    options = parser.parse_args()
    release = bundle.find(Path(options.release))
    interface = bundle.interface_from(standalone.read_manifest(release))
    inputs = cases.make(interface, {"batch": 1}, seed=0, name="benchmark").inputs
    file = release / "model.onnx"
    variant = Variant("onnxruntime-cpu", "onnxruntime-cpu", "onnx", required=True, file=file)
    ratios = []
    for _ in range(options.launches):
        with (
            subprocess.Popen(
                [sys.executable, "-c", LOOP, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as bare,
            opened(LOCAL, variant, interface, None, threads=1, timeout_s=60) as (worker, facts),
        ):
            assert bare.stdin is not None  # noqa: S101 - opened as pipes
            assert bare.stdout is not None  # noqa: S101
            ours = WorkerScenarios(worker, facts, 60)
            ours.bind("one", inputs)
            found: list[tuple[float, float]] = []
            for _ in range(options.blocks):
                bare.stdin.write("\n")
                bare.stdin.flush()
                plain = float(bare.stdout.readline())
                found.append((statistics.median(ours.block("one", 5000)), plain))
            bare.stdin.close()
        pairs = [ours_ns / plain_ns for ours_ns, plain_ns in found[1:]]
        ratios.append(statistics.median(pairs))
        print(
            f"ours {found[-1][0] / 1e3:.2f} µs, bare {found[-1][1] / 1e3:.2f} µs, ratio {ratios[-1]:.4f}",
            file=sys.stderr,
        )
    print(f"reported median ÷ bare loop: {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})")


if __name__ == "__main__":
    main()
