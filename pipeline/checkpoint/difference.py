"""How the names and shapes of two state dicts differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a network expects and a file lacks, the reverse, and (name, found shape, expected shape) where both differ."""

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshaped: tuple[tuple[str, Shape, Shape], ...]

    @property
    def names(self) -> int:
        """Number of names that differ in any way."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    @property
    def score(self) -> int:
        """Weigh a tensor that is not there more than a dimension that is wrong."""
        dimensions = sum(
            sum(f != e for f, e in zip(found, expected, strict=False)) for _, found, expected in self.misshaped
        )
        return 4 * (len(self.missing) + len(self.unexpected)) + dimensions + len(self.misshaped)


def difference_of(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> Difference:
    """Compare name → shape of a network with that of a file."""
    return Difference(
        {name: tuple(shape) for name, shape in expected.items() if name not in found},
        {name: tuple(shape) for name, shape in found.items() if name not in expected},
        tuple(
            (name, tuple(found[name]), tuple(shape))
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        ),
    )
