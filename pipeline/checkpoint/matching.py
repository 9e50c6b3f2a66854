"""Which tensor of a file is which of a network, where both have other names: what tells it, and where nothing does.

Modules of both sides are matched from the outside in. Those that hold tensors of the same shapes may be one another; where
several may, the words and numbers of their names, the names below them and what the other layers of a stack told decide,
by the best assignment (`scipy.optimize.linear_sum_assignment`). It counts only where every other one is clearly worse. The
order of either side is no evidence.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.checkpoint.words import excluded, likeness, meanings, numbered

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.checkpoint.difference import Shape

MARGIN = 1.0
"""How much worse every other assignment must be: one word that tells."""

_SAME_NAME, _NUMBER, _LAYERS, _STRUCTURE, _EXCLUDED = 3.0, 2.0, 2.0, 2.0, -2.0
_MAX_GAP = 4  # between numbers in a Sequential: activations, dropout and pools hold no tensors
_MAX_PAIRS = 250_000
_MAX_WAYS = 5_040
_PASSES = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Names of a file and of a network that could be exchanged, with nothing to tell which is which."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """The file's names → the network's, as far as they are decided: all that the network lacks, if `undecided` is empty.

    `evidence` holds what decided ("shapes", "words", "numbers", "layers") → the pairs of names that it decided.
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
    except _NoMatchError:
        return None
    if not found:
        return None
    groups = dict.fromkeys(each.shown() for each in found.open) or _doubts(found, missing)
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


