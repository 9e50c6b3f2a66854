"""What a config holds once it is read: strict, frozen models, and the plain form of them that a release records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from pipeline.config.accuracy import AccuracyConfig  # noqa: TC001 - pydantic reads it at run time
from pipeline.config.fields import ARRAYS_FILE, Count, Line, NotNegative, Positive, Section, Slug, VariantName
from pipeline.config.inputs import DimensionConfig, InputConfig  # noqa: TC001 - pydantic reads them at run time
from pipeline.config.tree import Place, key_text

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known formats and backends, each with the model of its options; rooms above this one own the tables.

    `opens`: the format that a backend opens, None for the network itself; `derived`: what formats are made from that are not
    made from the network; `optional`: backends that are not required unless a config says so.
    """

    formats: Mapping[str, type[BaseModel]]
    backends: Mapping[str, type[BaseModel]]
    opens: Mapping[str, str | None] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()


def _renames(value: dict[str, str]) -> dict[str, str]:
    for old, new in value.items():
        if new.count("*") > old.count("*"):
            raise PydanticCustomError("stars", "'{new}' has more * than '{old}'", {"new": new, "old": old})
    return value


class ModelConfig(Section):
    """The network and its weights."""

    architecture: Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+$")] = Field(
        description="Class or annotated function that builds the network, as package.module:Class; it must be trusted"
    )
    arguments: dict[str, Any] = Field(default={}, description="Keyword arguments of the architecture")
    weights: Line = Field(
        description="State dict (.pth, .pt, .safetensors): a path relative to this file, or a URL (https://, hf://, s3://) with a digest"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)] | None = Field(
        default=None,
        description="SHA-256 of the weights file in hex (sharded: of the list of its files' digests); required for a URL",
    )
    call: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        default="forward", description="The method to export, if it is not forward"
    )
    key: Line | None = Field(
        default=None,
        description="Which state dict of a file that holds several, as in generator or ema.shadow; weights: FILE#KEY says the same",
    )
    rename: Annotated[dict[str, str], AfterValidator(_renames)] = Field(
        default={},
        description="Names in the weights file → in the network; each stands for all names below it too, * for any number, which "
        "the * in its place takes over; the longest that fits counts, and an empty name drops what leads",
    )
    ignore: list[str] = Field(
        default=[],
        description="Names in the weights file to leave out; each stands for all names below it too, * for any number",
    )


class DescribeConfig(Section):
    """What the numbers of an input or output mean."""

    labels: Annotated[list[Line], Field(min_length=1)] | Line | None = Field(
        default=None,
        description="Names of the classes along an output's last axis: a list, or a file (.txt: a name a line; .json: a list or `id2label`)",
    )
    unit: Line | None = Field(default=None, description="What the numbers are, as in RGB from 0 to 1, or logits")


