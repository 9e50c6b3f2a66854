"""Describe a file that somebody brought: what it is, what it holds, what to do next. Headers only, without torch."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import WeightsError, command
from pipeline.weights import (
    beside,
    files,
    guess,
    headers,
    inert,
    nested,
    onnx_header,
    openvino,
    torch_header,
    traits,
    wrappers,
)
from pipeline.weights.kinds import STATE_DICTS, Kind
from pipeline.weights.protobuf import MalformedFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.weights.beside import Held
    from pipeline.weights.header import Header, TensorHeader

_MAX_POINTER_BYTES = 1024
_NAMED = 4
_YOURS = ("--architecture", "MODULE:CLASS", "--trust", "MODULE")
_MAX_HELD = 1_000
_ARCHIVES = {Kind.TAR, Kind.ZIP, Kind.GZIP, Kind.NUMPY, Kind.HDF5}


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """One tensor: torch's name of its dtype, its shape, number of elements, and size in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several state dicts: the key that picks it, what it holds, and whether it is like another of them."""

    key: str
    relation: str
    tensors: tuple[TensorDescription, ...]
    elements: int
    tensor_bytes: int
    likely: str | None


@dataclass(frozen=True, slots=True)
class Description:
    """What a file is and holds; `dataclasses.asdict` gives JSON values.

    `traits` are what is special about it, such as half precision. `elements` and `tensor_bytes` count tied tensors once. `wrapper` leads to the state dict, `beside` is what else was
    there; `candidates` are the state dicts of a file that holds several, of which none was picked, and `unnamed` says
    which lists of tensors are none. `needs` are the classes that loading would import, `held` the objects of theirs beside the
    tensors, which are told and never made. `saved` is where the weights alone were written to. `values` (None until they are read)
    tells which tensors hold NaN, infinities or one value only; `contents` are the files in an archive.
    """

    name: str
    kind: str
    explanation: str
    size_bytes: int
    traits: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[TensorDescription, ...] = ()
    elements: int = 0
    tensor_bytes: int = 0
    tied: tuple[tuple[str, ...], ...] = ()
    wrapper: str | None = None
    beside: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    unnamed: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    likely: str | None = None
    values: Mapping[str, Mapping[str, Any]] | None = None
    contents: tuple[str, ...] = ()
    saved: str | None = None
    next: tuple[str, ...] = ()


def description_of(path: Path, *, key: str | None = None, max_bytes: int | None = None) -> Description:
    """Say what `path` is, from its headers; none of its code is run and no tensor data is read.

    `key` picks one of several state dicts. Raises WeightsError for a file that is missing or damaged or has no state dict
    `key`, and UnsafeError for one made to run code or exhaust memory.
    """
    header = headers.read(path, key=key, max_bytes=max_bytes)
    tensors, details = _contents(path, header)
    groups = _groups(header.tensors)
    elements, tensor_bytes = _sizes(tensors, groups)
    wrapped = header.wrapped
    inside = _inside(path, header)
    return Description(
        path.name,
        str(header.kind),
        header.kind.explanation,
        header.size_bytes,
        traits=_traits(path, header),
        details=details,
        tensors=tensors,
        elements=elements,
        tensor_bytes=tensor_bytes,
        tied=tuple(group for group in groups if len(group) > 1),
        wrapper=".".join(wrapped.path) if wrapped.path else None,
        beside=(*wrapped.beside, *wrapped.ignored),
        candidates=tuple(_candidates(header)),
        unnamed=wrapped.without_names(),
        needs=_needs(header),
        held=tuple(itertools.islice(beside.held(header), _MAX_HELD)) if header.model_class is None else (),
        likely=guess.likely({tensor.name: tensor.shape for tensor in tensors}) if header.kind in STATE_DICTS else None,
        contents=inside,
        next=_next(path, header, inside, key),
    )


def _needs(header: Header) -> tuple[str, ...]:
    foreign = [dotted for dotted in header.needs if not inert.is_own(dotted)]
    return tuple(dict.fromkeys([*([header.model_class] if header.model_class else []), *foreign]))


def _traits(path: Path, header: Header) -> tuple[str, ...]:
    if header.kind not in STATE_DICTS:
        return ()
    dtypes = {tensor.name: tensor.dtype for tensor in header.tensors}
    return traits.traits_of(path, dtypes, (*header.wrapped.beside, *header.wrapped.ignored))


