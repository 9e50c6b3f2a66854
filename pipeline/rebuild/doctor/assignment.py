"""Parts of a file and of a network that may be one another, and the best assignment between them.

The words and numbers of their names, the names below them and what the other layers of a stack told decide
(`scipy.optimize.linear_sum_assignment`). It counts only where every other assignment is clearly worse; the order of either
side is no evidence.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.rebuild.doctor.parts import joined, template, without_layers
from pipeline.rebuild.doctor.words import excluded, has_letters, is_copy, likeness, meanings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.rebuild.doctor.parts import Part

MARGIN = 1.0
"""How much worse every other assignment must be: one word that tells."""

MAX_PAIRS = 250_000
_SAME_NAME, _NUMBER, _LAYERS, _STRUCTURE, _EXCLUDED = 3.0, 2.0, 2.0, 2.0, -2.0
_MAX_WAYS = 720


@dataclass(frozen=True, slots=True)
class Group:
    """Names of a file and of a network that could be exchanged, with nothing to tell which is which."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]


class NoMatchError(Exception):
    """Something of the network has no counterpart that its name allows."""


@dataclass(frozen=True)
class Question:
    """Parts that could be exchanged, below two parts that are each other's: one question for all layers of a stack.

    `ways` are the assignments that are left, each the names of `theirs` in the order of `ours`.
    """

    parents: tuple[str, str]
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    ways: tuple[tuple[str, ...], ...] = field(compare=False)
    shown: Group = field(compare=False)


Learnt = dict[tuple[str, str, str], set[str]]
"""What was decided: (template of their parent, template of ours, name below theirs) → names below ours."""


@dataclass(frozen=True)
class Side:
    """Parts of a file, or of a network, that have the same bag; `roles` say what their numbers mean."""

    parent: Part
    parts: list[Part]
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
        return meanings(joined(self.names[index], *(part.keys if part.is_single else ())))

    def shown(self, index: int) -> str:
        """Return a name for the user, one for all layers."""
        return joined(without_layers(self.parent.name), self.names[index])


@dataclass(frozen=True)
class Candidates:
    """Parts of both sides that may be one another. `places` are pairs of names that numbers put together.

    A row is one of ours, a column one of theirs.
    """

    theirs: Side
    ours: Side
    places: set[tuple[str, str]]
    known: Learnt

    @property
    def parents(self) -> tuple[str, str]:
        """The names of the modules that they are in, theirs and ours, with `*` for numbers."""
        return template(self.theirs.parent.name), template(self.ours.parent.name)

    def assigned(self) -> tuple[list[tuple[int, int, str]], list[Question]]:
        """Return the pairs (row, column) that are decided, with what decided them, and the questions that are open."""
        width, height = len(self.theirs.parts), len(self.ours.parts)
        is_deeper = width > height and len(set(map(template, self.theirs.names))) == 1
        if width * height > MAX_PAIRS or is_deeper:
            raise NoMatchError
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

    def answered(self, question: Question, answer: Sequence[str]) -> list[tuple[int, int, str]]:
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
            raise NoMatchError

    def _question(
        self, rows: Sequence[int], columns: Sequence[int], scores: NDArray[np.float64], best: Sequence[int]
    ) -> Question:
        most = sum(scores[row, best[row]] for row in rows)
        ways = (
            tuple(self.theirs.names[column] for column in way)
            for way in itertools.islice(itertools.permutations(columns, len(rows)), _MAX_WAYS)
            if most - sum(scores[row, column] for row, column in zip(rows, way, strict=True)) < MARGIN
        )
        return Question(
            self.parents,
            tuple(self.theirs.names[column] for column in columns),
            tuple(self.ours.names[row] for row in rows),
            tuple(ways),
            Group(tuple(map(self.theirs.shown, columns)), tuple(map(self.ours.shown, rows))),
        )


def _agreement(theirs: Part, ours: Part) -> float:
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
