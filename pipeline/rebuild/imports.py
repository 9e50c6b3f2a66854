"""Why a module that may run cannot be imported: which package is missing, or too old, and who asks for it."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError

if TYPE_CHECKING:
    from pathlib import Path

_INSTALLED_AS = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml", "sklearn": "scikit-learn", "skimage": "scikit-image",
    "bs4": "beautifulsoup4", "google": "protobuf", "attr": "attrs", "dateutil": "python-dateutil",
    "pytorch_lightning": "pytorch-lightning",
}  # fmt: skip
"""Packages that are installed under another name than they are imported by."""
_NAME = re.compile(r"cannot import name '([^']+)' from (?:partially initialized module )?'([^']+)'")


def failure(module: str, path: Path, error: BaseException) -> ArchitectureError:
    """Return what to say of an import that failed: the package that is missing, who imports it, and how it is installed."""
    cause = _import_error(error)
    return (cause and _of_import(module, cause)) or ArchitectureError(
        f"{module} ({path}) cannot be imported: {type(error).__name__}: {error}",
        hint=f"mend that; it can be seen alone with: python -c 'import {module}'",
    )


def _import_error(error: BaseException | None) -> ImportError | None:
    """Return the failed import that an error is, or that it was raised from."""
    while error is not None and not (isinstance(error, ImportError) and (error.name or _NAME.match(str(error)))):
        error = error.__cause__
    return error


def _of_import(module: str, error: ImportError) -> ArchitectureError | None:
    who = _importer(error) or module
    needed, what = error.name or "", f"no module {error.name}"
    if not isinstance(error, ModuleNotFoundError):
        told = _NAME.match(str(error))
        if told is None:
            return None
        needed, what = told[2], f"no {told[1]} in {told[2]}"
    top = needed.partition(".")[0]
    if top == module.partition(".")[0]:
        return ArchitectureError(
            f"{module} cannot be imported: {who} imports what {top} does not have: {what}",
            hint=f"correct that line, or install the whole of {top} again",
        )
    if not _is_there(top):
        return ArchitectureError(
            f"{module} cannot be imported: {top} is not installed, and {who} imports {needed}",
            hint=f"pip install {_INSTALLED_AS.get(top, top)}",
        )
    distribution, version = _installed(top)
    return ArchitectureError(
        f"{module} cannot be imported: {who} imports {needed}, and there is {what} as installed ({distribution} {version})",
        hint=f"install the {distribution} that {module.partition('.')[0]} was written for: pip install --upgrade {distribution}, or an older one",
    )


def _importer(error: ImportError) -> str | None:
    """Return the module whose line failed, and the line's place."""
    found, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if not frame.f_code.co_filename.startswith("<frozen importlib"):
            found = f"{frame.f_globals.get('__name__', '')} ({frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return None if found is None or found.startswith(("importlib ", f"{__package__}.")) else found


def _is_there(top: str) -> bool:
    return top in sys.modules or top in sys.builtin_module_names or PathFinder.find_spec(top) is not None


def _installed(top: str) -> tuple[str, str]:
    """Return the distribution that a package came with, and its version."""
    name = next(iter(metadata.packages_distributions().get(top, [top])))
    try:
        return name, metadata.version(name)
    except metadata.PackageNotFoundError:
        return name, "of an unknown version"
