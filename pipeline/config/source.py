"""Read config files with what they extend, `--set` and `${…}`, down to one plain tree."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import references
from pipeline.config.text import FaultError, parse, parse_value
from pipeline.config.tree import KeyPath, Place, Problem, assign, key_text, value_in_words
from pipeline.errors import ConfigError, command, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

MAX_FILE_BYTES = 2**20
MAX_EXTENDS = 8

_WEIGHTS_SUFFIXES = {".pth", ".pt", ".pt2", ".bin", ".ckpt", ".onnx", ".safetensors", ".pkl"}


@dataclass(slots=True)
class Source:
    """A config as plain values, with a place for each key; `texts` are the raw texts of references and overrides."""

    tree: dict[str, Any]
    places: dict[str, Place]
    texts: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(path: Path, overrides: Sequence[str]) -> Source:
    """Read a config with the files it extends, apply overrides, and fill in references.

    Raises ConfigError where a file cannot be read or is not YAML, or an override is malformed.
    """
    source = _read_chain(path, ())
    for override in overrides:
        _apply(override, source)
    texts, source.problems = references.fill_in(source.tree)
    for problem in source.problems:
        assign(source.tree, problem.path, None)
    source.texts |= texts
    return source


def chain(path: Path) -> tuple[Path, ...]:
    """Return a config that can be read with the files it extends, the nearest first; raises ConfigError as `read` does."""
    found = [path]
    while isinstance(base := _read_file(found[-1], len(found) - 1)[0].get("extends"), str) and len(found) < MAX_EXTENDS:
        found.append(found[-1].parent / base)
    return tuple(found)


def _read_chain(path: Path, readers: tuple[Path, ...]) -> Source:
    """Read a file, and first the one it extends."""
    real = Path(os.path.realpath(path))
    if real in readers:
        chain = " → ".join(_shown(each) for each in (*readers[readers.index(real) :], real))
        raise ConfigError(
            f"{_shown(readers[-1])}: extends goes in a circle: {chain}",
            hint=f"remove `extends` from {_shown(readers[-1])}",
        )
    if len(readers) >= MAX_EXTENDS:
        raise ConfigError(
            f"{_shown(path)}: more than {MAX_EXTENDS} files extend one another", hint="merge some of them"
        )
    tree, places = _read_file(path, len(readers))
    if "extends" not in tree:
        return Source(tree, places)
    base_name = tree.pop("extends")
    label = places["extends"].label
    if not isinstance(base_name, str) or not base_name or not base_name.isprintable():
        raise ConfigError(
            f"{label}: extends: expected a file's path, given {value_in_words(base_name)}",
            hint="write a file there, as in extends: base.yaml",
        )
    base_path = path.parent / base_name
    if not base_path.is_file():
        raise ConfigError(
            f"{label}: extends: {_no_file(base_path)}", hint="the path is relative to the file that extends"
        )
    return _overlay(_read_chain(base_path, (*readers, real)), Source(tree, places))


def _overlay(base: Source, over: Source) -> Source:
    """Lay one config over another: mappings are merged, anything else is replaced."""
    mappings = {key_text(path) for path in _mappings(over.tree, ())}
    replaced = over.places.keys() - mappings
    return Source(_merge(base.tree, over.tree), _outside(base.places, replaced) | over.places)


def _merge(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merge(base.get(key), value) for key, value in over.items()}


def _mappings(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from _mappings(item, (*path, key))


def _outside(places: Mapping[str, Place], replaced: Set[str]) -> dict[str, Place]:
    """Return the places of what does not stand below a replaced value."""
    return {
        key: place
        for key, place in places.items()
        if not any(above in replaced for above in accumulate(key.split("."), "{}.{}".format))
    }


def _read_file(path: Path, depth: int) -> tuple[dict[str, Any], dict[str, Place]]:
    shown = _shown(path)
    text = _text_of(path, shown)
    try:
        value, spots = parse(text)
        if value is None:
            raise ConfigError(
                f"{shown} is empty", hint="weighbridge init FILE --architecture MODULE:CLASS writes a config"
            )
        if not isinstance(value, dict):
            raise FaultError(f"expected a mapping of keys, given {value_in_words(value)}")
    except FaultError as fault:
        raise ConfigError(
            f"{shown}:{fault.line + 1}:{fault.column + 1}: {fault.message}", hint="correct that line of YAML"
        ) from fault
    folder = os.path.realpath(path.parent)
    places = {
        key_text(where): Place(
            f"{shown}:{line + 1}:{column + 1}",
            f"{shown}:{key_line + 1}:{key_column + 1}",
            folder,
            (depth, key_line, key_column),
        )
        for where, (line, column, key_line, key_column) in spots.items()
    }
    return value, places


def _text_of(path: Path, shown: str) -> str:
    if path.suffix.lower() in _WEIGHTS_SUFFIXES:
        raise ConfigError(f"{shown} is a weights file, not a config", hint=command("inspect", shown))
    try:
        if path.is_dir():
            raise ConfigError(f"{shown} is a folder, not a config", hint=_beside(path) or "name a .yaml file")
        if not path.is_file():
            raise ConfigError(_no_file(path), hint="give the path of a .yaml file")
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ConfigError(
                f"{shown} has {size_bytes} bytes, the limit is {MAX_FILE_BYTES}", hint="name the config: this is none"
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{shown} is not UTF-8 text: byte {error.start} cannot be read", hint="save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{shown} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _no_file(path: Path) -> str:
    return f"there is no file {_shown(path)}{_beside(path.parent, path.name)}"


def _beside(folder: Path, name: str = "") -> str:
    """Say which configs a folder holds."""
    try:
        found = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".yaml", ".yml"})
    except OSError:
        return f"; there is no folder {_shown(folder)} either" if name else ""
    if not found:
        return f"; {_shown(folder)} holds no .yaml file" if name else ""
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    near = suggestion(name, found) if name and len(found) > 1 else ""
    return f"{'; ' if name else ''}{_shown(folder)} holds {', '.join(found[:10])}{more}{near.split(' (valid:')[0]}"


def _shown(path: Path) -> str:
    """Return a path as the user gave it, relative where it is below the working directory."""
    cwd = Path.cwd()
    if path.is_absolute() and path.is_relative_to(cwd):
        return str(path.relative_to(cwd))
    return str(path)


def _apply(override: str, source: Source) -> None:
    """Set `a.b=value` in the tree; the value is YAML, and its raw text stands in where a text is wanted."""
    key, separator, text = override.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    # A shell may pass bytes that are not UTF-8, which could not be printed.
    label = f"--set {override.encode(errors='backslashreplace').decode()}"
    if not separator or not all(path):
        raise ConfigError(f"{label}: not of the form key.path=value", hint="as in --set model.arguments.hidden_size=30")
    if path[0] == "extends":
        raise ConfigError(f"{label}: extends can only stand in a file", hint="write a config that extends the other")
    try:
        value = parse_value(text)
        override.encode()
        path = assign(source.tree, path, value)
    except KeyError as error:
        raise ConfigError(f"{label}: there is no list item {error.args[0]!r}", hint="items count from 0") from error
    except ValueError as error:
        raise ConfigError(f"{label}: {error}", hint="quote it for the shell and, if it is a text, for YAML") from error
    if not isinstance(value, dict | list):
        source.texts[path] = text
    place = Place(label, label, str(Path.cwd()), (MAX_EXTENDS, len(source.places), 0))
    added = {key_text(path[:length]): place for length in range(1, len(path))}
    source.places = added | _outside(source.places, {key_text(path)}) | {key_text(path): place}
