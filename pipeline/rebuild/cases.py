"""Seeded inputs over the declared dimensions: the sizes an exporter sees, and those it is held against.

A trace or an exported graph may have baked in a size it was shown, so cases visit sizes no exporter saw: the minimum,
0 and 1 where they are allowed, odd and prime sizes, and the maximum or the largest the element cap allows.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.interface import Case, Dimension, InputSpec, Interface, complete_sizes, free_dimensions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from pipeline.interface import Array, Arrays, Sizes

_FLOATS = ("zeros", "constant", "large", "tiny")
FLAGS_SET = "flags set"
"""The case in which every input that says yes or no says yes throughout."""
VALUES = ("normal", *_FLOATS, FLAGS_SET)
"""The kinds of values that `make` fills inputs with; a case of another kind than normal has its name."""
_SEARCH_STEPS = 64
_DRAWS = 2
_FACTORS = (0.1, 10.0, 0.01, 100.0, 0.001, 1000.0)
_EXAMPLES, _MOST_EXAMPLES = 8, 4096


def example_sizes(interface: Interface) -> dict[str, int]:
    """Return the sizes shown to exporters: at least 2 steps, all different, and different from every fixed size.

    torch.export takes a size of 1 for a constant, and equal sizes for one dimension. Where sizes follow from others, that is
    looked for among the smallest of each.
    """
    fixed = {size for spec in interface.inputs for size in spec.shape if isinstance(size, int)}
    taken = set(fixed)
    greedy: dict[str, int] = {}
    for dimension in free_dimensions(interface.dimensions):
        unused = (size for size in _showable(dimension) if size not in taken)
        greedy[dimension.name] = next(unused, allowed(dimension)[-1])
        taken.add(greedy[dimension.name])
    names = list(greedy)
    tried = itertools.product(*(_showable(each)[:_EXAMPLES] for each in free_dimensions(interface.dimensions)))
    combinations = (dict(zip(names, sizes, strict=True)) for sizes in itertools.islice(tried, _MOST_EXAMPLES))
    completed = (complete_sizes(interface.dimensions, sizes) for sizes in (greedy, *combinations))
    return next(
        (sizes for sizes in completed if _are_distinct(sizes, fixed)), complete_sizes(interface.dimensions, greedy)
    )


def _showable(dimension: Dimension) -> range:
    sizes = allowed(dimension)
    return sizes[sum(size < 2 * dimension.multiple_of for size in sizes[:3]) :]


def _are_distinct(sizes: Sizes, fixed: set[int]) -> bool:
    return len({*sizes.values(), *fixed}) == len(sizes) + len(fixed) and min(sizes.values(), default=2) >= 2


def allowed(dimension: Dimension) -> range:
    """Return the sizes a dimension may take."""
    step = dimension.multiple_of
    first = -(-dimension.min // step) * step
    return range(first, dimension.max + 1, step)


def make(interface: Interface, sizes: Sizes, *, seed: int, name: str, values: str = "normal") -> Case:
    """Return one case: arrays for every input at `sizes`, the same for the same seed, name and sizes."""
    import numpy as np

    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    arrays = {spec.name: _fill(spec, shape_of(spec, sizes), values, rng) for spec in interface.inputs}
    return Case(name, dict(sizes), arrays)


def sample(interface: Interface, *, seed: int, cap_elements: int) -> tuple[Case, ...]:
    """Return the cases parity is judged on: every notable size with normal values, every kind of value at one size."""
    named = _notable_sizes(interface, cap_elements)
    cases = [make(interface, sizes, seed=seed, name=name) for name, sizes in named.items()]
    middle = named.get("odd") or next(iter(named.values()))
    if any(spec.values in {"normal", "uniform"} and "float" in spec.dtype for spec in interface.inputs):
        cases += [make(interface, middle, seed=seed, name=values, values=values) for values in _FLOATS]
    if any(_is_flag(spec) for spec in interface.inputs):
        # The commonest mask of all hides nothing, and networks look for it: some leave it out then, though not while they are exported.
        cases.append(make(interface, middle, seed=seed, name=FLAGS_SET, values=FLAGS_SET))
    return tuple(cases)


def _is_flag(spec: InputSpec) -> bool:
    """Whether an input says yes or no, element by element: a mask, bool, or one of two whole numbers."""
    if spec.values == "mask" or spec.dtype == "bool":
        return True
    low, high = _whole_numbers(spec)
    return "int" in spec.dtype and spec.values != "zeros" and high - low == 2


def _whole_numbers(spec: InputSpec) -> tuple[int, int]:
    """Return the least value that an integer input may have, and the one beyond its largest; 0 and 2 where nothing is declared."""
    return 0 if spec.low is None else int(spec.low), 2 if spec.high is None else int(spec.high)


def signals(interface: Interface, sizes: Sizes, *, seed: int) -> Iterator[Case]:
    """Yield other inputs at the given sizes, for a network that does not respond to the usual ones.

    Other draws, smaller and larger values; floats with bounds at both ends keep to a part of their range.
    """
    floating = [spec for spec in interface.inputs if "float" in spec.dtype and spec.values in {"normal", "uniform"}]
    for draw in range(1, _DRAWS + 1):
        yield make(interface, sizes, seed=seed, name=f"another draw {draw}")
    for factor in _FACTORS if floating else ():
        specs = tuple(_scaled(spec, factor) if spec in floating else spec for spec in interface.inputs)
        if specs != interface.inputs:
            yield make(replace(interface, inputs=specs), sizes, seed=seed, name=f"values × {factor:g}")


def _scaled(spec: InputSpec, factor: float) -> InputSpec:
    """Return an input with values as many times as large, within its bounds."""
    if spec.low is None or spec.high is None:
        return replace(spec, scale=spec.scale * factor)
    return spec if factor > 1 else replace(spec, high=spec.low + (spec.high - spec.low) * factor)


def shape_of(spec: InputSpec, sizes: Sizes) -> tuple[int, ...]:
    """Return an input's shape at the given sizes."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def from_samples(interface: Interface, arrays: Arrays, *, name: str = "samples", what: str = "samples") -> Case:
    """Return the user's own inputs as a case called `name`; `what` holds them, in messages.

    Raises:
        InputError: an input is missing, or has another dtype or shape than declared.
    """
    for spec in interface.inputs:
        if spec.name not in arrays:
            raise InputError(
                f"{what}: no array for input '{spec.name}'; there are {', '.join(sorted(arrays)) or 'none'}",
                hint=f"save one under the name {spec.name}",
            )
    sizes: dict[str, int] = {}
    for spec in interface.inputs:
        array = arrays[spec.name]
        if array.dtype.name != spec.dtype or array.ndim != len(spec.shape):
            raise InputError(
                f"{what}: '{spec.name}' is {array.dtype} {list(array.shape)}, declared is {spec.dtype} {list(spec.shape)}",
                hint="save it as declared, or declare it as it is",
            )
        for declared, given in zip(spec.shape, array.shape, strict=True):
            known = sizes.setdefault(declared, given) if isinstance(declared, str) else declared
            if known != given:
                told = f"{what}: '{spec.name}' has size {given} where {declared} is {known}"
                raise InputError(told, hint=f"save it with {known} there")
    _require_related(interface, sizes, what)
    return Case(name, sizes, {spec.name: arrays[spec.name] for spec in interface.inputs})


