"""What a checkpoint says of its network beside the weights: values for the arguments that it is built with.

Training scripts keep them in the file (`hyper_parameters` of Lightning, `hparams`, `config`, `args`, `model_args`, or beside
the state dict), in the metadata of a safetensors file, or in a config.json in the same folder. They are read as plain
values, by exact name; no object is made of them. Configs, namespaces and dataclasses are tables of what they hold.
"""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pipeline.weights.beside import opened
from pipeline.weights.kinds import Kind
from pipeline.weights.members import member_of
from pipeline.weights.pickle_records import Global, Object, Tensor
from pipeline.weights.wrappers import is_training_state, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.weights.header import Header

    Fits = Callable[[Mapping[str, Any]], bool | None]
    """Tells whether a network takes the weights with these arguments besides its own; None if it cannot be built."""

BESIDE = "config.json"
"""The file beside the weights that Hugging Face's libraries write the arguments to."""

_MAX_BESIDE_BYTES = 4 * 2**20
_MAX_TABLES = 2_000
_MAX_DEPTH = 6
_MAX_TEXT = 1_000
_MAX_ITEMS = 1_000
_TRIED = 4
# How far training had come, and what the run was called, is no argument of a network.
_BOOKKEEPING = frozenset(
    {"epoch", "epochs", "step", "global_step", "iteration", "loss", "name", "version", "arch", "format"}
)
_TRAINING = frozenset({"callbacks", "loops", "_metadata"})
_LOCATION = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|.*://|.*[/\\]\.\.[/\\]")
_STRUCTS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{sign}{size}": letter if sign == "i" else letter.upper() for size, letter in zip("1248", "bhiq", strict=True) for sign in "iu"
}  # fmt: skip


class _Nothing:
    def __repr__(self) -> str:
        return "nothing of it"


NOTHING = _Nothing()
"""What a section says of an argument that it does not hold."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with values for some of a network's arguments; `unread` says what a value is that is no plain data."""

    steps: tuple[str, ...]
    source: str
    values: Mapping[str, Any]
    unread: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a file says that an argument is, and where; `others` are the sections that say something else.

    `is_near` tells whether it stands in the section that says most, or in one around or within that; `is_sound` whether the
    weights fit with all that its section says. A section elsewhere that says nearly as much may be the network's as well:
    where that is silent, it says NOTHING.
    """

    value: Any
    source: str
    is_near: bool = True
    is_sound: bool = True
    others: tuple[tuple[str, Any], ...] = ()

    @property
    def is_certain(self) -> bool:
        """Whether nothing else in the file speaks against it."""
        return self.is_near and self.is_sound and not self.others


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file says of a network's arguments, by name: what can be read, and what cannot."""

    claims: Mapping[str, Claim] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An argument that a network is built with another value than its checkpoint says, and both fit the weights."""

    name: str
    claim: Claim
    used: Any
    is_written: bool


def read(
    path: Path,
    header: Header,
    defaults: Mapping[str, Any],
    *,
    key: str | None = None,
    fits: Fits,
) -> Stated:
    """Return what a weights file, and a config.json beside it, say of the arguments named in `defaults`.

    Of several sections the one that holds most of them decides, the deeper one of two, and the one named like the state
    dict `key`; but none with which the network does not take the weights, if there is another. The others fill in what it
    lacks; where they say something else, that is kept beside the claim.
    """
    sections = _sections(path, header, defaults, key or "")
    unsound = [each for each in sections[:_TRIED] if not _is_sound(each.values, fits)]
    first = next((each for each in sections[:_TRIED] if each not in unsound), None)
    if first is not None:
        sections = [first, *(each for each in sections if each is not first)]
    claims: dict[str, Claim] = {}
    unread: dict[str, str] = {}
    for section in sections:
        is_near = _is_around(section.steps, sections[0].steps) or _is_around(sections[0].steps, section.steps)
        for name, value in section.values.items():
            claim = Claim(value, section.source, is_near, section not in unsound)
            claims[name] = _joined(claims.get(name), claim)
        unread |= {
            name: f"{section.source} holds {what} for it" for name, what in section.unread.items() if name not in unread
        }
    for section in sections[1:_TRIED]:
        if section not in unsound and _are_rivals(sections[0], section):
            silent = {name: _joined(claim, Claim(NOTHING, section.source)) for name, claim in claims.items()}
            claims |= {name: claim for name, claim in silent.items() if name not in section.values}
    return Stated(claims, {name: what for name, what in unread.items() if name not in claims})


def contradictions(
    found: Stated,
    defaults: Mapping[str, Any],
    arguments: Mapping[str, Any],
    fits: Fits,
) -> list[Contradiction]:
    """Return where the arguments of a network, written out or left at their `defaults`, are not what its file says.

    What the weights do not fit with is no contradiction: there the file is wrong of itself. Nor is what cannot be compared: a
    file can only name a class or a function.
    """
    used = {**defaults, **arguments}
    differing = {
        name: claim
        for name, claim in found.claims.items()
        if name in used
        and claim.is_near
        and (is_plain(used[name]) or (isinstance(used[name], Enum) and isinstance(claim.value, Enum)))
        and not any(is_same(value, used[name]) for value in (claim.value, *(value for _, value in claim.others)))
    }
    together = len(differing) > 1 and fits({name: claim.value for name, claim in differing.items()})
    return [
        Contradiction(name, claim, used[name], name in arguments)
        for name, claim in differing.items()
        if together or fits({name: claim.value})
    ]


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same to a constructor: a list like a tuple, 1 like 1.0, an object like its arguments."""
    if isinstance(one, dict) and isinstance(other, dict):
        plain = [{name: value for name, value in each.items() if name != "_target_"} for each in (one, other)]
        return plain[0].keys() == plain[1].keys() and all(is_same(plain[0][name], plain[1][name]) for name in plain[0])
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    are_numbers = isinstance(one, bool | int | float) and isinstance(other, bool | int | float)
    return one is other or ((are_numbers or (type(one) is type(other) and is_plain(one))) and bool(one == other))


