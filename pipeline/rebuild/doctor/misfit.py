"""What is said about a state dict that does not fit: what differs, what was found out about it, what to do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import in_line
from pipeline.rebuild.doctor.renames import as_yaml, covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.rebuild.doctor.assignment import Group
    from pipeline.rebuild.doctor.difference import Shape

_LISTED = 12


@dataclass(frozen=True, slots=True)
class Misfit:
    """How a state dict differs from a network, and what was found about it.

    `misshaped` holds (name, found shape, expected shape). `changes` are argument values, `rename` and `ignore` the config's
    keys of that name: with all three it fits strictly, as tested by building the network; `changes` is None where nothing
    was found. `closest` is the best that was tried instead, with the number of names that still differ. `undecided` are
    names of both sides that belong together with nothing to tell which is which: then nothing is proposed. `filled` are
    buffers that the network's constructors fill and the file lacks, without which all this is said.
    """

    owner: str
    weights_name: str
    arguments: Mapping[str, Any]
    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshaped: tuple[tuple[str, Shape, Shape], ...]
    changes: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    closest: tuple[Mapping[str, Any], int] | None = None
    notes: tuple[str, ...] = ()
    undecided: tuple[Group, ...] = ()
    filled: tuple[str, ...] = ()

    @property
    def is_mended(self) -> bool:
        """Whether changes of the config are enough to make it fit."""
        return self.changes is not None and not self.filled

    def message(self, where: Callable[[str], str]) -> str:
        """Return the explanation: the fix or the closest, then all keys; `where` gives a config key's file:line:column."""
        differs = [self._headline(where)] if self.differs else []
        return "\n".join([*self._buffers(), *differs, *self._questions(), *self.notes, *self._lists()])

    @property
    def differs(self) -> bool:
        """Whether anything differs but the buffers that constructors fill."""
        return bool(self.missing or self.unexpected or self.misshaped)

    def _buffers(self) -> Iterator[str]:
        if not self.filled:
            return
        is_one = len(self.filled) == 1
        what = "a buffer that the constructor fills" if is_one else "buffers that the constructor fills"
        yield (
            f"{in_line(self.filled, _LISTED)} {'is' if is_one else 'are'} in {self.owner} and not in {self.weights_name}: "
            f"{what}: register_buffer(…, persistent=False) keeps {'it' if is_one else 'them'} out of the state dict"
        )

    @property
    def hint(self) -> str | None:
        """What to do where nothing is proposed because nothing decides, or where code is to be changed; None otherwise."""
        if self.filled:
            then = ", then set what is said here" if self.differs else ""
            return f"in the code of {self.owner}, register {in_line(self.filled, _LISTED)} with persistent=False{then}"
        by_hand = "write model.rename for these by hand, from the code that made the weights"
        return f"{by_hand}; or give a reference, recorded outputs that tell them apart" if self.undecided else None

    def _headline(self, where: Callable[[str], str]) -> str:
        if self.changes is not None:
            return f"{self._first()}: {', '.join(self._fixes(where))}"
        if self.undecided:
            return f"{self._first()}, under another name it seems, but nothing decides which of these is which:"
        sentence = f"{self._first()}; no value of model.arguments was found with which it fits"
        if self.closest is None:
            return sentence
        tried = ", ".join(f"{name}={value!r}" for name, value in self.closest[0].items())
        return f"{sentence} (closest: {tried} leaves {self.closest[1]} names that differ)"

    def _fixes(self, where: Callable[[str], str]) -> Iterator[str]:
        for name, value in (self.changes or {}).items():
            yield f"set model.arguments.{name} to {value!r} ({where(f'model.arguments.{name}')})"
        yield from in_config(self.rename, ())
        if self.ignore:
            count = sum(any(covers(entry, name) for entry in self.ignore) for name in self.unexpected)
            (left_out,) = in_config({}, self.ignore)
            yield f"if the network does without {count} tensors of the file, {left_out}"

    def _questions(self) -> Iterator[str]:
        for group in self.undecided[:_LISTED]:
            ours = in_line([name or "all that is missing" for name in group.ours], _LISTED)
            yield f"  {in_line(group.theirs, _LISTED)} in {self.weights_name}: {ours} in {self.owner}"
        if self.undecided:
            yield "their shapes are the same, no word, number or module tells them apart, and an order is no evidence"

    def _first(self) -> str:
        """Return the first difference, with the arguments that matter."""
        shown = self.changes or dict(itertools.islice(self.arguments.items(), 4))
        values = ", ".join(f"{name}={self.arguments[name]!r:.60}" for name in shown if name in self.arguments)
        network = f"{self.owner}({values})"
        if self.misshaped:
            name, found, expected = self.misshaped[0]
            return f"{name} is {_shown(found)} in {self.weights_name} and {_shown(expected)} in {network}"
        if self.missing:
            return f"{next(iter(self.missing))} is in {network} and not in {self.weights_name}"
        return f"{next(iter(self.unexpected))} is in {self.weights_name} and not in {network}"

    def _lists(self) -> list[str]:
        shaped = [f"{n} {_shown(f)} instead of {_shown(e)}" for n, f, e in self.misshaped]
        parts = (("other shape", shaped), ("missing", list(self.missing)), ("unexpected", list(self.unexpected)))
        return [f"{title} ({len(names)}): {in_line(names, _LISTED)}" for title, names in parts if names]


def in_config(rename: Mapping[str, str], ignore: Sequence[str]) -> Iterator[str]:
    """Yield what to set in a config."""
    if rename:
        pairs = ", ".join(f"{as_yaml(old)}: {as_yaml(new)}" for old, new in rename.items())
        yield f"set model.rename to {{{pairs}}}"
    if ignore:
        yield f"set model.ignore to [{', '.join(map(as_yaml, ignore))}]"


def _shown(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
