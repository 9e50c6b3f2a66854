"""State dicts as trees of modules and tensors, and what the numbers in their names say."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.rebuild.doctor.words import meanings

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from pipeline.rebuild.doctor.difference import Shape

_MAX_GAP = 4  # between numbers in a Sequential: activations, dropout and pools hold no tensors
_ROLES = {"linear": ("expand", "contract"), "norm": ("before", "after")}  # of a transformer's MLP, and its attention


@dataclass(frozen=True)
class Part:
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
        """Whether it is, or holds, one tensor alone."""
        return len(self.keys) == 1

    @cached_property
    def parts(self) -> list[Part]:
        """What it consists of, one level below; a module that only holds another is that one."""
        below: dict[str, dict[str, Hashable]] = defaultdict(dict)
        for rest, key in self.keys.items():
            first, _, further = rest.partition(".")
            below[first][further] = key
        parts = [
            Part(joined(self.name, first), keys, {rest: self.shapes[joined(first, rest)] for rest in keys})
            for first, keys in below.items()
        ]
        return [each if each.is_single or len(each.parts) > 1 else each.parts[0] for each in parts]

    def find(self, bag: tuple[Hashable, ...]) -> list[Part]:
        """Return the parts that hold just this, none of them inside another."""
        if len(self.keys) < len(bag):
            return []
        if self.bag == bag and len(self.parts) > 1:
            return [self]
        return [each for part in self.parts for each in part.find(bag)]

    def below(self, parent: Part) -> str:
        """Return its name below a part that it is in."""
        return self.name[len(parent.name) + 1 :] if parent.name else self.name


def joined(*names: str) -> str:
    """Return names one below the other, with dots."""
    return ".".join(filter(None, names))


def template(name: str) -> str:
    """Put `*` for all numbers."""
    return re.sub(r"\d+", "*", name)


def without_layers(name: str) -> str:
    """Put `*` for the layers of a stack: numbers by themselves."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


# Numbers


def same_places(
    theirs: Sequence[Part], ours: Sequence[Part], their_parent: Part, our_parent: Part
) -> set[tuple[str, str]]:
    """Return the names that have the same place among those that are numbered as they are.

    The first of net.0 and net.2 is the first of fc1 and fc2, if what is numbered so has the same bags in the same order.
    """
    places = set()
    their_lists, our_lists = _numbered(theirs, their_parent), _numbered(ours, our_parent)
    for (pattern, t), o in itertools.product(their_lists.items(), our_lists.values()):
        t_bags, o_bags = {each.bag for each in t}, {each.bag for each in o}
        t_part, o_part = [each for each in t if each.bag in o_bags], [each for each in o if each.bag in t_bags]
        if (
            len(t_part) > 1
            and [each.bag for each in t_part] == [each.bag for each in o_part]
            and _is_run(pattern, their_parent)
            and (not t_part[0].is_single or _end_alike(t_part[0], o_part[0]))
        ):
            places |= {(first.name, second.name) for first, second in zip(t_part, o_part, strict=True)}
    return places


def _numbered(parts: Iterable[Part], parent: Part) -> dict[str, list[Part]]:
    """Return the parts with numbers in their names by template, in the order of the numbers."""
    lists: dict[str, list[Part]] = defaultdict(list)
    for each in sorted(parts, key=lambda part: [int(number) for number in re.findall(r"\d+", part.below(parent))]):
        name = each.below(parent)
        if template(name) != name:
            lists[template(name)].append(each)
    return lists


def roles_of(parts: Sequence[Part], parent: Part) -> dict[str, set[str]]:
    """Return what the numbers 1 and 2 mean for layers of which there are just two in a block, where others use words."""
    roles: dict[str, set[str]] = {}
    for pattern, pair in _numbered(parts, parent).items():
        said = [each for each in _ROLES if each in meanings(pattern)]
        if said and [re.sub(r".*\D", "", each.name) for each in pair] == ["1", "2"]:
            roles |= {part.name: {role} for part, role in zip(pair, _ROLES[said[0]], strict=True)}
    return roles


def _is_run(pattern: str, parent: Part) -> bool:
    """Tell whether the numbers of a pattern follow one another as those of layers do."""
    numbers = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)") + r"(\.|$)")
    found = [match.groups()[:-1] for rest in parent.keys if (match := numbers.match(rest))]
    return all(
        second - first <= _MAX_GAP
        for column in zip(*found, strict=True)
        for first, second in itertools.pairwise(sorted({int(number) for number in column}))
    )


def _end_alike(theirs: Part, ours: Part) -> bool:
    """Tell whether the names of two tensors end alike: a list of tensors may be numbered in any order."""
    ends = [joined(each.name, *each.keys).rpartition(".")[2] for each in (theirs, ours)]
    return template(ends[0]) == template(ends[1]) or bool(meanings(ends[0]) & meanings(ends[1]))
