"""The network run otherwise: what a file may hold in place of it, each tried and held against the file.

A *twin* is the network with one thing changed: without torch's fused fast path, with the statistics of the batch in place of
the trained ones, or along the branch that another input takes. A file that agrees with a twin within its budget, and not with
the network, holds what the twin computes. Nothing is said of a twin that was not run.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.rebuild.attempt import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface

    Run = Callable[[Arrays], Mapping[str, torch.Tensor]]

_ROUNDING = 1e-5
FAST_PATH, STATISTICS, BRANCH, EXPORTED = "fast path", "batch statistics", "branch", "exported"
_QUESTIONS = (
    "torch.compiler.is_compiling", "torch.compiler.is_dynamo_compiling", "torch.compiler.is_exporting", "torch.jit.is_tracing",
    "torch.onnx.is_in_onnx_export", "torch._dynamo.is_compiling",
)  # fmt: skip
"""What a network may ask to learn that it is being exported."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A network run otherwise: what to say of a file that agrees with it, what to do, and its outputs by case (None: it takes none)."""

    name: str
    words: str
    remedy: str
    outputs: tuple[Mapping[str, torch.Tensor] | None, ...]


def twins(module: nn.Module, run: Run, cases: Sequence[Arrays]) -> Iterator[Twin]:
    """Yield each twin that this network has; `run` makes a call of it. The module is what it was afterwards."""
    for make in (_without_fast_path, _with_batch_statistics, _as_if_exported):
        if (found := make(module, run, cases)) is not None:
            yield found


def _without_fast_path(module: nn.Module, run: Run, cases: Sequence[Arrays]) -> Twin | None:
    from torch import nn

    encoders = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.TransformerEncoder)]
    fused = [
        name
        for name, each in module.named_modules()
        if isinstance(each, nn.TransformerEncoderLayer | nn.MultiheadAttention)
    ]
    if not fused:
        return None
    with _without_nesting(encoders), _slow_path():
        slow = [run(case) for case in cases]
    with _without_nesting(encoders):
        unnested = [run(case) for case in cases]
    place = encoders[0][0] if encoders else fused[0]
    kind = type(module.get_submodule(place)).__name__
    where = f"nn.{kind} '{place}'{_constructed(module, kind)}"
    if encoders and all(_are_close(a, b) for a, b in zip(slow, unnested, strict=True)):
        remedy = f"give enable_nested_tensor=False to {where}"
    else:
        remedy = f"call torch.backends.mha.set_fastpath_enabled(False) in the file that defines {where}"
    zeros = " and which leaves padded positions at 0" if _differ_at_zeros([run(case) for case in cases], slow) else ""
    words = (
        f"the file computes what the network does without torch's fused fast path of {where}, which eager alone takes in "
        f"eval mode{zeros}"
    )
    return Twin(FAST_PATH, words, remedy, tuple(slow))


def _differ_at_zeros(
    outputs: Sequence[Mapping[str, torch.Tensor]], others: Sequence[Mapping[str, torch.Tensor]]
) -> bool:
    """Whether outputs are 0 wherever they differ by more than rounding from others."""
    pairs = [(each[name], other[name]) for each, other in zip(outputs, others, strict=True) for name in each]
    return all(
        first.shape == second.shape and bool((first[(first - second).abs() > _ROUNDING] == 0).all())
        for first, second in pairs
        if first.is_floating_point()
    )


@contextmanager
def _slow_path() -> Iterator[None]:
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_nesting(encoders: Sequence[tuple[str, Any]]) -> Iterator[None]:
    before = [each.enable_nested_tensor for _, each in encoders]
    for _, each in encoders:
        each.enable_nested_tensor = each.use_nested_tensor = False
    try:
        yield
    finally:
        for (_, each), kept in zip(encoders, before, strict=True):
            each.enable_nested_tensor = each.use_nested_tensor = kept


def _constructed(module: nn.Module, kind: str) -> str:
    """Return ", FILE:LINE" of the line of the network's own source that makes such a module, "" if it is not found."""
    for owner in dict.fromkeys(type(each) for each in module.modules()):
        if owner.__module__.startswith("torch."):
            continue
        with suppress(OSError, TypeError):
            lines, first = inspect.getsourcelines(owner)
            for offset, line in enumerate(lines):
                if f"{kind}(" in line and not line.lstrip().startswith("class "):
                    return f" ({Path(inspect.getsourcefile(owner) or '').name}:{first + offset})"
    return ""


