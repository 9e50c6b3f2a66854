"""Tensors taken from the bytes of a file of torch.save, without unpickling it: for files with objects beside the tensors.

Every record was held against its storage when the header was read (`torch_header.require_sound`), and every storage against the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import WeightsError
from pipeline.weights import archive, files, kinds
from pipeline.weights.pickle_records import DTYPE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pipeline.weights.header import Header
    from pipeline.weights.pickle_records import Storage

_HINT = f"where it was made, save the weights alone: {kinds.SAVE}"


def tensors(path: Path, header: Header) -> dict[str, torch.Tensor]:
    """Return the state dict that `header` found in `path`, on the CPU and mapped; tensors of one storage share it.

    Raises WeightsError for tensors that are more than numbers in memory (sparse, quantised, conjugated) and for files
    written on a machine with another order of bytes.
    """
    import torch

    records = header.wrapped.tensors
    special = next((f"{name!r:.80} is {record.special}" for name, record in records.items() if record.special), None)
    if special:
        raise WeightsError(
            f"{path.name} holds objects beside its weights, and {special}: it is not read without them", hint=_HINT
        )
    _require_little_endian(path)
    whole = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
    storages: dict[str, Any] = {}
    found = {}
    for name, record in records.items():
        key = record.storage.key
        if key not in storages:
            storages[key] = _piece(whole, record.storage, header.places[key])
        empty = torch.empty(0, dtype=getattr(torch, record.dtype))
        found[name] = empty.set_(storages[key], record.offset, record.shape, record.stride)
    return found


def _piece(whole: Any, storage: Storage, start: int) -> Any:
    piece = whole[start : start + storage.nbytes]
    # Numbers in files of before torch 1.6 lie anywhere.
    return piece.clone() if start % DTYPE_BYTES[storage.dtype] else piece


def _require_little_endian(path: Path) -> None:
    with files.mapped(path) as data:
        entries = archive.directory(data) if data[:2] == b"PK" else ()
        order = next((each for each in entries if each.name.partition("/")[2] == "byteorder"), None)
        if order is not None and archive.content(data, order, 100) != b"little":
            raise WeightsError(f"{path.name} was written with the bytes of its numbers in another order", hint=_HINT)
