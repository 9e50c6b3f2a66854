"""The values that flow between the rooms: frozen, light, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]
    Arrays = Mapping[str, Array]

Sizes = Mapping[str, int]
"""Dimension name → size."""


def in_words(sizes: Sizes) -> str:
    """Return the words for a combination of sizes, as every message and report has them."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: what kind of values, at which sizes, with the arrays themselves by input name."""

    name: str
    sizes: Sizes
    inputs: Arrays

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values and arrays."""
        return {"name": self.name, "sizes": dict(self.sizes), "inputs": dict(self.inputs)}


@dataclass(frozen=True, slots=True)
class Artifact:
    """What an exporter wrote. `files[0]` is the one to open; `facts` (JSON values) go into the manifest.

    `explanations` say by node where in the network's source it comes from; they stay in the report. `program` describes
    what was exported (see `pipeline.exporters.program`), for the audit; empty where the exporter has none. Its `captured`
    says whether that is the program as torch.export captures it, not one decomposed further.
    """

    format: str
    files: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    explanations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    program: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input with the values it may hold: integers in [low, high), floats normal × scale or uniform in [low, high).

    A tensor inside a nested input is named by its path: `past.0.key` is `key` of the first item of `past`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None
    values: str = "normal"
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dynamic dimension and the sizes it may take: min, min + step … up to max, each a multiple of `multiple_of`.

    With a `formula` (see `pipeline.dimensions`) it follows from other dimensions, and min and max are what that gives.
    """

    name: str
    min: int
    max: int
    multiple_of: int = 1
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its state dict, as a child process needs them to build it.

    `places` maps "model.arguments" and what is written below it to where it stands in the config, for error messages.
    `rename` and `ignore` are the config's exceptions from strict loading; `max_bytes` bounds the weights file; `key` picks
    one of several state dicts in it. `folder` is the config's: objects among the arguments may read files there.
    """

    architecture: str
    arguments: Mapping[str, Any]
    weights: str
    trust: tuple[str, ...]
    places: Mapping[str, str]
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    max_bytes: int | None = None
    folder: str = "."
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """What goes in and out of a network: inputs, the dimensions their shapes name, and the outputs' names in order.

    `method` is what is called, `constants` are its further arguments (plain values), and `paths` says by an output's name
    where in the returned value it lies, for outputs that are not called as they lie there.
    """

    inputs: tuple[InputSpec, ...]
    dimensions: tuple[Dimension, ...]
    outputs: tuple[str, ...]
    method: str = "forward"
    constants: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """A backend with options, under the name its results carry.

    `file` is the exported file it opens, None for the network itself; `unavailable` the reason it cannot run here.
    `custom_ops` is a library of operators to load with it: code that only a command line may name.
    """

    name: str
    backend: str
    format: str | None
    required: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    unavailable: str | None = None
    custom_ops: Path | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something a run did, for progress and logs.

    `status`: started, working, ended, failed, reused (found in the cache), or noted (a remark on the whole run).
    `done`: the share of the work; `peak_bytes`: the most memory its process had resident.
    """

    stage: str
    subject: str
    status: str
    detail: str = ""
    done: float | None = None
    peak_bytes: int | None = None
