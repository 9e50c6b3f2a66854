"""Golden cases: what a release carries to prove itself again, as one small safetensors file written with numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.release.standalone import DTYPES, Golden, GoldenCase
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.interface import Array

_SAFETENSORS_NAMES = {name: code for code, name in DTYPES.items()}


def safetensors_bytes(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return the safetensors file of some arrays, the same bytes for the same content.

    Sorted by item size, largest first, then by name, so that every array is aligned; the header ends on 8 bytes.
    Raises TypeError for a dtype that the format lacks.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[bytes] = []
    end = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        dtype = array.dtype.newbyteorder("<")
        if array.dtype.name not in _SAFETENSORS_NAMES:
            raise TypeError(f"{name} is {array.dtype}, which safetensors cannot hold")
        parts.append(array.astype(dtype, copy=False).tobytes())
        begin, end = end, end + array.nbytes
        code = _SAFETENSORS_NAMES[array.dtype.name]
        header[name] = {"data_offsets": [begin, end], "dtype": code, "shape": list(array.shape)}
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def golden_bytes(golden: Golden) -> bytes:
    """Return golden.safetensors: `<case>/input|output|floor/<name>`; limit and tolerances as metadata.

    Raises ValueError for a case name that holds a slash, for no cases, and for a float output without a budget.
    """
    if not golden.cases or len({case.name for case in golden.cases}) != len(golden.cases):
        raise ValueError("golden cases need at least one case, and distinct names")
    arrays: dict[str, Array] = {}
    for case in golden.cases:
        _check(case, golden.tolerances)
        for kind, tensors in (("input", case.inputs), ("output", case.outputs), ("floor", case.floors)):
            arrays |= {f"{case.name}/{kind}/{name}": np.asarray(array) for name, array in tensors.items()}
    metadata = {"limit": canonical_json(golden.limit).decode()}
    if golden.tolerances:
        metadata["tolerances"] = canonical_json(golden.tolerances).decode()
    return safetensors_bytes(arrays, metadata)


def budget_bytes(model_bytes: int) -> int:
    """Return what golden cases may weigh beside a model: 5 % of it, or 1 MB, whichever is more."""
    return max(model_bytes // 20, 1_000_000)


def size_bytes(case: GoldenCase) -> int:
    """Return the bytes of a case's arrays."""
    return sum(array.nbytes for arrays in (case.inputs, case.outputs, case.floors) for array in arrays.values())


def select(cases: Sequence[GoldenCase], *, max_bytes: int, max_cases: int = 12) -> tuple[GoldenCase, ...]:
    """Choose golden cases: as many of the smallest as fit, then evenly from small to large, in the given order.

    The smallest case is kept even if it does not fit: a release without one proves nothing.
    """
    ascending = sorted(range(len(cases)), key=lambda index: (size_bytes(cases[index]), index))
    totals = np.cumsum([size_bytes(cases[index]) for index in ascending])
    fitting = ascending[: max(1, int(np.count_nonzero(totals <= max_bytes)))]
    spread = np.linspace(0, len(fitting) - 1, min(max_cases, len(fitting))).round().astype(int)
    chosen = {fitting[position] for position in spread}
    return tuple(case for index, case in enumerate(cases) if index in chosen)


def _check(case: GoldenCase, tolerances: Mapping[str, Mapping[str, float]]) -> None:
    if not case.name or "/" in case.name or case.name.startswith("__"):
        raise ValueError(f"{case.name!r} cannot name a golden case: it is empty, or holds a slash")
    for name, output in case.outputs.items():
        floor = case.floors.get(name)
        if floor is None:
            if output.dtype.kind == "f" and name not in tolerances:
                raise ValueError(f"{case.name}: {name} has neither a noise floor nor a tolerance")
            continue
        np.broadcast_to(floor, output.shape)  # raises ValueError itself
        values = floor.astype(np.float64)
        if floor.dtype != np.float64 or not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{case.name}: the noise floor of {name} is not finite float64")
