"""A model file that somebody else made: what goes in and out of it, and which of that is which of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, UnsafeError, command
from pipeline.formats import table
from pipeline.rebuild.calling import identifier
from pipeline.rebuild.cases import allowed
from pipeline.weights import headers
from pipeline.weights.kinds import with_article

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import Format, Signature
    from pipeline.interface import Arrays, Interface

_HINT = "export the candidate again with the inputs that the config declares"


@dataclass(frozen=True, slots=True)
class Names:
    """Which of a file's inputs and outputs is which of the config's, how that was found out, and what speaks against it.

    `inputs`: config name → the file's; `outputs`: the file's → config name, in the file's order, "" for one too many.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    how: str
    problems: tuple[str, ...] = ()

    @staticmethod
    def same(interface: Interface) -> Names:
        """Return the names of a file that uses the config's own."""
        inputs = {spec.name: spec.name for spec in interface.inputs}
        return Names(inputs, {name: name for name in interface.outputs}, "by name")

    def renamed(self, interface: Interface) -> Interface:
        """Return the interface in the file's own words."""
        inputs = tuple(replace(spec, name=self.inputs[spec.name]) for spec in interface.inputs)
        return replace(interface, inputs=inputs, outputs=tuple(self.outputs))

    def feed(self, inputs: Arrays) -> dict[str, Any]:
        """Return a case's inputs under the file's names."""
        return {self.inputs[name]: array for name, array in inputs.items()}

    def ours(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a file's outputs under the config's names; one too many keeps its own."""
        return {self.outputs.get(name) or name: array for name, array in outputs.items()}


def format_of(path: Path, *, trusted: bool) -> Format:
    """Return the format of a candidate.

    Raises:
        InputError: it is of no format that a candidate can have.
        UnsafeError: it is hostile, whatever its name says; or of a format that runs code of its author when it is loaded,
            and nobody vouched for it; or it keeps data outside its folder.
    """
    # Also a program of a trusted author holds no pickle that runs commands.
    kind = headers.read(path).kind
    found = table.of_kind(kind)
    if found is None or found.read_signature is None:
        able = " or ".join(
            with_article(each.kind) for each in table.formats().values() if each.kind and each.read_signature
        )
        told = f"{path.name} is {kind.value}; a candidate is {able}"
        raise InputError(told, hint=f"what can be done with it: {command('inspect', path)}")
    if (found.runs_code or found.is_native) and not trusted:
        does = f"it is {found.native_as}" if found.is_native else "loading it runs code that came with it"
        raise UnsafeError(
            f"{path.name} is {kind.value}: {does}",
            hint="if you trust whoever made it, add --trust-candidate; an ONNX file needs no trust",
        )
    found.beside(path)
    return found


def match(signature: Signature, interface: Interface) -> Names:
    """Match a file's inputs and outputs with the config's: by name where all names are there, else by order and shape.

    Outputs without names (TorchScript's) are taken in the config's order.

    Raises:
        InputError: inputs are missing or of another dtype or rank.
    """
    wanted = {spec.name: spec for spec in interface.inputs}
    ordered = not signature.outputs
    declared = [name for name, _, _ in signature.inputs]
    # TorchScript has names of Python: past.0.key is past_0_key there.
    own = {name if name in declared else identifier(name): name for name in wanted}
    by_name = set(own) == set(declared)
    if len(declared) != len(wanted):
        raise InputError(
            f"the candidate takes {len(declared)} inputs ({', '.join(declared)}), the config declares {len(wanted)}: "
            f"{', '.join(wanted)}",
            hint=_HINT,
        )
    inputs = {name: theirs for theirs, name in own.items()} if by_name else _by_shape(signature, interface)
    theirs = {name: (dtype, shape) for name, dtype, shape in signature.inputs}
    problems = [
        problem
        for ours, other in inputs.items()
        for problem in _conflicts(wanted[ours], other, *theirs[other], interface)
    ]
    found = [name for name, _, _ in signature.outputs]
    outputs_by_name = not ordered and set(interface.outputs) <= set(found)
    if ordered:
        found = list(interface.outputs)
    outputs = (
        {name: name if name in interface.outputs else "" for name in found}
        if outputs_by_name
        else dict(zip(found, [*interface.outputs, *[""] * len(found)], strict=False))
    )
    how = f"inputs matched {'by name' if by_name else 'by order and shape'}, outputs {'by name' if outputs_by_name else 'by order'}"
    return Names(inputs, outputs, how, tuple(problems))


def _by_shape(signature: Signature, interface: Interface) -> dict[str, str]:
    """Match in order, but let a shape and dtype that fit only one input decide first."""
    free = list(signature.inputs)
    matched = {}
    for spec in interface.inputs:
        fitting = [each for each in free if _fits(spec, each[1], each[2])] or free
        chosen = fitting[0]
        free.remove(chosen)
        matched[spec.name] = chosen[0]
    return matched


def _fits(spec: Any, dtype: str | None, shape: Sequence[int | str] | None) -> bool:
    if dtype not in {None, spec.dtype}:
        return False
    if shape is None:
        return True
    return len(shape) == len(spec.shape) and all(
        not (isinstance(ours, int) and isinstance(other, int)) or ours == other
        for ours, other in zip(spec.shape, shape, strict=True)
    )


def _conflicts(
    spec: Any, name: str, dtype: str | None, shape: Sequence[int | str] | None, interface: Interface
) -> list[str]:
    if dtype not in {None, spec.dtype}:
        told = f"input {name} is {dtype} in the candidate, and {spec.name} is {spec.dtype} in the config"
        raise InputError(told, hint=_HINT)
    if shape is None:
        return []
    if len(shape) != len(spec.shape):
        raise InputError(
            f"input {name} is {list(shape)} in the candidate, and {spec.name} is {list(spec.shape)} in the config",
            hint=_HINT,
        )
    ranges = {each.name: allowed(each) for each in interface.dimensions}
    problems = []
    for ours, other in zip(spec.shape, shape, strict=True):
        if isinstance(ours, str) and isinstance(other, int) and len(ranges[ours]) > 1:
            sizes = ranges[ours]
            problems.append(
                f"{ours} is fixed to {other} in input {name}; the config declares {sizes[0]} to {sizes[-1]}"
            )
        elif isinstance(ours, int) and isinstance(other, int) and ours != other:
            raise InputError(f"input {name} has a size of {other} where {spec.name} has {ours}", hint=_HINT)
    return problems
