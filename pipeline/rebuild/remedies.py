"""Which sizes, and which constants, a network does take: found by calling it, never guessed.

Each dimension is tried alone, from sizes that work: the pattern of what runs and what does not says `min`, `max` or
`multiple_of`. A dimension that works at one size only is tried together with the others: it follows from them, or is fixed.
Nothing is advised unless every case runs with it.
"""

from __future__ import annotations

import inspect
import itertools
import math
import random
import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import WeighbridgeError
from pipeline.interface import (
    complete_sizes,
    formula_bounds,
    formula_names,
    formula_value,
    free_dimensions,
    ordered_dimensions,
)
from pipeline.rebuild import calling
from pipeline.rebuild import cases as sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from pipeline.interface import Case, Dimension, Interface, Sizes

SECONDS = 20.0
_WINDOW = 24
_STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 64, 128)
_FIRST_SIZES = 8
_FEWEST_RUNNING = 3
_LARGEST_STEP = 128
_ROUNDS = 4
_CHECKS = 4
_CAP_ELEMENTS = 2**18


@dataclass(frozen=True, slots=True)
class Remedy:
    """What was tried and works: the changes in words, the interface with them, and how many cases run then."""

    changes: tuple[str, ...]
    interface: Interface
    cases: int

    @property
    def advice(self) -> str:
        """The changes as one sentence."""
        return f"{'; '.join(self.changes)} (tried: all {self.cases} cases run then)"


