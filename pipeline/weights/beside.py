"""The objects beside a checkpoint's tensors: where they stand, and what they hold, as plain values and as a text.

They are records (see `inert`): what is told here is what the file says, and none of their classes has a word in it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import in_line
from pipeline.weights.opcodes import Long
from pipeline.weights.pickle_objects import PATHS
from pipeline.weights.pickle_records import Global, Object, Tensor, is_module
from pipeline.weights.wrappers import TOP, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.weights.header import Header

    _Way = tuple[Any, Any] | None
    """The way to an entry: that to what holds it, and its key or index there."""

_MAX_REFERENCES = 8
_MAX_PARENTS = 64
_MAX_COPIED = 1_000
_MAX_NOTED = 1_000
_MAX_SHOWN = 200
_MAX_PARTS = 40
_MAX_DEPTH = 6
_MAX_TEXT = 60
_ARRAYS = ("numpy scalar", "numpy.ndarray", "numpy.dtype")
_REFERENCE = re.compile(r"\$\{(\w[\w.]*)\}")
_MISSING = "???"


@dataclass(frozen=True, slots=True)
class Held:
    """An object beside the tensors: the keys and indices that lead to it, its class, and what it holds, in short."""

    place: str
    kind: str
    shown: str


def held(header: Header) -> Iterator[Held]:
    """Yield the objects that a file of torch.save holds, and the classes and functions that it names; of nested ones the outermost."""
    if not header.needs:
        return
    needs, seen = frozenset(header.needs), set()
    pending: list[tuple[_Way, Any]] = [(None, header.record)]
    while pending:
        way, value = pending.pop()
        if isinstance(value, Object) and value.maker not in _ARRAYS:
            yield Held(_place(way), printable(value.maker), shown(value))
        elif isinstance(value, Global) and value.dotted in needs:
            yield Held(_place(way), printable(value.dotted), "named only")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend(((way, step), item) for step, item in reversed(list(entries)))


def _place(way: _Way) -> str:
    steps = []
    while way is not None:
        way, step = way
        steps.append(_key(step))
    return printable(".".join(reversed(steps))) or TOP


def _key(key: Any) -> str:
    return key[:_MAX_TEXT] if isinstance(key, str) else shown(key)


def notes(header: Header) -> tuple[str, ...]:
    """Say in a plain sentence which objects were left out where the tensors were read."""
    found = [f"{each.place} ({each.kind})" for each in itertools.islice(held(header), _MAX_NOTED)]
    return (f"left out objects, which are read as data and never made: {in_line(found)}",) if found else ()


# As plain values


def opened(value: Any) -> Any:
    """Return the table, list or text that an object is about, one level of it; the object itself where there is none.

    Of a config of OmegaConf's its content, of a namespace or a dataclass its attributes, of a dict's or list's subclass its items.
    """
    if not isinstance(value, Object) or is_module(value) or value.maker in _ARRAYS:
        return value
    if value.maker.startswith("omegaconf."):
        return _of_omegaconf(value, _MAX_REFERENCES)
    if value.maker in _TEXTS:
        return _TEXTS[value.maker](value) or value
    if value.pairs or value.items:
        return value.table() if value.pairs else value.items
    return _attributes(value.state) if value.arguments == () and value.state else value


def _attributes(state: Any) -> Any:
    """Return the attributes that a state sets; with slots there are two tables of them, or their values only."""
    tables = [each for each in state if each] if isinstance(state, tuple) and len(state) == 2 else [state]
    if len(tables) == 1 or not all(isinstance(each, dict) and len(each) <= _MAX_COPIED for each in tables):
        return tables[0] if len(tables) == 1 else state
    return {name: value for table in tables for name, value in table.items()}


def _of_omegaconf(node: Object, references: int) -> Any:
    """Return what a node holds; one that refers to another by its place in the same config (`${model.width}`), what that holds."""
    state = node.state if isinstance(node.state, dict) else {}
    content = state.get("_content", state.get("_val", node))
    if not isinstance(content, str) or ("${" not in content and content != _MISSING):
        return content
    match = _REFERENCE.fullmatch(content)
    target = _referred(node, match[1].split(".")) if match and references else None
    if isinstance(target, Object) and target.maker.startswith("omegaconf."):
        found = _of_omegaconf(target, references - 1)
        return node if found is target else found
    return node


def _referred(node: Object, steps: list[str]) -> Any:
    """Return what lies under the keys of the outermost config around a node; None where nothing does."""
    for _ in range(_MAX_PARENTS):
        parent = node.state.get("_parent") if isinstance(node.state, dict) else None
        if not isinstance(parent, Object):
            break
        node = parent
    found: Any = node
    for step in steps:
        content = found.state.get("_content") if isinstance(found, Object) and isinstance(found.state, dict) else None
        found = content.get(step) if isinstance(content, dict) else None
    return found


def _path(value: Object) -> str:
    parts = [str(part) for part in value.arguments]
    separator = "\\" if "Windows" in value.maker else "/"
    begin = parts[0] if parts and parts[0].endswith(separator) else ""
    return begin + separator.join(parts[1:] if begin else parts)


def _uuid(value: Object) -> str:
    number = value.state.get("int") if isinstance(value.state, dict) else None
    digits = f"{number:032x}" if isinstance(number, int) and 0 <= number < 2**128 else ""
    return "-".join(filter(None, (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])))


_TEXTS: Mapping[str, Callable[[Object], str]] = {**dict.fromkeys(PATHS, _path), "uuid.UUID": _uuid}


# As a text


def shown(value: Any) -> str:
    """Return what a record holds in one short line."""
    text = _Shown().of(value, 0)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


class _Shown:
    """Writes a record out, up to so many parts: one may stand in another again and again."""

    def __init__(self) -> None:
        self.left = _MAX_PARTS

    def of(self, value: Any, depth: int) -> str:
        self.left -= 1
        if self.left < 0 or depth > _MAX_DEPTH:
            return "…"
        match value:
            case dict():
                return f"{{{self.pairs(value, ': ', depth)}}}"
            case list() | tuple():
                return f"[{self.items(value, depth)}]"
            case Object():
                return self.object(value, depth)
            case _:
                return _plain(value)

    def items(self, values: Any, depth: int) -> str:
        made = [self.of(item, depth + 1) for item in values[: max(self.left, 1)]]
        return ", ".join([*made, *(["…"] if len(values) > len(made) else [])])

    def pairs(self, table: Mapping[Any, Any], sign: str, depth: int) -> str:
        made = []
        for key, item in table.items():
            if self.left <= 0:
                made.append("…")
                break
            made.append(f"{printable(_key(key))}{sign}{self.of(item, depth + 1)}")
        return ", ".join(made)

    def object(self, value: Object, depth: int) -> str:
        name = printable(value.maker.rpartition(".")[2])
        inner = opened(value)
        if inner is not value and value.maker.startswith("omegaconf."):
            return self.of(inner, depth)
        if value.maker in _DATES:
            return _DATES[value.maker](value) or name
        if isinstance(inner, dict):
            return f"{name}({self.pairs(inner, '=', depth)})"
        held = inner if isinstance(inner, list) else [inner] if inner is not value else value.arguments
        return f"{name}({self.items(held, depth) if isinstance(held, list | tuple) else '…'})"


def _plain(value: Any) -> str:
    match value:
        case Global():
            return printable(value.dotted)
        case Tensor():
            return f"{value.dtype} {list(value.shape)}"
        case bytes() | Long():
            return f"{len(value):,} bytes"
        case str():
            return repr(value[:_MAX_TEXT]) + ("…" if len(value) > _MAX_TEXT else "")
        case int() if abs(value) >= 2**256:
            return "a huge number"
        case _:
            return str(value)[:_MAX_TEXT]


def _date(value: Object) -> str:
    """Return a date or time of day, or both, from its bytes (CPython: Lib/_pydatetime.py, `_getstate`)."""
    held = value.arguments[0] if value.arguments else b""
    held = held.encode("latin-1", "replace") if isinstance(held, str) else held
    if not isinstance(held, bytes) or len(held) not in (4, 6, 10):
        return ""
    day = f"{held[0] * 256 + held[1]:04}-{held[2] & 0x7F:02}-{held[3]:02}" if len(held) != 6 else ""
    clock = f"{held[-6] & 0x7F:02}:{held[-5]:02}:{held[-4]:02}" if len(held) != 4 else ""
    return f"{day} {clock}".strip()


def _duration(value: Object) -> str:
    units = zip(value.arguments, ("days", "s", "µs"), strict=False)
    return " ".join(f"{number} {unit}" for number, unit in units if number) or "0 s"


_DATES: Mapping[str, Callable[[Object], str]] = {
    **dict.fromkeys(("datetime.datetime", "datetime.date", "datetime.time"), _date),
    "datetime.timedelta": _duration,
}
