"""Objects that a checkpoint holds beside its tensors, which are read as records and never made.

The rule: beside tensors a file may name, make and fill objects of classes that are not Python's own, torch's or numpy's but for those
that are data only; a class is made by itself or with plain arguments, and filled with a state, items and keys. Whatever
else it does (a function called, something made called in turn, something imported changed), and whatever names a global
that is known to do harm, is refused as everywhere.

Nothing of such a file is unpickled: its tensors are read from its bytes (see `stored`), so that none of the classes is
imported and none of their code runs, whatever they are.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from pipeline.weights.danger import harm_of, require_harmless
from pipeline.weights.opcodes import Long
from pipeline.weights.pickle_records import Object, OddError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.weights.pickle_calls import Declared
    from pipeline.weights.pickles import Parsed

_MAX_ARGUMENTS = 256
_CLASS = re.compile(r"_*[A-Z]\w*")
_TYPING = re.compile(r"typing\.[A-Z]\w*")
# Classes that stand for themselves: what a defaultdict makes of a missing key, the type of a config's entry.
_TYPES = frozenset(
    f"builtins.{name}" for name in (
        "bool", "bytes", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "str", "tuple",
    )
)  # fmt: skip
# What scripts keep of torch beside weights: layers and losses, optimizers and schedulers, and what belongs to them.
_TORCH = (
    "torch.nn.", "torch._C._nn.", "torch.optim.", "torch.utils.data.", "torch.distributions.", "torch.amp.", "torch.cuda.amp.",
)  # fmt: skip
_SCRIPTS = ("__main__", "__mp_main__")
_SCALARS = (str, bytes, int, float, complex, Long, type(None))


def require_inert(parsed: Parsed, name: str) -> None:
    """Refuse a pickle with tensors that does more than to hold inert objects beside them; raises UnsafeError."""
    strange = {
        dotted: how for dotted, how in parsed.foreign.items() if dotted in parsed.acting or not is_inert(dotted, how)
    }
    require_harmless(strange, name)


def is_inert(dotted: str, how: str) -> bool:
    """Tell whether a global may stand beside tensors, by its name and the most that is done with it (see `Parsed`)."""
    if how == "changes":
        return False
    if is_own(dotted):
        return dotted in DATA or how == "names"
    top, *rest = dotted.split(".")
    if not rest or not all(map(str.isidentifier, (top, *rest))) or any(part.startswith("__") for part in rest):
        return False
    if top in sys.stdlib_module_names or top == "numpy" or (top.startswith("__") and top not in _SCRIPTS):
        return False
    return harm_of(dotted) is None and (top != "torch" or dotted.startswith(_TORCH))


def is_own(dotted: str) -> bool:
    """Tell whether a global is a class of Python's own that is data only, or that stands for itself."""
    return dotted in DATA or dotted in _TYPES or bool(_TYPING.fullmatch(dotted))


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
            declared.count_copy(value)
            pending.extend(value)
            pending.extend(value.values() if isinstance(value, dict) else ())
        elif not isinstance(value, _SCALARS) and not (isinstance(value, Object) and value.maker in DATA):
            return False
    return isinstance(arguments, tuple)


# Data: what the standard library's own classes for it are pickled as


def _object(maker: str) -> Callable[..., Object]:
    def make(_: Declared, *arguments: Any) -> Object:
        plain = all(isinstance(each, _SCALARS) or (isinstance(each, Object) and each.maker in DATA) for each in arguments)
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
