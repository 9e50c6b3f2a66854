"""What a release gave, to a file or to stdout: arrays as they are, or the best classes by their names."""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from pipeline.errors import InputError
from pipeline.release.golden import safetensors_bytes
from pipeline.storage.store import atomic_write, canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.interface import Array, Arrays


_NPZ = "write a .npz: --output outputs.npz"


@dataclass(frozen=True, slots=True)
class Best:
    """The best classes of outputs, as JSON values: `[{"label": "cat", "value": 3.1}, …]` in the place of each row."""

    classes: dict[str, Any]


def best(outputs: Arrays, labels: Mapping[str, Sequence[str]], count: int) -> Best:
    """Return the `count` classes with the largest values of each output whose classes have names, the best first.

    Raises:
        InputError: no output has names, or there are other numbers of them, or a value is no number.
    """
    named = {name: array for name, array in outputs.items() if labels.get(name)}
    if not named:
        raise InputError(
            f"the release does not name the classes of {', '.join(outputs)}",
            hint="name them in the config, as in describe: {logits: {labels: labels.txt}}, and export again",
        )
    return Best({name: _best(name, array, labels[name], count) for name, array in named.items()})


def _best(name: str, array: Array, labels: Sequence[str], count: int) -> Any:
    if array.ndim == 0 or array.shape[-1] != len(labels):
        raise InputError(
            f"output {name} has shape {list(array.shape)}, and the release names {len(labels)} classes",
            hint="leave --top out",
        )
    if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float64)).all():
        raise InputError(
            f"output {name} holds NaN or infinity, so that its classes have no order", hint="leave --top out"
        )
    order = np.argsort(-array.astype(np.float64), axis=-1, kind="stable")[..., :count]
    return _rows(array, order, labels)


def _rows(values: Array, order: Array, labels: Sequence[str]) -> Any:
    if values.ndim > 1:
        return [_rows(*each, labels) for each in zip(values, order, strict=True)]
    return [{"label": labels[index], "value": values[index].item()} for index in order.tolist()]


def write(outputs: Arrays | Best, path: Path | None = None) -> None:
    """Write outputs to a `.npz`, `.npy`, `.safetensors` or `.json` file, or as JSON to stdout.

    Raises InputError for an unknown suffix, for several outputs in a `.npy`, and for NaN or infinity in JSON.
    """
    if path is None:
        sys.stdout.write(json_bytes(outputs).decode() + "\n")
    elif isinstance(outputs, Best):
        atomic_write(path, json_bytes(outputs))
    else:
        atomic_write(path, _writer(path)(outputs))


def require_writable(path: Path | None, top: int | None) -> None:
    """Raise InputError for a file that outputs, or their best classes, cannot be written to."""
    if path is None:
        return
    if top and path.suffix.lower() != ".json":
        raise InputError(f"{path}: the best classes are written as .json", hint=f"name it {path.with_suffix('.json')}")
    _writer(path)


def _writer(path: Path) -> Callable[[Arrays], bytes]:
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"{path} is no kind of file this writes", hint=f"use {', '.join(_WRITERS)}")
    return writer


def _npz_bytes(outputs: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez cannot hold an output named "file"
        for name, array in outputs.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                npy.write_array(entry, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def _npy_bytes(outputs: Arrays) -> bytes:
    if len(outputs) != 1:
        raise InputError(f"a .npy holds one array, and there are {', '.join(outputs)}", hint=_NPZ)
    buffer = io.BytesIO()
    npy.write_array(buffer, np.asanyarray(next(iter(outputs.values()))), allow_pickle=False)
    return buffer.getvalue()


def json_bytes(outputs: Arrays | Best) -> bytes:
    """Return outputs as JSON; raises InputError for NaN and infinity."""
    if isinstance(outputs, Best):
        return canonical_json(outputs.classes)
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float64)).all():
            raise InputError(f"output {name} holds NaN or infinity, which JSON cannot", hint=_NPZ)
    return canonical_json({name: array.tolist() for name, array in outputs.items()})


_WRITERS: Mapping[str, Callable[[Arrays], bytes]] = {
    ".npz": _npz_bytes,
    ".npy": _npy_bytes,
    ".safetensors": lambda outputs: safetensors_bytes(outputs, {}),
    ".json": json_bytes,
}
