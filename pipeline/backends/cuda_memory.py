"""Memory, copies, a stream and events of one NVIDIA GPU, by the driver's own programming interface.

That is all an engine needs, and the driver is there wherever one runs: neither torch nor another package has to be installed.
Functions and types: https://docs.nvidia.com/cuda/cuda-driver-api/ (those that have a second version are exported under `…_v2`).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnavailableError
from pipeline.formats.driver import LIBRARY, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EVENT_DEFAULT, _STREAM_DEFAULT = 0x0, 0x0


@dataclass(slots=True)
class Buffer:
    """Memory of the device: it only grows, so that calls of changing sizes keep what they have."""

    address: int = 0
    size: int = 0


class Device:
    """The primary context of a device, which TensorRT and CUDA's runtime use too, with a stream of its own."""

    def __init__(self, index: int, library: str = LIBRARY) -> None:
        """Start the driver and make the device's primary context current; raises UnavailableError where that fails."""
        try:
            self._driver = ctypes.CDLL(library)
        except OSError as error:
            raise UnavailableError(
                f"no NVIDIA driver here ({library} not found)", hint="install an NVIDIA driver"
            ) from error
        self._do("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._do("cuDeviceGet", ctypes.byref(device), index)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._do("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._do("cuStreamCreate", ctypes.byref(stream), _STREAM_DEFAULT)
        self.stream = int(stream.value or 0)

    def _do(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; raises UnavailableError with its name and status where it fails."""
        if (status := getattr(self._driver, name)(*arguments)) != SUCCESS:
            raise UnavailableError(
                f"the NVIDIA driver: {name} failed with error {status}",
                hint="see whether other programs hold the GPU's memory: nvidia-smi",
            )

    def reserve(self, buffer: Buffer, size: int) -> None:
        """Give a buffer at least so many bytes; TensorRT wants an address for an empty tensor too."""
        if buffer.size >= max(size, 1):
            return
        if buffer.address:
            self._do("cuMemFree_v2", ctypes.c_uint64(buffer.address))
            buffer.address = buffer.size = 0
        address = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        buffer.address, buffer.size = int(address.value), max(size, 1)

    def upload(self, buffer: Buffer, array: Any) -> None:
        """Copy a contiguous numpy array into a buffer that is large enough."""
        if array.nbytes:
            source = ctypes.c_void_p(array.ctypes.data)
            self._do("cuMemcpyHtoD_v2", ctypes.c_uint64(buffer.address), source, ctypes.c_size_t(array.nbytes))

    def download(self, array: Any, buffer: Buffer) -> None:
        """Copy a buffer into a contiguous numpy array."""
        if array.nbytes:
            target = ctypes.c_void_p(array.ctypes.data)
            self._do("cuMemcpyDtoH_v2", target, ctypes.c_uint64(buffer.address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        """Wait until the stream has done its work."""
        self._do("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def timed(self, calls: Sequence[Callable[[], None]]) -> list[int]:
        """Return how long each call's work took on the device, in ns, by events of the stream."""
        marks = [(self._event(), self._event()) for _ in calls]
        for call, (begin, end) in zip(calls, marks, strict=True):
            self._do("cuEventRecord", begin, ctypes.c_void_p(self.stream))
            call()
            self._do("cuEventRecord", end, ctypes.c_void_p(self.stream))
        self.wait()
        durations = []
        for begin, end in marks:
            milliseconds = ctypes.c_float()
            self._do("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
            durations.append(round(milliseconds.value * 1e6))
            for event in (begin, end):
                self._do("cuEventDestroy_v2", event)
        return durations

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._do("cuEventCreate", ctypes.byref(event), _EVENT_DEFAULT)
        return event
