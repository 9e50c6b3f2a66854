"""Why a state dict does not fit a network, and the smallest change of the config that makes it fit."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.difference import Difference, Layout, Shape, difference_of, tied_names
from pipeline.checkpoint.matching import Group, Match, match, matches
from pipeline.checkpoint.misfit import Misfit
from pipeline.checkpoint.renames import Exceptions, covers, except_names, renamed, shortest, stems
from pipeline.checkpoint.search import MAX_BUILDS, SEARCH_SECONDS, Search
from pipeline.checkpoint.symptoms import rewritten, strangers, symptoms
from pipeline.checkpoint.words import is_copy, meanings
from pipeline.errors import MisfitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch


_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add: never a part of the network itself."""

_COUNTER = "num_batches_tracked"
REMAINING = 64
"""How many assignments of names are tried against a reference."""
_EXTRA_SECONDS = 3.0
_PARTS = ("weight", "bias", "running_mean", "running_var")
_GUESSES = 12
_WAYS = 3
_LEVELS = (None, 0, 1)
_GUESS_BUILDS = 50
_EXAMPLES = 4
_EVIDENCE = {
    "words": "the words of their names",
    "numbers": "the numbers in them",
    "layers": "what other layers tell",
    "shapes": "shapes that occur once",
}


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


