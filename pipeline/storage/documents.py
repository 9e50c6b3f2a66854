"""Documents that we publish, as JSON files: frozen models, strict in what they hold, with the schema that tells others."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from pipeline.storage.store import json_text

if TYPE_CHECKING:
    from pathlib import Path

_NOT_FINITE = ("inf", "-inf", "nan")
_MAX_TOLD = 1000

T = TypeVar("T")
Many = Annotated[
    tuple[T, ...], FailFast()
]  # a hostile file has more wrong items than memory has room for what is wrong
Count = Annotated[int, Field(ge=0, lt=2**63)]
Whole = Annotated[int, Field(gt=-(2**63), lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
Number = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: float(value) if isinstance(value, str) and value in _NOT_FINITE else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else str(value), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}),
]
"""A float that need not be finite. JSON has no infinity and no NaN: they are written as strings."""


class Part(BaseModel):
    """A part of a document. What was not set is not written, so that a key's absence can mean something."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def to_json(self) -> dict[str, JsonValue]:
        """Return the part as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read JSON values; raise ValueError, which names the key, for what they are not."""
        return cls.from_text(json.dumps(value))

    @classmethod
    def from_text(cls, text: str | bytes) -> Self:
        """Read a JSON text; raise ValueError, which names the key, for what it is not."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(described(error)) from None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a JSON file that anybody may have written; raise OSError, or ValueError, which names file and key."""
        try:
            return cls.from_text(json_text(file))
        except ValueError as error:
            raise ValueError(f"{file.name}: {str(error).removeprefix(f'{file.name} ')}") from None


def described(error: ValidationError) -> str:
    """Say what is wrong with a document: the first key that is, and how many more."""
    count = error.error_count()
    if count > _MAX_TOLD:  # telling each takes a table of its own
        return f"{count:,} of its values are not what they are stated to be"
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))
    message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return (f"{key}: {message}" if key else message) + (f" (and {count - 1} more)" if count > 1 else "")


def schema_of(model: type[BaseModel], kind: str, version: int, title: str) -> dict[str, JsonValue]:
    """Return the JSON Schema (draft 2020-12) of a document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:weighbridge:{kind}:{version}",
        **model.model_json_schema(),
        "title": title,
    }
