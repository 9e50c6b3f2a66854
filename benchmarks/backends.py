"""Every backend that can run here on every shipped network and ten of others: exported, judged, and timed in the same rounds.

    python -m benchmarks.backends [--only PATTERN] [--seconds 20]      (0 seconds: judged, and not timed)

A config is extended by all formats and all backends of the table on the processor, none of them required, and exported; what became of
each is read from the release's own report, or from that of the run that ended without one. What a format or a backend refuses stands in
the table with its own reason. Rows are kept: an interrupted sweep goes on. ResNet-18 has random weights: its config brings none.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.progress import Rows
from benchmarks.zoo import row
from pipeline.architectures.resnet import ResNet
from pipeline.backends.table import BUILT_IN as BACKENDS
from pipeline.formats.table import BUILT_IN as FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

SHIPPED = ("simplenet", "silero-vad", "facenet-pnet", "efficientnet-lite0", "minilm", "resnet18")
OTHERS = (
    *("pytorchcv/mobilenet_wd4", "pytorchcv/resnet20_cifar10", "pytorchcv/shufflenet_g1_wd4"),
    *("torch.nn/lstm", "torch.nn/gru-state"),
    *("transformers/bert", "transformers/gpt2", "transformers/vit", "transformers/wav2vec2", "transformers/whisper"),
)
ON_CPU = tuple(each.name for each in BACKENDS if each.device == "cpu" and each.probe() is None)
MADE = tuple(
    each.name
    for each in FORMATS
    if each.probe() is None and each.name in {b.format for b in BACKENDS if b.name in ON_CPU}
)
_LONGEST_S = 1800


def base(network: str, folder: Path) -> Path:
    """Return the config of a network, written into a folder where it is none of the shipped ones."""
    if network not in SHIPPED:
        found = row.find(network)
        if not isinstance(found, row.Network):
            raise SystemExit(f"{network}: {found[1]}")
        row.write_config(found, folder / "base.yaml")
        return folder / "base.yaml"
    config = Path("configs", f"{network}.yaml").resolve()
    if network == "resnet18":
        torch.manual_seed(0)
        torch.save(ResNet(depth=18).state_dict(), folder / "resnet18.pth")
        (folder / "base.yaml").write_text(
            f"extends: {config}\nmodel: {{weights: resnet18.pth, sha256: null}}\n", "utf-8"
        )
        return folder / "base.yaml"
    return config


def extended(network: str, folder: Path, seconds: float) -> Path:
    """Write a config with every format and backend; return it."""
    names = f"exports: [{', '.join(MADE)}]\nbackends: [{', '.join(ON_CPU)}]\nrequire: []\n"
    timed = f"benchmark: {{reference: eager, seconds: {seconds or 20:g}}}\nlimits: {{export_seconds: {_LONGEST_S}}}\n"
    config = folder / "all.yaml"
    name = re.sub(r"\W+", "-", network)
    config.write_text(f"extends: {base(network, folder)}\nname: {name}\n{names}{timed}", "utf-8")
    return config


def judged(network: str, seconds: float) -> dict[str, Any]:
    """Export a network with everything, and return what became of each format and backend."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = extended(network, folder, seconds)
        command = [sys.executable, "-m", "pipeline.commands", "export", str(config), "--out", str(folder / "out")]
        command += [] if seconds else ["--no-benchmark"]
        command += ["--trust", "benchmarks", "--trust", "transformers", "--trust", "pytorchcv"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "300"})
        reports = [*(folder / "out").glob("*/*/report/parity.json"), *(folder / "out").glob("*/failed/**/parity.json")]
        if not reports:
            return {"error": done.stderr.strip()[-800:]}
        return found(json.loads(reports[0].read_bytes()), reports[0].with_name("benchmark.json"))


def found(parity: Mapping[str, Any], timings: Path) -> dict[str, Any]:
    """Return a row: of each format why it was refused, of each backend its verdict, its factor, and its time ÷ eager's by size."""
    refused = {
        each["name"] or each["format"]: each["reason"] for each in parity["exports"] if each["status"] != "exported"
    }
    row_of = {
        each["name"]: {
            "verdict": each["status"],
            "factor": each["worst"] and each["worst"]["factor"],
            "reason": each["reason"],
            "load_ms": (each["facts"] or {}).get("load_ms"),
        }
        for each in parity["backends"]
    }
    sizes = json.loads(timings.read_bytes())["sizes"] if timings.is_file() else []
    for size in sizes:
        label = ", ".join(f"{name}={value}" for name, value in size["sizes"].items())
        eager_ms = next((each["median_ms"] for each in size["rows"] if each["name"] == "eager"), None)
        for each in size["rows"]:
            if each["name"] in row_of and each["median_ms"] and eager_ms:
                timed = {
                    "median_ms": each["median_ms"],
                    "ratio": each["median_ms"] / eager_ms,
                    "verdict": each["verdict"],
                }
                row_of[each["name"]].setdefault("timed", {})[label] = timed
    return {"refused": refused, "backends": row_of}


def cell(each: Mapping[str, Any] | None) -> str:
    """Return a backend's cell: its time ÷ eager's, a size after the other; what became of it where it was not timed."""
    if each is None:
        return "–"
    if timed := each.get("timed"):
        return " · ".join(f"{one['ratio']:.2f}" for one in timed.values()) + (
            "" if each["verdict"] == "pass" else f" ({each['verdict']})"
        )
    return each["verdict"]


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the rows as Markdown: times ÷ eager's, and under them every reason of what was refused or failed."""
    names = [name for name in ON_CPU if name != "eager"]
    lines = [f"| network | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    reasons = []
    for network, each in rows.items():
        known = each.get("backends", {})
        lines.append(f"| {network} | {' | '.join(cell(known.get(name)) for name in names)} |")
        told = dict(each.get("refused", {})) | {
            name: one["reason"] for name, one in known.items() if one["verdict"] != "pass" and one["reason"]
        }
        told |= {"export": each["error"]} if "error" in each else {}
        reasons += [f"| {network} | {what} | {' '.join(str(why).split())[:300]} |" for what, why in told.items()]
    best = {name: [math.log(one["ratio"]) for each in rows.values() for one in each.get("backends", {}).get(name, {}).get("timed", {}).values()] for name in names}  # fmt: skip
    means = {name: math.exp(sum(each) / len(each)) for name, each in best.items() if each}
    lines.append(f"| geometric mean | {' | '.join(f'{means[name]:.2f}' if name in means else '–' for name in names)} |")
    return "\n".join([*lines, "", "| network | format or backend | why not |", "|---|---|---|", *reasons])


def main() -> None:
    """Export everything, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    networks = [each for each in (*SHIPPED, *OTHERS) if re.search(options.only, each)]
    rows = Rows("backends", {"seconds": options.seconds, "backends": ON_CPU, "formats": MADE}, len(networks))
    if shutil.which("g++") is None:
        print("there is no C++ compiler: torch-compile and aotinductor are left out", file=sys.stderr)
    print(table({each: rows.get(each, lambda each=each: judged(each, options.seconds)) for each in networks}))


if __name__ == "__main__":
    main()
