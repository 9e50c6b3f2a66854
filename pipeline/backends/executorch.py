"""An ExecuTorch program, run by ExecuTorch's runtime on the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.backends import probe
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.inputs import check_inputs
from pipeline.errors import InputError
from pipeline.formats.executorch import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.interface import Arrays


class ExecuTorchCpuOptions(Options):
    """Options of ExecuTorch's runtime."""

    threads: int | None = Field(None, ge=1, le=1024, description="threads of one operator; default: the run's")


def open_cpu(source: Source, options: Options) -> Session:
    """Open a program; one call at a time runs in it.

    Raises:
        InputError: the runtime refuses it, or nothing says which of its inputs and outputs is which.
    """
    from pipeline.rebuild import calling

    assert isinstance(options, ExecuTorchCpuOptions)  # noqa: S101 - the table pairs them
    if source.file is None:
        raise InputError(
            "executorch runs an exported file, and none was exported", hint="add `executorch` to `exports`"
        )
    threads = runtime.set_threads(options.threads or int(os.environ.get("OMP_NUM_THREADS", "0")))
    opened = runtime.load(source.file)
    stated = opened.stated
    inputs = _order("inputs", stated.inputs if stated else None, [each.name for each in source.interface.inputs])
    outputs = _order("outputs", stated.outputs if stated else None, source.interface.outputs)
    _require_places(source, inputs, outputs, opened)

    def tensors(arrays: Arrays) -> list[Any]:
        # The runtime compares numbers of elements only, and computes on whatever fits into what was planned.
        check_inputs(source.interface, arrays)
        made = calling.tensors_from(arrays)
        return [made[name].contiguous() for name in inputs]

    def run(arrays: Arrays) -> dict[str, Any]:
        given = tensors(arrays)
        with runtime.TURN, runtime.listening() as heard:
            try:
                values = opened.call(given)  # copies: the runtime writes into the same memory again
            except RuntimeError as error:
                raise RuntimeError(f"ExecuTorch: {runtime.reason(error, heard())}") from error
        return {name: calling.array_from(value) for name, value in zip(outputs, values, strict=True)}

    def bind(arrays: Arrays) -> Callable[[], object]:
        given, call, turn = tensors(arrays), opened.call, runtime.TURN

        def timed() -> object:
            with turn:
                return call(given)

        return timed

    return Session(
        run, bind, {"device": "cpu", "threads": threads, "executorch": probe.installed_version("executorch")}
    )


def _order(what: str, stated: Sequence[str] | None, declared: Sequence[str]) -> list[str]:
    """Return names in the program's order. A program takes and gives values by position: without names only one can be told."""
    if stated is None:
        if len(declared) == 1:
            return list(declared)
        raise InputError(
            f"the program does not say which of its {what} is which, and there are {len(declared)}: {', '.join(declared)}",
            hint="export it with weighbridge, which writes their names into it",
        )
    if sorted(stated) != sorted(declared):
        raise InputError(
            f"the program's {what} are {', '.join(stated)}, declared are {', '.join(declared)}",
            hint="export it again from this config",
        )
    return list(stated)


def _require_places(source: Source, inputs: Sequence[str], outputs: Sequence[str], opened: runtime.Opened) -> None:
    """Refuse a program that has another number of inputs or outputs than names for them, or inputs of other dtypes or ranks."""
    for what, names, places in (("inputs", inputs, opened.inputs), ("outputs", outputs, opened.outputs)):
        if len(names) != len(places):
            raise InputError(
                f"the program has {len(places)} {what}, declared are {len(names)}",
                hint="export it again from this config",
            )
    specs = {each.name: each for each in source.interface.inputs}
    for name, place in zip(inputs, opened.inputs, strict=True):
        spec = specs[name]
        if (place.dtype, len(place.sizes)) != (spec.dtype, len(spec.shape)):
            raise InputError(
                f"the program takes {name} as {place.dtype} of {len(place.sizes)} axes, "
                f"declared is {spec.dtype} of {len(spec.shape)}",
                hint="export it again from this config",
            )


EXECUTORCH_XNNPACK = Backend(
    name="executorch-xnnpack",
    summary="an ExecuTorch program, run by ExecuTorch with XNNPACK on the CPU",
    format="executorch",
    device="cpu",
    install="weighbridge[executorch]",
    options=ExecuTorchCpuOptions,
    probe=lambda: probe.package("executorch"),
    open=open_cpu,
    modules=("torch", runtime.RUNTIME),
    distributions=("executorch", "torch"),
    threads_option="threads",
)
