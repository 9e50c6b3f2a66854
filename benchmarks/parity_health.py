"""Does parity raise false alarms? Healthy exports over models, cases, seeds, thread counts and optimisation levels.

    python benchmarks/parity_health.py [--models a,b] [--seeds 3] [--threads 1,2]

Every comparison of one output of one case counts; none may fail. Ends with 1 if one did.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto

from pipeline import cases, model, oracle, planning
from pipeline.exporters import onnx as exporter
from pipeline.exporters.exporter import Job
from pipeline.parity import prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare

MODELS = ("simplenet", "silero-vad", "facenet-pnet", "minilm", "efficientnet-lite0")
CAP_ELEMENTS = {"efficientnet-lite0": 320_000, "facenet-pnet": 30_000, "minilm": 256}
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def session(proto: ModelProto, level: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def findings(name: str, seed: int, threads: tuple[int, ...], folder: Path) -> list[tuple[str, Any]]:
    """Return every finding of one model and seed, with what it was run on."""
    planned = planning.plan(Path(f"configs/{name}.yaml"), planning.Settings(out=folder))
    interface, module = planned.interface, model.load(planned.network).module
    examples = cases.make(interface, cases.example_sizes(interface), seed=seed, name="exporter").inputs
    artifact = exporter.ONNX.export(Job(module, interface, examples, folder, {}), exporter.OnnxOptions())
    proto = onnx.load(str(artifact.files[0]))
    cap = CAP_ELEMENTS.get(name, planned.config.parity.cap_elements)
    sampled = cases.sample(interface, seed=seed, cap_elements=cap)
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=seed)
    answer = {"references": [asdict(each) for each in references], "fallback": reason}
    known = prove.truth(sampled, answer, dict.fromkeys(interface.outputs, Rule()))
    found = []
    for level in LEVELS:
        for count in threads:
            opened = session(proto, level, count)
            for case, reference, floors in zip(known.cases, known.references, known.floors, strict=True):
                names = list(reference.values)
                outputs = dict(zip(names, opened.run(names, dict(case.inputs)), strict=True))
                place = f"{name}, seed {seed}, {level}, {count} threads"
                found += [(place, each) for each in compare(case.name, reference, floors, outputs, known.rules)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    arguments = parser.parse_args()
    threads = tuple(map(int, arguments.threads.split(",")))
    total, alarms = 0, []
    for name in arguments.models.split(","):
        largest = 0.0
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                for place, finding in findings(name, seed, threads, Path(folder)):
                    total += 1
                    largest = max(largest, finding.factor)
                    if not finding.passed:
                        alarms.append(f"{place}: {finding.case}, {finding.output}: {finding.factor:.3g}")
        print(f"{name}: largest factor {largest:.3g}; {total} comparisons so far", flush=True)
    print(json.dumps({"comparisons": total, "false_alarms": alarms}, indent=1))
    raise SystemExit(bool(alarms))


if __name__ == "__main__":
    main()
