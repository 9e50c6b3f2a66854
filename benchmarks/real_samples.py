"""Files of 8 bits on real samples: EfficientNet-lite0 on photographs, MiniLM on sentences; proven, judged and timed.

    python -m benchmarks.real_samples --photographs FOLDER --sentences FILE --tokenizer tokenizer.json [--out FOLDER]

FOLDER holds photographs of the 1,000 classes of ImageNet, each file's name beginning with the WordNet id of its class (n01440764_tench.JPEG):
the order of the ids is that of the classes. FILE is a text with a sentence a line. Of each, some are calibrated on and the others
judged on. Pillow and tokenizers are needed beside the pipeline.

For each recipe `weighbridge export` makes a release with a gate on accuracy, and `weighbridge benchmark` times it. Printed: how many
photographs the network itself gets right, then a row for each recipe: what its gate says, its size, and its time ÷ that of eager.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.interface import Array, Arrays

_SIDE, _AROUND = 224, 32
_CLASSES = 1000
_LENGTH = 64
_CALIBRATED = {"efficientnet-lite0": 100, "minilm": 200}
_SENTENCES = 1000
_PACKAGE = "benchmarks"
_INT8 = "precision: int8, calibration: calibration.npz"
_IMAGES = f"{_INT8}, operators: [Conv, Gemm, MatMul, Add, GlobalAveragePool]"
# What `leave_out: auto` names first, but for the classifier, which is a quarter of the weights.
_DEAR = "_bn0, _blocks.0._bn1, _blocks.1._bn0, _blocks.1._bn1, _blocks.3._bn1, _blocks.14._bn1, _blocks.15._bn1"
_TOP1 = "top1_agreement: 0.9, metric: 'benchmarks.real_samples:top1', margin: 0.03"  # what 900 photographs can decide
_COSINE = "metric: 'benchmarks.real_samples:cosine', margin: 0.01"
_AUTO = "leave_out: auto"
RECIPES = {
    "efficientnet-lite0": {
        "int8-most": (f"{_IMAGES}, leave_out: [{_DEAR}]", f"sqnr_db: 10, {_TOP1}"),
        "int8-auto": (f"{_IMAGES}, {_AUTO}", f"sqnr_db: 10, {_TOP1}"),
        "int8": (_IMAGES, f"sqnr_db: 10, {_TOP1}"),
    },
    "minilm": {
        "int8-dynamic-auto": (f"precision: int8-dynamic, {_AUTO}", f"sqnr_db: 10, {_COSINE}"),
        "int8-auto": (f"{_INT8}, {_AUTO}", f"sqnr_db: 10, {_COSINE}"),
        "int8-dynamic": ("precision: int8-dynamic", f"sqnr_db: 10, {_COSINE}"),
        "int8": (_INT8, f"sqnr_db: 10, {_COSINE}"),
    },
}
"""For each network, by name: the artifact's options, and what its gate asks."""
# A limit of 32 times the noise floor: where most of a network is in 8 bits and some is not, it was 22 on inputs near 0.
_CONFIG = """\
extends: {shipped}
exports:
  - onnx
  - {{name: reduced, format: onnx, from: onnx, {options}}}
backends: [eager, onnxruntime-cpu, {{name: ort-reduced, backend: onnxruntime-cpu, artifact: reduced}}]
require: [onnxruntime-cpu, ort-reduced]
gates: {{reduced: {{limit: 32, accuracy: {{samples: evaluation.npz, {gate}}}}}}}
"""
_FLOAT = """\
extends: {shipped}
exports: [onnx]
backends: [eager, onnxruntime-cpu]
require: [onnxruntime-cpu]
"""


def top1(outputs: Mapping[str, Array], sample: Mapping[str, Array]) -> float:
    """Return 1 where the largest logit is that of the photograph's class, else 0."""
    return float(outputs["logits"].argmax() == sample["labels"])


def cosine(outputs: Mapping[str, Array], sample: Mapping[str, Array]) -> float:
    """Return the cosine between a sentence's vector and the one that the float32 release gives, 0 where it is less."""
    got = vector(outputs["last_hidden_state"], sample["attention_mask"])
    wanted = np.asarray(sample["vectors"], np.float64)
    return float(np.clip(got @ wanted / (np.linalg.norm(got) * np.linalg.norm(wanted)), 0, 1))


