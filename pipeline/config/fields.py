"""What the sections of a config are made of: names, numbers, sizes, lines of text."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

DIMENSION_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
SLUG = r"^[a-z0-9][a-z0-9._-]*$"
MAX_SIZE = 2**31 - 1
ARRAYS_FILE = r"^[^\x00-\x1f\x7f]+\.(npz|safetensors)$"


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number_type", "expected a number")
    return value


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("size_type", "expected a size or a dimension's name")
    if isinstance(value, int) and not 1 <= value <= MAX_SIZE:
        raise PydanticCustomError("size_range", "expected a size from 1 to {most}", {"most": MAX_SIZE})
    return value


Slug = Annotated[str, Field(pattern=SLUG, max_length=128)]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
Number = Annotated[int | float, BeforeValidator(_number)]
Size = Annotated[int | str, BeforeValidator(_size)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a config: strict, frozen, without unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())
