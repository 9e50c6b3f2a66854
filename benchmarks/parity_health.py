"""Does parity raise false alarms? Healthy exports over models, cases, seeds, thread counts and optimisation levels.

    python -m benchmarks.parity_health [--models a,b] [--seeds 3] [--threads 1,2]

Every comparison of one output of one case counts. Run with everything, it writes its figures to benchmarks/parity_health.json.
Ends with 1 if a comparison failed, or fewer than 1,000 were made. An interrupted run goes on where it stopped.
"""

import argparse
import itertools
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks import shipped
from benchmarks.progress import Rows
from pipeline.parity.compare import compare
from pipeline.release.tools import tools

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
BAR = 1_000
FIGURES = Path("benchmarks/parity_health.json")


def judge(model: shipped.Shipped, seed: int, threads: tuple[int, ...]) -> dict[str, Any]:
    """Compare every case of one seed at every level and thread count; return the counts and what failed."""
    known = model.truth(seed)
    made, largest, alarms = 0, 0.0, []
    for level, count in itertools.product(LEVELS, threads):
        session = _session(model.proto.SerializeToString(), level, count)
        for case, reference, floors in zip(known.cases, known.references, known.floors, strict=True):
            names = list(reference.values)
            outputs = dict(zip(names, session.run(names, dict(case.inputs)), strict=True))
            for each in compare(case.name, reference, floors, outputs, known.rules):
                made, largest = made + 1, max(largest, each.factor)
                if not each.passed:
                    alarms.append(f"{level}, {count} threads: {case.name}, {each.output}: {each.factor:.3g}")
    return {"comparisons": made, "largest_factor": float(f"{largest:.3g}"), "false_alarms": alarms}


def _session(model: bytes, level: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(shipped.NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    arguments = parser.parse_args()
    names, threads = arguments.models.split(","), tuple(map(int, arguments.threads.split(",")))
    rows = Rows("parity_health", vars(arguments), len(names) * arguments.seeds)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            exported = cache(lambda name=name, folder=folder: shipped.export(name, Path(folder)))
            for seed in range(arguments.seeds):
                rows.get(f"{name}, seed {seed}", lambda seed=seed, export=exported: judge(export(), seed, threads))
    found = summarise(names, rows.rows)
    if arguments.models == parser.get_default("models"):
        shown = {"tools": tools(), "levels": LEVELS, "threads": threads, "seeds": arguments.seeds, **found}
        FIGURES.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    rows.forget()
    alarms = found["false_alarms"]
    print(*alarms, sep="\n", end="\n" if alarms else "")
    counted = f"{len(alarms)} of {found['comparisons']:,} healthy comparisons failed (bar: 0 of at least {BAR:,})"
    print(f"{counted}; largest factor {found['largest_factor']}")
    raise SystemExit(bool(alarms) or found["comparisons"] < BAR)


def summarise(names: list[str], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the totals and, by model, the comparisons made and the largest factor."""
    of = {name: [row for key, row in rows.items() if key.startswith(f"{name}, ")] for name in names}
    by_model = {
        name: {
            "comparisons": sum(each["comparisons"] for each in found),
            "largest_factor": max(each["largest_factor"] for each in found),
        }
        for name, found in of.items()
    }
    return {
        "comparisons": sum(each["comparisons"] for each in by_model.values()),
        "largest_factor": max(each["largest_factor"] for each in by_model.values()),
        "false_alarms": [f"{key}, {each}" for key, row in rows.items() for each in row["false_alarms"]],
        "by_model": by_model,
    }


if __name__ == "__main__":
    main()
