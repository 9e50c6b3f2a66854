"""Plain config trees: values by key path, and where each was written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of a config down to a value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value and its key stand, as shown to the user; relative paths in it start from `folder`."""

    label: str
    key_label: str
    folder: str = ""
    rank: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a path; `kind` is pydantic's name of the error, if it was one."""

    path: KeyPath
    message: str
    kind: str = ""
    at_key: bool = False


def key_text(path: Sequence[str | int]) -> str:
    """Return a path as it is written in `--set` and in messages."""
    return ".".join(map(str, path))


def value_in_words(value: object) -> str:
    """Say what a value is, in YAML's terms."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57] + '…'!r}"
        case dict():
            return "a mapping"
        case _:
            return "a list"


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every scalar below a value with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, item in items:
        yield from leaves(item, (*path, key))


def lookup(tree: Any, path: Sequence[str | int]) -> Any:
    """Return the value at a path, list indices given as numbers or texts.

    Raises KeyError where there is none.
    """
    for part in path:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and re.fullmatch(r"[0-9]{1,6}", str(part)) and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            raise KeyError(part)
    return tree


def assign(tree: Any, path: Sequence[Any], value: Any) -> KeyPath:
    """Set the value at a path, with mappings added on the way, and return the path with list indices as numbers.

    Raises KeyError where a list has no such index, and ValueError where a single value stands in the way.
    """
    exact: KeyPath = ()
    for position, part in enumerate(path):
        if isinstance(tree, list):
            lookup(tree, [part])
            part = int(part)  # noqa: PLW2901 - the same step, as a list takes it
        exact = (*exact, part)
        if position == len(path) - 1:
            tree[part] = value
        else:
            below = tree.get(part) if isinstance(tree, dict) else tree[part]
            if not isinstance(below, dict | list | None):
                raise ValueError(f"{key_text(exact)} is {value_in_words(below)}, not a mapping")
            tree[part] = {} if below is None else below
            tree = tree[part]
    return exact
