"""Which tensor of a file is which of a network, where both have other names: what tells it, and where nothing does.

Modules of both sides are matched from the outside in. Those that hold tensors of the same shapes may be one another; where
several may, `assignment` decides.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.rebuild.doctor.assignment import MAX_PAIRS, Candidates, Group, Learnt, NoMatchError, Question, Side
from pipeline.rebuild.doctor.parts import Part, joined, roles_of, same_places
from pipeline.rebuild.doctor.words import meanings, numbered

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from pipeline.rebuild.doctor.difference import Shape

_PASSES = 4


@dataclass(frozen=True, slots=True)
class Match:
    """The file's names → the network's, as far as they are decided: all that the network lacks, if `undecided` is empty.

    `evidence` holds what decided ("shapes", "words", "numbers", "layers") → the pairs of names that it decided, with `*`
    for numbers.
    """

    names: Mapping[str, str]
    undecided: tuple[Group, ...] = ()
    evidence: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def match(missing: Mapping[str, Shape], unexpected: Mapping[str, Shape]) -> Match | None:
    """Find the names of `missing` (name → shape) among those of `unexpected`; None where some have no counterpart.

    Names of the file may be left over, but none that could as well be meant.
    """
    sides = _sides(missing, unexpected, missing, unexpected)
    try:
        found = sides and _settled(*sides, {})
    except NoMatchError:
        return None
    if not found:
        return None
    groups = dict.fromkeys(each.shown for each in dict.fromkeys(found.open)) or _doubts(found, missing)
    return Match(found.names, tuple(groups), found.evidence)


def matches(
    missing: Mapping[str, Shape], unexpected: Mapping[str, Shape], *, resized: bool = False
) -> Iterator[Mapping[str, str]]:
    """Yield every assignment of names that is left (file → network), the same one in all layers of a stack.

    With `resized` sizes may differ, as with other arguments: names and ranks have to agree, and shapes are only evidence.
    """
    ours, theirs = (_kinds(missing), _kinds(unexpected)) if resized else (missing, unexpected)
    sides = _sides(ours, theirs, missing, unexpected)
    if sides:
        yield from _all(*sides, {})


# What is matched


def _kinds(shapes: Mapping[str, Shape]) -> dict[str, Hashable]:
    return {name: (*sorted(meanings(name.rpartition(".")[2])), len(shape)) for name, shape in shapes.items()}


def _sides(
    ours: Mapping[str, Hashable],
    theirs: Mapping[str, Hashable],
    our_shapes: Mapping[str, Shape],
    their_shapes: Mapping[str, Shape],
) -> tuple[Part, Part] | None:
    """Return file and network as parts, without what the network has no place for; None if it needs more than there is."""
    wanted = Counter(ours.values())
    usable = {name: key for name, key in theirs.items() if key in wanted}
    if not wanted or wanted - Counter(usable.values()):
        return None
    return Part("", usable, their_shapes), Part("", ours, our_shapes)


# From the outside in


@dataclass
class _Pass:
    """What one pass finds; `known` is what the pass before learnt, `chosen` answers questions that are open."""

    known: Learnt
    chosen: Mapping[Question, tuple[str, ...]]
    names: dict[str, str] = field(default_factory=dict)
    open: list[Question] = field(default_factory=list)
    evidence: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    learnt: Learnt = field(default_factory=lambda: defaultdict(set))

    def begin(self, theirs: Part, ours: Part) -> None:
        """Match a file with a network. Where the file holds it several times it is not ours to choose."""
        wholes = theirs.find(ours.bag) if len(ours.parts) > 1 else []
        names = tuple(each.name for each in wholes)
        question = Question(("", ""), names, ("",), tuple((name,) for name in names), Group(names, ("",)))
        if len(wholes) > 1 and question not in self.chosen:
            self.open.append(question)
            return
        chosen = self.chosen.get(question, names[:1])
        for whole in wholes:
            if whole.name in chosen:
                self._descend(whole, ours)
        if not wholes:
            self._match_parts(theirs, ours)

    def _descend(self, theirs: Part, ours: Part) -> None:
        """Match what lies below two parts that are each other's."""
        if theirs.is_single or theirs.keys == ours.keys:
            pairs = zip(theirs.keys, ours.keys if theirs.is_single else theirs.keys, strict=True)
            self.names.update({joined(theirs.name, t): joined(ours.name, o) for t, o in pairs})
        else:
            self._match_parts(theirs, ours)

    def _match_parts(self, theirs: Part, ours: Part) -> None:
        their_parts, our_parts = _alike(theirs.parts, ours.parts)
        places = same_places(their_parts, our_parts, theirs, ours)
        their_roles, our_roles = roles_of(their_parts, theirs), roles_of(our_parts, ours)
        for bag in dict.fromkeys(each.bag for each in our_parts):
            candidates = Candidates(
                Side(theirs, [each for each in their_parts if each.bag == bag], their_roles),
                Side(ours, [each for each in our_parts if each.bag == bag], our_roles),
                places,
                self.known,
            )
            for pair in self._decided(candidates):
                self._descend(*pair)

    def _decided(self, candidates: Candidates) -> Iterator[tuple[Part, Part]]:
        """Yield the pairs of a class that are decided, and keep what is not."""
        pairs, questions = candidates.assigned()
        for question in questions:
            if question in self.chosen:
                pairs += candidates.answered(question, self.chosen[question])
            else:
                self.open.append(question)
        for row, column, how in pairs:
            theirs, ours = candidates.theirs.names[column], candidates.ours.names[row]
            self.learnt[(*candidates.parents, theirs)].add(ours)
            pair = candidates.theirs.shown(column), candidates.ours.shown(row)
            if theirs.rpartition(".")[2] != ours.rpartition(".")[2] and pair not in self.evidence[how]:
                self.evidence[how].append(pair)
            yield candidates.theirs.parts[column], candidates.ours.parts[row]


