"""How the names and shapes of two state dicts differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch
    from torch import nn

Shape = tuple[int, ...]

_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


class Layout(dict[str, Shape]):
    """Name → shape of a network's state dict; `tied` maps each further name of a tensor to its first one.

    `filled` are the buffers that the network's own constructors fill: training does not change them by itself.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], tied: Mapping[str, str], filled: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(shapes)
        self.tied = tied
        self.filled = filled

    def without(self, names: Collection[str]) -> Layout:
        """Return the layout of a network that lacks some of the names."""
        kept = {name: shape for name, shape in self.items() if name not in names}
        tied = {name: other for name, other in self.tied.items() if name in kept and other in kept}
        return Layout(kept, tied, self.filled.difference(names))

    def is_same(self, other: Layout) -> bool:
        """Tell whether another network has the same names and shapes, and the same of them tied."""
        return self == other and self.tied == other.tied


def layout_of_network(module: nn.Module) -> Layout:
    """Return the layout of a network's state dict, with the buffers that its own constructors fill."""
    state = module.state_dict()
    return layout_of(state, frozenset(state.keys() & _filled(module)))


def layout_of(state: Mapping[str, torch.Tensor], filled: frozenset[str] = frozenset()) -> Layout:
    """Return the names and shapes of a state dict, and which names are one tensor: the same memory in the same shape."""
    first: dict[object, str] = {}
    tied = {name: first.setdefault(_identity(name, tensor), name) for name, tensor in state.items()}
    return Layout(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        {name: other for name, other in tied.items() if other != name},
        filled,
    )


def _filled(module: nn.Module) -> set[str]:
    """Return the buffers of modules that are not torch's, but for those that these have from torch's, as statistics."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules(remove_duplicate=False)
        for name, _ in part.named_buffers(recurse=False)
        if not type(part).__module__.startswith("torch.") and name not in _STATISTICS
    }


def _identity(name: str, tensor: torch.Tensor) -> object:
    import torch

    if tensor.layout is not torch.strided:
        return name
    return storage_of(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def storage_of(tensor: torch.Tensor) -> object:
    """Return which memory a tensor is in, to compare with that of others: on the meta device all addresses are 0."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    if tensor.layout is not torch.strided:
        return id(tensor)
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def tied_names(expected: Mapping[str, Shape], found: Mapping[str, object]) -> dict[str, str]:
    """Return the names that a file lacks and that are the same tensor as one that it has, with that one."""
    tied = expected.tied if isinstance(expected, Layout) else {}
    there = {tied.get(name, name): name for name in reversed(list(expected)) if name in found} if tied else {}
    return {name: there[first] for name in expected if name not in found and (first := tied.get(name, name)) in there}


@dataclass(frozen=True, slots=True)
class Difference:
    """What a network expects and a file lacks, the reverse, and (name, found shape, expected shape) where both differ.

    `expected` and `found` are all names and shapes of the network and of the file.
    """

    expected: Mapping[str, Shape]
    found: Mapping[str, Shape]
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
        return 4 * (len(self.missing) + len(self.unexpected)) + len(self.sizes()) + len(self.misshaped)

    def sizes(self, *, same_rank: bool = False) -> list[tuple[int, int]]:
        """Return (found, expected) of each dimension that differs; with `same_rank` only of tensors that have the same rank."""
        return [
            (found, expected)
            for _, found_shape, expected_shape in self.misshaped
            if not same_rank or len(found_shape) == len(expected_shape)
            for found, expected in zip(found_shape, expected_shape, strict=False)
            if found != expected
        ]


def difference_of(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> Difference:
    """Compare name → shape of a network with that of a file; a name whose tensor the file has under another is there."""
    tied = tied_names(expected, found)
    return Difference(
        expected,
        found,
        {name: tuple(shape) for name, shape in expected.items() if name not in found and name not in tied},
        {name: tuple(shape) for name, shape in found.items() if name not in expected},
        tuple(
            (name, tuple(found[name]), tuple(shape))
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        ),
    )
