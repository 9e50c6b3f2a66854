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

from pipeline.rebuild.doctor.words import excluded, has_letters, is_copy, likeness, meanings, numbered

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.rebuild.doctor.difference import Shape

MARGIN = 1.0
"""How much worse every other assignment must be: one word that tells."""

_SAME_NAME, _NUMBER, _LAYERS, _STRUCTURE, _EXCLUDED = 3.0, 2.0, 2.0, 2.0, -2.0
_MAX_GAP = 4  # between numbers in a Sequential: activations, dropout and pools hold no tensors
_MAX_PAIRS = 250_000
_MAX_WAYS = 720
_PASSES = 4
_ROLES = {"linear": ("expand", "contract"), "norm": ("before", "after")}  # of a transformer's MLP, and its attention


@dataclass(frozen=True, slots=True)
class Group:
    """Names of a file and of a network that could be exchanged, with nothing to tell which is which."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]


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
    except _NoMatchError:
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
        """What it consists of, one level below; a module that only holds another is that one."""
        below: dict[str, dict[str, Hashable]] = defaultdict(dict)
        for rest, key in self.keys.items():
            first, _, further = rest.partition(".")
            below[first][further] = key
        parts = [
            _Part(_joined(self.name, first), keys, {rest: self.shapes[_joined(first, rest)] for rest in keys})
            for first, keys in below.items()
        ]
        return [each if each.is_single or len(each.parts) > 1 else each.parts[0] for each in parts]

    def find(self, bag: tuple[Hashable, ...]) -> list[_Part]:
        """Return the parts that hold just this, none of them inside another."""
        if len(self.keys) < len(bag):
            return []
        if self.bag == bag and len(self.parts) > 1:
            return [self]
        return [each for part in self.parts for each in part.find(bag)]

    def below(self, parent: _Part) -> str:
        """Return its name below a part that it is in."""
        return self.name[len(parent.name) + 1 :] if parent.name else self.name


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _template(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _layers(name: str) -> str:
    """Put `*` for the layers of a stack: numbers by themselves."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


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
    shown: Group = field(compare=False)


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
        """Match a file with a network. Where the file holds it several times it is not ours to choose."""
        wholes = theirs.find(ours.bag) if len(ours.parts) > 1 else []
        names = tuple(each.name for each in wholes)
        question = _Open(("", ""), names, ("",), tuple((name,) for name in names), Group(names, ("",)))
        if len(wholes) > 1 and question not in self.chosen:
            self.open.append(question)
            return
        chosen = self.chosen.get(question, names[:1])
        for whole in wholes:
            if whole.name in chosen:
                self._descend(whole, ours)
        if not wholes:
            self._match_parts(theirs, ours)

    def _descend(self, theirs: _Part, ours: _Part) -> None:
        """Match what lies below two parts that are each other's."""
        if theirs.is_single or theirs.keys == ours.keys:
            pairs = zip(theirs.keys, ours.keys if theirs.is_single else theirs.keys, strict=True)
            self.names.update({_joined(theirs.name, t): _joined(ours.name, o) for t, o in pairs})
        else:
            self._match_parts(theirs, ours)

    def _match_parts(self, theirs: _Part, ours: _Part) -> None:
        their_parts, our_parts = _alike(theirs.parts, ours.parts)
        places = _same_places(their_parts, our_parts, theirs, ours)
        their_roles, our_roles = _roles(their_parts, theirs), _roles(our_parts, ours)
        for bag in dict.fromkeys(each.bag for each in our_parts):
            class_ = _Class(
                _Side(theirs, [each for each in their_parts if each.bag == bag], their_roles),
                _Side(ours, [each for each in our_parts if each.bag == bag], our_roles),
                places,
                self.known,
            )
            for pair in self._decided(class_):
                self._descend(*pair)

    def _decided(self, class_: _Class) -> Iterator[tuple[_Part, _Part]]:
        """Yield the pairs of a class that are decided, and keep what is not."""
        pairs, questions = class_.assigned()
        for question in questions:
            if question in self.chosen:
                pairs += class_.answered(question, self.chosen[question])
            else:
                self.open.append(question)
        for row, column, how in pairs:
            theirs, ours = class_.theirs.names[column], class_.ours.names[row]
            self.learnt[(*class_.parents, theirs)].add(ours)
            pair = class_.theirs.shown(column), class_.ours.shown(row)
            if theirs.rpartition(".")[2] != ours.rpartition(".")[2] and pair not in self.evidence[how]:
                self.evidence[how].append(pair)
            yield class_.theirs.parts[column], class_.ours.parts[row]


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
class _Side:
    """Parts of a file, or of a network, that have the same bag; `roles` say what their numbers mean."""

    parent: _Part
    parts: list[_Part]
    roles: Mapping[str, set[str]]

    @cached_property
    def names(self) -> list[str]:
        """Their names below the parent."""
        return [each.below(self.parent) for each in self.parts]

    @cached_property
    def own(self) -> list[frozenset[str]]:
        """What their names mean: q is query beside k or v, and by itself a letter like any other."""
        letters = has_letters(self.names)
        return [meanings(name, letters=letters) for name in self.names]

    @cached_property
    def held(self) -> list[frozenset[str]]:
        """What the names below them mean."""
        return [frozenset().union(*map(meanings, part.keys)) for part in self.parts]

    @cached_property
    def said(self) -> list[frozenset[str]]:
        """What all these names mean, and their numbers."""
        every = zip(self.own, self.held, self.parts, strict=True)
        return [own.union(held, self.roles.get(part.name, ())) for own, held, part in every]

    def whole(self, index: int) -> frozenset[str]:
        """Return what a name means, down to the tensor if it is one."""
        part = self.parts[index]
        return meanings(_joined(self.names[index], *(part.keys if part.is_single else ())))

    def shown(self, index: int) -> str:
        """Return a name for the user, one for all layers."""
        return _joined(_layers(self.parent.name), self.names[index])


