"""The exceptions a config makes from strict names: `model.rename` and `model.ignore`, applied, and written as short as can be."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import MisfitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number by itself, as of a layer in a stack."""
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def except_names(
    tensors: Mapping[str, T], rename: Mapping[str, str], ignore: Sequence[str], weights_name: str
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Apply `model.rename` and `model.ignore`; return the tensors, and what was done in plain sentences.

    An entry stands for the tensor of that name and for all below it: "head" for head.weight and head.bias. A `*` in it is
    any number. Raises MisfitError for an entry that stands for nothing, and for a rename onto a name that is taken.
    """
    notes = []
    remaining = dict(tensors)
    for entry in ignore:
        left_out = {name for name in remaining if covers(entry, name)}
        _require_some(left_out, f"model.ignore {entry!r}", weights_name)
        remaining = {name: tensor for name, tensor in remaining.items() if name not in left_out}
        notes.append(f"model.ignore: left out {len(left_out)} tensors of {entry!r}")
    moved = Counter(_entry(name, rename) for name in remaining)
    for old, new in rename.items():
        _require_some([name for name in remaining if covers(old, name)], f"model.rename {old!r}", weights_name)
        notes.append(f"model.rename: {moved[old]} tensors of {old!r} became {new!r}")
    names = [renamed(name, rename) for name in remaining]
    if "" in names:
        nameless = list(remaining)[names.index("")]
        raise MisfitError(
            f"model.rename leaves {nameless!r} of {weights_name} without a name", hint="give it one there"
        )
    if len(set(names)) != len(names):
        taken = Counter(names).most_common(1)[0][0]
        raise MisfitError(
            f"model.rename gives two tensors of {weights_name} the name {taken!r}", hint="give each its own there"
        )
    return dict(zip(names, remaining.values(), strict=True)), tuple(notes)


def renamed(name: str, rename: Mapping[str, str]) -> str:
    """Return a tensor's name in the network; where several entries cover it, the one that covers most of it counts.

    Each `*` of the new name is the number that the `*` in its place stood for. An empty new name drops the old one.
    """
    old = _entry(name, rename)
    match = _pattern(old).match(name) if old is not None else None
    if old is None or match is None:
        return name
    numbers = iter(match.groups())
    new = re.sub(r"\*", lambda star: next(numbers, star.group()), rename[old])
    rest = name[match.end() :]
    return f"{new}{rest}" if new else rest.removeprefix(".")


def _entry(name: str, rename: Mapping[str, str]) -> str | None:
    found = [(match.end(), -old.count("*"), old) for old in rename if (match := _pattern(old).match(name))]
    return max(found)[2] if found else None


def covers(entry: str, name: str) -> bool:
    """Tell whether an entry stands for a name: it is the name, or what leads it; each `*` is any number."""
    return _pattern(entry).match(name) is not None


@lru_cache(maxsize=4096)
def _pattern(entry: str) -> re.Pattern[str]:
    return re.compile(re.escape(entry).replace(r"\*", r"(\d+)") + r"(?=\.|$)")


def _require_some(names: Iterable[str], what: str, weights_name: str) -> None:
    if not names:
        raise MisfitError(
            f"{what} stands for no tensor of {weights_name}",
            hint="take a name that is there: weighbridge inspect FILE lists them",
        )


# Written short


def shortest(names: Mapping[str, str]) -> dict[str, str]:
    """Return a `model.rename` that gives every name (theirs → ours, those that keep theirs too) what it maps to.

    Modules stand for what is below them, and `*` for the layers of a stack, as far as that is true.
    """
    entries: dict[str, str] = {}
    _add_entries(_Below("", dict(names)), "", "", entries)
    short = _with_stars(entries, names)
    if _gives(short, names):
        return short
    moved = {theirs: ours for theirs, ours in names.items() if theirs != ours}
    # What keeps its name may lie below one that does not.
    return moved | {theirs: ours for theirs, ours in names.items() if renamed(theirs, moved) != ours}


Exceptions = tuple[Mapping[str, str], tuple[str, ...]]
"""A config's `model.rename` and `model.ignore`."""


def combined(first: Exceptions, second: Exceptions, names: Iterable[str]) -> Exceptions:
    """Return the exceptions that do for these names of a file what two do one after the other."""
    (rename, ignore), (then_rename, then_ignore) = first, second
    moved = {name: renamed(name, rename) for name in names if not any(covers(entry, name) for entry in ignore)}
    left_out = [name for name, new in moved.items() if any(covers(entry, new) for entry in then_ignore)]
    used = {name: renamed(new, then_rename) for name, new in moved.items() if name not in left_out}
    return shortest(used), (*ignore, *stems(left_out, list(used)))


def stems(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return the shortest leading parts, with `*` for layers, that cover all of `names` and none of `others`."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        runs = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        stem = next(run for run in runs if run == name or not any(covers(run, other) for other in others))
        found[stem] = None
    starred = {stem: _NUMBER.sub("*", stem) for stem in found}
    often = Counter(starred.values())
    useful = {star for star in often if often[star] > 1 and not any(covers(star, other) for other in others)}
    return tuple(dict.fromkeys(star if star in useful else stem for stem, star in starred.items()))


@dataclass(frozen=True, slots=True)
class _Below:
    """The names below a module, theirs → ours."""

    prefix: str
    names: Mapping[str, str]

    def parts(self) -> list[_Below]:
        start = len(self.prefix) + 1 if self.prefix else 0
        below: dict[str, dict[str, str]] = defaultdict(dict)
        for theirs, ours in self.names.items():
            if theirs != self.prefix:
                below[theirs[: f"{theirs}.".index(".", start)]][theirs] = ours
        return [_Below(prefix, names) for prefix, names in below.items()]

    def right(self, old: str, new: str) -> set[str]:
        """Return the names that an entry old → new gives what they are to be."""
        return {theirs for theirs, ours in self.names.items() if renamed(theirs, {old: new} if old else {}) == ours}

    def likeliest(self) -> str | None:
        """Return what most names below become if this prefix does."""
        rests = ((ours, theirs[len(self.prefix) :]) for theirs, ours in self.names.items())
        found = Counter(
            "" if f".{ours}" == rest else ours.removesuffix(rest)
            for ours, rest in rests
            if ours.endswith(rest) or f".{ours}" == rest
        )
        return found.most_common(1)[0][0] if found else None


def _add_entries(below: _Below, old: str, new: str, entries: dict[str, str]) -> None:
    """Add the entries that the names below a module need, where `old` → `new` covers them already."""
    right = below.right(old, new)
    if len(right) == len(below.names):
        return
    likeliest = below.likeliest() if below.prefix else None
    if likeliest is not None:
        gained = below.right(below.prefix, likeliest)
        spread = sum(bool(gained & part.names.keys()) for part in below.parts())
        if len(gained) == len(below.names) or (len(gained) > len(right) and spread > 1):
            entries[below.prefix] = likeliest
            old, new = below.prefix, likeliest
    for part in below.parts():
        _add_entries(part, old, new, entries)


def _with_stars(entries: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Write entries that differ in the number of a layer as one, as far as they still give all names."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for old, new in entries.items():
        alike[_NUMBER.sub("#", old), _NUMBER.sub("#", new)].append(old)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for members in alike.values():
        for old, starred in zip(members, _starred({old: entries[old] for old in members}), strict=True):
            groups[starred].append(old)
    short = dict(entries)
    for (old, new), members in groups.items():
        fewer = {key: value for key, value in short.items() if key not in members} | {old: new}
        short = fewer if len(members) > 1 and _gives(fewer, names) else short
    return short


def _starred(entries: Mapping[str, str]) -> list[tuple[str, str]]:
    """Put `*` in entries that differ in numbers only, where a number of theirs is one of ours in each of them."""
    theirs = list(zip(*(_NUMBER.findall(old) for old in entries), strict=True))
    ours = list(zip(*(_NUMBER.findall(new) for new in entries.values()), strict=True))
    stars: dict[int, int] = {}
    for place, numbers in enumerate(ours):
        same = [each for each, others in enumerate(theirs) if others == numbers and each > max(stars, default=-1)]
        if same and len(set(numbers)) > 1:
            stars[same[0]] = place
    return [(_put(old, set(stars)), _put(new, set(stars.values()))) for old, new in entries.items()]


def _put(name: str, places: set[int]) -> str:
    """Put `*` for the numbers at these places."""
    count = itertools.count()
    return _NUMBER.sub(lambda number: "*" if next(count) in places else number.group(), name)


def _gives(rename: Mapping[str, str], names: Mapping[str, str]) -> bool:
    return all(renamed(theirs, rename) == ours for theirs, ours in names.items())


def as_yaml(text: str) -> str:
    """Return a name as YAML reads it as text, in quotes where it must be."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.*-]*", text) and text.lower() not in _YAML_WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
