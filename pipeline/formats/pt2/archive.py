"""An exported program's archive, read by ourselves: what its program says, and its tensors.

Layout: torch/csrc/export/pt2_archive_constants.h; the program is JSON after torch/_export/serde/schema.py (schema version 8).
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import WeightsError
from pipeline.weights import archive, files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.weights.archive import Entry
    from pipeline.weights.files import Bytes

MODEL = "models/model.json"
EXAMPLES = "data/sample_inputs/model.pt"
PAYLOADS = ("data/weights/", "data/constants/")
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
# Numbers of torch/_export/serde/schema.py, ScalarType; bfloat16 and the smaller ones have no numpy type.
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 28: "uint16", 34: "uint32", 35: "uint64",
}  # fmt: skip
_MAX_TEXT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Archive:
    """The bytes of an archive and its entries by their name below the root."""

    data: Bytes
    entries: Mapping[str, Entry]

    def text(self, name: str) -> Any:
        """Return the JSON value of an entry; raises WeightsError for one that is missing or no JSON."""
        if name not in self.entries:
            raise WeightsError(f"it lacks {name}", hint=files.DAMAGED)
        try:
            return json.loads(archive.content(self.data, self.entries[name], _MAX_TEXT_BYTES))
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{name} is no JSON: {error}", hint=files.DAMAGED) from error

    def size_bytes(self, name: str) -> int:
        """Return how many bytes an entry has, 0 for one that is not there."""
        return self.entries[name].size if name in self.entries else 0


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Give an archive; raises WeightsError for a file that is none."""
    files.require_file(path)
    with files.mapped(path) as data:
        try:
            entries = archive.directory(data, path.name)
            archive.require_one_reading(data, entries, path.name, stored=True)
        except archive.BrokenArchiveError as error:
            raise WeightsError(f"{path.name} is no archive, or damaged: {error}", hint=files.DAMAGED) from error
        yield Archive(data, {entry.name.partition("/")[2]: entry for entry in entries})


def tensors(held: Archive) -> dict[str, Any]:
    """Return the arrays of an archive by the names that the program has for them, weights and constants alike.

    A tensor of a type that numpy lacks is given as the bytes it has.
    """
    found: dict[str, Any] = {}
    for folder, config in zip(PAYLOADS, CONFIGS, strict=True):
        for name, stated in held.text(config)["config"].items():
            meta, entry = stated["tensor_meta"], held.entries[folder + stated["path_name"]]
            found[name] = _array(archive.content(held.data, entry, entry.size), meta)
    return found


def _array(content: bytes, meta: Mapping[str, Any]) -> Any:
    shape, strides = sizes(meta["sizes"]), sizes(meta["strides"])
    if meta["dtype"] not in DTYPES:
        return np.frombuffer(content, np.uint8)
    dtype = np.dtype(DTYPES[meta["dtype"]])
    if not math.prod(shape):
        return np.empty(shape, dtype)
    start = sizes([meta["storage_offset"]])[0]
    flat = np.frombuffer(content, dtype)[start:]
    last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if last >= flat.size:
        raise WeightsError("a tensor reaches beyond what its entry holds", hint=files.DAMAGED)
    in_bytes = [step * dtype.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat, shape, in_bytes, writeable=False)


def sizes(stated: Any) -> list[int]:
    """Return sizes of a payload, which are fixed; raises WeightsError for others."""
    found = [each.get("as_int") for each in stated]
    if not all(type(each) is int and 0 <= each < 2**48 for each in found):
        raise WeightsError("a tensor of the archive has no fixed size", hint=files.DAMAGED)
    return found


def graphs(program: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a program's graph, and those of its loops and branches."""
    waiting = [program["graph_module"]["graph"]]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [
            given["arg"]["as_graph"]["graph"]
            for node in graph["nodes"]
            for given in node["inputs"]
            if "as_graph" in given["arg"]
        ]
