"""Why a state dict does not fit a network, and the smallest change of the config that makes it fit."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.difference import Difference, Shape, difference_of
from pipeline.checkpoint.renames import except_names, renamed, suggested
from pipeline.checkpoint.search import SEARCH_SECONDS, Search
from pipeline.checkpoint.symptoms import symptoms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch


_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add: never a part of the network itself."""

_LISTED = 12
_EXTRA_SECONDS = 3.0


# Prefixes


def align(
    tensors: Mapping[str, torch.Tensor], expected: Iterable[str]
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return `tensors` under the names a network expects, and what was done in plain sentences.

    Prefixes are removed where more names then match; BatchNorm's step counters, which old files lack and inference never
    reads, are added as zeros. Nothing is dropped: whether the rest fits is for `explain` to say.
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


def fitted(
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


def _best_removal(named: Mapping[str, str], wanted: set[str]) -> tuple[str, dict[str, str]] | None:
    """Return the prefix whose removal makes the most additional names match, with the names after it."""
    matching = sum(name in wanted for name in named)
    best: tuple[int, str, dict[str, str]] | None = None
    for prefix in _prefixes(named):
        renamed = {_without(name, prefix): key for name, key in named.items()}
        if len(renamed) != len(named):
            continue
        gained = sum(name in wanted for name in renamed) - matching
        is_wrapper = prefix in _WRAPPERS and not any(prefix in name for name in wanted)
        carrying = sum(prefix in name for name in named)
        # One module of the file may be called as the network's are: that is a rename, and no prefix.
        is_common = carrying == len(named) or 2 * gained >= carrying
        if ((gained > 0 and is_common) or (is_wrapper and gained == 0)) and (best is None or gained > best[0]):
            best = gained, prefix, renamed
    return best and (best[1], best[2])


def _prefixes(named: Iterable[str]) -> list[str]:
    # Every leading run of components: "model.", "model.encoder." …
    found: dict[str, None] = {}
    for name in named:
        parts = name.split(".")[:-1]
        found |= dict.fromkeys(".".join(parts[:count]) + "." for count in range(1, min(len(parts), 4) + 1))
        found |= {wrapper: None for wrapper in _WRAPPERS if wrapper in name}
    return list(found)[:200]


def _without(name: str, prefix: str) -> str:
    if prefix in _WRAPPERS:
        # torch.compile and DataParallel may wrap an inner module, so that the word stands in the middle.
        return "".join(part + "." for part in name.split(".")[:-1] if part + "." != prefix) + name.rpartition(".")[2]
    return name.removeprefix(prefix)


def _with_counters(tensors: dict[str, torch.Tensor], wanted: set[str], notes: list[str]) -> dict[str, torch.Tensor]:
    lacking = [name for name in sorted(wanted - tensors.keys()) if _is_counter(name, tensors)]
    if not lacking:
        return tensors
    import torch

    notes.append(
        f"added num_batches_tracked to {len(lacking)} BatchNorm layers: older files lack it, inference ignores it"
    )
    return tensors | {name: torch.tensor(0) for name in lacking}


def _is_counter(name: str, tensors: Mapping[str, Any]) -> bool:
    module, _, last = name.rpartition(".")
    return last == "num_batches_tracked" and f"{module}.running_mean".removeprefix(".") in tensors


# Misfits


@dataclass(frozen=True, slots=True)
class Misfit:
    """How a state dict differs from a network, and what was found about it.

    `misshaped` holds (name, found shape, expected shape). `changes` are argument values, `rename` and `ignore` the config's
    keys of that name: with all three it fits strictly, as tested by building the network; `changes` is None where nothing
    was found. `closest` is the best that was tried instead, with the number of names that still differ.
    """

    owner: str
    weights_name: str
    arguments: Mapping[str, Any]
    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshaped: tuple[tuple[str, Shape, Shape], ...]
    changes: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    closest: tuple[Mapping[str, Any], int] | None = None
    notes: tuple[str, ...] = ()

    def message(self, where: Callable[[str], str]) -> str:
        """Return the explanation: the fix or the closest, then all keys; `where` gives a config key's file:line:column."""
        return "\n".join([self._headline(where), *self.notes, *self._lists()])

    def _headline(self, where: Callable[[str], str]) -> str:
        if self.changes is not None:
            return f"{self._first()}: {', '.join(self._fixes(where))}"
        sentence = f"{self._first()}; no value of model.arguments was found with which it fits"
        if self.closest is None:
            return sentence
        tried = ", ".join(f"{name}={value!r}" for name, value in self.closest[0].items())
        return f"{sentence} (closest: {tried} leaves {self.closest[1]} names that differ)"

    def _fixes(self, where: Callable[[str], str]) -> Iterator[str]:
        for name, value in (self.changes or {}).items():
            yield f"set model.arguments.{name} to {value!r} ({where(f'model.arguments.{name}')})"
        if self.rename:
            pairs = ", ".join(f"{old}: {new}" for old, new in self.rename.items())
            yield f"set model.rename to {{{pairs}}}"
        if self.ignore:
            yield (
                f"if the network does without {len(self.unexpected)} tensors of the file, set model.ignore to "
                f"[{', '.join(self.ignore)}]"
            )

    def _first(self) -> str:
        """Return the first difference, with the arguments that matter."""
        shown = self.changes or dict(itertools.islice(self.arguments.items(), 4))
        values = ", ".join(f"{name}={self.arguments[name]!r:.60}" for name in shown if name in self.arguments)
        network = f"{self.owner}({values})"
        if self.misshaped:
            name, found, expected = self.misshaped[0]
            return f"{name} is {_shown(found)} in {self.weights_name} and {_shown(expected)} in {network}"
        if self.missing:
            return f"{next(iter(self.missing))} is in {network} and not in {self.weights_name}"
        return f"{next(iter(self.unexpected))} is in {self.weights_name} and not in {network}"

    def _lists(self) -> list[str]:
        shaped = [f"{n} {_shown(f)} instead of {_shown(e)}" for n, f, e in self.misshaped]
        parts = (("other shape", shaped), ("missing", list(self.missing)), ("unexpected", list(self.unexpected)))
        return [f"{title} ({len(names)}): {_listed(names)}" for title, names in parts if names]


def _shown(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _listed(names: Sequence[str]) -> str:
    more = f" … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def explain(
    expected: Mapping[str, Shape],
    found: Mapping[str, Shape],
    *,
    arguments: Mapping[str, Any],
    build_shapes: Callable[[Mapping[str, Any]], Mapping[str, Shape]] | None,
    owner: str,
    weights_name: str,
    seconds: float = SEARCH_SECONDS,
) -> Misfit | None:
    """Return why `found` (name → shape) does not fit `expected`, or None if it fits strictly.

    `build_shapes` builds the network with other arguments (on meta tensors) and returns its names and shapes; it may
    raise. A change is presented as the fix only if what it builds fits `found` strictly.
    """
    difference = difference_of(expected, found)
    if difference.names == 0:
        return None
    if not difference.missing and not difference.misshaped:
        # Names too many are seldom an argument's doing.
        seconds = min(seconds, _EXTRA_SECONDS)
    deadline = time.monotonic() + 2 * seconds

    def search_for(names: Mapping[str, Shape]) -> Search | None:
        left = max(deadline - time.monotonic(), 0.0)
        return _search(names, arguments, build_shapes, min(seconds, left))

    fix = _fix(expected, found, difference, search_for)
    notes = [*symptoms(difference, expected, found)]
    if fix.rename:
        notes.insert(0, "the renames follow shapes and order, which do not prove that each weight is where it belongs")
    if fix.changes and fix.search:
        notes[:0] = _undetermined(fix.changes, fix.search)
    return Misfit(
        owner,
        weights_name,
        dict(arguments),
        difference.missing,
        difference.unexpected,
        difference.misshaped,
        changes=fix.changes,
        rename=fix.rename,
        ignore=fix.ignore,
        closest=fix.search.closest(difference) if fix.search and fix.changes is None else None,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Fix:
    """What makes a state dict fit; `changes` is None where nothing does."""

    changes: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    search: Search | None = None


def _search(
    found: Mapping[str, Shape],
    arguments: Mapping[str, Any],
    build_shapes: Callable[[Mapping[str, Any]], Mapping[str, Shape]] | None,
    seconds: float,
) -> Search | None:
    return Search(found, dict(arguments), build_shapes, seconds) if build_shapes is not None else None


def _fix(
    expected: Mapping[str, Shape],
    found: Mapping[str, Shape],
    difference: Difference,
    search_for: Callable[[Mapping[str, Shape]], Search | None],
) -> _Fix:
    """Look for the smallest change, in the order: names, arguments, both, and the same with names left out."""
    rename = suggested(difference.missing, difference.unexpected)
    moved = _moved(found, rename)
    second = None
    if rename:
        after = difference_of(expected, moved)
        # What renames do not explain, arguments may: shapes, and the depth of a stack.
        second = search_for(moved) if after.names else None
        changes = second.run(expected, after) if second else None
        if after.names == 0 or changes is not None:
            return _Fix(changes or {}, rename, search=second)
    search = search_for(found)
    changes = search.run(expected, difference) if search else None
    if changes is not None:
        return _Fix(changes, search=search)
    if search is not None and search.best is not None and search.best.difference is not None:
        best = search.best
        further = suggested(search.best.difference.missing, search.best.difference.unexpected)
        if further and difference_of(best.expected, _moved(found, further)).names == 0:
            return _Fix(best.changes, further, search=search)
    left_out = _with_ignored(expected, moved, second, rename) if rename else None
    return left_out or _with_ignored(expected, found, search, {}) or _Fix(search=search)


def _moved(found: Mapping[str, Shape], rename: Mapping[str, str]) -> dict[str, Shape]:
    return {renamed(name, rename): shape for name, shape in found.items()}


def _with_ignored(
    expected: Mapping[str, Shape], moved: Mapping[str, Shape], search: Search | None, rename: Mapping[str, str]
) -> _Fix | None:
    """Leave out names of the file that the network does not have, if nothing else differs then.

    `moved` are the file's shapes under the names that `rename` gives. A further layer of a stack that the network has is
    not left out: that is another depth.
    """
    changes: Mapping[str, Any] = {}
    closest = expected
    if search is not None and search.best is not None and search.best.difference is not None:
        best_score = difference_of(expected, moved).score
        if search.best.score < best_score:
            changes, closest = search.best.changes, search.best.expected
    rest = difference_of(closest, moved)
    kept = [name for name in moved if name not in rest.unexpected]
    if rest.missing or rest.misshaped or not kept:
        return None
    stems = _stems(list(rest.unexpected), kept)
    came_from_a_rename = any(f"{name}.".startswith(f"{new}.") for name in rest.unexpected for new in rename.values())
    if came_from_a_rename or any(_is_further_layer(stem, kept) for stem in stems):
        return None
    return _Fix(changes, rename, stems, search=search)


def _is_further_layer(stem: str, kept: Sequence[str]) -> bool:
    """Tell whether a part of the names is one more of the numbered ones beside it."""
    parent, _, number = stem.rpartition(".")
    siblings = (name.removeprefix(f"{parent}.").partition(".")[0] for name in kept if name.startswith(f"{parent}."))
    return number.isdecimal() and any(sibling.isdecimal() for sibling in siblings)


def _stems(names: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    """Return the shortest leading parts that cover all of `names` and none of `kept`."""
    stems: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        runs = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        stem = next(run for run in runs if run == name or not any(f"{other}.".startswith(f"{run}.") for other in kept))
        stems[stem] = None
    return tuple(stems)


def _undetermined(changes: Mapping[str, Any], search: Search) -> Iterator[str]:
    """Say which of the values could as well be others: shapes alone do not tell, for example, a number of heads."""
    for name, value in changes.items():
        if type(value) is not int:
            continue
        others = [other for other in (value * 2, value // 2, value + 1) if other not in (0, value)]
        if any(search.fits({**changes, name: other}) for other in others):
            yield (
                f"the shapes do not tell {name}: other values than {value} fit as well; take it from the code that "
                "made the weights"
            )
