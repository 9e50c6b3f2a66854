"""References in a config's texts: `${key.path}` and `${oc.env:VARIABLE}`, and no others."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pipeline.config.tree import KeyPath, Problem, assign, key_text, leaves, lookup, value_in_words
from pipeline.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CHAIN = 32
MAX_TEXT = 2**16

_ENVIRONMENT = r"oc\.env:(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(,(?P<default>[A-Za-z0-9_./@:+-]+))?"
_KEY = r"(?P<key>[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)"
REFERENCE = re.compile(rf"\$\{{({_ENVIRONMENT}|{_KEY})\}}")


class _BadReferenceError(Exception):
    """A reference that cannot be filled in."""


def fill_in(tree: dict[str, Any]) -> tuple[dict[KeyPath, str], list[Problem]]:
    """Fill in the references of a tree, and return the texts that came of them and what is wrong with the others.

    They may name keys with single values and environment variables, not go in a circle and not grow without end. A text
    that is nothing but a reference to a key takes the type of the value there.
    """
    filled: dict[KeyPath, Any] = {}
    problems = []
    for path, value in leaves(tree):
        if value == "???":
            message = "must be given: ??? stands for a value that an extending config or --set gives"
            problems.append(Problem(path, message))
        try:
            _filled(tree, path, value, filled, ())
        except _BadReferenceError as error:
            problems.append(Problem(path, str(error)))
    for path, value in filled.items():
        assign(tree, path, value)
    return {path: value for path, value in filled.items() if isinstance(value, str)}, problems


def _filled(
    tree: Mapping[str, Any], path: KeyPath, value: Any, filled: dict[KeyPath, Any], seen: tuple[KeyPath, ...]
) -> Any:
    """Return a value with its references filled in; what had any is remembered in `filled`.

    Raises _BadReferenceError where they cannot be.
    """
    if path in filled:
        return filled[path]
    if not isinstance(value, str) or "${" not in value:
        return value
    if path in seen:
        raise _BadReferenceError(f"${{…}} goes in a circle: {' → '.join(map(key_text, (*seen, path)))}")
    if len(seen) >= MAX_CHAIN:
        raise _BadReferenceError(f"${{…}} follows more than {MAX_CHAIN} references")
    if "${" in REFERENCE.sub("", value) or "\\${" in value:
        raise _BadReferenceError("only ${key.path}, ${oc.env:VARIABLE} and ${oc.env:VARIABLE,default} are understood")
    found = []
    for match in REFERENCE.finditer(value):
        target = _target(tree, match["key"]) if match["key"] else None
        found.append(_filled(tree, *target, filled, (*seen, path)) if target else _environment(match))
    if len(value) + sum(len(str(each)) for each in found) > MAX_TEXT:
        raise _BadReferenceError(f"longer than {MAX_TEXT} characters once its references are filled in")
    texts = iter(found)
    whole = REFERENCE.fullmatch(value)
    filled[path] = found[0] if whole else REFERENCE.sub(lambda _: str(next(texts)), value)
    return filled[path]


def _environment(match: re.Match[str]) -> str | None:
    value = os.environ.get(match["variable"])
    if value is None and match["default"] is not None:
        return None if match["default"] == "null" else match["default"]
    if value is None:
        raise _BadReferenceError(
            f"environment variable {match['variable']} is not set (give a default with ${{oc.env:{match['variable']},…}})"
        )
    if "${" in value or not value.isprintable():
        raise _BadReferenceError(f"environment variable {match['variable']} holds what a config value cannot")
    return value


def _target(tree: Any, key: str) -> tuple[KeyPath, Any]:
    parts = key.split(".")
    for depth, part in enumerate(parts):
        try:
            lookup(tree, parts[: depth + 1])
        except KeyError as error:
            parent = lookup(tree, parts[:depth])
            near = suggestion(part, parent) if isinstance(parent, dict) else ""
            raise _BadReferenceError(f"${{{key}}}: there is no key {part!r}{near}") from error
    value = lookup(tree, parts)
    if isinstance(value, dict | list):
        raise _BadReferenceError(f"${{{key}}} is {value_in_words(value)}, and only single values can be referred to")
    # Indices as numbers, as in the paths of leaves.
    path: KeyPath = ()
    for part in parts:
        path = (*path, int(part) if isinstance(lookup(tree, path), list) else part)
    return path, value
