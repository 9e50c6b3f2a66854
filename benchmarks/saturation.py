"""Products that are said to be cut off on processors without VNNI: are they cut off there, as far as is said, and does the advice mend them.

    python -m benchmarks.saturation [NETWORK…]

It needs qemu-user (`apt-get install qemu-user`). Each network's ONNX file is quantised as a person would do it first, and then as the advice
says (weights of 7 bits, unsigned weights). Each product of whole numbers then runs alone in onnxruntime, here and on a Haswell (AVX2, no
VNNI) that QEMU computes. Printed: how many products are said to be cut off and how many were, the largest difference between the
signal-to-error ratio that was said and the one that was seen, and what helped there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_HASWELL = ("qemu-x86_64", "-cpu", "Haswell")
_RECIPES = {
    "minilm": {"precision": "int8-dynamic"},
    "silero-vad": {"precision": "int8", "operators": ["Conv", "Gemm", "MatMul"]},
    "efficientnet-lite0": {"precision": "int8"},
    "simplenet": {"precision": "int8"},
}
_ADVICE = {
    "as usual": {},
    "reduce_range": {"reduce_range": True},
    "weights: uint8": {"weights": "uint8", "per_channel": False},
}
_LIMIT = 16.0


def made(network: str, folder: Path) -> dict[str, Path]:
    """Write a network's ONNX file in each recipe; return the files, and inputs beside them."""
    from pipeline.formats.artifact import Artifact, Written
    from pipeline.formats.format import FromArtifact
    from pipeline.formats.onnx.options import OnnxOptions
    from pipeline.formats.onnx.reduce import derive
    from pipeline.rebuild import cases
    from pipeline.run.export import export
    from pipeline.run.plan import Settings, plan

    config = folder / f"{network}.yaml"
    names = "exports: [onnx]\nbackends: [eager, onnxruntime-cpu]\nrequire: [onnxruntime-cpu]\n"
    config.write_text(f"extends: {Path('configs', f'{network}.yaml').resolve()}\n{names}", "utf-8")
    settings = Settings(out=folder / "out", benchmark=False)
    release = export(config, settings).release
    interface = plan(config, settings).interface
    sampled = cases.sample(interface, seed=1, cap_elements=2**18)
    case = sorted(sampled, key=lambda each: sum(a.size for a in each.inputs.values()))[len(sampled) // 2]
    np.savez(folder / f"{network}.npz", **case.inputs)
    found = {}
    for name, more in _ADVICE.items():
        source = Artifact("onnx", "onnx", Written((release / "model.onnx",)))
        target = folder / f"{network}-{len(found)}.onnx"
        options = OnnxOptions.model_validate({**_RECIPES[network], **more})
        samples = case.inputs if _RECIPES[network]["precision"] == "int8" else None
        derive(FromArtifact(source, interface, target, {"name": network}, samples), options)
        found[name] = target
    return found


def judged(file: Path, inputs: Path) -> list[dict[str, Any]]:
    """Run each product of a file alone, on this processor."""
    from pipeline.formats.format import ProductSearch
    from pipeline.formats.onnx.pieces import judge
    from pipeline.parity import budget

    with np.load(inputs) as arrays:
        given = dict(arrays)
    return [dataclasses.asdict(each) for each in judge(ProductSearch(file, given, {}, None, budget.floors, _LIMIT))]


def on_haswell(file: Path, inputs: Path) -> list[dict[str, Any]]:
    """The same on a processor with AVX2 and without VNNI."""
    command = [*_HASWELL, sys.executable, "-m", "benchmarks.saturation", "--judge", str(file), str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(network: str, recipe: str, file: Path, inputs: Path) -> str:
    """Return a row of the table."""
    here, there = judged(file, inputs), on_haswell(file, inputs)
    said = {each["name"] for each in here if each["saturating_factor"] > _LIMIT}
    seen = {each["name"] for each in there if each["factor"] > _LIMIT}
    off = [
        abs(mine["saturating_sqnr_db"] - theirs["sqnr_db"])
        for mine, theirs in zip(here, there, strict=True)
        if mine["name"] in said | seen
    ]
    worst = min((each["sqnr_db"] for each in there), default=0.0)
    helped = {each for one in there for each in one["helped"] or ()}
    wrong_here = sum(each["factor"] > _LIMIT for each in here)
    return f"| {network} | {recipe} | {len(here)} | {wrong_here} | {len(said)} | {len(seen)} | {len(said ^ seen)} | {max(off, default=0.0):.3f} dB | {worst:.1f} dB | {', '.join(sorted(helped)) or '–'} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(_RECIPES))
    parser.add_argument("--judge", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        print(json.dumps(judged(*options.judge)))
        return
    if shutil.which(_HASWELL[0]) is None:
        raise SystemExit(f"there is no {_HASWELL[0]}: install qemu-user")
    print("| network | recipe | products | wrong here | said to be cut off | wrong on a Haswell | in one of both only | largest difference of what was said | the worst there | tried there, and right |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            for recipe, file in made(network, Path(folder)).items():
                print(row(network, recipe, file, Path(folder) / f"{network}.npz"), flush=True)


if __name__ == "__main__":
    main()
