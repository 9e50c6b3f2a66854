"""What the pyproject.toml of the current folder says: which modules it trusts, and where its packages lie."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_read_toml = lru_cache(maxsize=1)(tomllib.loads)  # once for a hundred configs

_USUAL_FOLDER = "src"


def trusted(cwd: Path) -> list[str]:
    """Return what `[tool.weighbridge] trust` lists, as it stands there; raises InputError for what is no list of texts."""
    settings = _tools(cwd)
    for key in ("weighbridge", "trust"):
        settings = settings.get(key, {}) if isinstance(settings, dict) else settings
    if settings == {}:
        return []
    if not isinstance(settings, list) or not all(isinstance(prefix, str) for prefix in settings):
        raise InputError(
            f"{path_of(cwd)}: [tool.weighbridge] trust is {settings!r:.60}, not a list of texts",
            hint='trust = ["mymodels"]',
        )
    return settings


def path_of(cwd: Path) -> Path:
    """Return where a folder's pyproject.toml is, or would be."""
    return cwd / "pyproject.toml"


def source_folders(cwd: Path) -> list[Path]:
    """Return the folders that hold a project's packages, where that is not the project's own folder.

    As setuptools, Hatch, Poetry, PDM and uv are told, and `src`; only folders inside the project that are there. Raises
    InputError for a pyproject.toml that cannot be read.
    """
    inside = cwd.resolve()
    stated = [*(str(each) for each in _stated(_tools(cwd))), _USUAL_FOLDER]
    folders = [(inside / each).resolve() for each in dict.fromkeys(stated)]
    return [each for each in folders if each != inside and each.is_relative_to(inside) and each.is_dir()]


def _stated(tools: Any) -> Iterator[Any]:
    """Yield folders, relative to the project's, that build backends take packages from.

    Sources: https://setuptools.pypa.io/en/latest/userguide/package_discovery.html, https://hatch.pypa.io/latest/config/build/,
    https://python-poetry.org/docs/pyproject/, https://backend.pdm-project.org/build_config/,
    https://docs.astral.sh/uv/concepts/build-backend/
    """
    if root := _at(tools, "setuptools", "package-dir", ""):
        yield root
    yield from _list(_at(tools, "setuptools", "packages", "find", "where"))
    for table in (_at(tools, "hatch", "build", "targets", "wheel"), _at(tools, "hatch", "build")):
        yield from (str(each).rpartition("/")[0] for each in _list(_at(table, "packages")))
        yield from _list(_at(table, "sources"))
    yield from (root for each in _list(_at(tools, "poetry", "packages")) if (root := _at(each, "from")))
    if root := _at(tools, "pdm", "build", "package-dir") or _at(tools, "uv", "build-backend", "module-root"):
        yield root


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(table: Any, *keys: str) -> Any:
    """Return what lies at a path of keys, None where it leads nowhere: other tools' tables are not ours to refuse."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _tools(cwd: Path) -> Any:
    path = path_of(cwd)
    try:
        return _read_toml(path.read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="correct it, or run from another folder") from error