def with_tied(
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
        is_wrapper = prefix in _WRAPPERS and not any(prefix in name for name in wanted)
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

    notes.append(f"added {_COUNTER} to {len(lacking)} BatchNorm layers: older files lack it, inference ignores it")
    return tensors | {name: torch.tensor(0) for name in lacking}


def _is_counter(name: str, tensors: Mapping[str, Any]) -> bool:
    module, _, last = name.rpartition(".")
    return last == _COUNTER and f"{module}.running_mean".removeprefix(".") in tensors


# Misfits


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
    raise. Where they are a `Layout`, one name of a tied tensor is enough. A change is presented as the fix only if what it
    builds fits `found` strictly, and a rename only if names or structure decide it.
    """
    difference = difference_of(expected, found)
    if difference.names == 0:
        return None
    if not difference.missing and not difference.misshaped:
        # Names too many are seldom an argument's doing.
        seconds = min(seconds, _EXTRA_SECONDS)
    deadline = time.monotonic() + 2 * seconds

    def search_for(names: Mapping[str, Shape], builds: int = MAX_BUILDS) -> Search | None:
        left = max(deadline - time.monotonic(), 0.0)
        if build_shapes is None:
            return None
        return Search(names, dict(arguments), build_shapes, min(seconds, left), builds)

    fix = _fix(expected, found, difference, search_for)
    notes = [*_told(fix.evidence)] if fix.rename or fix.undecided else [*symptoms(difference, found)]
    if fix.changes is None and not fix.undecided:
        notes += strangers(difference, expected)
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
        closest=fix.search.closest(difference) if fix.search and fix.changes is None and not fix.undecided else None,
        notes=tuple(notes),
        undecided=fix.undecided,
    )


@dataclass(frozen=True, slots=True)
class _Fix:
    """What makes a state dict fit; `changes` is None where nothing does, or nothing decides what."""

    changes: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    undecided: tuple[Group, ...] = ()
    evidence: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    search: Search | None = None

    @property
    def leaves_nothing_out(self) -> bool:
        return self.changes is not None and not self.ignore

    def with_changes(self, changes: Mapping[str, Any], search: Search) -> _Fix:
        """Return it for the network that these arguments make, if it is a fix there."""
        return replace(self, changes=changes if self.changes is not None else None, search=search)

    @property
    def is_permutation(self) -> bool:
        """Whether all that is missing is there, and only the order is open."""
        return bool(self.undecided) and all(len(each.theirs) == len(each.ours) for each in self.undecided)


def _fix(
    expected: Mapping[str, Shape],
    found: Mapping[str, Shape],
    difference: Difference,
    search_for: Callable[..., Search | None],
) -> _Fix:
    """Look for the smallest change, in the order: names, arguments, both, and the same with names left out."""
    named = _by_names(expected, found)
    if named.leaves_nothing_out:
        return named
    # What renames do not explain, arguments may: shapes, and the depth of a stack.
    is_open = named.changes is None
    if is_open:
        starts = iter(()) if named.is_permutation else _guesses(expected, found, difference)
    else:
        starts = iter([{renamed(name, named.rename): shape for name, shape in found.items()}])
    both = [*_resized(expected, found, starts, search_for)]
    likely = _likeliest([each for each in both if each.leaves_nothing_out or (is_open and each.undecided)])
    if likely.changes is not None:
        return likely
    search = search_for(found, MAX_BUILDS if is_open and not named.is_permutation else _GUESS_BUILDS)
    changes = search.run(expected, difference) if search else None
    if changes is not None:
        return _Fix(changes, search=search)
    closest = _Fix()
    if search is not None and search.best is not None and search.best.score < difference.score:
        closest = _by_names(search.best.expected, found).with_changes(search.best.changes, search)
    fixes = [named, *(each for each in (closest, *both) if not _may_be_missing(each, found, difference))]
    fixes = sorted((each for each in fixes if each.changes is not None), key=lambda each: len(each.ignore))
    undecided = named.undecided or likely.undecided or closest.undecided
    return replace(fixes[0] if fixes and not likely.undecided else _Fix(undecided=undecided), search=search)


def _by_names(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> _Fix:
    """Return the renames, and the names to leave out, with which a file fits a network as it is."""
    difference = difference_of(expected, found)
    if difference.misshaped:
        return _Fix()
    told = _match(expected, difference)
    if told is None or told.undecided:
        is_rewritten = any(rewritten(difference))
        return _Fix(undecided=told.undecided if told and not is_rewritten else ())
    exceptions = _exceptions(expected, found, told.names)
    return _Fix({}, *exceptions, evidence=told.evidence) if exceptions else _Fix()


def _exceptions(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], names: Mapping[str, str]
) -> Exceptions | None:
    """Return `model.rename` and `model.ignore` for `names` (the file's → the network's); None if that leaves out too much."""
    used = {name: names.get(name, name) for name in found if name in names or name in expected}
    left_out = [name for name in found if name not in used]
    ignore = stems(left_out, list(used))
    if (
        not used
        or any(_is_part(name, used) for name in left_out)
        or any(_is_layer(stem, found, used) for stem in ignore)
    ):
        return None
    return shortest(used), ignore


def remaining(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], *, limit: int = REMAINING
) -> Iterator[Exceptions]:
    """Yield every (`model.rename`, `model.ignore`) with which `found` (name → shape) fits `expected` and that names allow.

    One if names and structure decide it; one for each way of exchanging what they leave open, the same in all layers of a
    stack, for a reference to choose from; none if nothing fits. None of them is more likely than another.

    Raises MisfitError, before any, if there are more than `limit`.
    """
    difference = difference_of(expected, found)
    if difference.misshaped:
        return
    missing = _asked(expected, difference)
    ways = list(itertools.islice(matches(missing, difference.unexpected), limit + 1)) if missing else [{}]
    if len(ways) > limit:
        raise MisfitError(
            f"more than {limit} ways are left to give the file's tensors the network's names",
            hint="write model.rename by hand for some of them, from the code that made the weights",
        )
    yield from (exceptions for names in ways if (exceptions := _exceptions(expected, found, names)))


def _match(expected: Mapping[str, Shape], difference: Difference) -> Match | None:
    missing = _asked(expected, difference)
    return match(missing, difference.unexpected) if missing else Match({})


def _asked(expected: Mapping[str, Shape], difference: Difference) -> Mapping[str, Shape]:
    """Return what is missing. A tied tensor is asked for under each of its names, if the file has as many, or under one."""
    missing = _wanted(difference)
    once = _once(expected, missing)
    return once if once.keys() != missing.keys() and match(missing, difference.unexpected) is None else missing


def _once(expected: Mapping[str, Shape], missing: Mapping[str, Shape]) -> dict[str, Shape]:
    tied = expected.tied if isinstance(expected, Layout) else {}
    return {name: shape for name, shape in missing.items() if tied.get(name) not in missing}


def _wanted(difference: Difference) -> Mapping[str, Shape]:
    """Return what is missing, without counters that old files lack: `align` adds them."""
    if any(name.endswith(_COUNTER) for name in difference.unexpected):
        return difference.missing
    return {name: shape for name, shape in difference.missing.items() if not _is_counter(name, difference.missing)}


def _is_part(name: str, used: Mapping[str, str]) -> bool:
    """Tell whether a tensor is part of a layer that is used: without its bias, or its weight_g, that is another layer."""
    module, _, last = name.rpartition(".")
    beside = {other: ours for other, ours in used.items() if other.rpartition(".")[0] == module}
    return bool(beside) and (
        last in _PARTS or any(theirs.rpartition(".")[2] != ours.rpartition(".")[2] for theirs, ours in beside.items())
    )


def _may_be_missing(fix: _Fix, found: Mapping[str, Shape], difference: Difference) -> bool:
    """Tell whether what would be left out may be what a smaller network does without: then that is no fix."""
    if not fix.ignore or fix.search is None or all(is_copy(meanings(entry)) for entry in fix.ignore):
        return False
    smaller = fix.search.layout(fix.changes or {}) or {}
    gone = {name: shape for name, shape in difference.missing.items() if name not in smaller}
    left_out = {name: shape for name, shape in found.items() if any(covers(entry, name) for entry in fix.ignore)}
    # Of a stack that went, one layer counts; of what is left out, whose numbers may mean anything, every tensor.
    return bool(gone) and not _kinds({_stacked(name, None): shape for name, shape in gone.items()}) - _kinds(left_out)


def _kinds(shapes: Mapping[str, Shape]) -> Counter[tuple[str, int]]:
    """Count tensors by the end of their names and their rank."""
    return Counter((name.rpartition(".")[2], len(shape)) for name, shape in shapes.items())


def _is_layer(stem: str, found: Mapping[str, Shape], used: Iterable[str]) -> bool:
    """Tell whether what would be left out is one more layer of a stack: that is another depth.

    It has a number beside those that are used, or it holds what one of them holds, unless it says that it is a copy.
    """
    parent, _, number = stem.rpartition(".")
    siblings = (name.removeprefix(f"{parent}.").partition(".")[0] for name in used if name.startswith(f"{parent}."))
    if number.isdecimal() and any(sibling.isdecimal() for sibling in siblings):
        return True
    below = {name[len(stem) :]: shape for name, shape in found.items() if name.startswith(f"{stem}.")}
    if not below or is_copy(meanings(stem)):
        return False
    rest = next(iter(below))
    layers = (name.removesuffix(rest) for name in used if name.endswith(rest))
    return any(
        layer.rpartition(".")[2].isdecimal()
        and all(found.get(f"{layer}{rest}") == shape for rest, shape in below.items())
        for layer in layers
    )


# Names and arguments together


def _resized(
    expected: Mapping[str, Shape],
    found: Mapping[str, Shape],
    starts: Iterator[dict[str, Shape]],
    search_for: Callable[..., Search | None],
) -> Iterator[_Fix]:
    """Look for arguments with which the file fits under other names, as `starts` have them."""
    seen: set[tuple[str, ...]] = set()
    for moved in itertools.islice(starts, _GUESSES):
        search, after = search_for(moved, _GUESS_BUILDS), difference_of(expected, moved)
        if search is None or not search.may_go_on():
            return
        if not after.names or tuple(moved) in seen:
            continue
        seen.add(tuple(moved))
        changes: Mapping[str, Any] | None = search.run(expected, after)
        changes = search.but_for_extras(after) if changes is None else changes
        if changes is None:
            continue
        fix = _by_names(search.layout(changes) or {}, found)
        if fix.undecided or fix.changes is not None:
            yield fix.with_changes(changes, search)


def _likeliest(fits: Sequence[_Fix]) -> _Fix:
    """Return the fix with the fewest changes, undecided where there are several: free sizes tell little about names."""
    if not fits:
        return _Fix()
    fewest = min(len(each.changes or {}) for each in fits)
    first, *others = [each for each in fits if len(each.changes or {}) == fewest]
    if any((each.changes, each.rename) != (first.changes, first.rename) for each in others) and not first.undecided:
        first = replace(first, undecided=(Group(tuple(first.rename), tuple(first.rename.values())),))
    return _Fix(undecided=first.undecided) if first.undecided else first


def _guesses(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], difference: Difference
) -> Iterator[dict[str, Shape]]:
    """Yield the file's shapes under names that may be meant: whatever the sizes and the depth of stacks, then by layers."""
    unexpected = difference.unexpected
    every = _wanted(difference)
    once = _once(expected, every)
    for missing in (every, once) if once.keys() != every.keys() else (every,):
        yield from _guesses_for(missing, found, unexpected)


def _guesses_for(
    missing: Mapping[str, Shape], found: Mapping[str, Shape], unexpected: Mapping[str, Shape]
) -> Iterator[dict[str, Shape]]:
    for ours_at, theirs_at in itertools.product(_LEVELS, _LEVELS):
        ours = {_stacked(name, ours_at): name for name in missing}
        theirs = {_stacked(name, theirs_at): shape for name, shape in unexpected.items()}
        if len(ours) == len(missing) and len(theirs) == len(unexpected):
            continue
        stacks = matches({stack: missing[name] for stack, name in ours.items()}, theirs, resized=True)
        for names in itertools.islice(stacks, _WAYS):
            # Where theirs is no stack, ours is the one layer that is missing.
            rename = {old: new if new.count("*") <= old.count("*") else ours[new] for old, new in names.items()}
            yield {
                renamed(name, {stack: rename[stack]}) if (stack := _stacked(name, theirs_at)) in rename else name: shape
                for name, shape in found.items()
            }
    for names in itertools.islice(matches(missing, unexpected, resized=True), _WAYS):
        yield {names.get(name, name): shape for name, shape in found.items()}


def _stacked(name: str, level: int | None) -> str:
    """Put `*` for the number of a layer: for all numbers by themselves, or for the one at a level of nesting."""
    parts = name.split(".")
    places = [index for index, part in enumerate(parts) if part.isdecimal()]
    for place in places if level is None else places[level : level + 1]:
        parts[place] = "*"
    return ".".join(parts)


def _told(evidence: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    """Say what decided the renames, with examples."""
    for kind in (kinds := [kind for kind in _EVIDENCE if evidence.get(kind)]):
        examples = ", ".join(f"{theirs} ~ {ours}" for theirs, ours in evidence[kind][:_EXAMPLES])
        yield f"told by {_EVIDENCE[kind]}: {examples}"
    if kinds:
        yield "names and shapes do not prove that each weight is where it belongs: recorded outputs (reference) do"


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