def _require_related(interface: Interface, sizes: dict[str, int], what: str) -> None:
    for name, size in complete_sizes(interface.dimensions, sizes).items():
        if sizes.setdefault(name, size) != size:
            formula = next(each.formula for each in interface.dimensions if each.name == name)
            told = f"{what}: {name} is {sizes[name]}, and {formula} is {size}"
            raise InputError(told, hint=f"save it with {size} there")


def _notable_sizes(interface: Interface, cap_elements: int) -> dict[str, dict[str, int]]:
    """Name the combinations of sizes worth testing, each once."""
    shown = example_sizes(interface)
    odd = _odd_sizes(interface, shown)
    picks: dict[str, Callable[[Dimension, int], int]] = {
        "minimum": lambda dimension, _: allowed(dimension)[0],
        "one": lambda dimension, _: next((size for size in allowed(dimension) if size), 0),
        "odd": lambda dimension, _: odd[dimension.name],
        "exporter": lambda dimension, _: shown[dimension.name],
        "maximum": lambda dimension, _: allowed(dimension)[-1],
    }
    found: dict[str, dict[str, int]] = {}
    for name, pick in picks.items():
        picked = {each.name: pick(each, index) for index, each in enumerate(free_dimensions(interface.dimensions))}
        capped = _cap(interface, picked, cap_elements)
        label = name if capped == complete_sizes(interface.dimensions, picked) else f"{name} (capped)"
        if capped not in found.values():
            found[label] = capped
    for dimension, sizes in _corners(interface, cap_elements):
        if sizes not in found.values():
            found[f"longest {dimension.name}"] = sizes
    return found


def _corners(interface: Interface, cap_elements: int) -> Iterator[tuple[Dimension, dict[str, int]]]:
    """Yield, for each of several dimensions, its maximum with all others at their minimum."""
    dimensions = free_dimensions(interface.dimensions)
    if len(dimensions) < 2:
        return
    lowest = {each.name: allowed(each)[0] for each in dimensions}
    for dimension in dimensions:
        sizes = lowest | {dimension.name: allowed(dimension)[-1]}
        yield dimension, _cap(interface, sizes, cap_elements)


