"""The NVIDIA driver, asked through its own programming interface: whether a device is here, and which."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
SUCCESS = 0
_NAME_BYTES = 256


def cuda_device() -> str | None:
    """Return None if the NVIDIA driver is here and reports a device, else the reason.

    Asks the driver itself (cuInit, cuDeviceGetCount of the CUDA driver API).
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return f"no NVIDIA driver here ({LIBRARY} not found)"
    if (status := driver.cuInit(0)) != SUCCESS:
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
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return ""
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != SUCCESS:
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
