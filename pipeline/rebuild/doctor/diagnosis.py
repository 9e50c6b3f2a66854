"""Why a state dict does not fit a network, and the smallest change of the config that makes it fit."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import MisfitError
from pipeline.rebuild.doctor.assignment import Group
from pipeline.rebuild.doctor.causes import likely_causes, rewritten_layers, unrelated
from pipeline.rebuild.doctor.difference import Difference, Layout, Shape, difference_of
from pipeline.rebuild.doctor.matching import Match, match, matches
from pipeline.rebuild.doctor.misfit import Misfit
from pipeline.rebuild.doctor.prefixes import STEP_COUNTER, is_step_counter
from pipeline.rebuild.doctor.renames import Exceptions, covers, renamed, shortest, stems
from pipeline.rebuild.doctor.search import MAX_BUILDS, SEARCH_SECONDS, Search
from pipeline.rebuild.doctor.words import is_copy, meanings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


_MOST_WAYS = 64
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


def diagnose(
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
    misfit = _diagnosed(difference, arguments, build_shapes, owner, weights_name, seconds)
    filled = _filled(difference)
    if misfit.is_mended or not filled:
        return misfit
    rest = difference_of(_without(expected, filled), found)
    if rest.names == 0:
        return Misfit(owner, weights_name, dict(arguments), {}, {}, (), changes={}, filled=filled)
    builder = build_shapes and (lambda changes: _without(build_shapes(changes), filled))
    mended = _diagnosed(rest, arguments, builder, owner, weights_name, seconds)
    return replace(mended, filled=filled) if mended.is_mended else misfit


def _diagnosed(
    difference: Difference,
    arguments: Mapping[str, Any],
    build_shapes: Callable[[Mapping[str, Any]], Mapping[str, Shape]] | None,
    owner: str,
    weights_name: str,
    seconds: float,
) -> Misfit:
    if not difference.missing and not difference.misshaped:
        # Names too many are seldom an argument's doing.
        seconds = min(seconds, _EXTRA_SECONDS)
    deadline = time.monotonic() + 2 * seconds

    def search_for(names: Mapping[str, Shape], builds: int = MAX_BUILDS) -> Search | None:
        left = max(deadline - time.monotonic(), 0.0)
        if build_shapes is None:
            return None
        return Search(names, dict(arguments), build_shapes, min(seconds, left), builds)

    fix = _fix(difference, search_for)
    notes = [*_told(fix.evidence)] if fix.rename or fix.undecided else [*likely_causes(difference)]
    if fix.changes is None and not fix.undecided:
        notes += unrelated(difference)
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


def _filled(difference: Difference) -> tuple[str, ...]:
    """Return the missing buffers that the network's constructors fill, and that no tensor of the file can be."""
    if not isinstance(difference.expected, Layout):
        return ()
    shapes = set(difference.unexpected.values())
    return tuple(
        name for name, shape in difference.missing.items() if name in difference.expected.filled and shape not in shapes
    )


def _without(shapes: Mapping[str, Shape], names: Sequence[str]) -> Mapping[str, Shape]:
    return shapes.without(names) if isinstance(shapes, Layout) else shapes


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


def _fix(difference: Difference, search_for: Callable[..., Search | None]) -> _Fix:
    """Look for the smallest change, in the order: names, arguments, both, and the same with names left out."""
    found = difference.found
    named = _by_names(difference)
    if named.leaves_nothing_out:
        return named
    # What renames do not explain, arguments may: shapes, and the depth of a stack.
    is_open = named.changes is None
    if is_open:
        starts = iter(()) if named.is_permutation else _guesses(difference)
    else:
        starts = iter([{renamed(name, named.rename): shape for name, shape in found.items()}])
    both = [*_resized(difference, starts, search_for)]
    likely = _likeliest([each for each in both if each.leaves_nothing_out or (is_open and each.undecided)])
    if likely.changes is not None:
        return likely
    search = search_for(found, MAX_BUILDS if is_open and not named.is_permutation else _GUESS_BUILDS)
    changes = search.run(difference) if search else None
    if changes is not None:
        return _Fix(changes, search=search)
    closest = _Fix()
    if search is not None and search.best is not None and search.best.score < difference.score:
        closest = _by_names(search.best.difference).with_changes(search.best.changes, search)
    fixes = [named, *(each for each in (closest, *both) if not _may_be_missing(each, difference))]
    fixes = sorted((each for each in fixes if each.changes is not None), key=lambda each: len(each.ignore))
    undecided = named.undecided or likely.undecided or closest.undecided
    return replace(fixes[0] if fixes and not likely.undecided else _Fix(undecided=undecided), search=search)


def _by_names(difference: Difference) -> _Fix:
    """Return the renames, and the names to leave out, with which a file fits a network as it is."""
    if difference.misshaped:
        return _Fix()
    missing = _asked(difference)
    told = match(missing, difference.unexpected) if missing else Match({})
    if told is None or told.undecided:
        is_rewritten = any(rewritten_layers(difference))
        return _Fix(undecided=told.undecided if told and not is_rewritten else ())
    exceptions = _exceptions(difference, told.names)
    return _Fix({}, *exceptions, evidence=told.evidence) if exceptions else _Fix()


