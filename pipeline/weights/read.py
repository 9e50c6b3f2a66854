"""Load a state dict: headers first, then torch with weights_only=True or safetensors, never anything else.

A file with objects beside its tensors is given to neither: its tensors are read from its bytes (see `inert` and `stored`).
"""

from __future__ import annotations

import importlib
import pickle
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import archive, beside, files, headers, kinds, stored, wrappers
from pipeline.weights.guard import guarded
from pipeline.weights.kinds import Kind
from pipeline.weights.verified import Verified, require_unchanged, weights_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from pipeline.weights.header import Header

# What torch.load raises for a file that is damaged in one way or another.
_LOADING_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError, OSError)
_OWN_WARNINGS = (
    "Detected pickle protocol",
    "TypedStorage is deprecated",
    "Sparse .* tensor support is in beta",
    "Detected multiple devices",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state dict on the CPU; `notes` say in plain sentences what was done to get it, `sha256` is the file's.

    `header` is what the file declares, with what it says around the tensors.
    """

    tensors: Mapping[str, torch.Tensor]
    kind: Kind
    notes: tuple[str, ...]
    sha256: str
    header: Header


def load(
    path: Path,
    *,
    key: str | None = None,
    max_bytes: int | None = None,
    verified: Verified | None = None,
    examine: bool = True,
) -> Checkpoint:
    """Return the state dict in `path`, unwrapped, on the CPU; zip files and safetensors are mapped, not copied.

    `key` picks one of several. A file that was `verified` must still be that one; its digest is not taken again. `examine`
    compares the checksums in it, and looks for numbers that are none: once in a run is enough. `sha256` is that of
    `verified.weights_digest`. Raises UnsafeError for what could run code or exhaust memory
    (also above `max_bytes`), and WeightsError, with the fix, for everything else that is no state dict.
    """
    header = require_state_dict(path, key=key, max_bytes=max_bytes)
    _warm_up(header)
    if verified:
        require_unchanged(path, header, verified)
    with guarded(sum(tensor.nbytes for tensor in header.tensors) + header.size_bytes, path.name):
        found = _tensors(path, header, key, examine=examine)
    if verified:
        require_unchanged(path, header, verified)  # nor while it was read
    notes = [*header.wrapped.notes(), *beside.notes(header), *(_doubts(found) if examine else ())]
    sha256 = verified.sha256 if verified else weights_digest(path, header)
    return Checkpoint(found, header.kind, tuple(notes), sha256, header)


def _warm_up(header: Header) -> None:
    """Import what the loaders import by themselves, before they are watched."""
    import torch.serialization
    import torch.sparse
    import torch.utils.serialization.config  # noqa: F401 - torch.load imports it on its first call

    if header.kind in (Kind.SAFETENSORS, Kind.SHARDED):
        import safetensors.torch  # noqa: F401 - for its effect


def require_state_dict(path: Path, *, key: str | None = None, max_bytes: int | None = None) -> Header:
    """Return the header of a file that `load` would take, as far as headers tell; needs no torch. Raises as `load`."""
    header = headers.read(path, key=key, max_bytes=max_bytes)
    _require_weights(header, path)
    return header


def _require_weights(header: Header, path: Path) -> None:
    """Raise WeightsError unless the header declares a state dict with data."""
    if header.kind is Kind.SEVERAL:
        choices = header.wrapped.choices
        key = wrappers.printable(choices[0].key)
        raise WeightsError(
            f"{path.name} holds {len(choices)} state dicts, and nothing says which one is meant:\n{wrappers.listed(choices)}",
            hint=f"{header.kind.remedy}, as in `model.key: {key}` in the config, or {path.name}#{key} wherever the file is named",
            about="several-state-dicts",
        )
    if header.kind not in kinds.STATE_DICTS:
        raise WeightsError(f"{path.name} {_what(header)}", hint=header.kind.remedy)
    if not header.tensors:
        raise WeightsError(
            f"{path.name} is {kinds.with_article(header.kind)} without any tensor",
            hint=f"save the weights: {kinds.SAVE}",
        )
    empty = [tensor.name for tensor in header.tensors if not tensor.has_data]
    if empty:
        raise WeightsError(
            f"{path.name} holds {len(empty)} tensors without data (meta device), such as {empty[0]!r:.80}",
            hint="load the weights before saving them",
        )


def _what(header: Header) -> str:
    if header.kind is Kind.PICKLED_MODEL:
        return f"is a whole pickled model ({header.model_class}), not a state dict: loading it would run its code"
    if header.kind is Kind.TORCH_OBJECT:
        holds = header.facts.get("holds", "nothing")
        if header.wrapped.unnamed:
            return f"holds no state dict: {header.wrapped.without_names()[0]}"
        return "holds no tensor" if holds == "dict" else f"holds {holds}, not a state dict"
    return f"is {kinds.with_article(header.kind)}, not a state dict"


def _tensors(path: Path, header: Header, key: str | None, *, examine: bool) -> dict[str, torch.Tensor]:
    if header.kind is Kind.SHARDED:
        found: dict[str, torch.Tensor] = {}
        for shard in header.facts["files"]:
            found |= _tensors(path.parent / shard, headers.read(path.parent / shard), None, examine=examine)
        return found
    if header.kind is Kind.SAFETENSORS:
        return _safetensors(path)
    if header.facts["format"] == "torch.save (zip)" and examine:
        _require_checksums(path)
    if header.needs:
        try:
            return stored.tensors(path, header)
        except _LOADING_ERRORS as error:
            raise _unreadable(path, error) from error
    value = _torch_load(path, header)
    unwrapped = wrappers.unwrap(value, _is_tensor, key)
    if not unwrapped.tensors:
        raise WeightsError(f"{path.name} changed while it was read", hint="run again")
    # Without gradient history: parameters become the tensors they hold.
    return {key: tensor.detach() for key, tensor in unwrapped.tensors.items()}


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} cannot be read: {error}", hint=files.COPY_AGAIN) from error


def _torch_load(path: Path, header: Header) -> Any:
    """Call torch.load(weights_only=True); there is no second attempt with anything less."""
    import torch

    is_zip = header.facts["format"] == "torch.save (zip)"
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for text in _OWN_WARNINGS:
            warnings.filterwarnings("ignore", message=text)
        # Indices outside a sparse tensor would be read as addresses.
        stack.enter_context(torch.sparse.check_sparse_tensor_invariants())  # type: ignore[no-untyped-call]
        if header.has_numpy:
            stack.enter_context(torch.serialization.safe_globals(_numpy_globals()))
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
            raise UnsafeError(
                f"{path.name} is refused by torch.load(weights_only=True): {reason.splitlines()[0][:200]}",
                hint=f"save it again where it was made: {kinds.SAVE}",
            ) from error
        except _LOADING_ERRORS as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path.name} cannot be read: {str(error).splitlines()[0][:200]}", hint=files.COPY_AGAIN)


def _require_checksums(path: Path) -> None:
    # torch checks none, so that a flipped bit would load silently.
    with files.mapped(path) as data:
        name = archive.damaged(data, archive.directory(data))
    if name is not None:
        raise WeightsError(f"{path.name} is damaged: {name} does not match its checksum", hint=files.COPY_AGAIN)


def _numpy_globals() -> list[Any]:
    """Return what numpy numbers and arrays beside weights are made of; the header check saw what is in them."""
    import numpy as np

    multiarray: Any = importlib.import_module(
        "numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray"
    )
    kinds_of_value = (type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?FDUSO")
    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    # bytes are those of an empty array
    return [*functions, np.dtype, np.ndarray, bytes, *dict.fromkeys(kinds_of_value)]


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _doubts(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Say which tensors hold NaN or infinities; they are loaded all the same."""
    strange = {
        name: values
        for name, tensor in tensors.items()
        if (tensor.is_floating_point() or tensor.is_complex()) and not (values := plain_values(tensor)).isfinite().all()
    }
    made = []
    for word, test in (("NaN", "isnan"), ("infinite values", "isinf")):
        names = [name for name, values in strange.items() if getattr(values, test)().any()]
        if names:
            made.append(f"{len(names)} of {len(tensors)} tensors hold {word}, such as {names[0]!r}")
    return made


def plain_values(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's values as real numbers that torch can test: dense ones, of more than eight bits if they are floats."""
    import torch

    values = tensor.dequantize() if tensor.is_quantized else tensor
    values = values.coalesce().values() if values.is_sparse else values
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return values.float() if values.is_floating_point() and values.element_size() == 1 else values
