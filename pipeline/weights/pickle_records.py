"""What a pickle is read into: tensors, storages, globals and other objects as records, and why reading ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_DEPTH = 500

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1, "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
"""torch's name of a dtype → bytes of one element."""


class MalformedError(ValueError):
    """The bytes are no pickle, or one that is cut off or damaged: every unpickler stops where this reader does.

    `foreign` are the globals up to there: a reader that runs as it reads would have run them before it failed.
    """

    def __init__(self, message: str, foreign: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.foreign = foreign or {}


class CraftedError(MalformedError):
    """The pickle does what no saving function makes one do, and an unpickler may well go on behind it.

    It was read on all the same, so that `foreign` are all globals that it names; `is_whole` tells that it has an end.
    """

    def __init__(self, message: str, foreign: Mapping[str, str], *, is_whole: bool) -> None:
        super().__init__(message, foreign)
        self.is_whole = is_whole


class TooLargeError(Exception):
    """Reading on would exhaust time or memory."""


class OddError(ValueError):
    """An instruction does what no saving function makes one do."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle asks Python to import."""

    dotted: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers that tensors view: its key in the file, its dtype and number of elements."""

    key: str
    dtype: str
    elements: int

    @property
    def nbytes(self) -> int:
        """Size in bytes, as declared."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as declared: shape and stride in elements, and the storage it views from `offset` (elements) on.

    `parts` are the tensors a sparse one is made of; it and a tensor without data (meta device) have no storage. `special`
    says what it is more than a view of its storage's numbers: quantised, sparse, or conjugated or negated when read.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0
    storage: Storage | None = None
    parts: tuple[Tensor, ...] = ()
    special: str = ""

    @property
    def elements(self) -> int:
        """Number of elements, as declared."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of a contiguous copy."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(slots=True, eq=False, repr=False)
class Object:
    """What a foreign global would have made: the global, its arguments, and what it would have been given after that.

    That is a state, items as a list has them, and `pairs` of keys and values. As a key it is itself and no other.
    """

    maker: str
    arguments: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    _table: dict[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.maker:.80}>"  # what it holds may hold it in turn

    def table(self) -> dict[Any, Any]:
        """Return its keys and values, once all are there."""
        if self._table is None:
            self._table = dict(self.pairs)  # once: many objects may hold it
        return self._table


def is_module(value: Any) -> bool:
    """Tell whether a record is an object with the state of an nn.Module."""
    if not isinstance(value, Object):
        return False
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    return isinstance(state, dict) and "_modules" in state and "_parameters" in state


def is_tensor(value: Any) -> bool:
    """Tell whether a record is a tensor."""
    return isinstance(value, Tensor)


def model_class(value: Any) -> str | None:
    """Return the class of a pickled nn.Module, at the top or under a wrapper's key; None if there is none."""
    candidates = [value, *(value.values() if isinstance(value, dict) else ())]
    return next((item.maker for item in candidates if is_module(item)), None)


def children(value: Any) -> Sequence[Any]:
    """Return what a record holds directly."""
    match value:
        case dict():
            return list(value.values())
        case list() | tuple():
            return value
        case Object():
            return [value.arguments, value.state, *value.items, *(item for _, item in value.pairs)]
        case _:
            return ()


def require_shallow(value: Any) -> None:
    """Refuse nesting that overflows the stack of whoever walks, hashes or copies it; shared values are visited once."""
    seen: set[int] = set()
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in children(item) if _is_new(child, seen)]
        if not level:
            return
    raise TooLargeError(f"its pickle nests deeper than {_MAX_DEPTH} levels")


def _is_new(value: Any, seen: set[int]) -> bool:
    if not isinstance(value, dict | list | tuple | Object) or id(value) in seen:
        return False
    seen.add(id(value))
    return True
