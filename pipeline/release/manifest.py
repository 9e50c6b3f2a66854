"""What a manifest holds: the model behind its published JSON Schema (`weighbridge schema --of manifest`)."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - pydantic evaluates annotations in this module
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import interface as types
from pipeline.interface import formula_names, ordered_dimensions
from pipeline.release import standalone
from pipeline.storage.documents import schema_of

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Dtype = Literal[
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "bfloat16", "complex64", "complex128",
]  # fmt: skip
Role = Literal["model", "weights", "golden", "verifier", "sbom", "card", "provenance", "reference", "beside"]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class File(_Section):
    """A file of the release outside `report/`, other than the manifest, its signature and SHA256SUMS."""

    path: FileName
    role: Role
    sha256: Sha256
    size_bytes: Count


class Preprocessing(_Section):
    """What the files themselves make of an input before the network takes it: (resized(x) / divide_by - mean) / scale."""

    dtype: Dtype = Field(description="What the network takes; numpy's name of it")
    shape: list[Size | str] = Field(description="What the network takes, a size as in `inputs`")
    layout: Literal["NHWC", "HWC"] | None = Field(description="How the input lies where that is not as in `shape`")
    resized: bool = Field(description="To the last two sizes of `shape`, bilinearly, before anything is computed")
    divide_by: float
    mean: list[float] = Field(min_length=1, description="One number, or one for each channel")
    scale: list[float] = Field(min_length=1, description="One number, or one for each channel")
    channels: Count = Field(description="The axis of `shape` along which channels lie")


class Input(_Section):
    """An input, with the range its values had when it was proven: integers in [low, high)."""

    name: str
    dtype: Dtype = Field(description="numpy's name of it")
    shape: list[Size | str] = Field(description="A number is a fixed size, a name one of `dimensions`")
    low: int | float | None
    high: int | float | None
    preprocess: Preprocessing | None = Field(default=None, description="null: the network takes it as it is")
    unit: str | None = Field(default=None, description="What its numbers are; null: not said")


class Output(_Section):
    """An output."""

    name: str
    dtype: Dtype = Field(description="numpy's name of it")
    shape: list[Size | str | None] = Field(
        description="A number is a fixed size, a name one of `dimensions`, null a size that depends on several"
    )
    labels: list[str] | None = Field(
        default=None, description="Names of the classes along its last axis; null: not said"
    )
    unit: str | None = Field(default=None, description="What its numbers are; null: not said")


class Dimension(_Section):
    """The sizes a dynamic dimension may take."""

    min: Size
    max: Size
    multiple_of: Annotated[Size, Field(ge=1)]
    formula: str | None = Field(default=None, description="How the size follows from other dimensions, as in past + 1")

    @model_validator(mode="after")
    def _has_a_size(self) -> Dimension:
        if self.max - self.max % self.multiple_of < max(self.min, 1):
            raise ValueError(f"there is no multiple of {self.multiple_of} from {self.min} to {self.max}")
        if self.formula is not None:
            formula_names(self.formula)
        return self


class Budget(_Section):
    """What an output was held to: a limit in multiples of the noise floor, or explicit tolerances."""

    limit: float | None = None
    atol: float | None = None
    rtol: float | None = None


class SamplesFile(_Section):
    """The user's own samples, which are no part of the release."""

    file: str
    sha256: Sha256


class Claim(_Section):
    """What was shown of all inputs, on samples: a share, or the mean of the metric's differences, is above the limit."""

    criterion: Literal["sqnr_db", "top1_agreement", "metric"]
    output: str | None = Field(description="null: a metric, which is of all outputs")
    threshold: float | None = Field(description="The least dB that a sample may have; null: of another criterion")
    value: float = Field(description="Of the samples")
    lower: float = Field(description="Of all inputs at least, at the confidence")
    limit: float = Field(description="What it had to be")
    samples: Count


class Accuracy(_Section):
    """How near a file's outputs are to the float64 network's, on the user's own samples."""

    backend: str = Field(description="What ran it, of `backends`")
    samples: SamplesFile
    confidence: float = Field(description="Of each claim by itself")
    claims: list[Claim] = Field(min_length=1)


class Model(_Section):
    """A model file with what lies beside it."""

    name: str | None = Field(default=None, description="Of the artifact; null in older releases: its format")
    format: str
    made_from: str | None = Field(default=None, description="The artifact it was made from; null: the network")
    path: FileName
    files: list[FileName]
    gate: dict[str, Budget] | None = Field(
        default=None, description="What its outputs were held to, where that is not `parity`"
    )
    golden: FileName | None = Field(
        default=None, description="The golden cases that it is held to, where it has a precision of its own"
    )
    accuracy: Accuracy | None = Field(
        default=None, description="What was shown of how good it is; null: nothing was asked"
    )
    facts: dict[str, Any] = Field(description="What the exporter states of it: method, opset, …")