def _odd_sizes(interface: Interface, shown: Sizes) -> dict[str, int]:
    free = enumerate(free_dimensions(interface.dimensions))
    return complete_sizes(
        interface.dimensions, {each.name: _odd(each, index, shown[each.name]) for index, each in free}
    )


def _odd(dimension: Dimension, index: int, shown: int) -> int:
    """Return a small prime, or at least odd, size that differs from the one exporters saw; another for each index."""
    sizes = list(allowed(dimension)[:_SEARCH_STEPS])
    unseen = [size for size in sizes if size not in {shown, 1}]
    best = [size for size in unseen if _is_prime(size) and size > 2] or [size for size in unseen if size % 2]
    pool = best or unseen or sizes
    return pool[(index + 1) % len(pool)]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def smallest(interface: Interface) -> dict[str, int]:
    """Return the smallest size of every dimension that follows from no other, and what follows from these."""
    return complete_sizes(
        interface.dimensions, {each.name: allowed(each)[0] for each in free_dimensions(interface.dimensions)}
    )


def fewest_elements(interface: Interface) -> int:
    """Return how many elements the largest input has at the smallest sizes; where one may be empty, at those of most kinds of values."""
    lowest = smallest(interface)
    return _largest(interface, lowest if all(lowest.values()) else _odd_sizes(interface, example_sizes(interface)))


def _cap(interface: Interface, sizes: Sizes, cap_elements: int) -> dict[str, int]:
    """Shrink the largest dimension, step by step, until no input has more than `cap_elements` elements; return all sizes."""
    capped = dict(sizes)
    while _largest(interface, complete_sizes(interface.dimensions, capped)) > cap_elements:
        shrinkable = [each for each in free_dimensions(interface.dimensions) if capped[each.name] > allowed(each)[0]]
        if not shrinkable:
            break
        dimension = max(shrinkable, key=lambda each: capped[each.name] / max(allowed(each)[0], 1))
        fitting = [size for size in allowed(dimension) if size <= capped[dimension.name] // 2]
        capped[dimension.name] = fitting[-1] if fitting else allowed(dimension)[0]
    return complete_sizes(interface.dimensions, capped)


def _largest(interface: Interface, sizes: Sizes) -> int:
    return max(math.prod(shape_of(spec, sizes)) for spec in interface.inputs)


def _fill(spec: InputSpec, shape: tuple[int, ...], values: str, rng: np.random.Generator) -> Array:
    import numpy as np

    if values == FLAGS_SET:
        if _is_flag(spec):
            return np.full(shape, True if spec.dtype == "bool" else int(spec.low or 0) + 1, _dtype(spec.dtype))
        values = "normal"
    if spec.values == "mask":
        return _mask(spec, shape, rng)
    if spec.values == "zeros":
        return np.zeros(shape, _dtype(spec.dtype))
    if spec.dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if "int" in spec.dtype:
        low, high = _whole_numbers(spec)
        return np.asarray(rng.integers(low, high, shape), dtype=_dtype(spec.dtype))
    return np.asarray(_floats(spec, shape, values, rng), dtype=_dtype(spec.dtype))


def _floats(spec: InputSpec, shape: tuple[int, ...], values: str, rng: np.random.Generator) -> Any:
    import numpy as np

    bounded = spec.low is not None and spec.high is not None
    low = -spec.scale if spec.low is None else spec.low
    high = spec.scale if spec.high is None else spec.high
    normal = rng.standard_normal(shape) * spec.scale
    plain = rng.uniform(low, high, shape) if bounded or spec.values == "uniform" else normal
    kinds: dict[str, Callable[[], Any]] = {
        "normal": lambda: plain,
        "zeros": lambda: np.clip(np.zeros(shape), low, high),
        "constant": lambda: np.full(shape, low + 0.75 * (high - low)),
        # Declared bounds are a promise of the caller: stay inside them, at their ends.
        "large": lambda: np.where(rng.random(shape) < 0.5, low, high) if bounded else normal * 100,
        "tiny": lambda: np.clip(plain * 1e-4, low, high) if bounded else normal * 1e-4,
    }
    return kinds[values]()


def _mask(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ones for the first k ≥ 1 positions of the last axis, then zeros; the first row is whole."""
    import numpy as np

    length = shape[-1]
    lengths = rng.integers(min(1, length), length + 1, shape[:-1])
    lengths.reshape(-1)[:1] = length
    return np.asarray(np.arange(length) < lengths[..., None], dtype=_dtype(spec.dtype))


def _dtype(name: str) -> Any:
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(name)