def _settled(theirs: Part, ours: Part, chosen: Mapping[Question, tuple[str, ...]]) -> _Pass:
    """Go over both sides until the layers of a stack teach one another nothing new."""
    found = _Pass({}, chosen)
    found.begin(theirs, ours)
    for _ in range(_PASSES):
        if not found.open or found.learnt == found.known:
            break
        found = _Pass(found.learnt, chosen)
        found.begin(theirs, ours)
    return found


def _all(theirs: Part, ours: Part, chosen: Mapping[Question, tuple[str, ...]]) -> Iterator[Mapping[str, str]]:
    try:
        found = _settled(theirs, ours, chosen)
    except NoMatchError:
        return
    if not found.open:
        yield found.names
        return
    for way in found.open[0].ways:
        yield from _all(theirs, ours, {**chosen, found.open[0]: way})


def _alike(theirs: list[Part], ours: list[Part]) -> tuple[list[Part], list[Part]]:
    """Take parts apart until each of ours may be one of theirs: both sides may group their modules in other ways."""
    while True:
        have, want = Counter(each.bag for each in theirs), Counter(each.bag for each in ours)
        short = {bag for bag in want if have[bag] < want[bag]}
        large = {bag for bag in (*short, *(have.keys() - want.keys())) if len(bag) > 1}
        if short and not large:
            lacking = {key for bag in short for key in bag}
            large = {bag for bag in have if len(bag) > 1 and lacking & set(bag)}
            if not large:
                raise NoMatchError
        if not large:
            return theirs, ours
        # The largest first, so that both sides stay at the same level.
        size = max(map(len, large))
        largest = {bag for bag in large if len(bag) == size}
        theirs, ours = _split(theirs, largest - short), _split(ours, largest & short)


def _split(parts: Iterable[Part], bags: set[tuple[Hashable, ...]]) -> list[Part]:
    return [below for each in parts for below in (each.parts if each.bag in bags else (each,))]


# A second opinion


def _doubts(found: _Pass, shapes: Mapping[str, Shape]) -> list[Group]:
    """Return names that fit better the other way round when each is looked at as a whole, and layers that contradict."""
    for (their_parent, our_parent, name), told in found.learnt.items():
        if len(told) > 1 and meanings(name):
            return [Group((joined(their_parent, name),), tuple(joined(our_parent, each) for each in sorted(told)))]
    by_shape: dict[Shape, list[tuple[str, str]]] = defaultdict(list)
    for theirs, ours in found.names.items():
        by_shape[shapes[ours]].append((theirs, ours))
    places = _places(found.names), _places(found.names.values())
    for pairs in by_shape.values():
        if len(pairs) ** 2 > MAX_PAIRS:
            continue
        fit = np.array([[len(places[0][t] & places[1][o]) for _, o in pairs] for t, _ in pairs])
        gain = fit + fit.T - np.diag(fit)[:, None] - np.diag(fit)[None, :]
        if gain.size and gain.max() >= 2:
            first, second = (pairs[index] for index in np.unravel_index(gain.argmax(), gain.shape))
            return [Group((first[0], second[0]), (first[1], second[1]))]
    return []


def _places(names: Iterable[str]) -> dict[str, set[tuple[str, int]]]:
    """Return each name's numbers with the word that they follow, counted from the first that follows it anywhere.

    A word with two numbers in a name is left out: which of them is another's is not to be told by itself.
    """
    counted = {name: numbered(name) for name in names}
    least: dict[str, int] = {}
    for word, number in itertools.chain(*counted.values()):
        least[word] = min(number, least.get(word, number))
    often = {name: Counter(word for word, _ in each) for name, each in counted.items()}
    return {
        name: {(word, number - least[word]) for word, number in each if often[name][word] == 1}
        for name, each in counted.items()
    }
