"""The inputs that a network's forward takes, found by running it on tensors of likely shapes.

These are meta tensors, which have shapes and no data, so that nothing is computed; forward of a network that looks at values
is computed on the CPU instead. It runs the architecture's code, which must be trusted, so it belongs into a worker.
"""

from __future__ import annotations

import dis
import inspect
import itertools
import time
import warnings
from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases, objects, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.outputs import is_tensor, leaves, output_paths
from pipeline.rebuild.shapes import build_for_shapes, build_with_values, needs_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import nn

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_TRIAL_SECONDS = 20.0
_BATCH = 2
_IMAGE_SIZES = (224, 32, 64, 28, 128, 256, 299, 384, 512)
_LENGTHS = (16, 8, 256, 1024, 16000)
_USUAL_LENGTH = 7
_LONGEST = 4096
_LONGEST_COMPUTED = 1024
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
    located: trust.Located,
    values: Mapping[str, Any],
    given: Mapping[str, InputSpec],
    outputs: Sequence[str],
    trusted: Sequence[str] = (),
) -> Inputs:
    """Find what forward takes by running it on likely shapes; those in `given` are taken as they are.

    `values` are the constructor's, with objects of the `trusted` prefixes as a config has them. `outputs` are the outputs' names, if known. Nothing is claimed that was not run: an input whose size only some
    values satisfy, without a rule to tell which, counts as missing.
    """
    make = objects.building(trust.import_architecture(located), trusted, Path())
    trial = _Trial(make, values, given)
    parameters = inspect.signature(trial.module.forward).parameters
    unknown = [name for name in given if name not in parameters]
    if unknown:
        raise ArchitectureError(
            f"forward of {located.name} has no argument {unknown[0]!r}",
            hint=f"name what it takes with --input: {', '.join(parameters)}",
        )
    named = [each for each in parameters.values() if each.kind in _NAMED]
    names = list(dict.fromkeys([*(each.name for each in named if each.default is each.empty), *given]))
    missing = tuple(name for name in names if name not in given)
    accepted, left_out = _accepted(trial, names), ""
    reason = f"forward takes none of the likely ones{trial.complaint}" if missing else trial.reason
    if accepted is None and not names and named:
        # All have defaults, and yet it wants one: most likely the first, which the others go with.
        accepted, left_out = _accepted(trial, [named[0].name]), ", ".join(each.name for each in named[1:])
    if accepted is None:
        return Inputs(None, missing=missing or tuple(names), reason=reason)
    settled = _settled(trial, accepted, given, outputs)
    if not left_out or settled.interface is None:
        return settled
    first = named[0].name
    words = [settled.comments[first]] if first in settled.comments else []
    words.append(f"forward runs with it alone; add what else it is to be given ({left_out})")
    return replace(settled, comments={**settled.comments, first: "; ".join(words)})


def _accepted(trial: _Trial, names: Sequence[str]) -> dict[str, _Guess] | None:
    """Return the first guess at these inputs with which forward runs."""
    trial.names = list(names)
    for guess in _combinations(names, trial.given, _likely(trial.module)):
        if trial.expired():
            break
        for each in _scaled(guess):
            is_too_long = trial.is_computed and max(_lengths(each), default=0) > _LONGEST_COMPUTED
            if not is_too_long and trial.accepts(each):
                return each
    return None


@dataclass(frozen=True, slots=True)
class _Guess:
    """A likely input: dtype, shape with dimension names, and the lengths to try for these."""

    dtype: str
    shape: tuple[int | str, ...]
    lengths: tuple[int, ...] = ()


class _Trial:
    """Runs a network's forward on meta tensors, or on the CPU where it looks at values, counting time.

    `reason` is the last error, `complaint` the first that the network's own code raised.
    """

    def __init__(
        self, make: Callable[..., nn.Module], values: Mapping[str, Any], given: Mapping[str, InputSpec]
    ) -> None:
        self.make, self.values, self.given = make, values, given
        self.module = build_for_shapes(make, values).eval()
        tensors = itertools.chain(self.module.parameters(), self.module.buffers())
        self.is_computed = any(not each.is_meta for each in tensors)
        self.names: list[str] = []
        self.reason = "its forward takes no argument"
        self.complaint = ""
        self.deadline = time.monotonic() + _TRIAL_SECONDS

    def expired(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self, guess: Mapping[str, _Guess], sizes: Mapping[str, int]) -> Any:
        import torch

        tensors = self._tensors(guess, sizes)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return tensors, self.module(**tensors)

    def accepts(self, guess: Mapping[str, _Guess], **sizes: int) -> bool:
        """Tell whether forward runs, for two different batches."""
        try:
            for batch in (_BATCH, _BATCH + 3):
                self.run(guess, {**_sizes(guess), "batch": batch, **sizes})
        except Exception as error:  # noqa: BLE001 - forward may raise anything for inputs it does not take
            if not self.is_computed and needs_values(error) and (module := attempt(self._with_values)):
                self.module, self.is_computed = module, True
                return self.accepts(guess, **sizes)
            self.reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            if not self.complaint and _is_raised_by_network(error):
                self.complaint = f"; with {_shown(guess, sizes)} it raises {self.reason}"
            return False
        return True

    def _with_values(self) -> nn.Module:
        return build_with_values(self.make, self.values).eval()

    def _tensors(self, guess: Mapping[str, _Guess], sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        import torch

        if self.is_computed:
            specs = tuple(_spec(name, each, self.given, {}) for name, each in guess.items())
            case = cases.make(Interface(specs, (), ()), sizes, seed=0, name="trial")
            return {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        return {
            name: torch.empty(
                [sizes[size] if isinstance(size, str) else size for size in each.shape],
                dtype=getattr(torch, each.dtype),
                device="meta",
            )
            for name, each in guess.items()
        }


def _is_raised_by_network(error: Exception) -> bool:
    """Tell whether an error comes from a raise or assert of code that is not torch's: it says what is wanted."""
    import torch

    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or Path(last.tb_frame.f_code.co_filename).is_relative_to(Path(torch.__file__).parent):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _shown(guess: Mapping[str, _Guess], sizes: Mapping[str, int]) -> str:
    used = {**_sizes(guess), **sizes}
    return ", ".join(
        f"{name}={each.dtype}[{','.join(str(used.get(str(size), size)) for size in each.shape)}]"
        for name, each in guess.items()
    )


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
