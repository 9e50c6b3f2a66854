"""What an audit looks at and writes down: constants, what uses them, what was found of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.formats.program import Step

_LISTED = 100


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the graph: an initializer, or the value of a Constant node."""

    name: str
    value: Any


class Uses(Protocol):
    """What a graph tells of its constants; an archive without one tells nothing."""

    def steps_of(self, constant: Constant, steps: Mapping[str, Step]) -> list[Step]:
        """Return the steps that a constant is used in, each once."""

    def orientation(self, constant: Constant, step: Step | None) -> str | None:
        """Return how a linear layer's weight must stand in the file, "equal" or "transposed"; None if that is open."""

    def only_sizes(self, constant: Constant) -> bool:
        """Whether a constant is only used to compute sizes, or as a shape."""

    def used_by(self, constant: Constant) -> str:
        """Return the operators that use a constant, in words."""

    def stands_alone_in_arithmetic(self, constant: Constant) -> bool:
        """Whether a constant is one side of one sum, product or power, and nothing else."""

    def keeps_a_root_from_zero(self, constant: Constant) -> bool:
        """Whether a constant is only added to what a square root is taken of."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that is not what the network says: where, and what it nearly is."""

    where: str
    problem: str
    nearest: str | None = None
    differing: int = 0
    elements: int = 0
    module: str = ""


@dataclass(slots=True)
class Audit:
    """What was accounted for: elements of constants by how, attributes checked, and what is left over.

    `absent`: how many tensors of the state dict are not in the file, by why that is right; `holds`: which each constant holds.
    """

    accounted: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    constants: int = 0
    elements: int = 0
    attributes: int = 0
    unaccounted: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    suspects: list[Problem] = field(default_factory=list)
    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the audit's result; `share` is the part of all constants' elements that is not accounted for."""
        left = sum(each["elements"] for each in self.unaccounted)
        return {
            "passed": not self.problems,
            "constants": self.constants,
            "elements": self.elements,
            "attributes": self.attributes,
            "accounted": dict(self.accounted),
            "absent": dict(self.absent),
            "share": left / self.elements if self.elements else 0.0,
            "unaccounted": self.unaccounted,
            "unaccounted_count": len(self.unaccounted),
            "problems": [asdict(each) for each in self.problems[:_LISTED]],
            "problem_count": len(self.problems),
            "suspects": [asdict(each) for each in self.suspects[:_LISTED]],
            "suspect_count": len(self.suspects),
        }

    def count(self, how: str, constant: Constant) -> None:
        """Count a constant as accounted for."""
        self.accounted[how] = self.accounted.get(how, 0) + int(constant.value.size)

    def leave(self, name: str, shape: Sequence[int], elements: int, dtype: str, used_by: str) -> None:
        """Name what nothing accounts for."""
        where = {"name": name, "shape": list(shape), "elements": elements, "dtype": dtype, "used_by": used_by}
        self.unaccounted.append(where)