class ExportConfig(Section):
    """One artifact to write."""

    name: VariantName = Field(description="Name of this artifact in `from`, `gates`, results, reports and file names")
    format: str = Field(description="How its bytes are laid out")
    made_from: str | None = Field(
        default=None,
        description="`from`: the artifact it is made from; by default the network, or what the format says",
    )
    calibration: Annotated[str, Field(pattern=ARRAYS_FILE)] | None = Field(
        default=None,
        description="Real inputs (.npz or .safetensors, by name) that ranges of activations are measured on, relative to this file",
    )
    options: dict[str, Any] = Field(
        default={}, description="Options of the format; they may also stand beside `format`"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said: releases of older versions hold configs without it."""
        found: dict[str, Any] = handler(self)
        return found if self.calibration else {name: each for name, each in found.items() if name != "calibration"}


class BackendConfig(Section):
    """One way to run an artifact, by its own name if it is a variant."""

    name: VariantName = Field(description="Name of this variant in `require`, results and reports")
    backend: str = Field(description="Backend that runs it")
    artifact: str | None = Field(
        default=None,
        description="Artifact that it opens; by default the one named like the backend's format, or the only one",
    )
    options: dict[str, Any] = Field(default={}, description="Options of the backend")


class ToleranceConfig(Section):
    """The error budget of one output: a limit, or atol with rtol."""

    limit: Positive | None = Field(default=None, description="Largest error, in multiples of the noise floor")
    atol: NotNegative | None = Field(default=None, description="Largest absolute error; goes with rtol")
    rtol: NotNegative | None = Field(default=None, description="Largest relative error; goes with atol")


class OutputConfig(ToleranceConfig):
    """The error budget of one output, and whether it may be the same whatever the network computes."""

    constant: bool = Field(
        default=False,
        description="It is meant to be the same whatever the weights: prove it although no case says anything",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said: releases of older versions hold configs without it."""
        found: dict[str, Any] = handler(self)
        return found if self.constant else {name: each for name, each in found.items() if name != "constant"}


class ParityConfig(Section):
    """How far a backend may be from the network, and on which inputs that is measured."""

    limit: Positive = Field(default=16.0, description="Largest error, in multiples of the noise floor")
    atol: NotNegative | None = Field(
        default=None, description="Largest absolute error, in place of limit; goes with rtol"
    )
    rtol: NotNegative | None = Field(
        default=None, description="Largest relative error, in place of limit; goes with atol"
    )
    outputs: dict[str, OutputConfig] = Field(default={}, description="Budgets of single outputs")
    seed: int = Field(default=0, ge=0, description="Seed of the inputs")
    cap_elements: int = Field(default=2**20, ge=1, description="Most elements any one input of a case may have")


class GateConfig(Section):
    """The error budget of one artifact, where it is not that of `parity`, and how accurate it must be."""

    limit: Positive | None = Field(default=None, description="Largest error, in multiples of the noise floor")
    atol: NotNegative | None = Field(default=None, description="Largest absolute error; goes with rtol")
    rtol: NotNegative | None = Field(default=None, description="Largest relative error; goes with atol")
    outputs: dict[str, ToleranceConfig] = Field(default={}, description="Budgets of single outputs")
    accuracy: AccuracyConfig | None = Field(
        default=None, description="How near its outputs must be to the float64 network's, on samples of your own"
    )

    @property
    def has_budget(self) -> bool:
        """Whether it says anything of an error budget."""
        return self.limit is not None or self.atol is not None or bool(self.outputs)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said: releases of older versions hold configs without it."""
        found: dict[str, Any] = handler(self)
        return found if self.accuracy else {name: each for name, each in found.items() if name != "accuracy"}


class ReferenceConfig(Section):
    """What the network gave where it was trained, and how far the rebuilt one may be off."""

    file: Annotated[str, Field(pattern=ARRAYS_FILE)] = Field(
        description="Inputs with outputs (.npz or .safetensors), as pipeline.record writes them, relative to this file"
    )
    atol: NotNegative | None = Field(
        default=None, description="Largest absolute error, in place of parity.limit × the noise floor; goes with rtol"
    )
    rtol: NotNegative | None = Field(default=None, description="Largest relative error; goes with atol")


class BenchmarkConfig(Section):
    """What is timed, for how long, and which difference counts."""

    reference: str = Field(default="eager", description="Backend the others are compared with")
    sizes: list[dict[str, int]] = Field(
        default=[], description="Sizes to time; dimensions left out, and all by default, are at their minimum"
    )
    seconds: Positive = Field(default=40.0, description="Budget of the whole benchmark, starting processes included")
    margin: Positive = Field(default=0.03, description="Relative differences below this count as the same")
    threads: Count | Annotated[list[Count], Field(min_length=1)] | None = Field(
        default=None, description="Threads of every backend, or several numbers to time each with; null: all cores"
    )

    def thread_counts(self, default: int) -> list[int]:
        """Return every number of threads to time a backend with, in the order given, `default` if none is."""
        given = self.threads if isinstance(self.threads, list) else [self.threads or default]
        return list(dict.fromkeys(given))


class TuneConfig(Section):
    """What `weighbridge tune` looks for, within which limits, and for how long."""

    objective: Literal["latency", "throughput", "memory", "size"] = Field(
        default="latency",
        description="What is to be least: the time of a call, that of a call where as many are under way as processors allow, "
        "the peak of memory, or the size of the file",
    )
    size: dict[str, int] = Field(
        default={}, description="The sizes to time; dimensions left out, and all by default, are at their minimum"
    )
    p99_ms: Positive | None = Field(default=None, description="Most that the 99th percentile of a call may be, in ms")
    memory_bytes: Count | None = Field(
        default=None, description="Most memory that a process may take at its peak, over that of an idle one"
    )
    bytes: Count | None = Field(default=None, description="Most that the files of an artifact may hold")
    precision: Annotated[list[Line], Field(min_length=1)] | None = Field(
        default=None, description="Precisions that an artifact may have, as it states them; own: that of the network"
    )
    seconds: Positive = Field(default=120.0, description="How long it may take, proofs not included")


class ReleaseConfig(Section):
    """How the release is named and signed."""

    version: Slug | None = Field(default=None, description="Version; null: the content digest")
    sign: Line | None = Field(
        default=None, description="File of the private key to sign with, relative to this file; null: unsigned"
    )
    license: Line | None = Field(default=None, description="License of the weights, an SPDX expression")
    description: Line | None = Field(default=None, description="What the network is for, in a line")
    datasets: list[Line] = Field(default=[], description="What it was trained on, by the names a reader knows")
    beside: list[Line] = Field(
        default=[],
        description="Files that belong to the network and go into the release as they are, relative to this file: a tokenizer, "
        "an image processor's settings, names of classes",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said: releases of older versions hold configs without it."""
        found: dict[str, Any] = handler(self)
        return found if self.beside else {name: each for name, each in found.items() if name != "beside"}


class LimitsConfig(Section):
    """How long one child process may take, and how much memory."""

    export_seconds: Positive = Field(default=600.0, description="Longest time of one export")
    run_seconds: Positive = Field(default=600.0, description="Longest time of one answer of a backend")
    memory_bytes: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Most private memory of one child process (Linux); null: no limit. Importing torch takes 0.3 GB",
    )


