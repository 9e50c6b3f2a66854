"""The inputs that a network's forward takes, found by running it on meta tensors of likely shapes.

Meta tensors have shapes and no data: nothing is computed. It runs the architecture's code, which must be trusted, so it
belongs into a worker.
"""

from __future__ import annotations

import inspect
import itertools
import time
import warnings
from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import trust
from pipeline.rebuild.model import shapes_only
from pipeline.rebuild.outputs import is_tensor, leaves, output_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

_TRIAL_SECONDS = 20.0
_BATCH = 2
_IMAGE_SIZES = (224, 32, 64, 28, 128, 256, 299, 384, 512)
_LENGTHS = (16, 8, 256, 1024, 16000)
_USUAL_LENGTH = 7
_LONGEST = 4096
_DEFAULT_LONGEST = 512
_SLOW_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Inputs:
    """What forward takes and returns; `missing` names the inputs that could not be found out, with the reason."""

    interface: Interface | None
    comments: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    reason: str = ""


def inputs(
    located: trust.Located, values: Mapping[str, Any], given: Mapping[str, InputSpec], outputs: Sequence[str]
) -> Inputs:
    """Find what forward takes by running it on meta tensors of likely shapes; those in `given` are taken as they are.

    `outputs` are the outputs' names, if known. Nothing is claimed that was not run: an input whose size only some
    values satisfy, without a rule to tell which, counts as missing.
    """
    make = trust.import_architecture(located)
    with shapes_only():
        module = make(**values).eval()
    names = _required(module)
    unknown = [name for name in given if name not in _accepted(module)]
    if unknown:
        raise ArchitectureError(
            f"forward of {located.name} has no argument {unknown[0]!r}", hint=f"it takes {', '.join(_accepted(module))}"
        )
    trial = _Trial(module, [*names, *(name for name in given if name not in names)])
    for guess in _combinations(trial.names, given, _likely(module)):
        if trial.expired():
            break
        accepted = next((each for each in _scaled(guess) if trial.accepts(each)), None)
        if accepted is not None:
            return _settled(trial, accepted, given, outputs)
    missing = tuple(name for name in trial.names if name not in given)
    reason = "forward takes none of the likely ones" if missing else trial.reason
    return Inputs(None, missing=missing or tuple(trial.names), reason=reason)


@dataclass(frozen=True, slots=True)
class _Guess:
    """A likely input: dtype, shape with dimension names, and the lengths to try for these."""

    dtype: str
    shape: tuple[int | str, ...]
    lengths: tuple[int, ...] = ()


