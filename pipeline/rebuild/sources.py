"""The source of a module, found by walking folders and parsed, with nothing imported."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError, UnsafeError, suggestion
from pipeline.rebuild import project

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_OWN_FOLDER = Path(__file__).resolve().parents[1]
_MAX_SOURCE_BYTES = 4 * 2**20
# PEP 263. Another encoding could make Python read another program than the one parsed here.
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_SHORTEST_PART = 3


def find(module: str) -> Path:
    """Return the resolved source file of a dotted module, found by walking folders."""
    top, *rest = module.split(".")
    start, base = _top_level(top)
    if not rest:
        return _inside(start / "__init__.py" if start.is_dir() else start, base, module)
    folder = start
    for depth, part in enumerate(rest, start=1):
        parent, folder = folder, folder / part
        is_last = depth == len(rest)
        found = _module_file(folder) if is_last else folder if _is_folder(folder) else None
        if found is None:
            known = _modules_in(parent)
            within = ".".join([top, *rest[: depth - 1]])
            raise ArchitectureError(
                f"{within} has no {'module' if is_last else 'package'} {part!r}{suggestion(part, known)}",
                hint=f"correct its name; it was looked for in {parent}",
            )
        if is_last:
            return _inside(found, base, module)
    raise AssertionError(module)


def _top_level(top: str) -> tuple[Path, Path]:
    """Return where a top-level package (its folder) or module (its file) is, and the folder that must hold the source."""
    if top == "pipeline":
        return _OWN_FOLDER, _OWN_FOLDER
    spec = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])
    if spec is None:
        spec = PathFinder.find_spec(top, [str(folder) for folder in project.source_folders(Path.cwd())])
    if spec is None:  # an editable install may be found by a hook of its own; of a top-level name nothing is imported
        spec = _hooked(top)
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        return folder, folder
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        path = Path(spec.origin).absolute()
        return path, path.parent.resolve()
    raise ArchitectureError(
        f"there is no package or source file {top!r}",
        hint="run from the folder that holds it (or its src), or install its package",
    )


def folder_of(module: str, path: Path) -> Path:
    """Return the folder from which Python imports `module` as the file `path`."""
    return path.parents[module.count(".") + (path.name == "__init__.py")]


def _hooked(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None


def _is_folder(path: Path) -> bool:
    # The listing, and not the file system, decides about upper and lower case.
    return path.is_dir() and path.name in {entry.name for entry in path.parent.iterdir()}


def _module_file(stem: Path) -> Path | None:
    """Return the file that Python would import, a package before a module of the same name."""
    if _is_folder(stem) and (stem / "__init__.py").is_file():
        return stem / "__init__.py"
    path = stem.with_name(f"{stem.name}.py")
    return path if path.is_file() else None


def _modules_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [
        entry.stem
        for entry in folder.iterdir()
        if not entry.name.startswith(("_", ".")) and (entry.suffix == ".py" or entry.is_dir())
    ]


def _inside(path: Path, base: Path, module: str) -> Path:
    resolved = path.resolve()
    if not resolved.is_relative_to(base) or resolved.name != path.name:
        raise UnsafeError(f"{module} is a link that leads from {path} to {resolved}", hint="put the file itself there")
    if not resolved.is_file():
        raise ArchitectureError(f"{module} has no source file {path}", hint="name the module that defines the network")
    return resolved


def read(path: Path) -> bytes:
    """Return a source file's bytes; raises UnsafeError for one that is too large, ArchitectureError where it cannot be read."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_SOURCE_BYTES:
            raise UnsafeError(
                f"{path} has {size_bytes} bytes, the limit is {_MAX_SOURCE_BYTES}", hint="split the module"
            )
        return path.read_bytes()
    except OSError as error:
        raise ArchitectureError(f"{path} cannot be read: {error.strerror}", hint="check the file") from error


def parse(source: bytes, path: Path) -> ast.Module:
    """Return the syntax tree of a source file; raises ArchitectureError for what is no UTF-8 or no Python."""
    for line in source.splitlines()[:2]:
        coding = _CODING.match(line)
        if coding and coding[1].lower() not in (b"utf-8", b"utf8", b"ascii"):
            raise ArchitectureError(f"{path} is encoded as {coding[1].decode()}, not as UTF-8", hint="save it as UTF-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source.decode("utf-8").removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArchitectureError(f"{path} is not valid Python: {error}", hint="correct the file") from error


def defining(package: Path, name: str) -> list[Path]:
    """Return the files of a package that define a class or function at their top level, those that look likely alone if any do.

    A package that makes its names available when they are first asked for says nowhere where they are: its files are looked
    through, first those whose folder or file is called as the name begins (bert/modeling_bert.py for BertModel).
    """
    wanted = re.compile(rb"^(?:class|def) %s\b" % name.encode(), re.MULTILINE)
    files = [file for file in sorted(package.rglob("*.py")) if file.name != "__init__.py"]
    likely = [file for file in files if _is_likely(file.relative_to(package), name.lower())]
    for group in (likely, [file for file in files if file not in set(likely)]):
        if found := [file for file in group if wanted.search(file.read_bytes())]:
            return found
    return []


def _is_likely(file: Path, name: str) -> bool:
    parts = (part.replace("_", "") for part in file.parent.parts)
    return any(len(part) >= _SHORTEST_PART and name.startswith(part) for part in parts)


def module_name(package: Path, top: str, file: Path) -> str:
    """Return the dotted name of a file below a package that is called `top`."""
    return ".".join([top, *file.relative_to(package).with_suffix("").parts])