@dataclass(frozen=True)
class _Class:
    """Parts of both sides that may be one another. `places` are pairs of names that numbers put together.

    A row is one of ours, a column one of theirs.
    """

    theirs: _Side
    ours: _Side
    places: set[tuple[str, str]]
    known: _Learnt

    @property
    def parents(self) -> tuple[str, str]:
        return _template(self.theirs.parent.name), _template(self.ours.parent.name)

    def assigned(self) -> tuple[list[tuple[int, int, str]], list[_Open]]:
        """Return the pairs (row, column) that are decided, with what decided them, and the questions that are open."""
        width, height = len(self.theirs.parts), len(self.ours.parts)
        is_deeper = width > height and len(set(map(_template, self.theirs.names))) == 1
        if width * height > _MAX_PAIRS or is_deeper:
            raise _NoMatchError
        if width == 1:
            self._require_possible(0, 0)
            return [(0, 0, "shapes")], []
        if set(self.theirs.names) == set(self.ours.names):
            columns = {name: column for column, name in enumerate(self.theirs.names)}
            return [(row, columns[name], "words") for row, name in enumerate(self.ours.names)], []
        scores = np.array([[sum(self._evidence(row, column)) for column in range(width)] for row in range(height)])
        best = _assignment(scores)
        tied = _tied(scores, best)
        decided = sorted(set(range(height)).difference(*(rows for rows, _ in tied)))
        for row in decided:
            self._require_possible(row, best[row])
        return (
            [(row, best[row], self._told_by(row, best[row])) for row in decided],
            [self._question(rows, columns, scores, best) for rows, columns in tied],
        )

    def answered(self, question: _Open, answer: Sequence[str]) -> list[tuple[int, int, str]]:
        """Return the pairs that an answer to a question makes."""
        return [
            (self.ours.names.index(ours), self.theirs.names.index(theirs), "chosen")
            for theirs, ours in zip(answer, question.ours, strict=True)
        ]

    def _evidence(self, row: int, column: int) -> Iterator[float]:
        """Yield what speaks for a pair, by its kind."""
        theirs, ours = self.theirs.parts[column], self.ours.parts[row]
        t, o = self.theirs.names[column], self.ours.names[row]
        is_same_place = (theirs.name, ours.name) in self.places
        # The second of a list may be another's number 2: a number without a word counts by its place alone.
        yield _SAME_NAME * (t == o and (is_same_place or bool(self.theirs.own[column])))
        yield _NUMBER * is_same_place
        yield _LAYERS * self._is_known(row, column)
        yield _STRUCTURE * (theirs.form == ours.form)
        yield _agreement(theirs, ours)
        if is_copy(self.theirs.own[column]) == is_copy(self.ours.own[row]):
            yield likeness(self.theirs.said[column], self.ours.said[row])
        else:
            yield likeness(self.theirs.held[column], self.ours.held[row])
        yield _EXCLUDED * excluded(self.theirs.own[column], self.ours.own[row])

    def _is_known(self, row: int, column: int) -> bool:
        return self.known.get((*self.parents, self.theirs.names[column])) == {self.ours.names[row]}

    def _told_by(self, row: int, column: int) -> str:
        if likeness(self.theirs.own[column], self.ours.own[row]) >= MARGIN:
            return "words"
        if (self.theirs.parts[column].name, self.ours.parts[row].name) in self.places:
            return "numbers"
        return "layers" if self._is_known(row, column) else "words"

    def _require_possible(self, row: int, column: int) -> None:
        """Raise where names contradict each other, or where single tensors have nothing but their shape in common."""
        theirs, ours = self.theirs.whole(column), self.ours.whole(row)
        unlike = self.ours.parts[row].is_single and bool(theirs or ours) and not likeness(theirs, ours)
        if unlike or excluded(theirs, ours):
            raise _NoMatchError

    def _question(
        self, rows: Sequence[int], columns: Sequence[int], scores: NDArray[np.float64], best: Sequence[int]
    ) -> _Open:
        most = sum(scores[row, best[row]] for row in rows)
        ways = (
            tuple(self.theirs.names[column] for column in way)
            for way in itertools.islice(itertools.permutations(columns, len(rows)), _MAX_WAYS)
            if most - sum(scores[row, column] for row, column in zip(rows, way, strict=True)) < MARGIN
        )
        return _Open(
            self.parents,
            tuple(self.theirs.names[column] for column in columns),
            tuple(self.ours.names[row] for row in rows),
            tuple(ways),
            Group(tuple(map(self.theirs.shown, columns)), tuple(map(self.ours.shown, rows))),
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
    for (template, t), o in itertools.product(their_lists.items(), our_lists.values()):
        t_bags, o_bags = {each.bag for each in t}, {each.bag for each in o}
        t_part, o_part = [each for each in t if each.bag in o_bags], [each for each in o if each.bag in t_bags]
        if (
            len(t_part) > 1
            and [each.bag for each in t_part] == [each.bag for each in o_part]
            and _is_run(template, their_parent)
            and (not t_part[0].is_single or _end_alike(t_part[0], o_part[0]))
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
    """Return what the numbers 1 and 2 mean for layers of which there are just two in a block, where others use words."""
    roles: dict[str, set[str]] = {}
    for template, pair in _numbered(parts, parent).items():
        said = [each for each in _ROLES if each in meanings(template)]
        if said and [re.sub(r".*\D", "", each.name) for each in pair] == ["1", "2"]:
            roles |= {part.name: {role} for part, role in zip(pair, _ROLES[said[0]], strict=True)}
    return roles


def _is_run(template: str, parent: _Part) -> bool:
    """Tell whether the numbers of a template follow one another as those of layers do."""
    pattern = re.compile(re.escape(template).replace(r"\*", r"(\d+)") + r"(\.|$)")
    found = [match.groups()[:-1] for rest in parent.keys if (match := pattern.match(rest))]
    return all(
        second - first <= _MAX_GAP
        for numbers in zip(*found, strict=True)
        for first, second in itertools.pairwise(sorted({int(number) for number in numbers}))
    )


def _end_alike(theirs: _Part, ours: _Part) -> bool:
    """Tell whether the names of two tensors end alike: a list of tensors may be numbered in any order."""
    ends = [_joined(each.name, *each.keys).rpartition(".")[2] for each in (theirs, ours)]
    return _template(ends[0]) == _template(ends[1]) or bool(meanings(ends[0]) & meanings(ends[1]))


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
        if len(pairs) ** 2 > _MAX_PAIRS:
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
