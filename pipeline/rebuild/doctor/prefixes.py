"""A file's tensors under the names that a network expects: prefixes removed, a config's exceptions applied, ties completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.rebuild.doctor.difference import Shape, tied_names
from pipeline.rebuild.doctor.renames import except_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add: never a part of the network itself."""
STEP_COUNTER = "num_batches_tracked"
"""A buffer of BatchNorm that old files lack and inference never reads."""


def align(
    tensors: Mapping[str, torch.Tensor], expected: Iterable[str]
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return `tensors` under the names a network expects, and what was done in plain sentences.

    Prefixes are removed where more names then match; BatchNorm's step counters, which old files lack and inference never
    reads, are added as zeros. Nothing is dropped: whether the rest fits is for `diagnosis` to say.
    """
    wanted = set(expected)
    named = {key: key for key in tensors}
    notes: list[str] = []
    while (step := _best_removal(named, wanted)) is not None:
        prefix, renamed = step
        changed = sum(old != new for old, new in zip(named, renamed, strict=True))
        notes.append(f"removed prefix {prefix!r} from {changed} of {len(named)} keys")
        named = renamed
    aligned = {name: tensors[key] for name, key in named.items()}
    return _with_counters(aligned, wanted, notes), tuple(notes)


def align_with_exceptions(
    tensors: Mapping[str, torch.Tensor],
    expected: Sequence[str],
    rename: Mapping[str, str],
    ignore: Sequence[str],
    weights_name: str,
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return `tensors` as `align` does, with the config's exceptions applied to the names that it gives.

    Raises MisfitError for an exception that stands for no tensor.
    """
    aligned, notes = align(tensors, expected)
    if not (rename or ignore):
        return aligned, notes
    excepted, exceptions = except_names(aligned, rename, ignore, weights_name)
    again, more = align(excepted, expected)
    return again, (*notes, *exceptions, *more)


def with_tied_names(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Shape]
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Add the names of tensors that are there under another name (see `Layout`), and say so."""
    tied = tied_names(expected, tensors)
    notes = tuple(f"{name} is {other}, which was loaded" for name, other in tied.items())
    return {**tensors, **{name: tensors[other] for name, other in tied.items()}}, notes


def _best_removal(named: Mapping[str, str], wanted: set[str]) -> tuple[str, dict[str, str]] | None:
    """Return the prefix whose removal makes the most additional names match, with the names after it.

    None where two would do as well for the same names: the file then holds two networks, and either may be meant.
    """
    matching = named.keys() & wanted
    found: list[tuple[int, bool, str, dict[str, str]]] = []
    for prefix in _prefixes(named):
        renamed = {_without(name, prefix): key for name, key in named.items()}
        if len(renamed) != len(named):
            continue
        gained = len(renamed.keys() & wanted) - len(matching)
        is_wrapper = prefix in WRAPPERS and not any(prefix in name for name in wanted)
        carrying = sum(prefix in name for name in named)
        # One module of the file may be called as the network's are: that is a rename, and no prefix.
        is_common = carrying == len(named) or 2 * gained >= max(carrying, len(wanted) - len(matching))
        if (gained > 0 and is_common) or (is_wrapper and gained == 0):
            found.append((gained, is_wrapper, prefix, renamed))
    if not found:
        return None
    gained, is_wrapper, prefix, renamed = max(found, key=lambda each: each[:2])
    rivals = [each[3] for each in found if each[:2] == (gained, is_wrapper) and each[2] != prefix]
    gains = (renamed.keys() & wanted) - matching
    if not is_wrapper and any(other.get(name, renamed[name]) != renamed[name] for name in gains for other in rivals):
        return None
    return prefix, renamed


def _prefixes(named: Iterable[str]) -> list[str]:
    # Every leading run of components: "model.", "model.encoder." …
    found: dict[str, None] = {}
    for name in named:
        parts = name.split(".")[:-1]
        found |= dict.fromkeys(".".join(parts[:count]) + "." for count in range(1, min(len(parts), 4) + 1))
        found |= {wrapper: None for wrapper in WRAPPERS if wrapper in name}
    return list(found)[:200]


def _without(name: str, prefix: str) -> str:
    if prefix in WRAPPERS:
        # torch.compile and DataParallel may wrap an inner module, so that the word stands in the middle.
        return "".join(part + "." for part in name.split(".")[:-1] if part + "." != prefix) + name.rpartition(".")[2]
    return name.removeprefix(prefix)


def _with_counters(tensors: dict[str, torch.Tensor], wanted: set[str], notes: list[str]) -> dict[str, torch.Tensor]:
    lacking = [name for name in sorted(wanted - tensors.keys()) if is_step_counter(name, tensors)]
    if not lacking:
        return tensors
    import torch

    notes.append(f"added {STEP_COUNTER} to {len(lacking)} BatchNorm layers: older files lack it, inference ignores it")
    return tensors | {name: torch.tensor(0) for name in lacking}


def is_step_counter(name: str, tensors: Mapping[str, Any]) -> bool:
    """Tell whether a name is that of the step counter of a BatchNorm among `tensors`."""
    module, _, last = name.rpartition(".")
    return last == STEP_COUNTER and f"{module}.running_mean".removeprefix(".") in tensors