def _joined(first: Claim | None, further: Claim) -> Claim:
    if first is None:
        return further
    known = [first.value, *(value for _, value in first.others)]
    if any(is_same(value, further.value) for value in known):
        return first
    return replace(first, others=(*first.others, (further.source, further.value)))


def _is_sound(values: Mapping[str, Any], fits: Fits) -> bool:
    """Tell whether the weights fit with all that a section says, but for one value that the constructor does not take."""
    outcome = fits(values)
    if outcome is None:
        return any(fits({name: value for name, value in values.items() if name != left}) for left in values)
    return outcome


def _are_rivals(first: Section, other: Section) -> bool:
    """Tell whether another section may be about the network too: a teacher's beside a student's."""
    are_apart = not (_is_around(first.steps, other.steps) or _is_around(other.steps, first.steps))
    return are_apart and 2 * len(other.values) > len(first.values)


def _is_around(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    return inner[: len(outer)] == outer


# Sections


def _sections(path: Path, header: Header, defaults: Mapping[str, Any], key: str) -> list[Section]:
    """Return the tables that hold at least one of the arguments, those that tell most first."""
    tables = [(path.name, *each) for each in _tables(header.record, is_text=header.kind is Kind.SAFETENSORS)]
    tables += [(BESIDE, *each) for each in _tables(_beside(path), is_text=False)]
    made = [_section(file, steps, table, defaults, is_text=is_text) for file, steps, table, is_text in tables]
    telling = [each for each in made if each.values or each.unread]
    parts = set(key.split("."))
    return sorted(
        telling,
        key=lambda each: (-len(each.values) - len(each.unread), -len(parts & set(each.steps)), -len(each.steps)),
    )


def _beside(path: Path) -> Any:
    """Return what a config.json in the same folder holds; None where there is none, or one that is no table."""
    beside = path.with_name(BESIDE)
    try:
        if beside == path or beside.stat().st_size > _MAX_BESIDE_BYTES:
            return None
        return json.loads(beside.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _tables(record: Any, *, is_text: bool) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any], bool]]:
    """Yield each table with the keys that lead to it, the outer ones first; `is_text`: its values are texts to be read."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any, bool]] = [((), record, is_text)]
    for _ in range(_MAX_DEPTH):
        further: list[tuple[tuple[str, ...], Any, bool]] = []
        for steps, held, texts in level:
            if not isinstance(held, dict | Object) or id(held) in seen or len(seen) >= _MAX_TABLES:
                continue
            seen.add(id(held))
            table = opened(held)
            if not isinstance(table, dict) or (steps and _is_elsewhere(steps[-1], table)):
                continue
            yield steps, table, texts
            for step, item in table.items():
                inner = _parsed(item) if texts else item
                if isinstance(step, str) and isinstance(inner, dict | Object):
                    further.append(((*steps, step), inner, False))
        level = further


def _is_elsewhere(step: str, table: Mapping[Any, Any]) -> bool:
    """Tell whether a table is about training: an optimizer has an `eps` of its own."""
    return is_training_state(step, table) or step in _TRAINING


def _section(
    file: str, steps: tuple[str, ...], table: Mapping[Any, Any], defaults: Mapping[str, Any], *, is_text: bool
) -> Section:
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name, default in defaults.items():
        if name not in table or (not steps and name in _BOOKKEEPING):
            continue
        value = table[name]
        if isinstance(value, Tensor) and value.shape:
            continue  # of a state dict
        if is_text and not isinstance(default, str):
            value = _parsed(value)
        if isinstance(default, Enum) and (member := member_of(type(default), value)) is not None:
            values[name] = member
            continue
        try:
            values[name] = _Plain().of(value)
        except _UnreadError as error:
            unread[name] = str(error)
        except RecursionError:
            unread[name] = "a value that is nested too deep"
    where = printable(".".join(steps)) or ("metadata" if is_text else "top level")
    return Section(steps, file if file == BESIDE and not steps else f"{file}: {where}", values, unread)


# Values


class _UnreadError(Exception):
    """A value that is no plain data; the message says what it is."""


class _Plain:
    """Makes plain values of records, and counts them: one list may stand in another again and again."""

    def __init__(self) -> None:
        self.left = _MAX_ITEMS

    def of(self, value: Any) -> Any:
        """Return a value as JSON has it; raises _UnreadError for what is none."""
        self.left -= 1
        if self.left < 0:
            raise _UnreadError(f"more than {_MAX_ITEMS:,} values")
        match value:
            case list() | tuple():
                return [self.of(item) for item in value]
            case dict() if all(isinstance(name, str) for name in value):
                return {name: self.of(item) for name, item in value.items()}
            case Object(maker="numpy scalar"):
                return self.of(_number(value))
            case Object() if (inner := opened(value)) is not value:
                return self.of(inner)
            case str() if _LOCATION.match(value):
                raise _UnreadError("a path or an address, which a file may not choose,")
            case _ if is_plain(value):
                return value
            case _:
                raise _UnreadError(_what(value))


def is_plain(value: Any) -> bool:
    """Tell whether a value can be written in a config."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    # By their very types: a member of an Enum may be a text or a number as well.
    return (
        value is None
        or type(value) is bool
        or (type(value) is int and -(2**63) <= value < 2**64)
        or (type(value) is float and math.isfinite(value))
        or (type(value) is str and len(value) <= _MAX_TEXT and value.isprintable())
    )


