"""What can run here, told without importing anything heavy."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CUDA_SUCCESS = 0
_NAME_BYTES = 256


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


def cuda_device() -> str | None:
    """Return None if the NVIDIA driver is here and reports a device, else the reason.

    Asks the driver itself (cuInit, cuDeviceGetCount of the CUDA driver API).
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver here ({_DRIVER} not found)"
    if (status := driver.cuInit(0)) != _CUDA_SUCCESS:
        return f"the NVIDIA driver does not start (cuInit: error {status})"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver reports no device"


@cache
def cuda_facts() -> str:
    """Return each GPU's name and the versions of CUDA and of the driver, as the driver says them; "" where there is none.

    Asks cuDeviceGetName and cuDriverGetVersion of the CUDA driver API, and the kernel module's own version.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ""
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != _CUDA_SUCCESS:
        return ""
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    names = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.cuDeviceGetName(name, len(name), index)
        names.append(name.value.decode(errors="replace"))
    module = Path("/sys/module/nvidia/version")
    kernel = module.read_text(encoding="ascii").strip() if module.is_file() else ""
    return f"{', '.join(names)}; CUDA {version.value}; driver {kernel}"


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
    if missing := package("onnxruntime"):
        return missing
    installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if installed_version(name)}
    if installed == {"onnxruntime", "onnxruntime-gpu"}:
        return "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other: uninstall both, then one"
    if "onnxruntime-gpu" not in installed:
        return "onnxruntime is a CPU build (the CUDA provider is in onnxruntime-gpu)"
    return cuda_device()
