"""What an NVIDIA GPU says of itself, by NVML: the energy it has used, its clocks, and what holds them down.

Source: the NVML API reference, through NVIDIA's own binding, which the extra `cuda` installs. NVML numbers GPUs in the
order of their bus, CUDA by default the fastest first: on a machine with different GPUs set CUDA_DEVICE_ORDER=PCI_BUS_ID.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.benchmark.energy import Meter

# Bits of nvmlClocksEventReasons; an idle GPU and clocks that somebody fixed are no throttling.
_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal, by software",
    0x40: "thermal, by hardware",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class State:
    """A GPU at one moment; what it does not tell is None. `throttled_by` names what holds its clocks down."""

    sm_mhz: int | None
    max_sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttled_by: tuple[str, ...]


def names() -> str | None:
    """Return the GPUs of this machine by name and the driver's version, or None if there is no NVML here."""
    nvml, device = _device(0)
    if device is None:
        return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    named = ", ".join(str(nvml.nvmlDeviceGetName(handle)) for handle in handles)
    return f"{named}, driver {nvml.nvmlSystemGetDriverVersion()}"


def meter(index: int = 0) -> Meter | None:
    """Return a meter of the joules a GPU has used, or None if there is no NVML here or the GPU does not count them."""
    nvml, device = _device(index)
    if device is None or _asked(nvml.nvmlDeviceGetTotalEnergyConsumption, device) is None:
        return None

    def read() -> float:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1e3

    return read


def state(index: int = 0) -> State | None:
    """Return what a GPU says now, or None if there is no NVML here."""
    nvml, device = _device(index)
    if device is None:
        return None
    power_mw = _asked(nvml.nvmlDeviceGetPowerUsage, device)
    reasons = _asked(nvml.nvmlDeviceGetCurrentClocksEventReasons, device) or 0
    return State(
        sm_mhz=_asked(nvml.nvmlDeviceGetClockInfo, device, nvml.NVML_CLOCK_SM),
        max_sm_mhz=_asked(nvml.nvmlDeviceGetMaxClockInfo, device, nvml.NVML_CLOCK_SM),
        memory_mhz=_asked(nvml.nvmlDeviceGetClockInfo, device, nvml.NVML_CLOCK_MEM),
        temperature_c=_asked(nvml.nvmlDeviceGetTemperature, device, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power_mw is None else power_mw / 1e3,
        throttled_by=tuple(words for bit, words in _THROTTLING.items() if reasons & bit),
    )


def _device(index: int) -> tuple[Any, Any]:
    """Return NVML and its handle of the GPU that CUDA numbers `index`; the handle is None if either is not here."""
    try:
        import pynvml
    except ImportError:
        return None, None
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    name = visible[index] if index < len(visible) else str(index)
    try:
        pynvml.nvmlInit()
        if name.isdecimal():
            return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(name))
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError:
        return pynvml, None


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """Return an answer, or None where this GPU or driver has none."""
    import pynvml

    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
