"""OpenVINO files, run by OpenVINO on the CPU.

OpenVINO computes in bfloat16 wherever a processor can, unless it is told the precision. Its Python API casts and reshapes whatever it is given.
"""

from __future__ import annotations

import os
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.backends import probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.interface import Arrays


class CpuOptions(Options):
    """Options of OpenVINO on the CPU."""

    threads: int | None = Field(None, ge=1, le=1024, description="threads of one call; default: the run's")
    snippets: bool = Field(
        default=True,
        description="fuse attention and element-wise layers into kernels of their own, made at the first call",
    )


_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    # Workers take turns on the same cores: nobody may keep one.
    "ENABLE_CPU_PINNING": False,
}
_OPTIONAL = frozenset({"KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "ENABLE_CPU_PINNING"})
"""Those that not every processor's plugin knows."""


def open_cpu(source: Source, options: Options) -> Session:
    """Open a file on the CPU.

    Raises:
        UnavailableError: OpenVINO would not compute in float32, or not on the CPU.
    """
    from pipeline.formats.openvino import library

    assert isinstance(options, CpuOptions)  # noqa: S101 - the table pairs them
    if source.file is None:
        raise InputError("openvino runs an exported file, and none was exported", hint="add `openvino` to `exports`")
    openvino = library.load()
    core = openvino.Core()
    threads = options.threads or int(os.environ.get("OMP_NUM_THREADS", "0"))
    known = core.get_property("CPU", "SUPPORTED_PROPERTIES")
    chosen = {name: value for name, value in _SETTINGS.items() if name in known or name not in _OPTIONAL}
    chosen |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    chosen |= {} if options.snippets else {"SNIPPETS_MODE": "DISABLE"}
    compiled = core.compile_model(core.read_model(str(source.file)), "CPU", chosen)
    return _session(openvino, compiled, _facts(openvino, compiled) | {"snippets": options.snippets})


def _facts(openvino: Any, compiled: Any) -> dict[str, Any]:
    """Return what the compiled model really uses."""
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if devices != ["CPU"]:
        raise UnavailableError(
            f"asked OpenVINO for the CPU, got {', '.join(devices)}", hint="install openvino with its CPU plugin"
        )
    if precision != "f32":
        raise UnavailableError(
            f"asked OpenVINO for f32, and it would compute in {precision}, which loses what parity is about",
            hint="leave openvino-cpu out of `backends` on this machine",
        )
    return {
        "device": "cpu",
        "openvino": openvino.get_version(),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(compiled.get_property("NUM_STREAMS")),
        "precision": precision,
    }


def _session(openvino: Any, compiled: Any, facts: dict[str, Any]) -> Session:
    """Return a session that has a request for each call that is under way: calls may come from several threads."""
    import numpy as np

    inputs = {_name(port): port for port in compiled.inputs}
    # All the file has, not what the config expects: a missing or an extra output is for the comparison to judge.
    outputs = [(index, name) for index, port in enumerate(compiled.outputs) for name in sorted(port.get_names())]
    idle: LifoQueue[Any] = LifoQueue()

    def set_inputs(request: Any, arrays: Arrays) -> None:
        check(inputs, arrays)
        for name, array in arrays.items():
            # In memory of OpenVINO's own: a request does not keep alive what it shares.
            request.set_tensor(inputs[name], openvino.Tensor(np.asarray(array, order="C"), shared_memory=False))

    def call(request: Any) -> dict[str, Any]:
        # In the caller's thread: handing a call to another takes as long as a small network. Its memory is the next call's as well.
        values = list(request.infer(share_outputs=True).values())
        return {name: values[index].copy() for index, name in outputs}

    def run(arrays: Arrays) -> dict[str, Any]:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        set_inputs(request, arrays)
        found = call(request)
        idle.put(request)
        return found

    def bind(arrays: Arrays) -> Callable[[], object]:
        request = compiled.create_infer_request()
        set_inputs(request, arrays)
        return lambda: list(call(request).values())

    return Session(run, bind, facts)


def _name(port: Any) -> str:
    return str(min(port.get_names(), default=port.get_any_name()))


def check(ports: Any, arrays: Arrays) -> None:
    """Refuse what OpenVINO would cast, reshape or take in another place.

    Raises:
        InputError: names, dtypes, ranks or fixed sizes are not those of the file.
    """
    if ports.keys() != arrays.keys():
        raise InputError(
            f"openvino: the file takes {', '.join(ports) or 'nothing'}, given are {', '.join(arrays) or 'none'}",
            hint="give each of the file's inputs once, by its name",
        )
    for name, array in arrays.items():
        wanted, shape = ports[name].get_element_type().to_dtype(), ports[name].get_partial_shape()
        if array.dtype != wanted:
            raise InputError(
                f"openvino: {name} is {array.dtype}, the file takes {wanted}", hint=f"{name}.astype({str(wanted)!r})"
            )
        fits = shape.rank.is_dynamic or (
            len(shape) == array.ndim
            and all(each.is_dynamic or each.get_length() == size for each, size in zip(shape, array.shape, strict=True))
        )
        if not fits:
            raise InputError(
                f"openvino: {name} has shape {list(array.shape)}, the file takes {shape}", hint="give it that shape"
            )


OPENVINO_CPU = Backend(
    name="openvino-cpu",
    summary="an OpenVINO file, run by OpenVINO on the CPU",
    format="openvino",
    device="cpu",
    install="weighbridge[openvino]",
    options=CpuOptions,
    probe=lambda: probe.package("openvino"),
    open=open_cpu,
    modules=("pipeline.formats.openvino.library:load",),
    distributions=("openvino",),
    ladder=(("openvino, without snippets", {"snippets": False}), ("openvino, with snippets", {"snippets": True})),
    tunable={"snippets": (True, False)},
    threads_option="threads",
)
