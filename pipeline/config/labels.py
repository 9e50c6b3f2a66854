"""The names of an output's classes, from the config or from a file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.models import Config

_MOST_BYTES = 16 * 2**20
_FORMS = "give a .txt with a name a line, or a .json with a list of names or a mapping `id2label` of numbers to names"


def labels(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each output that has them, in order.

    Raises:
        ConfigError: a file of names is not there, or is none.
    """
    return {name: _labels(config, name, each.labels) for name, each in config.describe.items() if each.labels}


def label_files(config: Config) -> list[Path]:
    """Return the files that names are read from."""
    return [Path(each.labels) for each in config.describe.values() if isinstance(each.labels, str)]


def _labels(config: Config, name: str, given: list[str] | str) -> tuple[str, ...]:
    if not isinstance(given, str):
        return tuple(given)
    path, place = Path(given), config.place(f"describe.{name}.labels")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        found = _read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: no names of classes in {path}: {error}", hint=_FORMS) from error
    return found


def _read(path: Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8")
    names = _of_json(json.loads(text)) if path.suffix.lower() == ".json" else text.splitlines()
    found = tuple(each.strip() for each in names)
    if not found or not all(each and each.isprintable() for each in found):
        raise ValueError("there is none, or one is empty or not printable")
    return found


def _of_json(value: Any) -> list[str]:
    """Return a list of names, or those of a mapping by their numbers, 0 first and none left out."""
    if isinstance(value, dict):
        value = value.get("id2label", value)
    if isinstance(value, dict):
        numbered = {int(key): each for key, each in value.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError("its numbers are not 0, 1, 2, …")
        value = [numbered[index] for index in range(len(numbered))]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("it holds no list of names")
    return value
