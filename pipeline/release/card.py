"""The model card of a release, README.md: Hugging Face's metadata, what it is, and how to run and verify it.

It is made of the manifest alone. Its code runs as it stands, where the card says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.formats.onnx.record import ONNX
from pipeline.formats.table import formats
from pipeline.interface import Preprocessing, formula_names, formula_value
from pipeline.release import standalone
from pipeline.release.identity import release_of, shape_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.release.identity import Facts

CARD = "README.md"

# Where Hugging Face's name of a licence is not SPDX's in lower case, the card says "other" and names it.
_HUB_LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "zlib",
        "artistic-2.0",
        "epl-2.0",
        "eupl-1.2",
        "openrail",
        "bigscience-openrail-m",
    ]
)

_NAMED_CLASSES = 20
_MEASURED = ("The factors and latencies that were measured are in [report/report.md](report/report.md).",)


def card(manifest: Facts, measured: Sequence[str] = _MEASURED, folder: str = ".") -> bytes:
    """Return the model card.

    `measured` are lines about figures of one machine, which the release itself leaves to `report/`; `folder` is where the release
    lies, from the card's own place.
    """
    return ("\n".join([*_front_matter(manifest), "", *_card_text(manifest, folder), "", *measured]) + "\n").encode()


def _trained(reference: Facts | None) -> str:
    if reference is None:
        return "The network was not compared with the trained network: no recording of its outputs was given."
    calls = f"{reference['calls']} call{'s' if reference['calls'] > 1 else ''}"
    return f"The network gives what was recorded of the trained network in `{reference['path']}` ({calls}; {reference['recorded']})."


def _front_matter(manifest: Facts) -> list[str]:
    """Return the card's YAML; JSON's strings are YAML's."""
    release = release_of(manifest)
    license_id = release.get("license")
    stated = list(dict.fromkeys(each["format"] for each in manifest["models"]))
    library = next((found.library for each in stated if (found := formats().get(each)) and found.library), None)
    lines = [
        "---",
        *([f"library_name: {library}"] if library else []),
        "tags:",
        *(f"- {each}" for each in stated),
        "- weighbridge",
    ]
    if license_id and license_id.lower() in _HUB_LICENSES:
        lines.append(f"license: {license_id.lower()}")
    elif license_id:
        lines += ["license: other", f"license_name: {json.dumps(license_id)}"]
    if datasets := release.get("datasets"):
        lines += ["datasets:", *(f"- {json.dumps(each)}" for each in datasets)]
    return [*lines, "---"]


def _card_text(manifest: Facts, folder: str) -> list[str]:
    release, weights = release_of(manifest), manifest["weights"]
    files = ", ".join(f"`{each['path']}`" for each in manifest["models"])
    return [
        f"# {manifest['name']}",
        "",
        *([release["description"], ""] if release.get("description") else []),
        (
            f"`{manifest['architecture']['name']}` with the {weights['parameters']:,} parameters of `{weights['file']}`"
            f" (SHA-256 `{weights['sha256']}`), as {files}."
        ),
        "Every file was held against the same network in float64 before it was released.",
        _trained(manifest.get("reference")),
        "",
        "## Inputs and outputs",
        "",
        *_tensors(manifest),
        "",
        *(
            f"- `{name}`: {each['min']} to {each['max']}"
            + (f", in steps of {each['multiple_of']}" if each["multiple_of"] > 1 else "")
            + (f", always {each['formula']}" if each.get("formula") else "")
            for name, each in manifest["dimensions"].items()
        ),
        *_classes(manifest),
        "",
        *_preprocessed(manifest["inputs"]),
        "## Run it",
        "",
        *_run(manifest, folder),
        *_beside(release.get("beside", [])),
        "## Verify it",
        "",
        f"In {_place(folder)}{_checked(manifest)}",
        "",
        "```sh",
        *([f"cd {folder}"] if folder != "." else []),
        "python verify.py",
        "```",
        "",
        *_signed(manifest),
        "## Proven",
        "",
        "| backend | verdict |",
        "| --- | --- |",
        *(f"| {name} | {each['verdict']} |" for name, each in sorted(manifest["backends"].items())),
        "",
        *(f"- `{name}`: {_budget(each)}" for name, each in manifest["parity"].items()),
    ]


def _place(folder: str) -> str:
    return "the folder of this card" if folder == "." else "the folder of this card, below which the release lies"


