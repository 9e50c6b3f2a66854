"""Look for argument values with which a network takes a given state dict, by building it on meta tensors."""

from __future__ import annotations

import heapq
import itertools
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.doctor.difference import Difference, Shape, difference_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FAMILIES = ((11, 13, 16, 19), (18, 34, 50, 101, 152), (121, 161, 169, 201))
"""Numbers that name the variants of one network: VGG, ResNet, DenseNet."""
SEARCH_SECONDS = 8.0
_MAX_CHANGES = 4
_SMALL = 6
_MAX_LEAPS = 4
MAX_BUILDS = 400
_MORE_BUILDS = 60  # once only names too many are left, which are seldom an argument's doing


@dataclass(order=True)
class _Candidate:
    """Arguments to go on from, best first: a small difference, few changes, then the order of discovery.

    What could not be built suggests nothing by itself: it has the difference of the config's network, to go on with.
    """

    score: int
    changed: int
    order: int
    changes: dict[str, Any] = field(compare=False)
    difference: Difference = field(compare=False)
    is_built: bool = field(default=True, compare=False)

    @property
    def fits(self) -> bool:
        """Whether the network takes what was found, strictly."""
        return self.is_built and self.difference.names == 0


class Search:
    """A best-first search over argument values that the shapes suggest, bounded in time and number of builds."""

    def __init__(
        self,
        found: Mapping[str, Shape],
        arguments: Mapping[str, Any],
        build: Callable[[Mapping[str, Any]], Mapping[str, Shape]],
        seconds: float = SEARCH_SECONDS,
        max_builds: int = MAX_BUILDS,
    ) -> None:
        self.found = found
        self.arguments = arguments
        self.build = build
        self.builds = 0
        self.max_builds = max_builds
        self.best: _Candidate | None = None
        self.order = itertools.count()
        self.deadline = time.monotonic() + seconds

    def run(self, difference: Difference) -> dict[str, Any] | None:
        """Return the smallest change found that fits strictly."""
        root = _Candidate(difference.score, 0, next(self.order), {}, difference)
        leapt = self._leap(root)
        if leapt.fits and leapt.changes:
            return self._smallest(leapt.changes)
        for name in leapt.changes if len(leapt.changes) > 1 else ():
            # Two arguments of one value need not both have changed.
            fewer = self._try(_without(leapt.changes, name), root, root)
            if fewer.fits:
                return self._smallest(fewer.changes)
        pending = [root, leapt] if leapt.changes else [root]
        heapq.heapify(pending)
        tried: set[str] = {repr([])}
        while pending and self.may_go_on():
            state = heapq.heappop(pending)
            for changes in self._next(state):
                key = repr(sorted(changes.items()))
                if key in tried or not self.may_go_on():
                    continue
                tried.add(key)
                made = self._try(changes, state, root)
                if made.fits:
                    return self._smallest(changes)
                if made.changed < _MAX_CHANGES + leapt.changed:
                    heapq.heappush(pending, made)
        return None

    def closest(self, difference: Difference) -> tuple[Mapping[str, Any], int] | None:
        """Return the best that was tried, if it is better than what the config says, and how many names differ then."""
        if self.best is None or self.best.score >= difference.score:
            return None
        return self.best.changes, self.best.difference.names

    def but_for_extras(self, difference: Difference) -> Mapping[str, Any] | None:
        """Return the best that was tried, if it is better, takes all that it needs, and leaves only names too many."""
        if self.best is None or self.best.score >= difference.score:
            return None
        left = self.best.difference
        return None if left.missing or left.misshaped else self.best.changes

    def fits(self, changes: Mapping[str, Any]) -> bool:
        """Tell whether the network with these changes takes what was found, strictly."""
        shapes = self.layout(changes)
        return shapes is not None and difference_of(shapes, self.found).names == 0

    def layout(self, changes: Mapping[str, Any]) -> Mapping[str, Shape] | None:
        """Return the names and shapes of the network with these changes; None if it cannot be built."""
        self.builds += 1
        return attempt(self.build, {**self.arguments, **changes})

    def _leap(self, root: _Candidate) -> _Candidate:
        """Change at once all arguments whose new value the shapes tell by themselves, as long as that helps."""
        best = root
        for _ in range(_MAX_LEAPS):
            if best.fits:
                break
            current = {**self.arguments, **best.changes}
            told = {
                name: other
                for name, value in current.items()
                if type(value) is int and (other := _told(value, best.difference))
            }
            changes = {**best.changes, **told}
            if not told or changes == best.changes:
                break
            made = self._try(changes, best, root)
            if made.score >= best.score:
                break
            best = made
        return best

    def may_go_on(self) -> bool:
        """Tell whether there is time left, and not too much was built."""
        return self.builds < self.max_builds and time.monotonic() < self.deadline

    def _next(self, state: _Candidate) -> Iterator[dict[str, Any]]:
        for name, value in self.arguments.items():
            if name not in state.changes:
                for other in _values(value, state.difference):
                    yield {**state.changes, name: other}

    def _try(self, changes: dict[str, Any], parent: _Candidate, root: _Candidate) -> _Candidate:
        shapes = self.layout(changes)
        if shapes is None:
            place = (parent.score, len(changes), next(self.order))
            return _Candidate(*place, changes, root.difference, is_built=False)
        difference = difference_of(shapes, self.found)
        made = _Candidate(difference.score, len(changes), next(self.order), changes, difference)
        if self.best is None or made < self.best:
            self.best = made
            if not difference.missing and not difference.misshaped:
                self.max_builds = min(self.max_builds, self.builds + _MORE_BUILDS)
        return made

    def _smallest(self, changes: dict[str, Any]) -> dict[str, Any]:
        for name in list(changes):
            fewer = _without(changes, name)
            if fewer and self.fits(fewer):
                changes = fewer
        return changes


