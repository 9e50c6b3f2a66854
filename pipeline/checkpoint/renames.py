"""Names in a file and in a network: the exceptions a config makes, and renames that the shapes suggest."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import MisfitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.checkpoint.difference import Shape

T = TypeVar("T")
_Key = frozenset[tuple[str, int]]


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
    """Return theirs → ours for modules that hold the same names and ranks, in the same order; {} if that is not all.

    Numbers within names are not compared, so that another depth does not hide a renamed stack of layers.
    """
    ours, theirs = _modules(missing), _modules(unexpected)
    pool = defaultdict(list)
    for name, key in theirs.items():
        pool[key].append(name)
    found: dict[str, str] = {}
    for name, key in ours.items():
        if any(_covers(parent, name) for parent in found.values()):
            continue
        free = [other for other in pool[key] if not any(_related(other, used) for used in found)]
        if free:
            found[free[0]] = name
    covered = all(any(_covers(old, name) for old in found) for name in unexpected)
    return found if covered else {}


def _modules(names: Mapping[str, Shape]) -> dict[str, _Key]:
    """Return each part of the names with what lies below it: (rest of the name without numbers, rank); longest first."""
    below: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for name, shape in names.items():
        for prefix, rest in _splits(name):
            below[prefix].add((re.sub(r"\d+", "#", rest), len(shape)))
    return {prefix: frozenset(inside) for prefix, inside in sorted(below.items(), key=lambda item: item[0].count("."))}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def _related(first: str, second: str) -> bool:
    return _covers(first, second) or _covers(second, first)