def vector(hidden: Array, mask: Array) -> Array:
    """Return the mean of the last hidden state over the positions where the mask is 1: [..., length, width] to [..., width], float64."""
    weight = mask[..., None].astype(np.float64)
    return np.asarray((hidden * weight).sum(-2) / weight.sum(-2))


def images(folder: Path) -> dict[str, Array]:
    """Return all photographs of a folder, as the network was trained to see them: `image` [n, 3, 224, 224] in float32, and `labels`.

    The central square with 32 of 256 pixels of margin, resized to 224, and (pixel - 127) / 128: preprocessing.py and
    lite/efficientnet_lite_builder.py in the TPU repository of TensorFlow.
    """
    from PIL import Image

    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in {".jpeg", ".jpg", ".png"})
    ids = sorted({each.name[:9] for each in files})
    if len(ids) != _CLASSES:
        raise SystemExit(
            f"{folder} has photographs of {len(ids)} classes, not {_CLASSES}: which is which cannot be told"
        )
    found = np.empty((len(files), 3, _SIDE, _SIDE), np.float32)
    for index, file in enumerate(files):
        with Image.open(file) as opened:
            photograph = opened.convert("RGB")
        side = min(photograph.size) * _SIDE / (_SIDE + _AROUND)
        left, top = ((each - side) / 2 for each in photograph.size)
        seen = photograph.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        found[index] = ((np.asarray(seen, np.float32) - 127) / 128).transpose(2, 0, 1)
    return {"image": found, "labels": np.array([ids.index(each.name[:9]) for each in files])}


