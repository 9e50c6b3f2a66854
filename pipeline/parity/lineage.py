"""Where the outputs of a network come from: a call is followed operator by operator, and what matters is carried along.

A tensor's *trail* says what reached it: inputs, weights, and the coarsest precision on the way. Two things are carried only as
far as every step is simple enough to know what it does to them:

- how far a tensor moves when the last sigmoids and softmaxes before it are off (see `pipeline.parity.steps`),
- which element of which tensor an index was chosen for (see `pipeline.parity.selection`).

What is not known to be simple ends the trail; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.parity import selection, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

ROUNDOFFS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The unit roundoff of each precision that networks compute in; for any other that of float32 is taken."""


def roundoff(dtype: object) -> float:
    """Return the unit roundoff of a floating dtype, of a complex one that of its parts."""
    name = str(dtype).removeprefix("torch.").replace("complex128", "float64").replace("complex64", "float32")
    return ROUNDOFFS.get(name, ROUNDOFFS["float32"])


@dataclass(frozen=True, slots=True)
class Trail:
    """What reached a tensor.

    `coarsest`: the largest unit roundoff of the inputs, weights and results on the way; 0.0 for none. `moved`: how far each
    element moves (float64) when each of the functions `bounded` is off by 1, these by the number of their call. `chosen`: what
    its indices stand for.
    """

    weights: bool = False
    inputs: bool = False
    coarsest: float = 0.0
    moved: torch.Tensor | None = None
    bounded: frozenset[int] = frozenset()
    chosen: selection.Chosen | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """A call's outputs with the trail of each, by name, and what indices were chosen from, in the order of the calls."""

    outputs: Mapping[str, torch.Tensor]
    trails: Mapping[str, Trail]
    sources: tuple[selection.Source, ...]

    def bounded(self, names: Iterable[str]) -> frozenset[int]:
        """Return the numbers of the bounded functions that some outputs end in."""
        return frozenset().union(*(self.trails[name].bounded for name in names if name in self.trails))


def follow(
    call: Callable[[], Mapping[str, torch.Tensor]],
    inputs: Iterable[torch.Tensor],
    weights: Iterable[torch.Tensor],
    skipped: frozenset[int] = frozenset(),
) -> Followed:
    """Make a call and follow what becomes of inputs and weights.

    The bounded functions whose numbers are `skipped` return what enters them. Raises whatever the call raises.
    """
    mode = _mode(skipped)
    for tensor in weights:
        mode.set(tensor, Trail(weights=True, coarsest=own_roundoff(tensor)))
    for tensor in inputs:
        mode.set(tensor, Trail(inputs=True, coarsest=own_roundoff(tensor)))
    with mode:
        outputs = call()
    return Followed(outputs, {name: mode.of_output(each) for name, each in outputs.items()}, tuple(mode.sources))


def own_roundoff(tensor: torch.Tensor) -> float:
    """Return the unit roundoff of a tensor's precision, 0.0 of one without."""
    return roundoff(tensor.dtype) if tensor.is_floating_point() or tensor.is_complex() else 0.0


