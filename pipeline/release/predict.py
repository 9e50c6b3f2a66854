"""Arrays from files, through a release, to a file: `.npy`, `.npz`, `.safetensors` and `.json`."""

from __future__ import annotations

import io
import itertools
import json
import lzma
import math
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from pipeline.errors import InputError
from pipeline.interface import formula_names, free_dimensions
from pipeline.release import bundle
from pipeline.release.outputs import best, json_bytes, require_writable, write
from pipeline.release.rows import dependence
from pipeline.release.standalone import GOLDEN, DamagedError, read_golden, read_safetensors
from pipeline.weights import headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.interface import Array, Arrays, Dimension, InputSpec, Interface
    from pipeline.release.load import Model

MAX_INPUT_BYTES = 4 * 2**30
"""The most that one input file may hold, unpacked."""
MAX_JSON_BYTES = 256 * 2**20
"""The most that a JSON file may hold: its numbers take some ten times that in memory."""

_MAX_JSON_LISTS = 500_000
# Of zipfile: RuntimeError for what is encrypted; of numpy, which reads headers as Python's: TokenError for what never ends.
_UNREADABLE = (
    DamagedError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip
_SPLIT_TOLERANCE = 1e-3  # of the largest value: far above rounding, far below what a mixed-up batch gives


# Reading


def read_inputs(
    paths: Sequence[str], specs: Sequence[InputSpec], *, max_bytes: int = MAX_INPUT_BYTES
) -> dict[str, Array]:
    """Return the arrays of `FILE` or `NAME=FILE` arguments by input name.

    A `.npy` or a plain JSON list holds one array, so it needs a name unless the model has one input. JSON numbers
    become the declared dtype. Nothing is unpickled. Raises InputError for whatever cannot be read, named, and UnsafeError
    where that is a hostile file under another name.
    """
    arrays: dict[str, Array] = {}
    for argument in paths:
        name, path = _split(argument, specs)
        for found, array in _read(path, name, specs, max_bytes).items():
            if found in arrays:
                raise InputError(f"input {found} is given twice, the second time by {path}", hint="give it once")
            arrays[found] = array
    return arrays


def _split(argument: str, specs: Sequence[InputSpec]) -> tuple[str | None, Path]:
    name, equals, rest = argument.partition("=")
    is_named = bool(equals) and any(spec.name == name for spec in specs)
    path = Path(rest if is_named else argument)
    if path.is_file():
        return (name if is_named else None), path
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a folder is run alone", hint="give it as the only input, unnamed")
    names = ", ".join(spec.name for spec in specs)
    raise InputError(f"{path} is not a file", hint=f"give FILE, or NAME=FILE with a name among {names}")


def _read(path: Path, name: str | None, specs: Sequence[InputSpec], max_bytes: int) -> dict[str, Array]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is no kind of file this reads", hint=f"use {', '.join(_READERS)}")
    if path.stat().st_size > max_bytes:
        raise InputError(f"{path} is {path.stat().st_size} bytes, at most {max_bytes} are read", hint="split it")
    if reader is _read_json and path.stat().st_size > MAX_JSON_BYTES:
        told = f"{path} is {path.stat().st_size} bytes, at most {MAX_JSON_BYTES} of JSON are read"
        raise InputError(told, hint="write it as .npy or .safetensors")
    try:
        found = reader(path, specs, max_bytes)
    except _UNREADABLE as error:
        headers.require_harmless(path)  # it is broken, or something else under this name
        raise InputError(f"{path} cannot be read as {path.suffix}: {error}", hint="write it again") from error
    if strange := next((each for each in found if each is not None and not each.isprintable()), None):
        told = f"{path} has an array whose name is {strange!r:.80}, which cannot be printed as it is"
        raise InputError(told, hint="save it under another name")
    if None in found and name is None and len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        hint = f"name it: --input {specs[0].name}={path}"
        raise InputError(f"{path} holds one array, and the model takes {names}", hint=hint)
    if name is not None:
        if len(found) != 1:
            hint = f"give them all: --input {path}"
            raise InputError(f"{path} holds {len(found)} arrays, and is given for {name} alone", hint=hint)
        return {name: next(iter(found.values()))}
    return {specs[0].name if key is None else key: array for key, array in found.items()}


def _read_npy(path: Path, _specs: Sequence[InputSpec], max_bytes: int) -> dict[str | None, Array]:
    with path.open("rb") as file:
        return {None: _npy_array(file, path.stat().st_size, max_bytes)}


def _read_npz(path: Path, _specs: Sequence[InputSpec], max_bytes: int) -> dict[str | None, Array]:
    arrays: dict[str | None, Array] = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > max_bytes:
            raise ValueError(f"its arrays unpack to more than {max_bytes} bytes")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays or name == entry.filename:
                raise ValueError(f"{entry.filename} stands twice, or is no array")
            try:
                with archive.open(entry) as file:
                    arrays[name] = _npy_array(file, entry.file_size, max_bytes)
            except OSError as error:
                if error.errno is not None:  # the disk's
                    raise
                raise ValueError(f"{entry.filename} is damaged: {error}") from error  # bzip2's
    return arrays


def _npy_array(file: IO[bytes], size_bytes: int, max_bytes: int) -> Array:
    """Read one array after checking that its header's shape is what the file's length holds."""
    head = file.read(min(size_bytes, 2**16))
    start = io.BytesIO(head)
    version = npy.read_magic(start)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is not supported")
    shape, fortran_order, dtype = readers[version](start)
    if dtype.kind not in "biuf" or dtype.hasobject:
        raise ValueError(f"it holds {dtype}, and only plain numbers are read")
    wanted_bytes = math.prod(shape) * dtype.itemsize
    if any(size < 0 for size in shape) or wanted_bytes != size_bytes - start.tell() or wanted_bytes > max_bytes:
        raise ValueError(f"its header says {list(shape)} of {dtype}, its length says {size_bytes - start.tell()} bytes")
    content = bytearray(head[start.tell() :] + file.read())
    if len(content) != wanted_bytes:
        raise ValueError("it is truncated")
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _read_safetensors(path: Path, _specs: Sequence[InputSpec], _max_bytes: int) -> dict[str | None, Array]:
    return dict(read_safetensors(path)[0].items())


def _read_json(path: Path, specs: Sequence[InputSpec], _max_bytes: int) -> dict[str | None, Array]:
    text = path.read_text(encoding="utf-8")
    if text.count("[") > _MAX_JSON_LISTS:
        raise ValueError(f"it holds more than {_MAX_JSON_LISTS:,} lists; write it as .npy or .safetensors")
    value = json.loads(text)
    if not isinstance(value, dict):
        spec = specs[0] if len(specs) == 1 else None
        return {None: _json_array(value, spec)}
    declared = {spec.name: spec for spec in specs}
    return {name: _json_array(item, declared.get(name)) for name, item in _json_leaves(value, declared, "")}


def _json_leaves(value: Any, declared: Mapping[str, InputSpec], path: str) -> Iterator[tuple[str, Any]]:
    """Yield what is written for each input; a nested one may be written nested, or under its dotted name."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, item in items:
        name = f"{path}.{key}" if path else str(key)
        is_branch = name not in declared and any(each.startswith(f"{name}.") for each in declared)
        if is_branch and isinstance(item, dict | list):
            yield from _json_leaves(item, declared, name)
        else:
            yield name, item


def _json_array(value: Any, spec: InputSpec | None) -> Array:
    name = "an array" if spec is None else spec.name
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} holds lists of different lengths") from error
    if array.dtype == object and all(isinstance(each, int) for each in array.flat):
        raise ValueError(f"{name} holds integers of more than 64 bits")
    if array.dtype.kind not in "biuf" and array.size:
        raise ValueError(f"{name} holds other things than numbers")
    if spec is None:
        return array
    with np.errstate(over="ignore"):
        converted: Array = array.astype(spec.dtype)
    exact = np.dtype(spec.dtype).kind != "f"
    if (exact and not np.array_equal(converted, array)) or (not exact and np.isinf(converted.astype(float)).any()):
        raise ValueError(f"{spec.name} holds numbers that {spec.dtype} does not")
    tail = () if converted.size else spec.shape[converted.ndim :]  # an empty list cannot say how wide it is
    return converted.reshape(*converted.shape, *(size if isinstance(size, int) else 0 for size in tail))


_READERS: Mapping[str, Callable[[Path, Sequence[InputSpec], int], dict[str | None, Array]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".json": _read_json,
}


def read_arrays(path: Path, *, max_bytes: int = MAX_INPUT_BYTES) -> dict[str, Array]:
    """Return all arrays of a `.npz` or `.safetensors` file by name; raises as `read_inputs`."""
    if not path.is_file():
        raise InputError(f"{path} is not a file", hint="record it with: from pipeline import record")
    return {name or "": array for name, array in _read(path, None, (), max_bytes).items()}


# Running


def run(model: Model, inputs: Arrays) -> dict[str, Array]:
    """Return the outputs by name, a batch beyond its declared maximum run in parts and joined.

    Only the first dimension of the inputs is split, only if every input has it and its rows were not shown to depend on
    one another, and only after the first part has shown that the network treats its halves alone as it treats them
    together. Raises InputError otherwise.
    """
    dimension = _too_large(model.interface, inputs)
    if dimension is None:
        return model(**inputs)
    _require_independent(model.rows, dimension)
    axes = {spec.name: spec.shape.index(dimension.name) for spec in model.interface.inputs}
    size = next(inputs[name].shape[axis] for name, axis in axes.items())
    parts = [_part(inputs, axes, start, stop) for start, stop in _ranges(size, dimension)]
    joining = _joining_axes(model, parts[0], axes, dimension)
    results = [model(**part) for part in parts]
    return {name: np.concatenate([result[name] for result in results], axis) for name, axis in joining.items()}


def _require_independent(rows: Mapping[str, Any] | None, dimension: Dimension) -> None:
    if (found := dependence(rows, dimension.name)) is not None:
        raise InputError(
            f"{dimension.name} is beyond its maximum of {dimension.max} and cannot be split: {found}",
            hint=f"run at most {dimension.max} at a time, or export with a larger dimensions.{dimension.name}.max",
        )


def _too_large(interface: Interface, inputs: Arrays) -> Dimension | None:
    """Return the dimension to split: beyond its maximum, the first of all, on one axis of every input, sizes equal."""
    first = next((size for spec in interface.inputs for size in spec.shape if isinstance(size, str)), None)
    dimension = next((each for each in free_dimensions(interface.dimensions) if each.name == first), None)
    if dimension is None or any(spec.shape.count(dimension.name) != 1 for spec in interface.inputs):
        return None
    if any(dimension.name in formula_names(each.formula) for each in interface.dimensions if each.formula):
        return None
    sizes = set()
    for spec in interface.inputs:
        array = inputs.get(spec.name)
        if not isinstance(array, np.ndarray) or array.ndim != len(spec.shape):
            return None  # the model itself says what is wrong
        sizes.add(array.shape[spec.shape.index(dimension.name)])
    return dimension if len(sizes) == 1 and max(sizes) > dimension.max else None


def _ranges(size: int, dimension: Dimension) -> list[tuple[int, int]]:
    """Return the parts as (start, stop), as equal as the dimension's step allows."""
    step = dimension.multiple_of
    largest = dimension.max // step
    if size % step:
        raise InputError(f"{dimension.name} is {size}, no multiple of {step}", hint=f"give {-(-size // step) * step}")
    units = size // step
    count = -(-units // largest)
    edges = [units * index // count * step for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _part(inputs: Arrays, axes: Mapping[str, int], start: int, stop: int) -> dict[str, Array]:
    return {name: inputs[name][(slice(None),) * axis + (slice(start, stop),)] for name, axis in axes.items()}


def _joining_axes(model: Model, part: Arrays, axes: Mapping[str, int], dimension: Dimension) -> dict[str, int]:
    """Return the axis along which each output joins, found by running a part whole and in halves."""
    whole_size = next(part[name].shape[axis] for name, axis in axes.items())
    middle = whole_size // 2 // dimension.multiple_of * dimension.multiple_of
    if middle < dimension.min:
        raise InputError(
            f"{dimension.name} is beyond its maximum of {dimension.max}, and its range is too narrow to split it safely",
            hint=f"run at most {dimension.max} at a time",
        )
    whole, left, right = (
        model(**_part(part, axes, start, stop)) for start, stop in ((0, whole_size), (0, middle), (middle, whole_size))
    )
    sizes = (whole_size, middle, whole_size - middle)
    return {name: _joining_axis(name, (whole[name], left[name], right[name]), sizes, dimension) for name in whole}


def _joining_axis(name: str, arrays: tuple[Array, Array, Array], sizes: tuple[int, ...], dimension: Dimension) -> int:
    whole, left, right = arrays
    for axis in range(whole.ndim):
        if tuple(array.shape[axis] if axis < array.ndim else -1 for array in arrays) != sizes:
            continue
        if _agree(np.concatenate([left, right], axis), whole):
            return axis
    raise InputError(
        f"{dimension.name} is beyond its maximum of {dimension.max} and cannot be split: "
        f"output {name} of a part differs from that of the whole",
        hint=f"run at most {dimension.max} at a time, or export with a larger dimensions.{dimension.name}.max",
    )


def _agree(joined: Array, whole: Array) -> bool:
    if joined.dtype.kind != "f":
        return bool(np.array_equal(joined, whole))
    largest = float(np.max(np.abs(whole.astype(np.float64)), initial=0, where=np.isfinite(whole.astype(np.float64))))
    return bool(
        np.allclose(
            joined.astype(np.float64), whole.astype(np.float64), rtol=0, atol=_SPLIT_TOLERANCE * largest, equal_nan=True
        )
    )


def predict_file(model: Model, inputs: Sequence[str], output: Path | None, top: int | None = None) -> list[str]:
    """Run inputs from files (see `read_inputs`) and write the outputs (see `outputs.write`); return their names."""
    require_writable(output, top)  # no work whose result has nowhere to go
    return _predicted(model, read_inputs(inputs, model.interface.inputs), output, top)


def predict_example(model: Model, release: Path, output: Path | None, top: int | None = None) -> list[str]:
    """Run the inputs of a release's first golden case, and write the outputs as `predict_file` does; return their names."""
    require_writable(output, top)
    case = read_golden(bundle.find(release) / GOLDEN).cases[0]
    return _predicted(model, case.inputs, output, top)


def _predicted(model: Model, inputs: Arrays, output: Path | None, top: int | None) -> list[str]:
    outputs = run(model, inputs)
    write(best(outputs, model.labels, top) if top else outputs, output)
    return list(outputs)


def predict_folder(
    model: Model,
    folder: Path,
    output: Path | None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    top: int | None = None,
) -> int:
    """Run every file of a folder, by name, one at a time, so that memory does not grow with them; return how many.

    Outputs go to `<output>/<stem>.npz` (the best classes to .json), or to stdout as a JSON line for each file. `progress(done, total, name)` is
    called after each. Raises InputError for a folder without inputs, and for a file that cannot be read or run, named.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no inputs", hint=f"put {', '.join(_READERS)} files there")
    if output and output.is_file():
        raise InputError(f"{output} is a file, and a folder's outputs go to a folder", hint="name another --output")
    stems = [path.stem for path in files]
    if output and len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(
            f"{folder} holds several files {twice}.*, whose outputs would have one name", hint="rename one"
        )
    for done, path in enumerate(files, 1):
        try:
            outputs = run(model, read_inputs([str(path)], model.interface.inputs))
            shown = best(outputs, model.labels, top) if top else outputs
        except InputError as error:
            raise InputError(f"{path.name}: {error.message}", hint=error.hint) from error
        if output:
            write(shown, output / f"{path.stem}{'.json' if top else '.npz'}")
        else:
            sys.stdout.write(f'{{"file":{json.dumps(path.name)},"outputs":{json_bytes(shown).decode()}}}\n')
        progress(done, len(files), path.name)
    return len(files)