def _what(value: Any) -> str:
    """Return in words what a value is that is no plain data."""
    match value:
        case Object():
            return f"an object of {printable(value.maker)}"
        case Global():
            return f"{printable(value.dotted)}"
        case float():
            return str(value)
    words = {
        Tensor: "a tensor",
        int: "a number beyond 64 bits",
        str: "a text that is too long or not printable",
        dict: "a table whose keys are no texts",
    }
    return words.get(type(value), f"a value of type {type(value).__name__}")


def _number(record: Object) -> Any:
    """Return the number that a numpy scalar holds, the shortest decimal one for its precision."""
    code = str(record.arguments[0])
    state, data = record.state
    order = ">" if state and state[1] == ">" else "<"
    form = f"{order}{_STRUCTS.get(code, '')}"
    if len(form) != 2 or not isinstance(data, bytes) or struct.calcsize(form) != len(data):
        raise _UnreadError(f"a numpy number of type {printable(code)}")
    (value,) = struct.unpack(form, data)
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return next(each for each in shorter if _packed(form, each) == data)


def _packed(form: str, value: float) -> bytes | None:
    try:
        return struct.pack(form, value)
    except OverflowError:  # rounded up to more than this precision holds
        return None


def _parsed(text: Any) -> Any:
    """Return what a text of the metadata says: JSON, a Python literal, or the text itself."""
    if not isinstance(text, str) or len(text) > _MAX_BESIDE_BYTES:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text) if len(text) <= _MAX_TEXT else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
