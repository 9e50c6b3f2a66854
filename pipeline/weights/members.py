"""Members of the code's Enums that a file names: by value or by name, of a class in hand. Nothing is imported for the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.weights.pickle_records import Object

if TYPE_CHECKING:
    from enum import Enum


def member_of(kind: type[Enum], held: Any) -> Enum | None:
    """Return the member of `kind` that a record, a value or a name stands for; None where it is none of them."""
    if isinstance(held, Object):
        is_named_so = (
            held.maker.rpartition(".")[2] == kind.__name__
        )  # a script may have been called __main__ when it was saved
        if not is_named_so or not isinstance(held.arguments, tuple) or len(held.arguments) != 1:
            return None
        held = held.arguments[0]
    for member in kind:
        if type(member.value) is type(held) and member.value == held:
            return member
    return kind.__members__.get(held) if isinstance(held, str) else None
