"""What goes into the network: its inputs with their values, what arrives in their place, and the sizes of dimensions."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import PydanticCustomError

from pipeline.config.fields import MAX_SIZE, Number, Positive, Section, Size
from pipeline.interface import MAX_FORMULA_LENGTH

DTYPES = {
    "float16": None, "bfloat16": None, "float32": None, "float64": None, "bool": None,
    "int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1), "uint8": (0, 2**8 - 1),
}  # fmt: skip
"""Input dtypes, numpy's names, with the range of the integers among them."""

Dtype = Literal["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
_CHW = 3


def _numbers(value: object) -> object:
    items = value if isinstance(value, list) and value else [value]
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not isfinite(each) for each in items):
        raise PydanticCustomError("numbers_type", "expected a number, or a list of one for each channel")
    return value


def _pair(value: object) -> object:
    if not isinstance(value, list) or len(value) != 2:
        raise PydanticCustomError("pair_type", "expected [height, width] of what arrives")
    return value


Numbers = Annotated[int | float | list[int | float], BeforeValidator(_numbers)]


class PreprocessConfig(Section):
    """What arrives in place of what the network takes, and how it becomes that: (resized(x) / divide_by - mean) / scale."""

    dtype: Dtype | None = Field(default=None, description="Element type of what arrives; by default the input's own")
    layout: Literal["NHWC", "HWC"] | None = Field(
        default=None,
        description="How what arrives lies, channels last, where the network takes NCHW or CHW; by default as the network takes it",
    )
    resize: Annotated[list[Size], BeforeValidator(_pair)] | None = Field(
        default=None,
        description="[height, width] of what ARRIVES, numbers or names of `dimensions`; it is resized to the sizes in `shape`, "
        "bilinearly (align_corners=False, no antialiasing), before anything else is computed",
    )
    divide_by: Positive = Field(default=1.0, description="What values are divided by first, as 255 for images")
    mean: Numbers = Field(default=0.0, description="What is subtracted then: a number, or one for each channel")
    scale: Numbers = Field(
        default=1.0, description="What is divided by last (a standard deviation): a number, or one for each channel"
    )


class InputConfig(Section):
    """One input of the network and the values it may hold."""

    dtype: Dtype = Field(description="Element type")
    shape: list[Size] = Field(description="A number is a fixed size, a name a dynamic dimension; [] is a scalar")
    low: Number | None = Field(default=None, description="Smallest value; required for integers")
    high: Number | None = Field(default=None, description="End of the values, itself excluded; required for integers")
    values: Literal["normal", "uniform", "mask", "zeros"] | None = Field(
        default=None,
        description="Kind of the seeded values: normal, uniform in [low, high), an attention mask, or zeros",
    )
    scale: Positive = Field(default=1.0, description="Standard deviation of normal values")
    preprocess: PreprocessConfig | None = Field(
        default=None,
        description="What arrives in its place, and how that becomes it inside every artifact; `dtype` and `shape` stay what the "
        "network takes, low, high, values and samples are of what arrives",
    )

    @property
    def arriving_dtype(self) -> Dtype:
        """The dtype of what the artifacts take."""
        return (self.preprocess and self.preprocess.dtype) or self.dtype

    @property
    def arriving_shape(self) -> list[int | str]:
        """The shape of what the artifacts take."""
        shape = list(self.shape)
        if self.preprocess and self.preprocess.resize:
            shape[-2:] = self.preprocess.resize
        if self.preprocess and self.preprocess.layout and len(shape) >= _CHW:
            shape.append(shape.pop(-_CHW))
        return shape

    @property
    def channel_axis(self) -> int:
        """Where in `shape` channels lie: before height and width where an image arrives, else behind the batch."""
        rank = len(self.shape)
        if self.preprocess is None or rank not in {1, _CHW}:
            return min(1, rank - 1)
        if rank == 1 or self.preprocess.layout or self.preprocess.resize:
            return 0
        counts = {len(each) for each in (self.preprocess.mean, self.preprocess.scale) if isinstance(each, list)}
        return 1 if self.shape[1] in counts or self.shape[0] not in counts else 0

    @property
    def arriving_range(self) -> tuple[float | None, float | None]:
        """The bounds of what the artifacts take: all of uint8 unless it is said."""
        if self.preprocess and self.arriving_dtype == "uint8" and self.low is self.high is None:
            return 0, 256
        return self.low, self.high

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not said: releases of older versions hold configs without it."""
        found: dict[str, Any] = handler(self)
        return found if self.preprocess else {name: each for name, each in found.items() if name != "preprocess"}


class DimensionConfig(Section):
    """The sizes a dynamic dimension may take."""

    min: int = Field(default=1, ge=0, le=MAX_SIZE, description="Smallest size; 0 where an input may be empty")
    max: int | None = Field(default=None, ge=1, le=MAX_SIZE, description="Largest size; required but for a formula")
    multiple_of: int = Field(default=1, ge=1, le=MAX_SIZE, description="Every size is a multiple of this")
    formula: Annotated[str, Field(max_length=MAX_FORMULA_LENGTH)] | None = Field(
        default=None,
        description="How the size follows from others, as in past + 1, of names, whole numbers, +, -, * and brackets; "
        "in short: total: past + 1",
    )

    @property
    def smallest(self) -> int:
        """The first multiple of `multiple_of` from `min` on."""
        return -(-self.min // self.multiple_of) * self.multiple_of