def find(module: nn.Module, interface: Interface, cases: Sequence[Case]) -> Remedy | None:
    """Return changes of the config with which the network takes every case, or None where none were found in time."""
    search = _Search(module, interface, cases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search.sizes() or search.values() or search.constant()


def find_constant(module: nn.Module, interface: Interface, cases: Sequence[Case]) -> Remedy | None:
    """Return a constant with which the network takes the cases and returns what the config names, or None."""
    return _Search(module, interface, cases).constant()


class _Search:
    """Calls a network in one way after another, as long as there is time."""

    def __init__(self, module: nn.Module, interface: Interface, cases: Sequence[Case]) -> None:
        self.module = module
        self.interface = interface
        self.cases = cases
        self.deadline = time.monotonic() + SECONDS
        self.known: dict[tuple[tuple[str, int], ...], bool] = {}
        self.base: Sizes = {}
        self.changed: dict[str, Dimension] = {}
        self.fixed: dict[str, int] = {}

    def runs(self, sizes: Sizes) -> bool:
        """Tell whether the network runs at these sizes of the original dimensions."""
        key = tuple(sorted(sizes.items()))
        if key not in self.known:
            self.known[key] = time.monotonic() < self.deadline and self._try(self.interface, sizes)
        return self.known[key]

    def _try(self, interface: Interface, sizes: Sizes) -> bool:
        elements = (math.prod(sampling.shape_of(spec, sizes)) for spec in interface.inputs)
        if max(elements, default=0) > _CAP_ELEMENTS:
            return False
        return self._takes(interface, sampling.make(interface, sizes, seed=0, name="trial"))

    def _takes(self, interface: Interface, case: Case) -> bool:
        import torch

        try:
            binding = calling.bind(self.module, interface)
            with torch.inference_mode():
                calling.call(self.module, binding, interface, calling.tensors_from(case.inputs))
        except Exception:  # noqa: BLE001 - a network may raise anything
            return False
        return True

    def _proven(self, changes: Sequence[str], interface: Interface) -> Remedy | None:
        """Return the remedy if every case of the changed config runs."""
        found = sampling.sample(interface, seed=0, cap_elements=_CAP_ELEMENTS)
        return (
            Remedy(tuple(changes), interface, len(found))
            if all(self._takes(interface, each) for each in found)
            else None
        )

    # Sizes

    def sizes(self) -> Remedy | None:
        """Look for ranges, steps and relations of sizes."""
        base = self._base()
        if base is None:
            return None
        self.base = base
        for _ in range(_ROUNDS):
            before = (dict(self.changed), dict(self.fixed))
            for dimension in free_dimensions(self.interface.dimensions):
                if dimension.name not in self.fixed and not self._follows(dimension):
                    self._settle(self.changed.get(dimension.name, dimension))
            if (self.changed, self.fixed) == before:
                break
            told = _in_words(self.interface, self.changed, self.fixed)
            remedy = self._proven(told, _changed(self.interface, self.changed, self.fixed))
            if remedy is not None:
                return remedy
        return None

    def _follows(self, dimension: Dimension) -> bool:
        """Tell whether a dimension was found to follow from others."""
        return self.changed.get(dimension.name, dimension).formula is not None

    def _base(self) -> Sizes | None:
        """Return sizes at which the network runs, small ones first."""
        dimensions = free_dimensions(self.interface.dimensions)
        if not dimensions:
            return None
        ordered = sorted(self.cases, key=lambda case: sum(case.sizes.values()))
        tried = [dict(case.sizes) for case in ordered]
        choices = [_first_sizes(each) for each in dimensions]
        combinations = sorted(
            itertools.islice(itertools.product(*choices), 20_000), key=lambda sizes: (sum(sizes), sizes)
        )
        tried += [{each.name: size for each, size in zip(dimensions, sizes, strict=True)} for sizes in combinations]
        complete_ones = (complete_sizes(self.interface.dimensions, sizes) for sizes in tried)
        return next((sizes for sizes in complete_ones if self._has_time() and self.runs(sizes)), None)

    def _has_time(self) -> bool:
        return time.monotonic() < self.deadline

    def _settle(self, dimension: Dimension) -> None:
        """Find out what one dimension may be, and note it if that is less than the config says."""
        tried = self._tried(dimension)
        if all(tried.values()):
            return
        running = [size for size, runs in tried.items() if runs]
        if len(running) == 1:
            factors = self._factors(dimension)
            if factors == {}:
                self.fixed[dimension.name] = running[0]
            elif factors is not None:
                self._relate(dimension, factors)
            return
        narrowed = self._narrowed(dimension, tried)
        if narrowed is not None and narrowed != dimension:
            self.changed[dimension.name] = narrowed

    def _tried(self, dimension: Dimension) -> dict[int, bool]:
        """Return whether the network runs, for sizes of one dimension with the others at their base."""
        sizes = sampling.allowed(dimension)
        wanted = {
            *sizes[:_WINDOW],
            self.base[dimension.name],
            sizes[-1],
            *(case.sizes[dimension.name] for case in self.cases),
        }
        wanted |= {
            size for step in _STEPS for size in sizes[-sizes[0] % step :: step][:_FEWEST_RUNNING] if not size % step
        }
        return {size: self._runs_with({dimension.name: size}) for size in sorted(wanted) if size in sizes}

    def _runs_with(self, changes: Mapping[str, int]) -> bool:
        chosen = {each.name: {**self.base, **changes}[each.name] for each in free_dimensions(self.interface.dimensions)}
        return self.runs(complete_sizes(self.interface.dimensions, chosen))

    def _narrowed(self, dimension: Dimension, tried: Mapping[int, bool]) -> Dimension | None:
        """Return the dimension with the smallest step whose multiples run, all of them within a range; None if none do.

        A size that is no multiple may run as well, by chance.
        """
        steps = range(dimension.multiple_of, _LARGEST_STEP + 1, dimension.multiple_of)
        for step in steps:
            multiples = [size for size in tried if size % step == 0]
            running = [size for size in multiples if tried[size]]
            if len(running) < _FEWEST_RUNNING:
                continue
            below = max((size for size in multiples if size < running[0]), default=None)
            above = min((size for size in multiples if size > running[-1]), default=None)
            if running == [size for size in multiples if running[0] <= size <= running[-1]]:
                return replace(
                    dimension,
                    min=dimension.min if below is None else self._edge(dimension.name, below, running[0], step),
                    max=dimension.max if above is None else self._edge(dimension.name, above, running[-1], step),
                    multiple_of=step,
                )
        return None

    def _edge(self, name: str, failing: int, running: int, step: int) -> int:
        """Return the size nearest to one that fails, on the way from one that runs, that runs as well."""
        while abs(failing - running) > step:
            middle = (failing + running) // 2 // step * step
            if middle in {failing, running}:
                middle = running + (step if failing > running else -step)
            if self._runs_with({name: middle}):
                running = middle
            else:
                failing = middle
        return running

    def _factors(self, dimension: Dimension) -> dict[str, int] | None:
        """Return with which whole factor a dimension follows from each other one, {} if from none; None where that is unclear."""
        factors: dict[str, int] = {}
        for other in free_dimensions(self.interface.dimensions):
            if other.name == dimension.name or other.name in self.fixed or self._follows(other):
                continue
            slope = self._slope(dimension, other)
            if slope is None:
                return None
            if slope:
                factors[other.name] = slope
        return factors

    def _relate(self, dimension: Dimension, factors: Mapping[str, int]) -> None:
        """Note that a dimension follows from others, if sizes that agree with that do run."""
        known = {each.name: each for each in free_dimensions(self.interface.dimensions)}
        added = self.base[dimension.name] - sum(factor * self.base[name] for name, factor in factors.items())
        if added < 0 and list(factors.values()) == [1]:  # past + 1 says more than total - 1
            (other,) = factors
            dimension, factors, added = known[other], {dimension.name: 1}, -added
        formula = _formula_text(factors, added)
        if self._holds(dimension, formula, [known[name] for name in factors]):
            self.changed[dimension.name] = replace(dimension, formula=formula)

    def _slope(self, dimension: Dimension, other: Dimension) -> int | None:
        """Return by how much a dimension grows with another; None if that cannot be told, or is no whole number."""
        here, there = self.base[other.name], self.base[dimension.name]
        for size in _near(sampling.allowed(other), here):
            if self._runs_with({other.name: size}):
                return 0  # it need not follow
            window = _near(sampling.allowed(dimension), there)
            found = [mine for mine in window if self._runs_with({other.name: size, dimension.name: mine})]
            if len(found) == 1:
                rise, run = found[0] - there, size - here
                return rise // run if rise % run == 0 else None
        return None

    def _holds(self, dimension: Dimension, formula: str, others: Sequence[Dimension]) -> bool:
        """Tell whether the network runs at other sizes that agree with a formula."""
        source = random.Random(0)
        for _ in range(_CHECKS):
            chosen = {each.name: source.choice(sampling.allowed(each)[:_WINDOW]) for each in others}
            size = formula_value(formula, chosen)
            if size < 0 or not self._runs_with({**chosen, dimension.name: size}):
                return False
        return True

    # Values and constants

    def values(self) -> Remedy | None:
        """Look for an integer input whose values go too high: an index into a table that has fewer rows."""
        for index, spec in enumerate(self.interface.inputs):
            if "int" not in spec.dtype or spec.low is None or spec.high is None:
                continue
            low, high = int(spec.low), int(spec.high)

            def narrowed(limit: int, index: int = index) -> Interface:
                inputs = list(self.interface.inputs)
                inputs[index] = replace(inputs[index], high=limit)
                return replace(self.interface, inputs=tuple(inputs))

            if not self._takes_ends(narrowed(low + 1), index, low):
                continue
            good, bad = low + 1, high
            while bad - good > 1 and self._has_time():
                middle = (good + bad) // 2
                good, bad = (middle, bad) if self._takes_ends(narrowed(middle), index, middle - 1) else (good, middle)
            remedy = (
                self._proven([f"set inputs.{spec.name}.high to {good}"], narrowed(good)) if bad < high + 1 else None
            )
            if remedy is not None:
                return remedy
        return None

    def _takes_ends(self, interface: Interface, index: int, value: int) -> bool:
        """Tell whether the network runs where one input holds its largest value everywhere."""
        import numpy as np

        case = sampling.make(interface, sampling.smallest(interface), seed=0, name="trial")
        name = interface.inputs[index].name
        inputs = {**case.inputs, name: np.full_like(case.inputs[name], value)}
        return self._takes(interface, replace(case, inputs=inputs))

    def constant(self) -> Remedy | None:
        """Look for a switch of the method with which it runs and returns what the config names."""
        for name, value in switches(self.module, self.interface):
            interface = replace(self.interface, constants={**self.interface.constants, name: value})
            if self._has_time() and all(self._takes(interface, case) for case in self.cases):
                return Remedy((f"set constants: {{{name}: {str(value).lower()}}}",), interface, len(self.cases))
        return None


def switches(module: nn.Module, interface: Interface) -> Iterator[tuple[str, bool]]:
    """Yield parameters of the method that are on or off by default, or undecided, with the other value."""
    try:
        binding = calling.bind(module, interface)
    except WeighbridgeError:
        return
    given = {*binding.parameters.values(), *interface.constants}
    method: Callable[..., Any] = getattr(module, interface.method)
    for name, each in inspect.signature(method).parameters.items():
        if name in given or each.kind in {each.VAR_KEYWORD, each.VAR_POSITIONAL}:
            continue
        if isinstance(each.default, bool):
            yield name, not each.default
        elif each.default is None and "bool" in str(each.annotation):
            yield from ((name, value) for value in (False, True))


def _first_sizes(dimension: Dimension) -> list[int]:
    sizes = sampling.allowed(dimension)
    return sorted({*sizes[:_FIRST_SIZES], *(size for size in _STEPS if size in sizes), sizes[-1]})


def _near(sizes: range, wanted: int) -> list[int]:
    """Return sizes around one, without it, nearest first."""
    return sorted(
        (size for size in sizes if size != wanted and abs(size - wanted) <= 2 * _WINDOW),
        key=lambda size: abs(size - wanted),
    )


def _formula_text(factors: Mapping[str, int], added: int) -> str:
    parts = [name if factor == 1 else f"{factor} * {name}" for name, factor in factors.items()]
    text = " + ".join(parts)
    return text if not added else f"{text} {'+' if added > 0 else '-'} {abs(added)}"


def _changed(interface: Interface, changed: Mapping[str, Dimension], fixed: Mapping[str, int]) -> Interface:
    """Return the interface with other dimensions, and sizes in place of those that are fixed."""
    made = [changed.get(each.name, each) for each in interface.dimensions if each.name not in fixed]
    ranges = {each.name: (sampling.allowed(each)[0], sampling.allowed(each)[-1]) for each in free_dimensions(made)}
    ranges |= {name: (size, size) for name, size in fixed.items()}
    for each in ordered_dimensions(made):
        if each.formula is not None and set(formula_names(each.formula)) <= ranges.keys():
            low, high = ranges[each.name] = formula_bounds(each.formula, ranges)
            made[made.index(each)] = replace(each, min=low, max=high, multiple_of=1)
    inputs = tuple(
        replace(spec, shape=tuple(fixed.get(size, size) if isinstance(size, str) else size for size in spec.shape))
        for spec in interface.inputs
    )
    return replace(interface, inputs=inputs, dimensions=tuple(made))


def _in_words(interface: Interface, changed: Mapping[str, Dimension], fixed: Mapping[str, int]) -> list[str]:
    """Return what to change in a config, a phrase a dimension."""
    told = [f"write {size} in place of {name} in the shapes" for name, size in fixed.items()]
    before = {each.name: each for each in interface.dimensions}
    for name, each in changed.items():
        if each.formula is not None:
            told.append(f"{name} follows from others: dimensions: {{{name}: {each.formula}}}")
            continue
        keys = [key for key in ("min", "max", "multiple_of") if getattr(each, key) != getattr(before[name], key)]
        told.append(f"set {', '.join(f'dimensions.{name}.{key}={getattr(each, key)}' for key in keys)}")
    return told