def _without(changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != name}


def _values(value: Any, difference: Difference) -> Iterator[Any]:
    """Yield the values that an argument may have to take, likeliest first."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        suggested = [*_from_dimensions(value, difference), *_from_counts(value, difference), *_from_family(value)]
        # A small number may be the name of a variant, which shapes do not tell.
        near = range(_SMALL + 1) if value <= _SMALL else ()
        likely = [other for other in suggested if other > 0]
        yield from (other for other in dict.fromkeys([*likely, *near]) if other != value)
    elif isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        yield from _list_values(value, difference)


def _told(value: int, difference: Difference) -> int | None:
    """Return what an argument of this value must be if every dimension of that size, or every count, says the same."""
    haves = Counter(have for have, want in difference.sizes(same_rank=True) if want == value)
    if haves:
        return haves.most_common(1)[0][0]
    want_counts, have_counts = _counts(difference.expected), _counts(difference.found)
    counts = {have_counts.get(pattern, 0) for pattern, count in want_counts.items() if count == value}
    counts.discard(value)
    return counts.pop() if len(counts) == 1 else None


def _from_dimensions(value: int, difference: Difference) -> Iterator[int]:
    """Yield what takes a dimension from what it is to what the file has: the same, in proportion, or by the difference."""
    common = [pair for pair, _ in Counter(difference.sizes(same_rank=True)).most_common(24)]
    yield from (have for have, want in common if want == value)
    yield from (value * have // want for have, want in common if want and value * have % want == 0)
    yield from (value + have - want for have, want in common)
    yield from (have for have, _ in common)


def _from_counts(value: int, difference: Difference) -> Iterator[int]:
    """Yield what takes the number of repeated modules from what it is to what the file has."""
    want, have = _counts(difference.expected), _counts(difference.found)
    for pattern in dict.fromkeys([*want, *have]):
        w, h = want.get(pattern, 0), have.get(pattern, 0)
        if w == h:
            continue
        yield h
        yield value + h - w
        if w and value * h % w == 0:
            yield value * h // w


def _counts(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return how many indices stand at each numbered place: layer.*.weight → 6, weight_ih_l* → 2."""
    indices: dict[str, set[str]] = defaultdict(set)
    for name in shapes:
        for match in re.finditer(r"(?:(?<=\.)|^|(?<=_l)|(?<=[a-z]))\d+(?=\.|_|$)", name):
            indices[name[: match.start()]].add(match.group())
    return {pattern: len(seen) for pattern, seen in indices.items()}


def _from_family(value: int) -> Iterator[int]:
    for family in FAMILIES:
        if value in family:
            yield from family


def _list_values(value: Sequence[int], difference: Difference) -> Iterator[Any]:
    kind: Callable[[list[int]], Any] = type(value)
    mapping = {want: have for have, want in difference.sizes()}
    yield kind([mapping.get(item, item) for item in value])
    for index, item in enumerate(value):
        suggested = [*_from_dimensions(item, difference), *_from_counts(item, difference)]
        for other in dict.fromkeys(suggested):
            if other > 0 and other != item:
                yield kind([*value[:index], other, *value[index + 1 :]])
