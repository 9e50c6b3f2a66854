"""YAML texts as plain values with positions: no tags that build objects, no duplicate keys, no bombs."""

from __future__ import annotations

import copy
import io
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.config.tree import KeyPath, value_in_words

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 32
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"

Spots = dict[KeyPath, tuple[int, int, int, int]]


class FaultError(Exception):
    """A fault in a YAML text, at a 0-based line and column."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


def parse_value(text: str) -> Any:
    """Read one YAML value, such as an override's.

    Raises ValueError where it is not YAML, or breaks a limit.
    """
    try:
        return parse(text)[0]
    except FaultError as fault:
        raise ValueError(fault.message) from fault


def parse(text: str) -> tuple[Any, Spots]:
    """Return the plain value of a YAML text, with the 0-based line and column of each value and its key."""
    value, spots = _parsed(text)
    return copy.deepcopy(value), dict(spots)


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[Any, Spots]:
    """Parse a text, the same one once: many configs may extend one."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        yaml.parser.get_event = _Limited(yaml.parser.get_event)
        node = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part.replace("\n", " ") for part in (error.context, error.problem) if part)
        line, column = (mark.line, mark.column) if mark else (0, 0)
        raise FaultError(f"not valid YAML: {said}", line, column) from error
    except YAMLError as error:
        offset = getattr(error, "position", 0)
        before = text[:offset]
        line, column = before.count("\n"), offset - (before.rfind("\n") + 1)
        raise FaultError(f"not valid YAML: {str(error).splitlines()[0]}", line, column) from error
    except (ValueError, TypeError, AttributeError, AssertionError, LookupError, NotImplementedError) as error:
        # ruamel trips over some malformed directives and tags instead of naming them.
        raise FaultError(f"not valid YAML: {error}") from error
    spots: Spots = {}
    value = None if node is None else _Builder(spots).build(node, (), node)
    return value, spots


@dataclass(slots=True)
class _Limited:
    """A parser's next event, as long as there are not too many of them or too deep: composing recurses."""

    get_event: Callable[[], Any]
    depth: int = 0
    count: int = 0

    def __call__(self) -> Any:
        event = self.get_event()
        kind = type(event).__name__
        self.depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        self.count += 1
        mark = event.start_mark
        if self.depth > MAX_DEPTH + 2:  # the stream and the document count as well
            raise FaultError(f"nested deeper than {MAX_DEPTH} levels", mark.line, mark.column)
        if self.count > 2 * MAX_NODES:
            raise FaultError(f"more than {MAX_NODES} values", mark.line, mark.column)
        return event


@dataclass(slots=True)
class _Builder:
    """Turns a node graph into plain values; aliases count each time they are used."""

    spots: Spots
    count: int = 0

    def build(self, node: Any, path: KeyPath, key: Any) -> Any:
        self.count += 1
        mark = node.start_mark
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            raise FaultError("aliases (*name) expand without end or measure", mark.line, mark.column)
        self.spots[path] = (mark.line, mark.column, key.start_mark.line, key.start_mark.column)
        if isinstance(node.value, str):
            return _scalar(node)
        if node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if node.tag == f"{_TAG}seq":
            return [self.build(item, (*path, index), item) for index, item in enumerate(node.value)]
        raise FaultError(f"tag {_short(node.tag)} is not allowed", mark.line, mark.column)

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            name = self._key(key)
            if name in mapping:
                first = self.spots[*path, name]
                raise FaultError(
                    f"key {name!r} is already there at line {first[2] + 1}", key.start_mark.line, key.start_mark.column
                )
            mapping[name] = self.build(value, (*path, name), key)
        return mapping

    def _key(self, node: Any) -> str:
        mark = node.start_mark
        if node.tag == f"{_TAG}merge":
            raise FaultError("merge keys (<<) are not supported: use extends", mark.line, mark.column)
        key = _scalar(node) if isinstance(node.value, str) else node.value
        if not isinstance(key, str):
            raise FaultError(f"a key must be a text, given {value_in_words(key)}", mark.line, mark.column)
        return key


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _scalar(node: Any) -> Any:
    """Return a scalar's value; the resolver has found its kind, or the file has named it."""
    mark = node.start_mark
    try:
        return _convert(str(node.tag).removeprefix(_TAG), node.value)
    except (ValueError, KeyError) as error:
        raise FaultError(
            f"{node.value[:60]!r} cannot be read as {_short(str(node.tag))}: {error}", mark.line, mark.column
        ) from error


def _convert(kind: str, text: str) -> Any:
    match kind:
        case "str" | "timestamp" | "value":
            text.encode()  # a lone surrogate could be neither printed nor stored
            return text
        case "null":
            return None
        case "bool":
            return {"true": True, "false": False}[text.lower()]
        case "int":
            return _integer(text)
        case "float":
            number = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
            if not math.isfinite(number):
                raise ValueError("not a finite number; quote it if it is a text")
            return number
        case _:
            raise ValueError("this tag is not allowed")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > 32:
        raise ValueError("too long a number; quote it if it is a text")
    number = int(digits, 0 if re.match(r"[-+]?0[xob]", digits) else 10)
    if not -(2**63) <= number < 2**64:
        raise ValueError("beyond 64 bits")
    return number
