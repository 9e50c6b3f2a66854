"""An ExecuTorch program: captured by torch.export, what XNNPACK computes given to it, memory planned for the largest sizes.

Source: https://docs.pytorch.org/executorch/stable/using-executorch-export.html
"""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError, InputError
from pipeline.formats import capture, forward, refusal
from pipeline.formats.artifact import Written
from pipeline.formats.deep import with_room
from pipeline.formats.executorch import runtime
from pipeline.formats.executorch.captured import captured, unasked
from pipeline.formats.executorch.options import ExecuTorchOptions
from pipeline.rebuild.cases import allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from pipeline.formats.format import FromNetwork, Options
    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface

_LEAVE_OUT = "leave `executorch` out of `exports`"
_FIX = (
    "fix these sizes in `inputs` (a recurrent layer is unrolled at one length), or leave `executorch` out of `exports`"
)
_OTHERWISE = "set `delegate: none`, which leaves XNNPACK out, or leave `executorch` out of `exports`"


def export(origin: FromNetwork, options: Options) -> Written:
    """Write an ExecuTorch program.

    Raises:
        ExportError: torch.export or ExecuTorch refuses the network, or takes fewer sizes than declared.
    """
    assert isinstance(options, ExecuTorchOptions)  # noqa: S101 - the table pairs them
    return with_room(origin.module, lambda: _written(origin, options))


def _written(origin: FromNetwork, options: ExecuTorchOptions) -> Written:
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    with unasked():
        program = captured(prepared, origin.interface)
    stated = runtime.Stated(prepared.names, origin.interface.outputs, origin.identity)
    hint = _LEAVE_OUT if options.delegate == "none" else _OTHERWISE
    with _refusing(prepared, hint), _quietly(), unasked():
        edge = _lowered(program, options, stated)
        _require_wide(edge.exported_program(), prepared, origin.interface)
        counts = _counts(edge.exported_program())
        made = edge.to_executorch()
        origin.target.write_bytes(made.buffer)
    planned = sum(made.executorch_program.execution_plan[_forward_of(made)].non_const_buffer_sizes)
    _require_taken(origin, prepared)
    facts = {"delegate": options.delegate, "inputs": list(prepared.names), **counts, "planned_bytes": planned}
    return Written((origin.target,), facts, _notes(options, counts))


def _lowered(program: torch.export.ExportedProgram, options: ExecuTorchOptions, stated: runtime.Stated) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # Its verifier compares sizes of arguments, which fixes those that it may not know: a batch of 1 to 64 becomes the example's.
    config = EdgeCompileConfig(_check_ir_validity=False)
    partitioner = [] if options.delegate == "none" else [XnnpackPartitioner()]
    return to_edge_transform_and_lower(
        program,
        partitioner=partitioner,
        compile_config=config,
        constant_methods={runtime.METHOD: stated.to_text()},
    )


@contextmanager
def _refusing(prepared: Forward, hint: str) -> Iterator[None]:
    """Give a refusal of ExecuTorch's as an error of ours, in its words."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        found = refusal.refused("ExecuTorch", error, prepared.module)
        raise ExportError(found.message, hint=hint) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what it warns of on every export: formats of its own that will change, torch's treespecs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require_wide(program: Any, prepared: Forward, interface: Interface) -> None:
    """Refuse a program that was narrowed on its way from the captured one."""
    if told := capture.narrowed(program, interface, prepared.names):
        raise ExportError(f"ExecuTorch: it takes less than the config declares: {'; '.join(told)}", hint=_FIX)


def _require_taken(origin: FromNetwork, prepared: Forward) -> None:
    """Refuse a file that the runtime does not load, or whose memory is planned for less than the largest sizes."""
    try:
        opened = runtime.load(origin.target)
    except InputError as error:
        raise ExportError(f"ExecuTorch: {error.message}", hint=_LEAVE_OUT) from error
    largest = {each.name: each.max if each.formula else allowed(each)[-1] for each in origin.interface.dimensions}
    shapes = {each.name: each.shape for each in origin.interface.inputs}
    for name, place in zip(prepared.names, opened.inputs, strict=True):
        wanted = tuple(largest.get(size, 0) if isinstance(size, str) else size for size in shapes[name])
        if any(planned < size for planned, size in zip(place.sizes, wanted, strict=True)):
            raise ExportError(
                f"ExecuTorch: memory for {name} is planned for {list(place.sizes)}, declared is up to {list(wanted)}",
                hint="narrow `dimensions` to what was planned, or leave `executorch` out of `exports`",
            )


def _counts(program: Any) -> dict[str, Any]:
    """Return how many operators XNNPACK computes, and which ones ExecuTorch's own kernels do."""
    delegated, own = 0, Counter[str]()
    for node in program.graph_module.graph.nodes:
        if node.op == "get_attr" and hasattr(lowered := getattr(program.graph_module, node.target), "original_module"):
            inner = lowered.original_module.graph_module.graph.nodes
            delegated += sum(map(_is_operator, inner))
        elif _is_operator(node):
            own[_name(node)] += 1
    share = delegated / (delegated + own.total()) if delegated + own.total() else 0.0
    return {
        "delegated_operators": delegated,
        "other_operators": own.total(),
        "delegated_share": round(share, 4),
        "others": dict(sorted(own.items(), key=lambda item: (-item[1], item[0]))),
    }


def _is_operator(node: Any) -> bool:
    return node.op == "call_function" and _name(node) not in {"getitem", "executorch_call_delegate"}


def _name(node: Any) -> str:
    target = node.target
    return str(getattr(target, "_name", None) or getattr(target, "__name__", target)).removeprefix("aten::")


def _forward_of(made: Any) -> int:
    plans = made.executorch_program.execution_plan
    return next(index for index, each in enumerate(plans) if each.name == runtime.FORWARD)


def _notes(options: ExecuTorchOptions, counts: Mapping[str, Any]) -> tuple[str, ...]:
    if options.delegate == "none":
        return ("XNNPACK was left out: ExecuTorch's portable kernels compute everything",)
    others, every = counts["other_operators"], counts["other_operators"] + counts["delegated_operators"]
    if not others:
        return ()
    names = ", ".join(f"{name} × {count}" if count > 1 else name for name, count in list(counts["others"].items())[:4])
    more = ", …" if len(counts["others"]) > 4 else ""
    return (f"{others} of {every} operators are computed by ExecuTorch's own kernels, not by XNNPACK: {names}{more}",)