def _exceptions(difference: Difference, names: Mapping[str, str]) -> Exceptions | None:
    """Return `model.rename` and `model.ignore` for `names` (the file's → the network's); None if that leaves out too much."""
    found = difference.found
    used = {name: names.get(name, name) for name in found if name in names or name in difference.expected}
    left_out = [name for name in found if name not in used]
    ignore = stems(left_out, list(used))
    if (
        not used
        or any(_is_part(name, used) for name in left_out)
        or any(_is_layer(stem, found, used) for stem in ignore)
    ):
        return None
    return shortest(used), ignore


def possible_exceptions(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], *, limit: int = _MOST_WAYS
) -> Iterator[Exceptions]:
    """Yield every (`model.rename`, `model.ignore`) with which `found` (name → shape) fits `expected` and that names allow.

    One if names and structure decide it; one for each way of exchanging what they leave open, the same in all layers of a
    stack, for a reference to choose from; none if nothing fits. None of them is more likely than another.

    Raises MisfitError, before any, if there are more than `limit`.
    """
    difference = difference_of(expected, found)
    if difference.misshaped:
        return
    missing = _asked(difference)
    ways = list(itertools.islice(matches(missing, difference.unexpected), limit + 1)) if missing else [{}]
    if len(ways) > limit:
        raise MisfitError(
            f"more than {limit} ways are left to give the file's tensors the network's names",
            hint="write model.rename by hand for some of them, from the code that made the weights",
        )
    yield from (exceptions for names in ways if (exceptions := _exceptions(difference, names)))


def _asked(difference: Difference) -> Mapping[str, Shape]:
    """Return what is missing. A tied tensor is asked for under each of its names, if the file has as many, or under one."""
    every, *once = _wanted_ways(difference)
    return once[0] if once and match(every, difference.unexpected) is None else every


def _wanted_ways(difference: Difference) -> list[Mapping[str, Shape]]:
    """Return what is missing, and where tensors are tied, the same with one name for each."""
    missing = _wanted(difference)
    tied = difference.expected.tied if isinstance(difference.expected, Layout) else {}
    once = {name: shape for name, shape in missing.items() if tied.get(name) not in missing}
    return [missing] if len(once) == len(missing) else [missing, once]


def _wanted(difference: Difference) -> Mapping[str, Shape]:
    """Return what is missing, without counters that old files lack: `align` adds them."""
    if any(name.endswith(STEP_COUNTER) for name in difference.unexpected):
        return difference.missing
    return {name: shape for name, shape in difference.missing.items() if not is_step_counter(name, difference.missing)}


def _is_part(name: str, used: Mapping[str, str]) -> bool:
    """Tell whether a tensor is part of a layer that is used: without its bias, or its weight_g, that is another layer."""
    module, _, last = name.rpartition(".")
    beside = {other: ours for other, ours in used.items() if other.rpartition(".")[0] == module}
    return bool(beside) and (
        last in _PARTS or any(theirs.rpartition(".")[2] != ours.rpartition(".")[2] for theirs, ours in beside.items())
    )


def _may_be_missing(fix: _Fix, difference: Difference) -> bool:
    """Tell whether what would be left out may be what a smaller network does without: then that is no fix."""
    if not fix.ignore or fix.search is None or all(is_copy(meanings(entry)) for entry in fix.ignore):
        return False
    smaller = fix.search.layout(fix.changes or {}) or {}
    gone = {name: shape for name, shape in difference.missing.items() if name not in smaller}
    left_out = {
        name: shape for name, shape in difference.found.items() if any(covers(entry, name) for entry in fix.ignore)
    }
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
    difference: Difference, starts: Iterator[dict[str, Shape]], search_for: Callable[..., Search | None]
) -> Iterator[_Fix]:
    """Look for arguments with which the file fits under other names, as `starts` have them."""
    seen: set[tuple[str, ...]] = set()
    for moved in itertools.islice(starts, _GUESSES):
        search, after = search_for(moved, _GUESS_BUILDS), difference_of(difference.expected, moved)
        if search is None or not search.may_go_on():
            return
        if not after.names or tuple(moved) in seen:
            continue
        seen.add(tuple(moved))
        changes: Mapping[str, Any] | None = search.run(after)
        changes = search.but_for_extras(after) if changes is None else changes
        if changes is None:
            continue
        fix = _by_names(difference_of(search.layout(changes) or {}, difference.found))
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


def _guesses(difference: Difference) -> Iterator[dict[str, Shape]]:
    """Yield the file's shapes under names that may be meant: whatever the sizes and the depth of stacks, then by layers."""
    found, unexpected = difference.found, difference.unexpected
    for missing in _wanted_ways(difference):
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
                    renamed(name, {stack: rename[stack]})
                    if (stack := _stacked(name, theirs_at)) in rename
                    else name: shape
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