def _mode(skipped: frozenset[int]) -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.weak import WeakIdKeyDictionary

    class Mode(TorchDispatchMode):
        """Sees every operator of a call."""

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # skipping it takes importing it, which takes longer than most calls

        def __init__(self) -> None:
            super().__init__()
            self.trails: Any = WeakIdKeyDictionary()
            self.written: dict[int, tuple[Any, Trail]] = {}
            self.sources: list[selection.Source] = []
            self.cells = 0
            self.calls = 0
            self.escaped = _NOTHING

        def get(self, tensor: torch.Tensor) -> Trail:
            own = self.trails.get(tensor, _NOTHING)
            into = self.written.get(tensor.untyped_storage()._cdata) if self.written else None
            return own if into is None else _joined([own, into[1]])

        def of_output(self, tensor: torch.Tensor) -> Trail:
            """Return a trail with what left the tensors for Python on the way, and may have come back anywhere."""
            found = self.get(tensor)
            if not self.escaped.weights and not self.escaped.inputs:
                return found
            return replace(
                found, weights=found.weights or self.escaped.weights, inputs=found.inputs or self.escaped.inputs
            )

        def set(self, tensor: torch.Tensor, trail: Trail) -> None:
            self.trails[tensor] = trail

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name, is_mutable = func._overloadpacket.__name__, func._schema.is_mutable
            name = name.removesuffix("_") if is_mutable else name
            before = _joined([self.get(each) for each in _tensors([args, kwargs])])
            self.calls += name in steps.BOUNDED
            if name in steps.BOUNDED and self.calls in skipped and not is_mutable:
                out = _unbounded(args, kwargs)
            else:
                out = func(*args, **kwargs)
            for written in _written(func, args, kwargs) if is_mutable else ():
                self.note(written, before)
            if name in _TO_PYTHON:
                self.escaped = _joined([self.escaped, before])
            results = list(_tensors([out]))
            trails = [replace(before, coarsest=max(before.coarsest, own_roundoff(each)) if own_roundoff(each) else 0.0) for each in results]
            if name in steps.BOUNDED:
                trails = [replace(trails[0], moved=_ones(out), bounded=frozenset({self.calls}))]
            elif not is_mutable and before != _NOTHING:
                trails = self.further(func, name, args, kwargs, out, trails, before)
            for each, trail in zip(results, trails, strict=True):
                self.set(each, trail)
            return out

        def note(self, tensor: torch.Tensor, before: Trail) -> None:
            """Remember what was written to a tensor's memory: whatever shares that has it too."""
            storage = tensor.untyped_storage()
            if storage.nbytes() != tensor.numel() * tensor.element_size():
                # The storage is held, so that its number is not given to another one.
                self.written[storage._cdata] = (storage, _joined([self.get(tensor), before]))

        def further(
            self, func: Any, name: str, args: Any, kwargs: Any, out: Any, trails: list[Trail], before: Trail
        ) -> list[Trail]:
            """Return the trails with what is carried on from the arguments."""
            bounded = frozenset().union(*(self.get(each).bounded for each in _tensors([args])))
            if bounded:
                moved = steps.moved(func, name, args, kwargs, self.moved, 0.0)
                moved = steps.of_values(name, args, kwargs, out, self.moved) if moved is None else moved
                moved = steps.arithmetic(func, name, args, kwargs, out, self.moved) if moved is None else moved
                shares = [*moved] if isinstance(moved, list | tuple) else [moved]
                trails = [
                    replace(trail, moved=share, bounded=bounded if share is not None else frozenset())
                    for trail, share in zip(trails, [*shares, *[None] * len(trails)], strict=False)
                ]
            chosen = selection.carried(func, name, args, kwargs, self.chosen)
            if chosen is None and (found := selection.source(name, args, kwargs, out, self.moved)):
                values, moved, own = found
                chosen = [None] * (len(trails) - 1) + [own.further(len(self.sources), self.cells)]
                self.sources.append(selection.Source(self.cells, values, moved, before.coarsest))
                self.cells += values.numel()
            known = [*chosen] if isinstance(chosen, list | tuple) else [chosen]
            return [
                replace(trail, chosen=each)
                for trail, each in zip(trails, [*known, *[None] * len(trails)], strict=False)
            ]

        def moved(self, tensor: Any) -> Any:
            return self.get(tensor).moved if isinstance(tensor, torch.Tensor) else None

        def chosen(self, tensor: Any) -> Any:
            return self.get(tensor).chosen if isinstance(tensor, torch.Tensor) else None

    return Mode()


_NOTHING = Trail()
_TO_PYTHON = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal"})


def _joined(trails: Sequence[Trail]) -> Trail:
    """Return what reached any of several tensors; what is carried along ends here."""
    return Trail(
        any(each.weights for each in trails),
        any(each.inputs for each in trails),
        max((each.coarsest for each in trails), default=0.0),
    )


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    import torch

    for each in values.values() if isinstance(values, dict) else values:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple | dict):
            yield from _tensors(each)


def _unbounded(args: Any, kwargs: Any) -> Any:
    import torch

    dtype = kwargs.get("dtype")
    return args[0].to(dtype) if isinstance(dtype, torch.dtype) else args[0].clone()


def _ones(out: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.ones(out.shape, dtype=torch.float64)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operator writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from _tensors([value])