def _are_close(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    import torch

    return all(
        value.shape == second[name].shape and torch.allclose(value, second[name], rtol=1e-5, atol=1e-6, equal_nan=True)
        for name, value in first.items()
    )


def _with_batch_statistics(module: nn.Module, run: Run, cases: Sequence[Arrays]) -> Twin | None:
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [(name, each) for name, each in module.named_modules() if isinstance(each, _BatchNorm)]
    tracking = [(name, each) for name, each in norms if each.running_mean is not None and not each.training]
    if not tracking:
        return None
    kept = [{name: value.clone() for name, value in each.named_buffers()} for _, each in tracking]
    for _, each in tracking:
        each.training = True
    try:
        outputs = tuple(attempt(run, case) for case in cases)  # a batch of one value has no statistics
    finally:
        for (_, each), buffers in zip(tracking, kept, strict=True):
            each.training = False
            for name, value in buffers.items():
                each.get_buffer(name).copy_(value)
    words = (
        f"the file was exported in training mode: it computes what the network does with the statistics of the batch at "
        f"'{tracking[0][0]}' ({type(tracking[0][1]).__name__}) in place of the trained ones"
    )
    return Twin(STATISTICS, words, "call eval() before the export", outputs)


def _as_if_exported(module: nn.Module, run: Run, cases: Sequence[Arrays]) -> Twin | None:
    del module
    asked: list[str] = []
    with _answering_yes(asked):
        outputs = tuple(attempt(run, case) for case in cases)
    if not asked:
        return None
    words = f"the network computes something else while it is exported, and the file holds that: it asks {asked[0]}"
    return Twin(EXPORTED, words, "take the question out of the network, or have both answers compute the same", outputs)


@contextmanager
def _answering_yes(asked: list[str]) -> Iterator[None]:
    """Tell whoever asks, but not torch itself, that the network is being exported; note the question and the line it came from."""
    import torch

    own = str(Path(torch.__file__).parent)

    def answering(question: str, plain: Callable[[], bool]) -> Callable[[], bool]:
        def answer() -> bool:
            code, line = (frame := sys._getframe(1)).f_code, frame.f_lineno  # noqa: SLF001
            if code.co_filename.startswith(own):
                return plain()
            asked.append(f"{question}() at {Path(code.co_filename).name}:{line}")
            return True

        return answer

    replaced = []
    for question in _QUESTIONS:
        place, _, name = question.rpartition(".")
        owner = sys.modules.get(place)
        if owner is not None and hasattr(owner, name):
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, answering(question, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, plain in replaced:
            setattr(owner, name, plain)


# Branches


def path_of(run: Run, case: Arrays) -> frozenset[str]:
    """Return the lines ("file:line") that a call runs, those of torch and of this pipeline's calling left out."""
    import torch

    left_out = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1] / "rebuild"), "<frozen")
    lines: set[str] = set()

    def each_line(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            lines.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return each_line

    def each_call(frame: Any, _event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        return None if file == __file__ or file.startswith(left_out) else each_line

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        run(case)
    finally:
        sys.settrace(before)
    return frozenset(lines)


def along_branch(
    module: nn.Module,
    interface: Interface,
    run: Run,
    right: Sequence[Arrays],
    wrong: Sequence[Arrays],
    *,
    double: bool,
) -> Twin | None:
    """Return the network along the branch that the inputs take of which the file is right, on those of which it is wrong.

    None where they take the same one, or where the network cannot be traced.
    """
    ours, theirs = [path_of(run, case) for case in right], [path_of(run, case) for case in wrong]
    if not ours or not theirs:
        return None
    taken = frozenset.intersection(*theirs) - frozenset.union(*ours)
    passed_by = frozenset.intersection(*ours) - frozenset.union(*theirs)
    if not taken and not passed_by:
        return None
    outputs = tuple(_traced(module, interface, right[0], wrong, double=double))
    if len(outputs) != len(wrong):
        return None
    line = min(taken or passed_by, key=_place)
    shown = f"{Path(_place(line)[0]).name}:{_place(line)[1]}"
    words = (
        f"specialised to a branch: the network {'runs' if taken else 'passes by'} {shown} where the file is wrong and "
        f"{'passes it by' if taken else 'runs it'} where it is right, and the file takes the same way everywhere"
    )
    remedy = "write the branch with torch.where or torch.cond, or export it with torch.jit.script (method: script)"
    return Twin(BRANCH, words, remedy, outputs)


def _place(line: str) -> tuple[str, int]:
    file, _, number = line.rpartition(":")
    return file, int(number)


def _traced(
    module: nn.Module, interface: Interface, example: Arrays, cases: Sequence[Arrays], *, double: bool
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Yield what a trace made on one input gives for others, as far as it can be made and run."""
    import torch

    from pipeline.rebuild import calling
    from pipeline.rebuild.outputs import outputs_of

    binding = calling.bind(module, interface)
    names = binding.leaves

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = calling.invoke(self.network, binding, dict(zip(names, tensors, strict=True)))
            return tuple(outputs_of(result, interface).values())

    def tensors(case: Arrays) -> tuple[torch.Tensor, ...]:
        found = calling.tensors_from(case, double=double)
        return tuple(found[name].clone() for name in names)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            made = torch.jit.trace(  # type: ignore[no-untyped-call]
                Called(), tensors(example), check_trace=False
            )
            for case in cases:
                yield dict(zip(interface.outputs, made(*tensors(case)), strict=True))
        except Exception:  # noqa: BLE001 - a tracer raises whatever the network's code raises; then there is no twin
            return
