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

    `coarsest`: the largest unit roundoff of the inputs, weights and results on the way; 0.0 for none. `decided`: all of
    it came by way of whole numbers. `moved`: how far each
    element moves (float64) when each of the functions `bounded` is off by 1, these by the number of their call. `chosen`: what
    its indices stand for.
    """

    weights: bool = False
    inputs: bool = False
    coarsest: float = 0.0
    decided: bool = False
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
    *,
    narrow_epsilon: bool = False,
) -> Followed:
    """Make a call and follow what becomes of inputs and weights.

    The bounded functions whose numbers are `skipped` return what enters them. With `narrow_epsilon` the epsilons of
    normalisations are rounded to float32, as an attribute of an ONNX node is. Raises whatever the call raises.
    """
    follower = _Follower(skipped, narrow_epsilon=narrow_epsilon)
    for tensor in weights:
        follower.set(tensor, Trail(weights=True, coarsest=own_roundoff(tensor)))
    for tensor in inputs:
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        follower.set(tensor, Trail(inputs=True, coarsest=own_roundoff(tensor), decided=whole))
    with _mode(follower):
        outputs = call()
    return Followed(
        outputs, {name: follower.of_output(each) for name, each in outputs.items()}, tuple(follower.sources)
    )


def own_roundoff(tensor: torch.Tensor) -> float:
    """Return the unit roundoff of a tensor's precision, 0.0 of one without."""
    return roundoff(tensor.dtype) if tensor.is_floating_point() or tensor.is_complex() else 0.0


_NOTHING = Trail()
_EPSILONS = frozenset({"eps", "epsilon"})
_TO_PYTHON = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal"})


