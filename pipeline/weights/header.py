"""What a weights file declares, as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.weights.wrappers import Unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.weights.kinds import Kind


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as declared; two with the same `memory` are one tensor under two names."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int
    memory: str | None = None
    has_data: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """What a file declares: its kind, tensors and what is around them. `facts` are JSON values, by format.

    `model_class` is the class a whole pickled model needs, `needs` all classes outside the allow-list. `record` is what
    stands around the tensors: the whole value that torch.save wrote, as records, or the metadata of a safetensors file.
    `places` are the bytes of the file where torch.save's storages begin, by key.
    """

    kind: Kind
    size_bytes: int
    tensors: tuple[TensorHeader, ...] = ()
    wrapped: Unwrapped = field(default_factory=Unwrapped)
    model_class: str | None = None
    needs: tuple[str, ...] = ()
    has_numpy: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: Any = None
    places: Mapping[str, int] = field(default_factory=dict)
