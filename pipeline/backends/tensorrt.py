"""A TensorRT engine, run by TensorRT on the GPU that it was built for, with buffers of the driver's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.backends import probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.cuda_memory import Buffer, Device
from pipeline.errors import InputError, UnavailableError
from pipeline.formats.tensorrt import here, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.interface import Arrays


@dataclass(slots=True)
class _Engine:
    """An engine with its context and buffers; `inputs` are dtypes by name, `ranges` the shapes that it takes.

    `held` is what must live as long: what TensorRT made the context from.
    """

    held: tuple[Any, ...]
    context: Any
    device: Device
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    ranges: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    buffers: dict[str, Buffer] = field(default_factory=dict)

    def put(self, arrays: Arrays) -> None:
        """Check inputs as the engine declares them, copy them to the device and reserve the outputs.

        Raises:
            InputError: other names, dtypes or shapes than the engine was built for.
        """
        import numpy as np

        require_fitting(arrays, self.inputs, self.ranges)
        for name, array in arrays.items():
            if not self.context.set_input_shape(name, tuple(array.shape)):
                raise InputError(f"tensorrt takes no {name} of shape {list(array.shape)}", hint=_SIZES)
            self._reserve(name, array.nbytes)
            self.device.upload(self.buffers[name], np.ascontiguousarray(array))
        if missing := self.context.infer_shapes():
            raise InputError(f"tensorrt cannot tell the size of {', '.join(missing)} before it runs", hint=_SIZES)
        for name, dtype in self.outputs.items():
            self._reserve(name, int(np.prod(self._shape(name))) * np.dtype(dtype).itemsize)

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self.context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            told = f"the size of {name} follows from values, which an engine tells only after it ran"
            raise InputError(told, hint="leave `tensorrt` out of `exports`")
        return shape

    def _reserve(self, name: str, size: int) -> None:
        buffer = self.buffers.setdefault(name, Buffer())
        self.device.reserve(buffer, size)
        self.context.set_tensor_address(name, buffer.address)

    def compute(self) -> None:
        """Put one call into the stream."""
        if not self.context.execute_async_v3(self.device.stream):
            raise UnavailableError("tensorrt did not start a call", hint="see its messages above")

    def get(self) -> dict[str, Any]:
        """Wait, and return the outputs in memory of their own."""
        import numpy as np

        self.device.wait()
        found = {name: np.empty(self._shape(name), dtype) for name, dtype in self.outputs.items()}
        for name, array in found.items():
            self.device.download(array, self.buffers[name])
        return found


_SIZES = "give inputs as the config declares them; other sizes need another engine"


def require_fitting(
    arrays: Arrays, dtypes: Mapping[str, Any], ranges: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Refuse inputs that are not an engine's: it would read their bytes as something else.

    Raises:
        InputError: other names, dtypes or shapes.
    """
    if set(arrays) != set(dtypes):
        raise InputError(f"tensorrt takes {', '.join(sorted(dtypes))}, not {', '.join(sorted(arrays))}", hint=_SIZES)
    for name, array in arrays.items():
        if array.dtype != dtypes[name]:
            raise InputError(f"tensorrt takes {name} as {dtypes[name]}, not as {array.dtype}", hint=_SIZES)
        least, most = ranges[name]
        fits = array.ndim == len(least) and all(
            low <= size <= high for low, size, high in zip(least, array.shape, most, strict=True)
        )
        if not fits:
            told = f"tensorrt takes {name} of {list(least)} to {list(most)}, not of {list(array.shape)}"
            raise InputError(told, hint=_SIZES)


def _open(source: Source, _: Options) -> Session:
    """Open an engine.

    Raises:
        UnavailableError: it was built for another GPU, driver or TensorRT, or TensorRT does not take it.
    """
    import tensorrt as trt

    if source.file is None:
        raise InputError("tensorrt runs an engine, and none was built", hint="add `tensorrt` to `exports`")
    facts = stated.require_here(source.file, {"tensorrt": trt.__version__, "device": probe.cuda_facts()})
    device = Device(0)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    # Code for the host in an engine stays forbidden, as it is by default.
    engine = runtime.deserialize_cuda_engine(source.file.read_bytes())
    if engine is None:
        raise UnavailableError(f"tensorrt {trt.__version__} does not take {source.file.name}", hint=stated.AGAIN)
    opened = _opened(trt, runtime, engine, device)

    def run(arrays: Arrays) -> dict[str, Any]:
        opened.put(arrays)
        opened.compute()
        return opened.get()

    def bind(arrays: Arrays) -> Callable[[], object]:
        fixed = dict(arrays)
        return lambda: run(fixed)

    def bind_on_device(arrays: Arrays) -> Callable[[int], list[int]]:
        fixed = dict(arrays)

        def calls(count: int) -> list[int]:
            opened.put(fixed)
            return device.timed([opened.compute] * count)

        return calls

    told = {"device": facts["device"], "tensorrt": facts["tensorrt"], "tf32": False}
    return Session(run, bind, told, bind_on_device=bind_on_device)


def _opened(trt: Any, runtime: Any, engine: Any, device: Device) -> _Engine:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    goes_in = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    dtypes = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in names}
    inputs = {name: dtypes[name] for name in names if goes_in[name]}
    ranges = {}
    for name in inputs:
        shape = tuple(engine.get_tensor_shape(name))
        least, _, most = engine.get_tensor_profile_shape(name, 0) if -1 in shape else (shape, shape, shape)
        ranges[name] = tuple(least), tuple(most)
    outputs = {name: dtypes[name] for name in names if not goes_in[name]}
    return _Engine((runtime, engine), engine.create_execution_context(), device, inputs, outputs, ranges)


TENSORRT = Backend(
    name="tensorrt",
    summary="an engine, run by TensorRT on the NVIDIA GPU that it was built for",
    format="tensorrt",
    device="cuda",
    install=here.INSTALL,
    options=Options,
    probe=here.reason,
    device_facts=probe.cuda_facts,
    open=_open,
    modules=("tensorrt",),
    distributions=here.DISTRIBUTIONS,
)