def _contents(path: Path, header: Header) -> tuple[tuple[TensorDescription, ...], dict[str, Any]]:
    """Return tensors and format details, for ONNX, OpenVINO and pointers from their own headers."""
    if header.kind is Kind.ONNX:
        with files.mapped(path) as data:
            try:
                tensors, facts = onnx_header.read(data)
            except MalformedFieldError as error:
                raise WeightsError(f"{path.name} is damaged: {error}", hint=files.COPY_AGAIN) from error
        return tuple(TensorDescription(*tensor) for tensor in tensors), facts
    if header.kind is Kind.OPENVINO:
        return _of_openvino(path)
    if header.kind is Kind.LFS_POINTER:
        lines = path.read_bytes()[:_MAX_POINTER_BYTES].decode(errors="replace").splitlines()
        return (), {key: value for key, _, value in (line.partition(" ") for line in lines) if key in ("oid", "size")}
    return _described(header.tensors), dict(header.facts)


def _of_openvino(path: Path) -> tuple[tuple[TensorDescription, ...], dict[str, Any]]:
    """Return what an .xml says; that its .bin is not there, or not found by its name, is one of its details."""
    with files.mapped(path) as data:
        tensors, facts = openvino.described(data, path.name)
    try:
        openvino.require_confined(path)
    except WeightsError as error:
        facts["cannot be opened"] = error.message
    return tuple(TensorDescription(*tensor) for tensor in tensors), facts


def _described(tensors: Sequence[TensorHeader]) -> tuple[TensorDescription, ...]:
    return tuple(TensorDescription(t.name, t.dtype, t.shape, t.elements, t.nbytes) for t in tensors)


def _groups(tensors: Sequence[TensorHeader]) -> list[tuple[str, ...]]:
    """Return the names of each distinct tensor."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.memory or f"={tensor.name}", tensor.shape].append(tensor.name)
    return [tuple(names) for names in groups.values()]


def _sizes(tensors: Sequence[TensorDescription], groups: Sequence[tuple[str, ...]]) -> tuple[int, int]:
    """Return the number of elements and of bytes, of each distinct tensor once where those are known."""
    sizes = {tensor.name: tensor for tensor in tensors}
    counted = [sizes[group[0]] for group in groups] or tensors
    return sum(tensor.elements for tensor in counted), sum(tensor.nbytes for tensor in counted)


def _candidates(header: Header) -> Iterator[Candidate]:
    """Yield the state dicts of a file that holds several, where none of them was picked."""
    if header.kind is not Kind.SEVERAL:
        return
    choices = header.wrapped.choices
    for state, relation in zip(choices, wrappers.relations(choices), strict=True):
        declared = torch_header.tensor_headers(state.tensors)
        tensors = _described(declared)
        elements, tensor_bytes = _sizes(tensors, _groups(declared))
        likely = guess.likely({tensor.name: tensor.shape for tensor in tensors})
        yield Candidate(state.key, relation, tensors, elements, tensor_bytes, likely)


def _inside(path: Path, header: Header) -> tuple[str, ...]:
    if header.kind not in _ARCHIVES:
        return ()
    with files.mapped(path) as data:
        return nested.names(data, header.kind)


def _next_of_special(path: Path, header: Header) -> tuple[str, ...]:
    """Return what to do with a state dict that is not to be used as it is."""
    if any(traits.QUANTISED in each for each in _traits(path, header)):
        return ("take the weights as they were before torch quantised them: no format takes what it made of them",)
    index = traits.index_of(path)
    if header.kind not in STATE_DICTS or index is None:
        return ()
    is_there = "" if index.is_file() else "  # once the index and the other shards are beside it"
    return (command("init", index, *_YOURS) + is_there,)


def _next(path: Path, header: Header, inside: tuple[str, ...], key: str | None) -> tuple[str, ...]:
    """Return what to do with it, as commands where there is one."""
    if special := _next_of_special(path, header):
        return special
    if header.kind in STATE_DICTS:
        name = f"{path}#{key}" if key else str(path)
        alone = command("inspect", name, "--save-weights", "weights.safetensors")
        return (
            *([f"{alone}  # the weights alone, without the objects"] if header.needs else []),
            f"{command('init', name)}  # which of the networks that come with weighbridge takes it?",
            f"{command('init', name, *_YOURS)}  # your own network",
        )
    if header.kind is Kind.SEVERAL:
        keys = [state.key for state in header.wrapped.choices[:_NAMED]]
        return tuple(command("init", f"{path}#{each}", *_YOURS) for each in keys)
    if header.kind in (Kind.ONNX, Kind.OPENVINO, Kind.TORCHSCRIPT):
        return (f"{command('parity', 'CONFIG', '--candidate', path)}  # CONFIG: that of the network it was made from",)
    weights = [name for name in inside if name.lower().endswith(files.SUFFIXES)]
    if weights and header.kind is not Kind.NUMPY:
        return (f"unpack it, then: weighbridge inspect {weights[0]!r}",)
    return (header.kind.remedy,) if header.kind.remedy else ()