class _Follower:
    """Sees every operator of a call."""

    def __init__(self, skipped: frozenset[int], *, narrow_epsilon: bool) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self.sources: list[selection.Source] = []
        self._skipped = skipped
        self._narrow_epsilon = narrow_epsilon
        self._trails: Any = WeakIdKeyDictionary()
        self._written: dict[int, tuple[Any, Trail]] = {}
        self._cells = 0
        self._calls = 0
        self._escaped = _NOTHING

    def get(self, tensor: torch.Tensor) -> Trail:
        own = self._trails.get(tensor, _NOTHING)
        into = self._written.get(_memory(tensor.untyped_storage())) if self._written else None
        return own if into is None else joined([own, into[1]])

    def of_output(self, tensor: torch.Tensor) -> Trail:
        """Return a trail with what left the tensors for Python on the way, and may have come back anywhere."""
        found = self.get(tensor)
        if not self._escaped.weights and not self._escaped.inputs:
            return found
        return replace(
            found, weights=found.weights or self._escaped.weights, inputs=found.inputs or self._escaped.inputs
        )

    def set(self, tensor: torch.Tensor, trail: Trail) -> None:
        self._trails[tensor] = trail

    def see(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator, and note where its results come from."""
        schema = func._schema  # noqa: SLF001 - torch states it nowhere else
        name, is_mutable = func._overloadpacket.__name__, schema.is_mutable  # noqa: SLF001 - as above
        name = name.removesuffix("_") if is_mutable else name
        before = _NOTHING if name in steps.SHAPES else joined([self.get(each) for each in _tensors([args, kwargs])])
        if self._narrow_epsilon:
            args = _with_narrow_epsilon(schema, args)
        self._calls += name in steps.BOUNDED
        is_skipped = name in steps.BOUNDED and self._calls in self._skipped and not is_mutable
        out = _unbounded(args, kwargs) if is_skipped else func(*args, **kwargs)
        for written in _written(schema, args, kwargs) if is_mutable else ():
            self._note(written, before)
        if name in _TO_PYTHON:
            self._escaped = joined([self._escaped, before])
        results = list(_tensors([out]))
        trails = [_of_result(before, each) for each in results]
        if name in steps.BOUNDED:
            trails = [replace(trails[0], moved=_ones(out), bounded=frozenset({self._calls}))]
        elif not is_mutable and before != _NOTHING:
            trails = self._further(func, name, args, kwargs, out, trails, before)
        for each, trail in zip(results, trails, strict=True):
            self.set(each, trail)
        return out

    def _note(self, tensor: torch.Tensor, before: Trail) -> None:
        """Remember what was written to a tensor's memory: whatever shares that has it too."""
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.numel() * tensor.element_size():
            # The storage is held, so that its number is not given to another one.
            self._written[_memory(storage)] = (storage, joined([self.get(tensor), before]))

    def _further(
        self, func: Any, name: str, args: Any, kwargs: Any, out: Any, trails: list[Trail], before: Trail
    ) -> list[Trail]:
        """Return the trails with what is carried on from the arguments."""
        bounded = frozenset().union(*(self.get(each).bounded for each in _tensors([args])))
        if bounded:
            moved = steps.moved(func, name, args, kwargs, self._moved, 0.0)
            moved = steps.of_values(name, args, kwargs, out, self._moved) if moved is None else moved
            moved = steps.arithmetic(func, name, args, kwargs, out, self._moved) if moved is None else moved
            shares = [*moved] if isinstance(moved, list | tuple) else [moved]
            trails = [
                replace(trail, moved=share, bounded=bounded if share is not None else frozenset())
                for trail, share in zip(trails, [*shares, *[None] * len(trails)], strict=False)
            ]
        known = selection.carried(func, name, args, kwargs, self._chosen)
        if not known and (found := selection.source(name, args, kwargs, out, self._moved)):
            values, moved, own = found
            known = [*[None] * (len(trails) - 1), own.further(len(self.sources), self._cells)]
            self.sources.append(selection.Source(self._cells, values, moved, before.coarsest))
            self._cells += values.numel()
        chosen = [*known, *[None] * len(trails)]
        return [replace(trail, chosen=each) for trail, each in zip(trails, chosen, strict=False)]

    def _moved(self, tensor: Any) -> Any:
        return self.get(tensor).moved if hasattr(tensor, "untyped_storage") else None

    def _chosen(self, tensor: Any) -> Any:
        return self.get(tensor).chosen if hasattr(tensor, "untyped_storage") else None


def _mode(follower: _Follower) -> Any:
    """Return a context in which the follower sees every operator."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
        """Passes on what it sees."""

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # skipping it takes importing it, which takes longer than most calls

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del types
            return follower.see(func, args, kwargs or {})

    return Mode()  # type: ignore[no-untyped-call]  # torch's


def _of_result(before: Trail, result: torch.Tensor) -> Trail:
    """Return the trail of a result: a whole number has no rounding errors of its own, and was decided on."""
    own = own_roundoff(result)
    reached = before.weights or before.inputs
    return replace(
        before, coarsest=max(before.coarsest, own) if own else 0.0, decided=reached and (before.decided or not own)
    )


def _with_narrow_epsilon(schema: Any, args: Sequence[Any]) -> tuple[Any, ...]:
    """Return an operator's arguments, those that were left out because they are the default's too."""
    import numpy as np

    places = [index for index, each in enumerate(schema.arguments) if each.name in _EPSILONS and not each.kwarg_only]
    if not places:
        return tuple(args)
    left_out = schema.arguments[len(args) : places[-1] + 1]
    full = [*args, *(each.default_value for each in left_out)]
    return tuple(
        float(np.float32(value)) if index in places and isinstance(value, float) else value
        for index, value in enumerate(full)
    )


def _memory(storage: Any) -> int:
    return int(storage._cdata)  # noqa: SLF001 - what tells one storage from another


def joined(trails: Sequence[Trail]) -> Trail:
    """Return what reached any of several tensors; what is carried along ends here."""
    reached = [each for each in trails if each.weights or each.inputs]
    return Trail(
        any(each.weights for each in reached),
        any(each.inputs for each in reached),
        max((each.coarsest for each in reached), default=0.0),
        bool(reached) and all(each.decided for each in reached),
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


def _written(schema: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operator writes to."""
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from _tensors([value])
