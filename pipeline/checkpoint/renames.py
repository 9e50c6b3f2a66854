"""Names in a file and in a network: the exceptions a config makes, and renames that the shapes suggest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import MisfitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.checkpoint.difference import Shape

T = TypeVar("T")


def except_names(
    tensors: Mapping[str, T], rename: Mapping[str, str], ignore: Sequence[str], weights_name: str
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Apply `model.rename` and `model.ignore`; return the tensors, and what was done in plain sentences.

    An entry stands for the tensor of that name and for all below it: "head" for head.weight and head.bias. Raises
    MisfitError for an entry that stands for nothing, and for a rename onto a name that is taken.
    """
    notes = []
    kept = dict(tensors)
    for entry in ignore:
        left_out = [name for name in kept if _covers(entry, name)]
        _require_some(left_out, f"model.ignore {entry!r}", weights_name)
        kept = {name: tensor for name, tensor in kept.items() if name not in left_out}
        notes.append(f"model.ignore: left out {len(left_out)} tensors of {entry!r}")
    for old, new in rename.items():
        moved = [name for name in kept if _covers(old, name)]
        _require_some(moved, f"model.rename {old!r}", weights_name)
        notes.append(f"model.rename: {len(moved)} tensors of {old!r} became {new!r}")
    names = [renamed(name, rename) for name in kept]
    if len(set(names)) != len(names):
        taken = next(name for name in names if names.count(name) > 1)
        raise MisfitError(f"model.rename gives two tensors of {weights_name} the name {taken!r}", hint="correct it")
    return dict(zip(names, kept.values(), strict=True)), tuple(notes)


def renamed(name: str, rename: Mapping[str, str]) -> str:
    """Return a tensor's name in the network; where several entries cover it, the longest counts."""
    covering = [old for old in rename if _covers(old, name)]
    if not covering:
        return name
    old = max(covering, key=len)
    return f"{rename[old]}{name[len(old) :]}"


def _covers(entry: str, name: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def _require_some(names: Sequence[str], what: str, weights_name: str) -> None:
    if not names:
        raise MisfitError(
            f"{what} stands for no tensor of {weights_name}", hint="weighbridge inspect lists the names; correct it"
        )


def suggested(missing: Mapping[str, Shape], unexpected: Mapping[str, Shape]) -> dict[str, str]:
    """Return theirs → ours for modules that hold the same names and ranks; {} unless that accounts for all of `missing`.

    Of several that could be meant, the one of the same shapes is taken, then the first in the file. A stack of another
    depth is the same module, but only where nothing of the same depth is found. Names of the file may be left over, but
    none that could as well be meant.
    """
    ours, theirs = _modules(missing), _modules(unexpected)
    return _matched(ours, theirs, missing, any_depth=False) or _matched(ours, theirs, missing, any_depth=True)


def _matched(
    ours: Mapping[str, _Module], theirs: Mapping[str, _Module], missing: Mapping[str, Shape], *, any_depth: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, module in ours.items():
        if any(_covers(parent, name) for parent in found.values()):
            continue
        free = [
            other
            for other, candidate in theirs.items()
            if candidate.resembles(module, any_depth=any_depth) and not any(_related(other, used) for used in found)
        ]
        if free:
            found[max(free, key=lambda other: (theirs[other].agreement(module), -theirs[other].place))] = name
    uncovered = [name for name in missing if not any(_covers(parent, name) for parent in found.values())]
    rest = [name for name in theirs if not any(_related(name, used) for used in found)]
    ambiguous = any(theirs[name].shapes == theirs[used].shapes for name in rest for used in found)
    # A tensor without a module is told by its place alone, so that nothing may be left over beside it.
    unnamed = rest and any("" in theirs[used].shapes for used in found)
    return {} if uncovered or ambiguous or unnamed else found


@dataclass(frozen=True, slots=True)
class _Module:
    """A part of the names: where it first stands, and the shapes of what lies below it by the rest of the name."""

    place: int
    shapes: dict[str, Shape]

    def resembles(self, other: _Module, *, any_depth: bool) -> bool:
        """Tell whether names and ranks agree; with `any_depth`, but for numbers that only one of them has."""
        if _without_numbers(self.shapes) != _without_numbers(other.shapes):
            return False
        if not any_depth:
            return self.shapes.keys() == other.shapes.keys()
        return self.shapes.keys() <= other.shapes.keys() or self.shapes.keys() >= other.shapes.keys()

    def agreement(self, other: _Module) -> int:
        """Return how many tensors have the same name and shape; a single tensor has no name to go by."""
        return sum(other.shapes.get(rest) == shape for rest, shape in self.shapes.items() if rest)


def _without_numbers(shapes: Mapping[str, Shape]) -> set[tuple[str, int]]:
    return {(re.sub(r"\d+", "#", rest), len(shape)) for rest, shape in shapes.items()}


def _modules(names: Mapping[str, Shape]) -> dict[str, _Module]:
    """Return each part of the names with what lies below it, outer parts first."""
    below: dict[str, _Module] = {}
    for place, (name, shape) in enumerate(names.items()):
        for prefix, rest in _splits(name):
            below.setdefault(prefix, _Module(place, {})).shapes[rest] = shape
    return dict(sorted(below.items(), key=lambda item: item[0].count(".")))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def _related(first: str, second: str) -> bool:
    return _covers(first, second) or _covers(second, first)
