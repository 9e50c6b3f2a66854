"""Objects of Python's own classes for data as a pickle makes them, and when a pickle does no more than to make an object."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pipeline.weights.opcodes import Long
from pipeline.weights.pickle_records import Object, OddError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.weights.pickle_calls import Declared

_MAX_ARGUMENTS = 256
_CLASS = re.compile(r"_*[A-Z]\w*")
_SCALARS = (str, bytes, int, float, complex, Long, type(None))


def never(_declared: Declared, _dotted: str, _arguments: Any) -> bool:
    """Tell that a call does more than to make an object."""
    return False


def is_class_made(_declared: Declared, _dotted: str, arguments: Any) -> bool:
    """Tell whether NEWOBJ makes an object: only a class has a `__new__` that it calls."""
    return isinstance(arguments, tuple)


def is_class_called(declared: Declared, dotted: str, arguments: Any) -> bool:
    """Tell whether REDUCE makes an object, as for members of an Enum: of what is named like a class, with plain arguments."""
    return bool(_CLASS.fullmatch(dotted.rpartition(".")[2])) and _are_plain(declared, arguments)


def _are_plain(declared: Declared, arguments: Any) -> bool:
    """Tell whether arguments are texts, numbers, data, and lists and tables of them; what was looked at is counted."""
    pending, seen = [arguments], set()
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple | dict):
            if id(value) in seen:
                continue
            seen.add(id(value))
            declared.count_copy(tuple(value))
            pending.extend(value)
            pending.extend(value.values() if isinstance(value, dict) else ())
        elif not isinstance(value, _SCALARS) and not (isinstance(value, Object) and value.maker in DATA):
            return False
    return isinstance(arguments, tuple)


# Data: what the standard library's own classes for it are pickled as


def _object(maker: str) -> Callable[..., Object]:
    def make(_: Declared, *arguments: Any) -> Object:
        plain = all(
            isinstance(each, _SCALARS) or (isinstance(each, Object) and each.maker in DATA) for each in arguments
        )
        if not plain or len(arguments) > _MAX_ARGUMENTS:
            raise OddError(f"{maker} is not made as Python does")
        return Object(maker, arguments)

    return make


def _defaultdict(_: Declared, *factory: Any) -> dict[Any, Any]:
    if len(factory) > 1:
        raise OddError("a defaultdict is not made as Python does")
    return {}  # what it holds follows, key by key


def _deque(declared: Declared, items: Any = (), _most: Any = None) -> list[Any]:
    declared.count_copy(items)
    return list(items)


def _frozenset(declared: Declared, items: Any = ()) -> tuple[Any, ...]:
    declared.count_copy(items)
    return tuple(items)


PATHS = frozenset(
    f"pathlib.{module}{name}"
    for module in ("", "_local.")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
)
DATA: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "builtins.frozenset": _frozenset,
    **{
        name: _object(name) for name in (
            *PATHS, "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
            "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "types.SimpleNamespace", "argparse.Namespace",
            "builtins.range", "builtins.slice",
        )
    },
}  # fmt: skip
"""Class of Python's own that is data only → what makes a record of it, of `Declared` and its arguments; raises OddError."""
