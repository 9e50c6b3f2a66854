"""A model repository for the Triton Inference Server: a model for each format, config.pbtxt in protobuf's text format.

Fields are those of model_config.proto (https://github.com/triton-inference-server/common/blob/main/protobuf). Triton
batches requests where the first axis of every input and output is one dimension whose every size from 1 is allowed, and whose
rows were shown to be independent when the release was made. Where they are not, config.pbtxt says why in a comment. A backend that fixes
the batch at the most rows it is told (https://github.com/triton-inference-server/openvino_backend, README) is told of none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats.onnx.record import ONNX
from pipeline.formats.table import formats
from pipeline.interface import formula_names
from pipeline.release.rows import doubt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import Triton
    from pipeline.release.packages.content import Content

_TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "BF16",
}  # fmt: skip


def write(content: Content, path: Path) -> None:
    """Write NAME/ for the ONNX model and NAME-ARTIFACT/ for each other that Triton runs, with config.pbtxt and version 1."""
    for model in content.manifest["models"]:
        artifact, platform = model.get("name") or model["format"], _platform(model)
        if platform is None:
            continue
        name = content.name if artifact == ONNX.name else f"{content.name}-{artifact}"
        folder = path / name / "1"
        content.copy(model["files"], folder)
        if not platform.is_backend:
            (folder / model["path"]).rename(folder / platform.file)
        (path / name / "config.pbtxt").write_text(_config(name, model, platform, content.manifest), encoding="utf-8")
    if not any(path.iterdir()):
        able = ", ".join(name for name, each in formats().items() if each.triton)
        raise InputError(f"triton runs {able}, and this release has none of them", hint="add one to `exports`")


def _platform(model: Mapping[str, Any]) -> Triton | None:
    known = formats().get(model["format"])
    return known.triton if known else None


def _config(name: str, model: Mapping[str, Any], platform: Triton, manifest: Mapping[str, Any]) -> str:
    batch = _batch(manifest)
    against = doubt(manifest.get("rows"), batch) if batch else None
    batch = batch if platform.batches and not against else None
    inputs, outputs = manifest["inputs"], manifest["outputs"]
    if platform.is_positional:
        names = platform.ordinals or (None, None)
        inputs = _by_position(inputs, names[0], model["facts"].get("inputs"))
        outputs = _by_position(outputs, names[1])
    lines = [
        *([f"# no dynamic batching: {against}"] if against else []),
        f"name: {json.dumps(name)}",
        f"{'backend' if platform.is_backend else 'platform'}: {json.dumps(platform.platform)}",
        *(
            [f"default_model_filename: {json.dumps(model['path'])}"]
            if model["path"] != platform.file and platform.is_backend
            else []
        ),
        f"max_batch_size: {manifest['dimensions'][batch]['max'] if batch else 0}",
        *(_tensor("input", each, batched=bool(batch)) for each in inputs),
        *(_tensor("output", each, batched=bool(batch)) for each in outputs),
        *(["dynamic_batching { }"] if batch else []),
    ]
    return "\n".join(lines) + "\n"


def _batch(manifest: Mapping[str, Any]) -> str | None:
    """Return the dimension that Triton could batch over by its sizes, None if there is none."""
    tensors = [*manifest["inputs"], *manifest["outputs"]]
    first = {each["shape"][0] if each["shape"] else None for each in tensors}
    name = next(iter(first)) if len(first) == 1 else None
    if not isinstance(name, str) or any(each["shape"].count(name) > 1 for each in tensors):
        return None
    dimension = manifest["dimensions"][name]
    formulas = [each["formula"] for each in manifest["dimensions"].values() if each.get("formula")]
    is_related = bool(dimension.get("formula")) or any(name in formula_names(each) for each in formulas)
    has_any_size = dimension["min"] == 1 and dimension["multiple_of"] == 1 and dimension["max"] > 1
    return name if has_any_size and not is_related else None


def notes(content: Content) -> tuple[str, ...]:
    """Return why requests are not joined, where sizes alone would allow it, and what the formats say of themselves."""
    batch = _batch(content.manifest)
    against = doubt(content.manifest.get("rows"), batch) if batch else None
    platforms = dict.fromkeys(each for model in content.manifest["models"] if (each := _platform(model)))
    own = (f"{each.platform}: {each.note}" for each in platforms if each.note)
    told = [
        f"{model.get('name') or model['format']}: weighbridge tune recommends {', '.join(f'{name} {value}' for name, value in options.items())} on "
        "a processor like this one: set it in config.pbtxt"
        for model in content.manifest["models"]
        if (options := content.session(model))
    ]
    return (*told, *([f"no dynamic batching: {against}"] if against else []), *own)


def _by_position(
    tensors: Sequence[Mapping[str, Any]], name: str | None, order: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Name tensors `<name>__<index>`, as the PyTorch backend finds arguments and results by position; by default by their own names."""
    ordered = sorted(tensors, key=lambda each: order.index(each["name"])) if order else tensors
    return [{**each, "name": f"{name or each['name']}__{index}"} for index, each in enumerate(ordered)]


def _tensor(kind: str, tensor: Mapping[str, Any], *, batched: bool) -> str:
    sizes = [size if isinstance(size, int) else -1 for size in tensor["shape"][1 if batched else 0 :]]
    # Triton wants one axis at least: a row that is one number is a tensor [1], reshaped to [].
    shape = f"dims: [ {', '.join(map(str, sizes))} ]" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return f"{kind} [ {{ name: {json.dumps(tensor['name'])} data_type: TYPE_{_TYPES[tensor['dtype']]} {shape} }} ]"
