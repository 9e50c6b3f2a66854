"""What can run here, told without importing anything heavy."""

from __future__ import annotations

import mmap
import re
from ctypes.util import find_library
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.formats import driver

if TYPE_CHECKING:
    from collections.abc import Iterable

cuda_device = driver.cuda_device
cuda_facts = driver.cuda_facts
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
"""The distributions that bring the module onnxruntime, each another build of it."""


def package(name: str) -> str | None:
    """Return None if a package is installed, else the reason."""
    return None if util.find_spec(name) else f"{name} is not installed"


@cache
def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution that is installed, None if it is not; looked up once a process."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, by name."""
    found = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}


def torch_cuda() -> str | None:
    """Return None if torch is a CUDA build and a device is here, else the reason."""
    if missing := package("torch"):
        return missing
    version = installed_version("torch") or ""
    if "+cpu" in version:
        return f"torch {version} is a CPU build"
    return cuda_device()


def onnxruntime_cuda() -> str | None:
    """Return None if onnxruntime has the CUDA provider built in and a device is here, else the reason."""
    if missing := one_onnxruntime():
        return missing
    if not installed_version("onnxruntime-gpu"):
        return "onnxruntime is a CPU build (the CUDA provider is in onnxruntime-gpu)"
    return cuda_device()


def one_onnxruntime() -> str | None:
    """Return None if one distribution provides onnxruntime, else the reason: several overwrite each other's files."""
    if missing := package("onnxruntime"):
        return missing
    found = [name for name in ONNXRUNTIMES if installed_version(name)]
    if len(found) < 2:
        return None
    told = f"{', '.join(found[:-1])} and {found[-1]}"
    both = "both" if len(found) == 2 else "all"
    return f"{told} are {both} installed; they overwrite each other: uninstall {both}, then install one"


def onnxruntime_provider(library: str) -> str | None:
    """Return None if onnxruntime has a provider, else the reason; `library` is what the provider's files are called after.

    A provider is a library of its own (`libonnxruntime_providers_openvino.so`), or built in: then the paths of its source
    files stand in onnxruntime's library, in the places that its own messages name. Nothing is imported.
    """
    if missing := one_onnxruntime():
        return missing
    folder = _libraries_of("onnxruntime", "capi")
    if folder is None:
        return "this onnxruntime has no folder of libraries to look into"
    if _provider_file(folder, library) or _built_in(folder, library):
        return None
    build = " ".join(f"{name} {version}" for name, version in installed_versions(ONNXRUNTIMES).items())
    return f"{build or 'this onnxruntime'} has no such provider"


def onnxruntime_tensorrt() -> str | None:
    """Return None if onnxruntime has the TensorRT provider, and the TensorRT that it was linked with and a GPU are here."""
    if reason := onnxruntime_provider("tensorrt"):
        return reason
    folder = _libraries_of("onnxruntime", "capi")
    file = _provider_file(folder, "tensorrt") if folder else None
    wanted = _linked(file) if file else None
    ours = _libraries_of("tensorrt_libs")
    if wanted and find_library("nvinfer") != wanted and not (ours and (ours / wanted).is_file()):
        return f"onnxruntime's TensorRT provider needs {wanted}, which is not installed"
    return cuda_device()


def _libraries_of(package_: str, *parts: str) -> Path | None:
    """Return the folder where a package's libraries lie, None where it is not installed or has none."""
    spec = util.find_spec(package_)
    folder = Path(spec.submodule_search_locations[0], *parts) if spec and spec.submodule_search_locations else None
    return folder if folder and folder.is_dir() else None


def _provider_file(folder: Path, library: str) -> Path | None:
    names = (f"libonnxruntime_providers_{library}.*", f"onnxruntime_providers_{library}.dll")
    return next((each for name in names for each in folder.glob(name)), None)


@cache
def _linked(file: Path) -> str | None:
    """Return which libnvinfer a provider's library asks the linker for; None where that is not to be seen (on Windows)."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
        found = re.search(rb"libnvinfer\.so\.\d+", held)
        return found[0].decode() if found else None


@cache
def _built_in(folder: Path, library: str) -> bool:
    marker = f"core/providers/{library}/".encode()
    return any(_holds(each, marker) for each in sorted(folder.glob("onnxruntime_pybind11_state*")))


def _holds(path: Path, marker: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return held.find(marker) >= 0
