"""A release as a function: named arrays in, named arrays out, checked against what the manifest declares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import DigestError, InputError, UnavailableError
from pipeline.release import bundle, standalone
from pipeline.release.verify import check

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from pipeline.types import Array, Arrays, Dimension, InputSpec, Interface

PREFERENCE = ("onnxruntime-cpu", "torchscript")
"""Which backend runs a release when none is named: the first that can."""


@dataclass(frozen=True, slots=True)
class Model:
    """An opened release. Calls are independent of each other and may come from several threads."""

    name: str
    version: str
    backend: str
    interface: Interface
    run: Callable[[Arrays], dict[str, Any]]

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Return the outputs by name; raises InputError for inputs the manifest does not declare so."""
        check_inputs(self.interface, inputs)
        return self.run(inputs)


def load_release(path: str | os.PathLike[str], *, backend: str | None = None, verify: bool = True) -> Model:
    """Open a release: its directory, its manifest.json, or `artifacts/<name>` for the latest one.

    `backend` is a backend's name, or a variant's that the release was proven with, which brings its options.
    `verify` checks every digest first. Without it the files are opened as they are; TorchScript, whose loader trusts
    its file, never is. Raises DigestError, InputError, and UnavailableError if no backend can run it here.
    """
    release = bundle.find(Path(path))
    problems = check(release) if verify else standalone.check_manifest(release)
    if problems:
        raise DigestError(
            f"{release} is not what was released: {'; '.join(problems[:3])}", hint="fetch the release again"
        )
    manifest = standalone.read_manifest(release)
    files = {model["format"]: release / model["path"] for model in manifest["models"]}
    variant = manifest.get("backends", {}).get(backend, {"backend": backend, "options": {}})
    chosen = backends()[_choose(variant["backend"], files)]
    if not verify and chosen.artifact == "torchscript":
        raise InputError("a TorchScript file is only opened once its digest is checked", hint="leave verify=True")
    interface = bundle.interface_from(manifest)
    inputs = tuple(spec.name for spec in interface.inputs)
    source = Source(inputs, interface.outputs, files[chosen.artifact or ""])
    session = chosen.open(source, chosen.options(**variant["options"]))
    return Model(manifest["name"], manifest["version"], chosen.name, interface, session.run)


def check_inputs(interface: Interface, inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless names, dtypes, ranks and sizes are those declared, and dimensions agree with each other."""
    sizes: dict[str, int] = {}
    if len(inputs) != len(interface.inputs):
        raise _names_error(interface, inputs)
    for spec in interface.inputs:
        array = inputs.get(spec.name)
        if array is None:
            raise _names_error(interface, inputs)
        if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
            raise _dtype_error(spec, array)
        shape = array.shape
        if len(shape) != len(spec.shape):
            raise InputError(f"{spec.name} has shape {_text(shape)}, declared is {_text(spec.shape)}")
        for declared, size in zip(spec.shape, shape, strict=True):
            expected = sizes.setdefault(declared, size) if isinstance(declared, str) else declared
            if size != expected:
                raise _size_error(spec, shape, declared, expected)
    for dimension in interface.dimensions:
        size = sizes.get(dimension.name, dimension.min)
        if not dimension.min <= size <= dimension.max or size % dimension.multiple_of:
            raise _range_error(dimension, size)


def _names_error(interface: Interface, inputs: Mapping[str, Array]) -> InputError:
    declared = [spec.name for spec in interface.inputs]
    missing = [name for name in declared if inputs.get(name) is None]
    unknown = [name for name in inputs if name not in declared]
    parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    return InputError(f"inputs do not fit: {'; '.join(parts)}", hint=f"this release takes {', '.join(declared)}")


def _dtype_error(spec: InputSpec, array: object) -> InputError:
    if not isinstance(array, np.ndarray):
        return InputError(
            f"{spec.name} is a {type(array).__name__}, expected a numpy array of {spec.dtype}",
            hint=f"np.asarray({spec.name}, dtype=np.{spec.dtype})",
        )
    return InputError(
        f"{spec.name} is {array.dtype}, expected {spec.dtype}", hint=f"{spec.name}.astype(np.{spec.dtype})"
    )


def _size_error(spec: InputSpec, shape: tuple[int, ...], declared: int | str, expected: int) -> InputError:
    other = f", and {declared} is {expected} elsewhere" if isinstance(declared, str) else ""
    return InputError(f"{spec.name} has shape {_text(shape)}, declared is {_text(spec.shape)}{other}")


def _range_error(dimension: Dimension, size: int) -> InputError:
    step = f", in steps of {dimension.multiple_of}" if dimension.multiple_of > 1 else ""
    return InputError(
        f"{dimension.name} is {size}, declared is {dimension.min} to {dimension.max}{step}",
        hint=f"stay in that range, or export again with another dimensions.{dimension.name}",
    )


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _choose(backend: str | None, files: Mapping[str, Path]) -> str:
    if backend is not None and backend not in backends():
        raise InputError(f"there is no backend {backend!r}", hint=f"choose from {', '.join(backends())}")
    reasons = []
    for name in PREFERENCE if backend is None else (backend,):
        if backends()[name].artifact not in files:
            reasons.append(
                f"{name} runs {backends()[name].artifact or 'the network itself'}, which is not in the release"
            )
            continue
        reason = backends()[name].probe()
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}; install {backends()[name].install}")
    raise UnavailableError(f"no backend can run this release (it holds {', '.join(files)})", hint=" · ".join(reasons))
