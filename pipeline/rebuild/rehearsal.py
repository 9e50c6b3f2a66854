"""Run the network on every case before anything is exported, and say of each that fails what would help, having tried it."""

from __future__ import annotations

import linecache
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError, WeighbridgeError
from pipeline.interface import in_words
from pipeline.rebuild import calling, remedies
from pipeline.rebuild.outputs import output_paths, outputs_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import torch
    from torch import nn

    from pipeline.interface import Case, Interface, Sizes
    from pipeline.rebuild.calling import Binding

_SHOWN = 6
_SHOWN_CHARACTERS = 300
_EXPORTERS = frozenset({"functorch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "torchgen"})
"""Packages whose lines are an exporter's, and never the network's."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A case that the network does not take: its error in its own words, and its last line of the user's code."""

    case: str
    sizes: Sizes
    error: str
    line: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The outputs of every case in float32, by name, and where inputs and outputs go that are not called the same."""

    outputs: tuple[dict[str, torch.Tensor], ...]
    binding: tuple[str, ...]


def rehearse(module: nn.Module, interface: Interface, cases: Sequence[Case]) -> Rehearsal:
    """Return what the network gives for every case.

    Raises:
        ArchitectureError: the config's inputs or outputs are not the network's, or it fails on some of the cases; the message
            names each with the network's own error, and the hint what would help, if something was found.
    """
    import torch

    binding = calling.bind(module, interface)
    outputs, troubles, first = [], [], None
    for case in cases:
        tensors = calling.tensors_from(case.inputs)
        try:
            with torch.inference_mode():
                result = calling.invoke(module, binding, {name: each.clone() for name, each in tensors.items()})
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            troubles.append(_trouble(case, error))
            continue
        try:
            found = outputs_of(result, interface)
        except ArchitectureError as error:
            raise _misnamed(error, module, interface, cases) from None
        first = first or output_paths(result, interface)
        outputs.append({name: tensor.clone() for name, tensor in found.items()})
    if troubles:
        raise _failure(troubles, len(cases), remedies.find(module, interface, cases))
    return Rehearsal(tuple(outputs), tuple(_described(binding, first or {})))


def _described(binding: Binding, places: dict[str, str]) -> list[str]:
    """Say which input goes to which parameter, and where outputs come from, where names do not say it already."""
    inputs = [f"{each}, by position" for each in binding.renamed_inputs()]
    outputs = [f"{name} ← {path}" for name, path in places.items() if path and path != name and not path.isdecimal()]
    return [*inputs, *outputs]


def _trouble(case: Case, error: Exception) -> Trouble:
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Trouble(case.name, case.sizes, said[:_SHOWN_CHARACTERS], last_own_line(error.__traceback__))


def last_own_line(trace: TracebackType | None) -> str:
    """Return the innermost line of a traceback that is neither torch's, nor Python's, nor ours; "" if there is none."""
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        found = own_line(code.co_filename, trace.tb_lineno, code.co_name) or found
        trace = trace.tb_next
    return found


def own_line(file: str, number: int, function: str = "") -> str:
    """Return a line of code with its place, "" for one that is torch's, or Python's, or ours."""
    if not _is_own(file):
        return ""
    place = f"{_short(Path(file))}:{number}" + (f", in {function}" if function else "")
    return f"{place}: {linecache.getline(file, number).strip()}"


def _is_own(file: str) -> bool:
    import torch

    places = (Path(torch.__file__).parent, Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
    path = Path(file)
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1] not in _EXPORTERS
    if path.is_relative_to(places[1] / "architectures"):
        return True
    return path.is_file() and not any(path.is_relative_to(place) for place in places)


def _short(path: Path) -> str:
    """Return a file as a person names it: from here, or from its package on."""
    if path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts:
        return str(path.relative_to(Path.cwd()))
    if "site-packages" in path.parts:
        return "/".join(path.parts[path.parts.index("site-packages") + 1 :])
    return path.name


def _failure(troubles: Sequence[Trouble], total: int, remedy: remedies.Remedy | None) -> ArchitectureError:
    # Kinds of values share their sizes, and mostly their fate.
    alike: dict[tuple[str, str, str], list[str]] = {}
    for each in troubles:
        alike.setdefault((in_words(each.sizes), each.error, each.line), []).append(f"'{each.case}'")
    shown = []
    for (sizes, error, line), cases in list(alike.items())[:_SHOWN]:
        shown.append(f"{', '.join(cases)} ({sizes}): {error}")
        shown += [f"  {line}"] if line else []
    more = [f"and {len(alike) - _SHOWN} more"] if len(alike) > _SHOWN else []
    told = "\n  ".join([f"the network itself fails on {len(troubles)} of {total} cases:", *shown, *more])
    hint = remedy.advice if remedy else (
        "no min, max, multiple_of, related size or constant was found with which every case runs: look at that line"
    )  # fmt: skip
    return ArchitectureError(told, hint=hint, about="network-fails")


def _misnamed(
    error: WeighbridgeError, module: nn.Module, interface: Interface, cases: Sequence[Case]
) -> WeighbridgeError:
    """Return the error with another way out, if a constant changes what the network returns."""
    constant = remedies.find_constant(module, interface, cases[:1])
    if constant is None:
        return error
    return ArchitectureError(error.message, hint=f"{constant.advice}; or {error.hint}", about=error.about)