def _tensors(manifest: Facts) -> list[str]:
    rows = [(each, kind) for kind in ("input", "output") for each in manifest[f"{kind}s"]]
    has_units = any(each.get("unit") for each, _ in rows)
    headings = ["name", "", "dtype", "shape", *(["unit"] if has_units else [])]
    lines = [headings, ["---"] * len(headings)]
    for each, kind in rows:
        unit = [str(each.get("unit") or "").replace("|", "\\|")] if has_units else []
        lines.append([f"`{each['name']}`", kind, each["dtype"], shape_in_words(each), *unit])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _preprocessed(inputs: Sequence[Facts]) -> list[str]:
    found = {each["name"]: Preprocessing(**each["preprocess"]) for each in inputs if each.get("preprocess")}
    if not found:
        return []
    return [
        "What the files do themselves before the network computes, and nobody must do before them:",
        "",
        *(f"- `{name}`: {each.in_words()}" for name, each in found.items()),
        "",
    ]


def _checked(manifest: Facts) -> str:
    """Say what the release's own verifier checks, and with what."""
    held = {each["format"] for each in manifest["models"]}
    packages = dict.fromkeys(" and ".join(each.packages) for each in standalone.RUNNERS.values() if each.format in held)
    if not packages:
        return ": every digest."
    return f", with numpy and {' or '.join(packages)}: every digest, and the golden cases."


def _classes(manifest: Facts) -> Iterator[str]:
    """Yield the names of classes, the first of many; all are in the manifest."""
    for each in manifest["outputs"]:
        if names := each.get("labels"):
            shown = ", ".join(names[:_NAMED_CLASSES])
            more = f", … {names[-1]} (all in manifest.json)" if len(names) > _NAMED_CLASSES else ""
            yield from (
                "",
                f"The {len(names)} classes of `{each['name']}`, in the order of its last axis: {shown}{more}.",
            )


def _run(manifest: Facts, folder: str) -> Iterator[str]:
    onnx = next((each for each in manifest["models"] if each["format"] == ONNX.name), None)
    extra, needs = ("runtime", "numpy and onnxruntime") if onnx else ("cpu", "torch")
    arrays = [f'    "{name}": {array},' for name, array in _arrays(manifest)]
    yield f"In {_place(folder)}, with `weighbridge[{extra}]` installed ({needs}); zeros stand for your inputs:"
    yield from ("", "```python", "import numpy as np", "from pipeline import load_release", "")
    yield from (f"model = load_release({json.dumps(folder)})", "inputs = {", *arrays, "}")
    yield from ("for name, values in model(**inputs).items():", "    print(name, values.shape)", "```", "")
    if onnx:
        path = onnx["path"] if folder == "." else f"{folder}/{onnx['path']}"
        yield from ("Without weighbridge, with numpy and onnxruntime alone:", "", "```python", "import numpy as np")
        yield from ("import onnxruntime", "", f"session = onnxruntime.InferenceSession({json.dumps(path)},")
        yield from ('    providers=["CPUExecutionProvider"])', "inputs = {", *arrays, "}")
        yield from ("names = [each.name for each in session.get_outputs()]",)
        yield from (
            "for name, values in zip(names, session.run(None, inputs)):",
            "    print(name, values.shape)",
            "```",
            "",
        )
    for each in manifest["models"]:
        if (known := formats().get(each["format"])) and known.card:
            yield f"{known.card} opens `{each['path']}` as it is."
    yield ""


def _arrays(manifest: Facts) -> Iterator[tuple[str, str]]:
    """Yield each input's name and the code for an array that it takes, at the smallest sizes."""
    for given in manifest["inputs"]:
        shape = tuple(_size(each, manifest["dimensions"]) if isinstance(each, str) else each for each in given["shape"])
        low, dtype = given.get("low"), f'dtype="{given["dtype"]}"'
        is_positive = low is not None and low > 0
        yield given["name"], f"np.full({shape}, {low}, {dtype})" if is_positive else f"np.zeros({shape}, {dtype})"


def _size(name: str, dimensions: Facts) -> int:
    """Return the smallest size of a dimension that is not empty."""
    each = dimensions[name]
    if formula := each.get("formula"):
        return formula_value(formula, {other: _size(other, dimensions) for other in formula_names(formula)})
    step: int = each["multiple_of"]
    units: int = -(-max(each["min"], 1) // step)
    return units * step


def _signed(manifest: Facts) -> Iterator[str]:
    if manifest.get("signed_by"):
        yield "`weighbridge verify . --key KEY.pub.pem` checks the signature as well; KEY.pub.pem is the signer's public key."
        yield ""


def _beside(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(f"`{each}`" for each in names)
    return [
        "## Before and behind it",
        "",
        f"What prepares its inputs and reads its outputs lies beside it as it came: {listed}. Inputs that are prepared in another way",
        "are the commonest cause of wrong answers.",
        "",
    ]


def _budget(budget: Facts) -> str:
    if "limit" in budget:
        return f"errors of at most {budget['limit']:g} × the noise floor of float32"
    return f"errors of at most {budget['atol']:g} + {budget['rtol']:g} × |value|"