class Backend(_Section):
    """A way to run the release that was proven."""

    backend: str
    format: str | None = Field(description="The format it runs; null: the network itself")
    artifact: str | None = Field(
        default=None, description="The artifact it runs; null in older releases: that of its format"
    )
    options: dict[str, Any]
    verdict: Literal["pass"]
    processors: dict[str, str] | None = Field(
        default=None,
        description="For which processors its products of whole numbers are right, as far as that could be tried",
    )


class Reference(_Section):
    """The recorded outputs of the trained network that the rebuilt one was held against."""

    path: FileName
    calls: Annotated[int, Field(ge=1)]
    recorded: str = Field(description="Where they were recorded: torch's version, device, dtypes")
    atol: float | None
    rtol: float | None


class Golden(_Section):
    """The golden cases."""

    cases: list[str] = Field(min_length=1)
    path: FileName


class Rows(_Section):
    """Whether a row of a batch depends on the other rows, as the network itself was asked: only then may calls be joined or split."""

    verdict: Literal["independent", "dependent", "not shown"]
    dimension: str | None = Field(default=None, description="Which rows are counted by")
    cases: list[str] = Field(
        default=[],
        description="Those whose first and last row were held alone, and beside other rows, against what they were",
    )
    output: str | None = Field(default=None, description="The output that changed most")
    difference: float | None = Field(
        default=None, description="By how much, ÷ its largest value; null: within its budget, or not finite"
    )
    reason: str | None = Field(default=None, description="Why it was not shown")


class Weights(_Section):
    """The weights file the release was built from."""

    file: str
    parameters: Count
    sha256: Sha256


class Architecture(_Section):
    """The network's code: its name, and the digest of the file that defines it."""

    name: str
    sha256: Sha256


class Manifest(_Section):
    """What a release is: its files with their digests, what goes in and out, and what was proven of it."""

    schema_version: Literal[1] = Field(description="Version of this schema")
    name: FileName
    version: FileName = Field(description="release.version, or the first 12 hex digits of `digest`")
    digest: Sha256 = Field(
        description="Of the files' digests and this manifest without `version`, `digest` and `files`"
    )
    signed_by: Sha256 | None = Field(
        description="SHA-256 of the raw Ed25519 public key that manifest.json.sig was made with; null: unsigned"
    )
    files: list[File]
    models: list[Model] = Field(min_length=1)
    golden: Golden
    inputs: list[Input]
    outputs: list[Output]
    dimensions: dict[str, Dimension]
    backends: dict[str, Backend] = Field(description="By the name its results carry")
    parity: dict[str, Budget] = Field(description="By output")
    rows: Rows | None = Field(default=None, description="null in older releases: not shown")
    reference: Reference | None = Field(
        default=None, description="null: the network was not compared with the one that was trained"
    )
    weights: Weights
    architecture: Architecture
    config: dict[str, Any] = Field(
        description="The config with its defaults filled in, and file names in place of paths"
    )
    tools: dict[str, str] = Field(description="Versions of what the bytes and numbers depend on")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Manifest:
        """Models are made of files of the release, and shapes of dimensions that are declared."""
        listed = {file.path for file in self.files}
        strange = {name for model in self.models for name in [model.path, *model.files]} - listed
        if strange or any(model.path not in model.files for model in self.models):
            raise ValueError(f"models need files that are not listed: {', '.join(sorted(strange)) or 'their own'}")
        shapes: list[Sequence[Any]] = [*(each.shape for each in self.inputs), *(each.shape for each in self.outputs)]
        sizes = {size for shape in shapes for size in shape if isinstance(size, str)}
        sizes |= {name for each in self.dimensions.values() if each.formula for name in formula_names(each.formula)}
        if unknown := sizes - set(self.dimensions):
            raise ValueError(f"shapes name sizes that are no dimensions: {', '.join(sorted(unknown))}")
        ordered_dimensions(
            [
                types.Dimension(name, each.min, each.max, each.multiple_of, each.formula)
                for name, each in self.dimensions.items()
            ]
        )
        return self


def schema() -> dict[str, Any]:
    """Return the JSON Schema of manifest.json."""
    return schema_of(Manifest, "manifest", standalone.SCHEMA_VERSION, "weighbridge release manifest")
