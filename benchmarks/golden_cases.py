"""Do a release's golden cases catch what parity's cases catch? The same seeded mutations as benchmarks/parity_defects.py.

    python -m benchmarks.golden_cases [--models a,b] [--per-kind 4] [--out benchmarks/results]

Every mutated ONNX file runs on all cases that parity is judged on, with the budgets of parity, and on those that a release
of the config would carry, judged as its verify.py judges them. Exits 1 if a kind of mutation that any case catches in a
model is not caught by that model's golden cases.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from benchmarks import parity_defects as defects
from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats
from pipeline.parity import oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare
from pipeline.rebuild import cases, model
from pipeline.release import compose, golden, standalone
from pipeline.run import plan as planning

MODELS = ("simplenet", "silero-vad", "facenet-pnet", "minilm", "efficientnet-lite0")


@dataclass(frozen=True)
class Subject:
    """A healthy export with the cases of parity and of the release."""

    name: str
    proto: onnx.ModelProto
    truth: prove.Truth
    golden: standalone.Golden


@dataclass
class Result:
    """What became of one mutation: the cases of parity that caught it, and the golden ones."""

    model: str
    kind: str
    target: str
    caught: list[str] = field(default_factory=list)
    golden: list[str] = field(default_factory=list)


def prepare(name: str, folder: Path) -> Subject:
    """Export a shipped config and choose its golden cases as a release does, with the cases parity really uses."""
    planned = planning.plan(Path(f"configs/{name}.yaml"), planning.Settings(out=folder))
    interface = planned.interface
    module = model.load(planned.network).module
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    files = []
    for wanted in planned.config.exports:
        exporter = formats()[wanted.format]
        artifact = exporter.export(
            FromNetwork(module, interface, examples, folder / exporter.file, {"name": name}),
            exporter.options.model_validate(wanted.options),
        )
        files += artifact.files
    sampled = cases.sample(interface, seed=0, cap_elements=planned.config.parity.cap_elements)
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=0)
    truth = prove.truth(sampled, references, reason, dict.fromkeys(interface.outputs, Rule()))
    known = compose.golden_of(truth)
    limit_bytes = golden.budget_bytes(sum(file.stat().st_size for file in files))
    kept = golden.select(known.cases, max_bytes=limit_bytes)
    size_bytes = sum(map(golden.size_bytes, kept))
    print(
        f"{name}: {len(kept)} of {len(known.cases)} cases, {size_bytes:,} of {limit_bytes:,} bytes:"
        f" {', '.join(case.name for case in kept)}",
        flush=True,
    )
    proto = onnx.load(next(str(file) for file in files if file.suffix == ".onnx"))
    return Subject(name, proto, truth, standalone.Golden(kept, known.limit, known.tolerances))


def judged(subject: Subject, per_kind: int, seed: int) -> list[Result]:
    """Return what became of each mutation of the subject."""
    results = []
    for _, kind, mutated in defects.mutations(subject.name, subject.proto, per_kind, seed):
        results.append(Result(subject.name, kind, mutated.target))
        _judge(subject, results[-1], mutated.proto)
    return results


def _judge(subject: Subject, result: Result, proto: onnx.ModelProto) -> None:
    """Run a mutated file on every case; a file or a case that onnxruntime refuses is caught."""
    known = subject.truth
    kept = {case.name: case for case in subject.golden.cases}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever onnxruntime raises on it
        result.caught, result.golden = [case.name for case in known.cases], list(kept)
        return
    for case, reference, floors in zip(known.cases, known.references, known.floors, strict=True):
        carried = kept.get(case.name.replace("/", "-"))
        names = list(reference.values)
        try:
            outputs = dict(zip(names, session.run(names, dict(case.inputs)), strict=True))
        except Exception:  # noqa: BLE001 - as above
            outputs = {}
        if not outputs or not all(
            finding.passed for finding in compare(case.name, reference, floors, outputs, known.rules)
        ):
            result.caught.append(case.name)
        if carried and standalone.judge(subject.golden, carried, outputs):
            result.golden.append(case.name)


def summarise(results: list[Result]) -> dict[str, Any]:
    caught = [each for each in results if each.caught]
    kinds: dict[tuple[str, str], bool] = defaultdict(bool)
    for each in caught:
        kinds[each.model, each.kind] |= bool(each.golden)
    return {
        "mutations": len(results),
        "caught": len(caught),
        "caught_by_golden": sum(bool(each.golden) for each in caught),
        "kinds_caught": len(kinds),
        "kinds_caught_by_golden": sum(kinds.values()),
        "kinds_missed": [" ".join(key) for key, is_caught in kinds.items() if not is_caught],
        "missed": [f"{each.model} {each.kind} {each.target}: {each.caught}" for each in caught if not each.golden],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--per-kind", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args()
    results: list[Result] = []
    for name in asked.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            subject = prepare(name, Path(folder))
            found = judged(subject, asked.per_kind, asked.seed)
        print(f"{name}: {json.dumps(summarise(found), ensure_ascii=False)}", flush=True)
        results += found
    summary = summarise(results)
    asked.out.mkdir(parents=True, exist_ok=True)
    document = {"summary": summary, "results": [asdict(each) for each in results]}
    (asked.out / "golden_cases.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    return 1 if summary["kinds_missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