def texts(file: Path, tokenizer: Path) -> dict[str, Array]:
    """Return the sentences of a file as the network takes them: ids, mask and types, [n, 64] in int64, padded with 0."""
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokenizer))
    known.enable_truncation(_LENGTH)
    known.enable_padding(length=_LENGTH)
    lines = list(dict.fromkeys(each.strip() for each in file.read_text("utf-8").splitlines() if each.strip()))
    encoded = known.encode_batch(lines[:_SENTENCES])
    ids = np.array([each.ids for each in encoded], np.int64)
    mask = np.array([each.attention_mask for each in encoded], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def split(arrays: Arrays, calibrated: int, folder: Path, inputs: tuple[str, ...]) -> None:
    """Write calibration.npz with so many rows, evenly spread, and evaluation.npz with the others."""
    count = len(next(iter(arrays.values())))
    chosen = np.zeros(count, bool)
    chosen[np.linspace(0, count - 1, calibrated).astype(int)] = True
    np.savez(folder / "calibration.npz", **{name: arrays[name][chosen] for name in inputs})
    np.savez(folder / "evaluation.npz", **{name: each[~chosen] for name, each in arrays.items()})


def weighbridge(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "pipeline.commands", *map(str, arguments), "--trust", _PACKAGE]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def float_release(network: str, folder: Path) -> Path:
    """Export the network in float32; return the release."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "float32.yaml"
    config.write_text(_FLOAT.format(shipped=Path("configs", f"{network}.yaml").resolve()), "utf-8")
    done = weighbridge("export", config, "--out", folder / "releases", "--no-benchmark")
    if done.returncode:
        raise SystemExit(done.stderr)
    return latest(folder / "releases" / network)


def latest(folder: Path) -> Path:
    """Return the newest release in a folder."""
    return folder / (folder / "latest").read_text("utf-8").strip()


def called(release: Path, inputs: Arrays) -> dict[str, Array]:
    """Return what a release gives for many rows, by output."""
    from pipeline.release.load import load_release

    model = load_release(release)
    rows = len(next(iter(inputs.values())))
    parts = [model(**{name: each[at : at + 16] for name, each in inputs.items()}) for at in range(0, rows, 16)]
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def photographs(options: argparse.Namespace, folder: Path) -> None:
    """Write what EfficientNet-lite0 is calibrated and judged on; print how many photographs it gets right."""
    arrays = images(options.photographs)
    logits = called(float_release("efficientnet-lite0", folder), {"image": arrays["image"]})["logits"]
    right = (logits.argmax(1) == arrays["labels"]).mean()
    print(f"{len(logits):,} photographs; the float32 network is right about {right:.1%}", flush=True)
    split(arrays, _CALIBRATED["efficientnet-lite0"], folder, ("image",))


def sentences(options: argparse.Namespace, folder: Path) -> None:
    """Write what MiniLM is calibrated and judged on, with each sentence's vector."""
    arrays = texts(options.sentences, options.tokenizer)
    hidden = called(float_release("minilm", folder), arrays)["last_hidden_state"]
    words = arrays["attention_mask"].sum(1)
    print(f"{len(words):,} sentences of {words.min()} to {words.max()} word pieces, {words.mean():.0f} on average")
    vectors = vector(hidden, arrays["attention_mask"]).astype(np.float32)
    split({**arrays, "vectors": vectors}, _CALIBRATED["minilm"], folder, tuple(arrays))


def row(network: str, recipe: str, folder: Path, seconds: float) -> str:
    """Export by a recipe and time it; return a row of the table, and what the command says where its gate closed."""
    settings, gate = RECIPES[network][recipe]
    config, out = folder / f"{recipe}.yaml", folder / "releases"
    shipped = Path("configs", f"{network}.yaml").resolve()
    config.write_text(_CONFIG.format(shipped=shipped, options=settings, gate=gate), "utf-8")
    done = weighbridge("export", config, "--out", out, "--no-benchmark")
    chosen = [f"  {each.strip()}" for each in done.stderr.splitlines() if "layers are left" in each]
    if done.returncode:
        failed = sorted((out / network / "failed").rglob("parity.json"), key=lambda each: each.stat().st_mtime)
        return f"{network}, {recipe}: no release\n{told(failed[-1]) if failed else ''}\n{done.stderr[done.stderr.find('error:') :]}"
    release = latest(out / network)
    timed = weighbridge("benchmark", config, "--out", out, "--seconds", seconds, "--json")
    figures = json.loads(timed.stdout) if timed.stdout.startswith("{") else {}
    size, before = ((release / each).stat().st_size / 1e6 for each in ("reduced.onnx", "model.onnx"))
    facts = next(
        each for each in json.loads((release / "manifest.json").read_bytes())["models"] if each["name"] == "reduced"
    )
    left = len(facts["facts"]["left_out"])
    lines = [
        f"{network}, {recipe} ({settings}): {size:.1f} MB instead of {before:.1f} MB, {left} nodes left as they were"
    ]
    return "\n".join([*lines, *chosen, told(release / "report" / "parity.json"), *times(figures)])


def told(parity: Path) -> str:
    """Return what the gate on accuracy says, a claim a line."""
    from pipeline.parity.document import Parity

    claims = [each for one in Parity.read(parity).exports if one.accuracy for each in one.accuracy.claims]
    return "\n".join(f"  {each.verdict}: {each.in_words()}" for each in claims)


def times(figures: Mapping[str, Any]) -> list[str]:
    """Return the time of a call on each backend, and ÷ that on eager, a size a line."""
    found = []
    for size in figures.get("sizes", ()):
        rows = [each for each in size["rows"] if each["median_ms"] and each["ratio"]]
        said = [f"{each['name']} {each['median_ms']:.2f} ms ({each['ratio']:.3f}, {each['verdict']})" for each in rows]
        alone = "" if size["can_tell"] else f"; {size['reason']}"
        found.append(f"  at {size['sizes']}, and ÷ {size['reference']}: {', '.join(said)}{alone}")
    return found


def main() -> None:
    """Print what each recipe comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_samples"))
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", nargs="*", help="recipes, as NETWORK/RECIPE")
    options = parser.parse_args()
    made: dict[str, tuple[Any, Callable[[argparse.Namespace, Path], None]]] = {
        "efficientnet-lite0": (options.photographs, photographs),
        "minilm": (options.sentences and options.tokenizer, sentences),
    }
    if not any(given for given, _ in made.values()):
        parser.error("give --photographs, or --sentences with --tokenizer")
    for network, (given, prepare) in made.items():
        if not given:
            continue
        folder = options.out / network
        prepare(options, folder)
        for recipe in RECIPES[network]:
            if not options.only or f"{network}/{recipe}" in options.only:
                print(row(network, recipe, folder, options.seconds), flush=True)


if __name__ == "__main__":
    main()