class _Trial:
    """Runs a network's forward on meta tensors, counting time."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.module = module
        self.names = list(names)
        self.reason = "its forward takes no argument"
        self.deadline = time.monotonic() + _TRIAL_SECONDS

    def expired(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self, guess: Mapping[str, _Guess], sizes: Mapping[str, int]) -> Any:
        import torch

        tensors = {
            name: torch.empty(
                [sizes[size] if isinstance(size, str) else size for size in each.shape],
                dtype=getattr(torch, each.dtype),
                device="meta",
            )
            for name, each in guess.items()
        }
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return tensors, self.module(**tensors)

    def accepts(self, guess: Mapping[str, _Guess], **sizes: int) -> bool:
        """Tell whether forward runs, for two different batches."""
        try:
            for batch in (_BATCH, _BATCH + 3):
                self.run(guess, {**_sizes(guess), "batch": batch, **sizes})
        except Exception as error:  # noqa: BLE001 - forward may raise anything for inputs it does not take
            self.reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            return False
        return True


def _required(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters.values()
    return [each.name for each in parameters if each.kind in kinds and each.default is each.empty]


def _accepted(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _likely(module: nn.Module) -> list[_Guess]:
    """Return likely inputs, from the layers that the network has: the first to be registered most likely takes one."""
    from torch import nn

    made: list[_Guess] = []
    for layer in module.modules():
        match layer:
            case nn.Embedding():
                made.append(_guess("batch", "length", dtype="int64"))
            case nn.Conv2d(in_channels=channels):
                made += [_guess("batch", channels, size, size) for size in _IMAGE_SIZES]
            case nn.Conv1d(in_channels=channels):
                made += [_guess("batch", channels, "length"), _guess("batch", "length")]
            case nn.RNNBase(input_size=width, hidden_size=hidden, num_layers=layers):
                made += [_guess("batch", "length", width), _guess(layers, "batch", hidden)]
            case nn.RNNCellBase(input_size=width, hidden_size=hidden):
                made += [_guess("batch", width), _guess("batch", hidden), _guess(2, "batch", hidden)]
            case nn.Linear(in_features=width) | nn.Bilinear(in1_features=width):
                made += [_guess("batch", width), _guess("batch", "length", width)]
    return list(dict.fromkeys(made))[:60]


def _guess(*shape: int | str, dtype: str = "float32") -> _Guess:
    return _Guess(dtype, shape, _LENGTHS if "length" in shape else ())


def _combinations(
    names: Sequence[str], given: Mapping[str, InputSpec], likely: Sequence[_Guess]
) -> Iterator[dict[str, _Guess]]:
    """Yield guesses for all inputs together, likeliest first; inputs of one network often share their shape."""
    fixed = {name: _Guess(spec.dtype, spec.shape) for name, spec in given.items()}
    free = [name for name in names if name not in given]
    if not free:
        yield fixed
        return
    for each in likely:
        yield fixed | dict.fromkeys(free, each)
    if 1 < len(free) <= 3:
        for chosen in itertools.product(likely[:12], repeat=len(free)):
            if len(set(chosen)) > 1:
                yield fixed | dict(zip(free, chosen, strict=True))


def _scaled(guess: Mapping[str, _Guess]) -> Iterator[dict[str, _Guess]]:
    """Yield the guess with each of the lengths worth trying."""
    for length in _lengths(guess) or (None,):
        lengths = () if length is None else (length,)
        yield {name: replace(each, lengths=lengths) for name, each in guess.items()}


def _lengths(guess: Mapping[str, _Guess]) -> tuple[int, ...]:
    return next((each.lengths for each in guess.values() if each.lengths), ())


def _dimensions(guess: Mapping[str, _Guess]) -> list[str]:
    return sorted({size for each in guess.values() for size in each.shape if isinstance(size, str)})


def _sizes(guess: Mapping[str, _Guess]) -> dict[str, int]:
    usual = next(iter(_lengths(guess)), _USUAL_LENGTH)
    return {name: usual + index for index, name in enumerate(_dimensions(guess))} | {"batch": _BATCH}


def _settled(trial: _Trial, guess: dict[str, _Guess], given: Mapping[str, InputSpec], outputs: Sequence[str]) -> Inputs:
    """Turn accepted guesses into inputs and dimensions, after testing how far each dimension reaches."""
    dimensions, comments = [], {}
    for name in _dimensions(guess):
        if name == "batch":
            dimensions.append(Dimension("batch", 1, 64))
            continue
        low, high = _range(trial, guess, name)
        last = high - 1 if high < _LONGEST else low + 3
        inner = [size for size in (low + 1, low + 2, last) if low < size < high]
        is_window = low > 1 and high < _LONGEST
        is_free = not is_window and all(trial.accepts(guess, **{name: size}) for size in inner)
        if not is_free and not any(name in spec.shape for spec in given.values()):
            # One of these is the network's own, such as a frame of audio; the others only happen to run.
            some = [each for each, spec in guess.items() if name in spec.shape and each not in given]
            reason = f"forward runs with sizes from {low} to {high}, and the shapes do not tell which is right"
            return Inputs(None, missing=tuple(some), reason=reason)
        has_end = high < _LONGEST
        dimensions.append(Dimension(name, low, high if has_end else max(_DEFAULT_LONGEST, low)))
        end = f"up to {high}" if has_end else "without an end that was found"
        comments[name] = f"forward runs from {low} {end}; narrow this to what the network was trained for"
    _, result = trial.run(guess, _sizes(guess))
    tables = _tables(trial, guess)
    specs = tuple(_spec(name, guess[name], given, tables) for name in trial.names)
    for name, each in guess.items():
        if name not in given and len(each.shape) == 4:
            comments[name] = "the size is a common one that forward takes: write the one the network was trained with"
        elif name not in given and each.dtype == "int64" and name not in tables and "mask" not in name:
            comments[name] = "the range was not found: write the values it may hold"
    paths = {} if outputs else _output_paths(result, {spec.name for spec in specs})
    interface = Interface(specs, tuple(dimensions), tuple(outputs or paths))
    try:
        output_paths(result, interface)
    except ArchitectureError:
        if outputs:
            raise
        interface = replace(interface, paths=paths)  # names alone do not say where they lie
    return Inputs(interface, comments)


def _range(trial: _Trial, guess: Mapping[str, _Guess], name: str) -> tuple[int, int]:
    """Return the smallest and largest size of a dimension that forward takes; `_LONGEST` where there is no end."""
    usual = _sizes(guess)[name]
    low = next((size for size in range(1, usual) if trial.accepts(guess, **{name: size})), usual)
    high, step = usual, usual
    while step:
        start = time.monotonic()
        if high + step > _LONGEST or not trial.accepts(guess, **{name: high + step}):
            step //= 2
            continue
        high, step = high + step, 2 * step
        if time.monotonic() - start > _SLOW_SECONDS:
            return low, _LONGEST  # a recurrent network takes a step for each element: no end is to be expected
    return low, high


def _tables(trial: _Trial, guess: Mapping[str, _Guess]) -> dict[str, int]:
    """Return input → number of rows of the embedding that it is looked up in."""
    from torch import nn

    seen: dict[int, int] = {}

    def watch(layer: nn.Embedding, taken: tuple[Any, ...]) -> None:
        seen[id(taken[0])] = layer.num_embeddings

    hooks = [
        layer.register_forward_pre_hook(watch) for layer in trial.module.modules() if isinstance(layer, nn.Embedding)
    ]
    try:
        tensors, _ = trial.run(guess, _sizes(guess))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: seen[id(tensor)] for name, tensor in tensors.items() if id(tensor) in seen}


def _spec(name: str, guess: _Guess, given: Mapping[str, InputSpec], tables: Mapping[str, int]) -> InputSpec:
    if name in given:
        return given[name]
    if "int" not in guess.dtype:
        return InputSpec(name, guess.dtype, guess.shape)
    if name not in tables and "mask" in name:
        return InputSpec(name, guess.dtype, guess.shape, values="mask")
    return InputSpec(name, guess.dtype, guess.shape, low=0, high=tables.get(name, 2), values="uniform")


def _output_paths(result: Any, inputs: set[str]) -> dict[str, str]:
    """Return names for the tensors that forward returns, with where they lie: keys and fields give their own."""
    found = [path for path, value in leaves(result) if is_tensor(value)]
    if len(found) == 1 and not found[0]:
        return {"output": ""}
    names = [f"output_{path}" if path[0].isdecimal() else f"new_{path}" if path in inputs else path for path in found]
    return dict(zip(names, found, strict=True)) if len(found) > 1 else {names[0].removesuffix("_0"): found[0]}
