"""References in a config's texts: `${key.path}` and `${oc.env:VARIABLE}`, and no others."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pipeline.config.tree import KeyPath, Problem, describe, key_text, leaves, lookup
from pipeline.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CHAIN = 32
MAX_TEXT = 2**16

_ENVIRONMENT = r"oc\.env:(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(?P<default>,[A-Za-z0-9_./@:+-]+)?"
_KEY = r"(?P<key>[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)"
REFERENCE = re.compile(rf"\$\{{({_ENVIRONMENT}|{_KEY})\}}")


class _BadReferenceError(Exception):
    """A reference that cannot be filled in."""


def problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with `${…}`: only keys and environment variables, no circles, and no endless growth."""
    lengths: dict[KeyPath, int] = {}
    for path, value in leaves(tree):
        if not isinstance(value, str):
            continue
        if value == "???":
            yield Problem(path, "must be given: ??? stands for a value that an extending config or --set gives")
            continue
        try:
            _length(tree, path, value, lengths, ())
        except _BadReferenceError as error:
            yield Problem(path, str(error))


def _length(tree: Any, path: KeyPath, text: Any, lengths: dict[KeyPath, int], seen: tuple[KeyPath, ...]) -> int:
    """Return a bound of the length of a text once its references are filled in.

    Raises _BadReferenceError where they cannot be.
    """
    if path in lengths:
        return lengths[path]
    if not isinstance(text, str) or "${" not in text:
        return len(str(text))
    if path in seen:
        raise _BadReferenceError(f"${{…}} goes in a circle: {' → '.join(map(key_text, (*seen, path)))}")
    if len(seen) >= MAX_CHAIN:
        raise _BadReferenceError(f"${{…}} follows more than {MAX_CHAIN} references")
    if "${" in REFERENCE.sub("", text) or "\\${" in text:
        raise _BadReferenceError("only ${key.path}, ${oc.env:VARIABLE} and ${oc.env:VARIABLE,default} are understood")
    total = len(text)
    for match in REFERENCE.finditer(text):
        if match["key"] is None:
            total += len(_environment(match))
        else:
            target, value = _target(tree, match["key"])
            total += _length(tree, target, value, lengths, (*seen, path))
        if total > MAX_TEXT:
            raise _BadReferenceError(f"longer than {MAX_TEXT} characters once its references are filled in")
    lengths[path] = total
    return total


def _environment(match: re.Match[str]) -> str:
    value = os.environ.get(match["variable"])
    if value is None:
        if match["default"] is None:
            raise _BadReferenceError(
                f"environment variable {match['variable']} is not set (give a default with ${{oc.env:{match['variable']},…}})"
            )
        return match["default"]
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
        raise _BadReferenceError(f"${{{key}}} is {describe(value)}, and only single values can be referred to")
    # Indices as numbers, as in the paths of leaves.
    path: KeyPath = ()
    for part in parts:
        path = (*path, int(part) if isinstance(lookup(tree, path), list) else part)
    return path, value


def fill_in(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return the tree with its references, which `problems` found sound, filled in, and the texts that came of them."""
    referring = [path for path, value in leaves(tree) if isinstance(value, str) and "${" in value]
    if not referring:
        return tree, {}
    from omegaconf import OmegaConf

    filled: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    values = {path: lookup(filled, path) for path in referring}
    return filled, {path: value for path, value in values.items() if isinstance(value, str)}
