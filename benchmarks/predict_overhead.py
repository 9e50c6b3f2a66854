"""What `load_release(...)(x=…)` costs over a bare `session.run` of the same file, and whether threads or time change it.

    python benchmarks/predict_overhead.py RELEASE [--calls 100000]

Prints one JSON document: the median of both, called in turns, their ratio and difference; then how many of `calls` calls
from 8 threads gave other answers than one thread did, and the resident memory before and after. Exits 1 if the difference is
above 20 µs and above 3 %, an answer differs, or memory grew by more than 5 MB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import psutil

from pipeline import load_release
from pipeline.rebuild.cases import make

ROUNDS = 200
CALLS_PER_ROUND = 50
THREADS = 8
BATCHES = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--calls", type=int, default=100_000)
    asked = parser.parse_args()
    model = load_release(asked.release, backend="onnxruntime-cpu")
    found = {**overhead(model, asked.release), **threads(model, asked.calls)}
    print(json.dumps(found, indent=2))
    is_cheap = found["added_us"] <= 20 or found["ratio"] <= 1.03
    return 0 if is_cheap and not found["different_answers"] and found["grown_mb"] <= 5 else 1


def overhead(model, release):
    from pipeline.release.bundle import find

    file = find(release) / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sizes = {each.name: each.min for each in model.interface.dimensions}
    inputs = dict(make(model.interface, sizes, seed=0, name="overhead").inputs)
    names = [each.name for each in session.get_outputs()]
    calls = {"bare": lambda: session.run(names, inputs), "ours": lambda: model(**inputs)}
    timed = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(CALLS_PER_ROUND):
                began = time.perf_counter_ns()
                call()
                timed[name].append(time.perf_counter_ns() - began)
    bare, ours = (median(timed[name]) / 1000 for name in ("bare", "ours"))
    return {"bare_us": bare, "ours_us": ours, "added_us": ours - bare, "ratio": ours / bare}


def threads(model, calls):
    smallest = {each.name: each.min for each in model.interface.dimensions}
    batches = [make(model.interface, smallest, seed=seed, name="threads").inputs for seed in range(BATCHES)]
    expected = [model(**batch) for batch in batches]
    process = psutil.Process()

    def differs(index):
        answer = model(**batches[index % BATCHES])
        return any(not np.array_equal(answer[name], value) for name, value in expected[index % BATCHES].items())

    def work(first):
        return sum(differs(index) for index in range(first, calls, THREADS))

    with ThreadPoolExecutor(THREADS) as pool:
        sum(pool.map(work, range(calls - 8 * BATCHES, calls - 8 * BATCHES + THREADS)))  # every thread's own buffers
        before = process.memory_info().rss
        different = sum(pool.map(work, range(THREADS)))
        after = process.memory_info().rss
    return {"calls": calls, "threads": THREADS, "different_answers": different, "grown_mb": (after - before) / 1e6}


if __name__ == "__main__":
    sys.exit(main())