@dataclass(frozen=True)
class _Part:
    """A module or a tensor: what lies below it, by the rest of its name ("" for a tensor itself)."""

    name: str
    keys: Mapping[str, Hashable]
    shapes: Mapping[str, Shape]

    @cached_property
    def bag(self) -> tuple[Hashable, ...]:
        """What it holds, whatever that is called: parts with the same bag may be one another."""
        return tuple(sorted(self.keys.values(), key=repr))

    @cached_property
    def form(self) -> tuple[Hashable, ...]:
        """How that is nested, whatever it is called."""
        return self.bag if self.is_single else tuple(sorted((each.form for each in self.parts), key=repr))

    @property
    def is_single(self) -> bool:
        return len(self.keys) == 1

    @cached_property
    def parts(self) -> list[_Part]:
        """What it consists of, one level below."""
        below: dict[str, dict[str, Hashable]] = defaultdict(dict)
        for rest, key in self.keys.items():
            first, _, further = rest.partition(".")
            below[first][further] = key
        return [
            _Part(_joined(self.name, first), keys, {rest: self.shapes[_joined(first, rest)] for rest in keys})
            for first, keys in below.items()
        ]

    def find(self, bag: tuple[Hashable, ...]) -> list[_Part]:
        """Return the outermost parts that hold just this."""
        if self.bag == bag:
            return [self]
        return [] if len(self.keys) <= len(bag) else [each for part in self.parts for each in part.find(bag)]

    def below(self, parent: _Part) -> str:
        """Return its name below a part that it is in."""
        return self.name[len(parent.name) + 1 :] if parent.name else self.name


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _template(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _kinds(shapes: Mapping[str, Shape]) -> dict[str, Hashable]:
    return {name: (*sorted(meanings(name.rpartition(".")[2])), len(shape)) for name, shape in shapes.items()}


def _sides(
    ours: Mapping[str, Hashable],
    theirs: Mapping[str, Hashable],
    our_shapes: Mapping[str, Shape],
    their_shapes: Mapping[str, Shape],
) -> tuple[_Part, _Part] | None:
    """Return file and network as parts, without what the network has no place for; None if it needs more than there is."""
    wanted = Counter(ours.values())
    usable = {name: key for name, key in theirs.items() if key in wanted}
    if not wanted or wanted - Counter(usable.values()):
        return None
    return _Part("", usable, their_shapes), _Part("", ours, our_shapes)


# From the outside in


class _NoMatchError(Exception):
    """Something of the network has no counterpart that its name allows."""


@dataclass(frozen=True)
class _Open:
    """Parts that could be exchanged, below two parts that are each other's: one question for all layers of a stack.

    `ways` are the assignments that are left, each the names of `theirs` in the order of `ours`.
    """

    parents: tuple[str, str]
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    ways: tuple[tuple[str, ...], ...] = field(compare=False)

    def shown(self) -> Group:
        above, below = self.parents
        return Group(
            tuple(_joined(above, each) for each in self.theirs), tuple(_joined(below, each) for each in self.ours)
        )


_Learnt = dict[tuple[str, str, str], set[str]]
"""What was decided: (template of their parent, template of ours, name below theirs) → names below ours."""


@dataclass
class _Pass:
    """What one pass finds; `known` is what the pass before learnt, `chosen` answers questions that are open."""

    known: _Learnt
    chosen: Mapping[_Open, tuple[str, ...]]
    names: dict[str, str] = field(default_factory=dict)
    open: list[_Open] = field(default_factory=list)
    evidence: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    learnt: _Learnt = field(default_factory=lambda: defaultdict(set))

    def begin(self, theirs: _Part, ours: _Part) -> None:
        """Match a file with a network, which may be one of several things in the file."""
        wholes = theirs.find(ours.bag)
        if not wholes:
            self.descend(theirs, ours)
        for pair in self._decided(_Class(theirs, ours, wholes, [ours], set(), {}, self.known)) if wholes else ():
            self.descend(*pair)

    def descend(self, theirs: _Part, ours: _Part) -> None:
        """Match what lies below two parts that are each other's."""
        if theirs.is_single or theirs.keys == ours.keys:
            pairs = zip(theirs.keys, ours.keys if theirs.is_single else theirs.keys, strict=True)
            self.names.update({_joined(theirs.name, t): _joined(ours.name, o) for t, o in pairs})
            return
        their_parts, our_parts = _alike(theirs.parts, ours.parts)
        places = _same_places(their_parts, our_parts, theirs, ours)
        roles = _roles(their_parts, theirs) | _roles(our_parts, ours)
        for bag in dict.fromkeys(each.bag for each in our_parts):
            candidates = [each for each in their_parts if each.bag == bag]
            wanted = [each for each in our_parts if each.bag == bag]
            for pair in self._decided(_Class(theirs, ours, candidates, wanted, places, roles, self.known)):
                self.descend(*pair)

    def _decided(self, class_: _Class) -> Iterator[tuple[_Part, _Part]]:
        """Yield the pairs of a class that are decided, and keep what is not."""
        pairs, questions = class_.assigned()
        for question in questions:
            if question in self.chosen:
                pairs += class_.named(self.chosen[question], question.ours)
            else:
                self.open.append(question)
        for theirs, ours, how in pairs:
            said = theirs.below(class_.their_parent), ours.below(class_.our_parent)
            self.learnt[(*class_.parents, said[0])].add(said[1])
            if said[0] != said[1]:
                self.evidence[how].append((theirs.name, ours.name))
            yield theirs, ours


def _settled(theirs: _Part, ours: _Part, chosen: Mapping[_Open, tuple[str, ...]]) -> _Pass:
    """Go over both sides until the layers of a stack teach one another nothing new."""
    found = _Pass({}, chosen)
    found.begin(theirs, ours)
    for _ in range(_PASSES):
        if not found.open or found.learnt == found.known:
            break
        found = _Pass(found.learnt, chosen)
        found.begin(theirs, ours)
    return found


def _all(theirs: _Part, ours: _Part, chosen: Mapping[_Open, tuple[str, ...]]) -> Iterator[Mapping[str, str]]:
    try:
        found = _settled(theirs, ours, chosen)
    except _NoMatchError:
        return
    if not found.open:
        yield found.names
        return
    for way in found.open[0].ways:
        yield from _all(theirs, ours, {**chosen, found.open[0]: way})


def _alike(theirs: list[_Part], ours: list[_Part]) -> tuple[list[_Part], list[_Part]]:
    """Take parts apart until each of ours may be one of theirs: both sides may group their modules in other ways."""
    while True:
        have, want = Counter(each.bag for each in theirs), Counter(each.bag for each in ours)
        short = {bag for bag in want if have[bag] < want[bag]}
        large = {bag for bag in (*short, *(have.keys() - want.keys())) if len(bag) > 1}
        if short and not large:
            lacking = {key for bag in short for key in bag}
            large = {bag for bag in have if len(bag) > 1 and lacking & set(bag)}
            if not large:
                raise _NoMatchError
        if not large:
            return theirs, ours
        # The largest first, so that both sides stay at the same level.
        size = max(map(len, large))
        largest = {bag for bag in large if len(bag) == size}
        theirs, ours = _split(theirs, largest - short), _split(ours, largest & short)


def _split(parts: Iterable[_Part], bags: set[tuple[Hashable, ...]]) -> list[_Part]:
    return [below for each in parts for below in (each.parts if each.bag in bags else (each,))]


# One class: parts that may be one another


@dataclass(frozen=True)
class _Class:
    """Parts with the same bag, below two parts that are each other's.

    `places` are pairs that numbers put together, `roles` what a number says: fc1 of two expands.
    """

    their_parent: _Part
    our_parent: _Part
    theirs: list[_Part]
    ours: list[_Part]
    places: set[tuple[str, str]]
    roles: Mapping[str, set[str]]
    known: _Learnt

    @property
    def parents(self) -> tuple[str, str]:
        return _template(self.their_parent.name), _template(self.our_parent.name)

    def assigned(self) -> tuple[list[tuple[_Part, _Part, str]], list[_Open]]:
        """Return the pairs that are decided, with what decided them, and the questions that are open."""
        if len(self.theirs) * len(self.ours) > _MAX_PAIRS or self._is_deeper():
            raise _NoMatchError
        if len(self.theirs) == 1:
            self._require_possible(self.theirs[0], self.ours[0])
            return [(self.theirs[0], self.ours[0], "shapes")], []
        scores = np.array([[sum(self._evidence(t, o).values()) for t in self.theirs] for o in self.ours])
        best = _assignment(scores)
        tied = _tied(scores, best)
        open_rows = {row for rows, _ in tied for row in rows}
        pairs = []
        for row in sorted(set(range(len(self.ours))) - open_rows):
            theirs, ours = self.theirs[best[row]], self.ours[row]
            self._require_possible(theirs, ours)
            pairs.append((theirs, ours, self._told_by(theirs, ours)))
        return pairs, [self._question(rows, columns, scores, best) for rows, columns in tied]

    def _is_deeper(self) -> bool:
        """Whether theirs is a stack with more layers than ours."""
        templates = {_template(each.below(self.their_parent)) for each in self.theirs}
        return len(self.theirs) > len(self.ours) and len(templates) == 1

    def named(self, theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[_Part, _Part, str]]:
        """Return the pairs of these names below the parents."""
        their_parts = {each.below(self.their_parent): each for each in self.theirs}
        our_parts = {each.below(self.our_parent): each for each in self.ours}
        return [(their_parts[t], our_parts[o], "chosen") for t, o in zip(theirs, ours, strict=True)]

    def _evidence(self, theirs: _Part, ours: _Part) -> dict[str, float]:
        t, o = theirs.below(self.their_parent), ours.below(self.our_parent)
        return {
            "names": _SAME_NAME * (t == o) + _agreement(theirs, ours),
            "structure": _STRUCTURE * (theirs.form == ours.form),
            "numbers": _NUMBER * ((theirs.name, ours.name) in self.places),
            "layers": _LAYERS * (self.known.get((*self.parents, t)) == {o}),
            "words": likeness(self._said(t, theirs), self._said(o, ours))
            + _EXCLUDED * excluded(meanings(t), meanings(o)),
        }

    def _told_by(self, theirs: _Part, ours: _Part) -> str:
        if likeness(meanings(theirs.below(self.their_parent)), meanings(ours.below(self.our_parent))) >= MARGIN:
            return "words"
        evidence = self._evidence(theirs, ours)
        return next((kind for kind in ("numbers", "layers") if evidence[kind]), "words")

    def _said(self, name: str, part: _Part) -> frozenset[str]:
        """Return what the words of a part's name mean, and of all names below it."""
        return meanings(name).union(self.roles.get(part.name, ()), *map(meanings, part.keys))

    def _require_possible(self, theirs: _Part, ours: _Part) -> None:
        """Raise where names contradict each other, or where single tensors have nothing but their shape in common."""
        t, o = (meanings(_joined(each.name, *each.keys)) for each in (theirs, ours))
        unlike = theirs.is_single and bool(t or o) and not likeness(t, o)
        if unlike or excluded(meanings(theirs.below(self.their_parent)), meanings(ours.below(self.our_parent))):
            raise _NoMatchError

    def _question(
        self, rows: Sequence[int], columns: Sequence[int], scores: NDArray[np.float64], best: Sequence[int]
    ) -> _Open:
        names = [each.below(self.their_parent) for each in self.theirs]
        most = sum(scores[row, best[row]] for row in rows)
        ways = (
            way
            for way in itertools.islice(itertools.permutations(columns, len(rows)), _MAX_WAYS)
            if most - sum(scores[row, column] for row, column in zip(rows, way, strict=True)) < MARGIN
        )
        return _Open(
            self.parents,
            tuple(names[column] for column in columns),
            tuple(self.ours[row].below(self.our_parent) for row in rows),
            tuple(tuple(names[column] for column in way) for way in ways),
        )


def _agreement(theirs: _Part, ours: _Part) -> float:
    """Return the share of our names below that are below theirs too, plus the share that has the same shape there."""
    same = [rest for rest in ours.keys if rest in theirs.keys]
    return (len(same) + sum(theirs.shapes[rest] == ours.shapes[rest] for rest in same)) / len(ours.keys)


def _assignment(scores: NDArray[np.float64]) -> list[int]:
    """Return for each row the column of the assignment with the largest sum."""
    from scipy.optimize import linear_sum_assignment

    return [int(column) for column in linear_sum_assignment(scores, maximize=True)[1]]


def _tied(scores: NDArray[np.float64], best: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the rows that could be exchanged at a loss below the margin, with the columns in question, in groups.

    An exchange is a cycle: each row takes the column of the next one. Columns that no row has may be taken too.
    """
    count, width = scores.shape
    free = sorted(set(range(width)) - set(best))
    columns = [*best, *free]
    gain = np.zeros((width, width))
    gain[:count] = scores[:, columns]
    loss = np.diag(gain)[:, None] - gain
    loss[count:, count:] = np.inf
    shortest = loss.copy()
    for middle in range(width):
        np.minimum(shortest, shortest[:, [middle]] + shortest[[middle], :], out=shortest)
    exchanged = (loss + shortest.T < MARGIN - 1e-9) & ~np.eye(width, dtype=bool)
    groups: list[set[int]] = []
    for first, second in np.argwhere(exchanged).tolist():
        joined = [each for each in groups if first in each or second in each]
        groups = [each for each in groups if each not in joined] + [{first, second}.union(*joined)]
    return [
        (sorted(i for i in each if i < count), sorted(columns[i] for i in each)) for each in sorted(groups, key=min)
    ]


# Numbers


def _same_places(
    theirs: Sequence[_Part], ours: Sequence[_Part], their_parent: _Part, our_parent: _Part
) -> set[tuple[str, str]]:
    """Return the names that have the same place among those that are numbered as they are.

    The first of net.0 and net.2 is the first of fc1 and fc2, if what is numbered so has the same bags in the same order.
    """
    places = set()
    their_lists, our_lists = _numbered(theirs, their_parent), _numbered(ours, our_parent)
    for (their_template, t), (our_template, o) in itertools.product(their_lists.items(), our_lists.items()):
        t_bags, o_bags = {each.bag for each in t}, {each.bag for each in o}
        t_part, o_part = [each for each in t if each.bag in o_bags], [each for each in o if each.bag in t_bags]
        if (
            len(t_part) > 1
            and [each.bag for each in t_part] == [each.bag for each in o_part]
            and _is_run(their_template, their_parent)
            and not (t_part[0].is_single and not _end_alike(their_template, our_template))
        ):
            places |= {(first.name, second.name) for first, second in zip(t_part, o_part, strict=True)}
    return places


def _numbered(parts: Iterable[_Part], parent: _Part) -> dict[str, list[_Part]]:
    """Return the parts with numbers in their names by template, in the order of the numbers."""
    lists: dict[str, list[_Part]] = defaultdict(list)
    for each in sorted(parts, key=lambda part: [int(number) for number in re.findall(r"\d+", part.below(parent))]):
        if (template := _template(each.below(parent))) != each.below(parent):
            lists[template].append(each)
    return lists


def _roles(parts: Sequence[_Part], parent: _Part) -> dict[str, set[str]]:
    """Return what the numbers of two linear layers say, which the halves of a transformer's MLP are called by."""
    pairs = [
        each for template, each in _numbered(parts, parent).items() if len(each) == 2 and "linear" in meanings(template)
    ]
    return {
        part.name: {role}
        for pair in pairs
        if [part.name[-1:] for part in pair] == ["1", "2"]
        for part, role in zip(pair, ("expand", "contract"), strict=True)
    }


def _is_run(template: str, parent: _Part) -> bool:
    """Tell whether the numbers of a template follow one another as those of layers do."""
    pattern = re.compile(re.escape(template).replace(r"\*", r"(\d+)") + r"(\.|$)")
    found = [match.groups()[:-1] for rest in parent.keys if (match := pattern.match(rest))]
    return all(
        second - first <= _MAX_GAP
        for numbers in zip(*found, strict=True)
        for first, second in itertools.pairwise(sorted({int(number) for number in numbers}))
    )


def _end_alike(first: str, second: str) -> bool:
    """Tell whether the last parts of two tensors' names say the same: a number by itself may be any count."""
    ends = first.rpartition(".")[2], second.rpartition(".")[2]
    return ends[0] == ends[1] or bool(meanings(ends[0]) & meanings(ends[1]))


# A second opinion


def _doubts(found: _Pass, shapes: Mapping[str, Shape]) -> list[Group]:
    """Return names that fit better the other way round when each is looked at as a whole, and layers that contradict."""
    for (their_parent, our_parent, name), told in found.learnt.items():
        if len(told) > 1 and meanings(name):
            return [Group((_joined(their_parent, name),), tuple(_joined(our_parent, each) for each in sorted(told)))]
    by_shape: dict[Shape, list[tuple[str, str]]] = defaultdict(list)
    for theirs, ours in found.names.items():
        by_shape[shapes[ours]].append((theirs, ours))
    places = _places(found.names), _places(found.names.values())
    for pairs in by_shape.values():
        fit = np.array([[len(places[0][t] & places[1][o]) for _, o in pairs] for t, _ in pairs])
        gain = fit + fit.T - np.diag(fit)[:, None] - np.diag(fit)[None, :]
        if gain.size and gain.max() >= 2:
            first, second = (pairs[index] for index in np.unravel_index(gain.argmax(), gain.shape))
            return [Group((first[0], second[0]), (first[1], second[1]))]
    return []


def _places(names: Iterable[str]) -> dict[str, set[tuple[str, int]]]:
    """Return each name's numbers with the word that they follow, counted from the first number that follows it."""
    counted = {name: numbered(name) for name in names}
    least: dict[str, int] = {}
    for word, number in itertools.chain(*counted.values()):
        least[word] = min(number, least.get(word, number))
    return {name: {(word, number - least[word]) for word, number in each} for name, each in counted.items()}