class Config(Section):
    """A network, what to export it to, where to run that, and when it counts as proven."""

    name: Slug = Field(description="Name of the release")
    model: ModelConfig = Field(description="The network and its weights")
    inputs: dict[str, InputConfig] = Field(
        min_length=1,
        description="Inputs by the names of the method's parameters; lists and mappings of inputs where it takes such. "
        "Names that are none of its parameters: in its order",
    )
    constants: dict[str, Any] = Field(
        default={}, description="Further arguments of the call that are no tensors, as in use_cache: false"
    )
    dimensions: dict[str, DimensionConfig] = Field(
        default={}, description="Dynamic dimensions that the shapes name; a formula where a size follows from others"
    )
    outputs: list[Line] = Field(
        min_length=1,
        description="Names of the outputs: in the order of what is returned, or its keys and fields (past.0.key); "
        "or a mapping of names to where they lie, which may leave some out: {logits: 0, mean: 3}",
    )
    output_paths: dict[str, Line] = Field(
        default={}, description="Where outputs lie in what is returned; in short: outputs: {logits: 0, mean: 3}"
    )
    describe: dict[str, DescribeConfig] = Field(
        default={},
        description="What the numbers of inputs and outputs mean, by their names: of no effect on what is proven",
    )
    exports: list[ExportConfig] = Field(
        min_length=1, description="Artifacts to write: a format, or a mapping with name, format, from and options"
    )
    backends: list[BackendConfig] = Field(
        min_length=1, description="Ways to run them: a backend, or a mapping with name, backend, artifact and options"
    )
    require: list[str] = Field(
        default=[], description="Backends that must be there and must pass; by default all that need no CUDA"
    )
    parity: ParityConfig = Field(default=ParityConfig(), description="Error budgets")
    gates: dict[str, GateConfig] = Field(
        default={}, description="Error budgets and accuracy of single artifacts, by their names"
    )
    benchmark: BenchmarkConfig = Field(default=BenchmarkConfig(), description="What is timed")
    tune: TuneConfig = Field(
        default=TuneConfig(), description="What `weighbridge tune` chooses by: of no effect on what is proven"
    )
    release: ReleaseConfig = Field(default=ReleaseConfig(), description="Name, signature and license of the release")
    reference: ReferenceConfig | None = Field(
        default=None,
        description="What the network gave where it was trained: the rebuilt one must give the same; a file, or a mapping with "
        "tolerances for another device or precision",
    )
    samples: Annotated[str, Field(pattern=ARRAYS_FILE)] | None = Field(
        default=None, description="Real inputs (.npz or .safetensors) beside the seeded ones, relative to this file"
    )
    limits: LimitsConfig = Field(default=LimitsConfig(), description="Limits of child processes")

    _places: dict[str, Place] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Keep where each key stands, which `load` passes as the validation context."""
        self._places = context or {}

    def place(self, key_path: str) -> str:
        """Return where a key's value stands ("simplenet.yaml:5:34", "--set …"), or its nearest parent's if it is a default."""
        return find_place(self._places, tuple(key_path.split("."))).label


def find_place(places: Mapping[str, Place], path: tuple[str | int, ...]) -> Place:
    """Return the place of a key, or of its nearest parent that was written down."""
    for length in range(len(path), -1, -1):
        if place := places.get(key_text(path[:length])):
            return place
    return Place("config", "config")


def resolved(config: Config) -> dict[str, Any]:
    """Return what determines a release as JSON values, without folders, keys to sign with, or limits.

    `input_order` repeats the order of `inputs`, so that hashing with sorted keys keeps it. What `tune` says is left out: which of the
    proven ways is chosen is no part of what a release is.
    """
    plain = config.model_dump(mode="json", exclude={"limits": True, "tune": True, "release": {"sign"}})
    plain["model"]["weights"] = _file_name(config.model.weights)
    plain["samples"] = _file_name(config.samples) if config.samples else None
    for each in plain["exports"]:
        if "calibration" in each:
            each["calibration"] = _file_name(each["calibration"])
    if config.reference:
        plain["reference"]["file"] = _file_name(config.reference.file)
    for name, gate in config.gates.items():
        if gate.accuracy:
            plain["gates"][name]["accuracy"]["samples"] = _file_name(gate.accuracy.samples)
    if config.release.beside:
        plain["release"]["beside"] = [_file_name(each) for each in config.release.beside]
    if not config.describe:
        del plain["describe"]  # releases of older versions hold configs without it
    for name, each in config.describe.items():
        labels = _file_name(each.labels) if isinstance(each.labels, str) else each.labels
        plain["describe"][name] = {k: v for k, v in (("labels", labels), ("unit", each.unit)) if v is not None}
    plain["input_order"] = list(config.inputs)
    return plain


def _file_name(location: str) -> str:
    return PurePosixPath(urlsplit(location).path if "://" in location else location).name
