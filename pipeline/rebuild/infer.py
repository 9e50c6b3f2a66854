"""What a weights file implies about a network: its constructor's arguments, and the inputs its forward takes.

Everything is tried on meta tensors, which have shapes and no data: nothing is computed, and no weight is loaded. It runs
the architecture's code, which must be trusted, so it belongs into a worker.
"""

from __future__ import annotations

import inspect
import itertools
import time
import warnings
from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError, MisfitError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import calling, trust
from pipeline.rebuild.doctor import fit
from pipeline.rebuild.doubts import Doubt, Doubts, shapes_of, shown
from pipeline.rebuild.model import shapes_only
from pipeline.weights import read, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from pipeline.rebuild.doctor.misfit import Misfit
    from pipeline.weights.header import Header

    Shapes = Mapping[str, tuple[int, ...]]

_SEARCH_SECONDS = 20.0
_TEST_SECONDS = 3.0
_TRIAL_SECONDS = 20.0
_BATCH = 2
_IMAGE_SIZES = (224, 32, 64, 28, 128, 256, 299, 384, 512)
_LENGTHS = (16, 8, 256, 1024, 16000)
_LONGEST = 4096
_DEFAULT_LONGEST = 512
_SLOW_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Arguments:
    """Constructor arguments with which a state dict fits strictly.

    `sources` says which of them come from what the checkpoint says, by its section. `checks` are the arguments that nothing
    decides, or not alone, each with what is used and why it is in doubt. `rename` and `ignore` are the exceptions of the
    config that it takes beside them.
    """

    values: Mapping[str, Any]
    checks: Mapping[str, str]
    sources: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    @property
    def unsure(self) -> tuple[str, ...]:
        """The names of the arguments to look at."""
        return tuple(self.checks)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What forward takes and returns; `missing` names the inputs that could not be found out, with the reason."""

    interface: Interface | None
    comments: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    reason: str = ""


# Arguments


def arguments(
    located: trust.Located, weights: Path, given: Mapping[str, Any], *, key: str | None = None, max_bytes: int | None
) -> Arguments:
    """Return the arguments that make the network fit `weights`; those in `given` are taken as they are.

    The others are what the checkpoint says of them, unless its shapes do not fit then, and else what fits.

    Raises:
        WeightsError, UnsafeError: the file is no state dict.
        ArchitectureError: the network cannot be built at all.
        MisfitError: no arguments were found with which it fits; the message shows the closest.
    """
    make = trust.import_architecture(located)
    header = read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    parameters = [each for each in trust.parameters_of(located, make) if each.name not in given]

    def fits(values: Mapping[str, Any]) -> bool:
        try:
            start, _ = _start(located, make, parameters, values, given)
        except ArchitectureError:
            return False
        found, _ = _found(header, shapes_of(make, start))
        free = {name: value for name, value in start.items() if name not in values and name not in given}
        misfit = _misfit(located, make, start, found, free, weights.name, _TEST_SECONDS)
        return misfit is None or (misfit.changes is not None and not misfit.ignore)

    said = stated.read(weights, header, {each.name: each.default for each in parameters}, key=key, fits=fits)
    taken = {each.name: said.claims[each.name].value for each in parameters if _is_taken(each, said)}
    start, refused = _start(located, make, parameters, taken, given)
    found, _ = _found(header, shapes_of(make, start))
    misfit = _explained(located, make, start, found, (given, taken), weights.name)
    chosen = {**start, **(misfit.changes or {} if misfit else {})}
    rename, ignore = (misfit.rename, misfit.ignore) if misfit else ({}, ())
    _, notes = fit.fitted(_meta(header.tensors), list(shapes_of(make, chosen)), rename, ignore, weights.name)
    kept = {name: value for name, value in taken.items() if stated.is_same(chosen.get(name), value)}
    doubts = Doubts(make, weights.name, chosen, [each for each in parameters if each.name not in kept])
    doubtful = [doubt for each in parameters if (doubt := doubts.about(each, said))]
    checks = {each.name: _sentence(each, located.name) for each in doubtful}
    for name, value in taken.items():
        if name not in kept:
            how = "it cannot be built" if name in refused else "the weights do not fit"
            says = f"{said.claims[name].source} says {shown(value)}, with which {how}"
            checks[name] = f"{shown(chosen.get(name))} is used; {says}"
    # What is only a default is not written down: `check` asks for it until somebody does.
    left_out = {each.name for each in doubtful if each.is_default and each.name not in kept}
    values = {name: _listed(value) for name, value in chosen.items() if name not in left_out}
    return Arguments(values, checks, _by_source(kept, said), notes, rename, ignore)


def _sentence(doubt: Doubt, owner: str) -> str:
    idle = ", but other values change nothing in eval mode" if doubt.is_idle else ""
    return f"{doubt.value} is {f'the default of {owner}' if doubt.is_default else 'used'}; {doubt.why}{idle}"


def _by_source(names: Iterable[str], said: stated.Stated) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {}
    for name in names:
        source = said.claims[name].source
        sources[source] = (*sources.get(source, ()), name)
    return sources


def _is_taken(parameter: trust.Parameter, said: stated.Stated) -> bool:
    """Tell whether what a file says can be an argument: where the code has a class or function, a file has its name only."""
    return parameter.name in said.claims and stated.is_plain(parameter.default)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _start(
    located: trust.Located,
    make: Callable[..., nn.Module],
    parameters: Sequence[trust.Parameter],
    said: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return arguments to start the search from, and which of those that the file says had to be left out for that.

    They are the defaults, and for the others what the file says, or else the first values that build.
    """
    defaults = {each.name: each.default for each in parameters if each.has_default and _is_searched(each.default)}
    failure: Exception | None = None
    for refused in _fewer(list(said)):
        taken = {name: value for name, value in said.items() if name not in refused}
        wanted = [each.name for each in parameters if not each.has_default and each.name not in taken]
        for values in _guesses(wanted):
            start = {**defaults, **values, **taken, **given}
            try:
                shapes_of(make, start)
            except Exception as error:  # noqa: BLE001 - a constructor may raise anything for values it does not take
                failure = failure or error
                continue
            return start, refused
    needed = ", ".join(each.name for each in parameters if not each.has_default) or "its defaults"
    raise ArchitectureError(
        f"{located.name} could not be built to compare it with the file: {type(failure).__name__}: {failure}",
        hint=f"give what it needs ({needed}): --set model.arguments.NAME=VALUE",
    )


def _fewer(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield which names to do without: none, then each alone, then all."""
    yield ()
    if len(names) > 1:
        yield from ((name,) for name in names)
    if names:
        yield tuple(names)


def _is_searched(default: Any) -> bool:
    return default is not None and stated.is_plain(default)


def _found(header: Header, expected: Shapes) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the file's shapes under the names that a network expects, and what was done to their names."""
    tensors, notes = fit.align(_meta(header.tensors), list(expected))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, notes


def _explained(
    located: trust.Located,
    make: Callable[..., nn.Module],
    start: Mapping[str, Any],
    found: Shapes,
    fixed: tuple[Mapping[str, Any], Mapping[str, Any]],
    weights_name: str,
) -> Misfit | None:
    """Return what makes the network fit `found`, changing what the file says only where nothing else helps.

    `fixed` are the arguments that were given and those that the file says. Raises MisfitError where nothing fits.
    """
    given, said = fixed

    def misfit_with(kept: Mapping[str, Any]) -> Misfit | None:
        free = {name: value for name, value in start.items() if name not in kept}
        return _misfit(located, make, start, found, free, weights_name, _SEARCH_SECONDS / (2 if said else 1))

    misfit = misfit_with({**given, **said})
    # Leaving tensors out is the last thing to try.
    if said and misfit is not None and (misfit.changes is None or misfit.ignore):
        misfit = misfit_with(given)
    if misfit is None or misfit.changes is not None:
        return misfit
    raise MisfitError(
        misfit.message(lambda _: "not set yet"),
        hint=misfit.hint
        or "if the weights belong to this network, give what it is built with: --set model.arguments.NAME=VALUE",
    )


def _misfit(
    located: trust.Located,
    make: Callable[..., nn.Module],
    start: Mapping[str, Any],
    found: Shapes,
    free: Mapping[str, Any],
    weights_name: str,
    seconds: float,
) -> Misfit | None:
    return fit.explain(
        shapes_of(make, start),
        found,
        arguments=free,
        build_shapes=lambda changes: shapes_of(make, {**start, **changes}),
        owner=located.name,
        weights_name=weights_name,
        seconds=seconds,
    )


def _guesses(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield values for arguments without defaults: all different, so that each can be told by its size."""
    if not names:
        yield {}
        return
    small = ("layer", "depth", "block", "head", "group", "stack", "stage", "num_res", "repeat")
    for unit in (24, 16, 12):
        sizes = itertools.count(1)
        yield {name: 2 if any(word in name.lower() for word in small) else unit * next(sizes) for name in names}
    yield from (dict.fromkeys(names, value) for value in (8, 1, 3, 18))
    yield from ({name: list(value) for name in names} for value in ((24, 48, 72), (2, 2, 2, 2)))


def _meta(tensors: Iterable[Any]) -> dict[str, torch.Tensor]:
    import torch

    return {
        each.name: torch.empty(each.shape, dtype=getattr(torch, each.dtype, torch.float32), device="meta")
        for each in tensors
    }


# Inputs


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
    """A likely input: dtype, shape with dimension names, the sizes to try for these, and a note."""

    dtype: str
    shape: tuple[int | str, ...]
    sizes: tuple[int, ...] = (0,)
    values: str = "normal"
    comment: str = ""


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
        if isinstance(layer, nn.Embedding):
            made.append(_Guess("int64", ("batch", "length"), _LENGTHS))
        elif isinstance(layer, nn.Conv2d):
            channels = layer.in_channels
            made += [_Guess("float32", ("batch", channels, size, size)) for size in _IMAGE_SIZES]
        elif isinstance(layer, nn.Conv1d):
            made.append(_Guess("float32", ("batch", layer.in_channels, "length"), _LENGTHS))
            made.append(_Guess("float32", ("batch", "length"), _LENGTHS))
        elif isinstance(layer, nn.RNNBase):
            made.append(_Guess("float32", ("batch", "length", layer.input_size), _LENGTHS))
            made.append(_Guess("float32", (layer.num_layers, "batch", layer.hidden_size)))
        elif isinstance(layer, nn.RNNCellBase):
            made.append(_Guess("float32", ("batch", layer.input_size)))
            made.append(_Guess("float32", ("batch", layer.hidden_size)))
            made.append(_Guess("float32", (2, "batch", layer.hidden_size)))
        elif isinstance(layer, nn.Linear | nn.Bilinear):
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.in1_features
            made.append(_Guess("float32", ("batch", width)))
            made.append(_Guess("float32", ("batch", "length", width), _LENGTHS))
    return list(dict.fromkeys(made))[:60]


def _combinations(
    names: Sequence[str], given: Mapping[str, InputSpec], likely: Sequence[_Guess]
) -> Iterator[dict[str, _Guess]]:
    """Yield guesses for all inputs together, likeliest first; inputs of one network often share their shape."""
    fixed = {name: _Guess(spec.dtype, spec.shape, values=spec.values) for name, spec in given.items()}
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
    lengths = next((each.sizes for each in guess.values() if each.sizes != (0,)), (0,))
    for length in lengths:
        yield {name: replace(each, sizes=(length,)) for name, each in guess.items()}


def _sizes(guess: Mapping[str, _Guess]) -> dict[str, int]:
    named = {size for each in guess.values() for size in each.shape if isinstance(size, str)}
    usual = next((each.sizes[0] for each in guess.values() if each.sizes != (0,)), 7)
    return {name: usual + index for index, name in enumerate(sorted(named))}


def _settled(trial: _Trial, guess: dict[str, _Guess], given: Mapping[str, InputSpec], outputs: Sequence[str]) -> Inputs:
    """Turn accepted guesses into inputs and dimensions, after testing how far each dimension reaches."""
    names = sorted({size for each in guess.values() for size in each.shape if isinstance(size, str)})
    dimensions, comments = [], {}
    for name in names:
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
    tensors, result = trial.run(guess, {**_sizes(guess), "batch": _BATCH})
    tables = _tables(trial, guess)
    specs = tuple(_spec(name, guess[name], given, tables) for name in trial.names)
    for name, each in guess.items():
        if name not in given and len(each.shape) == 4:
            comments[name] = "the size is a common one that forward takes: write the one the network was trained with"
        elif name not in given and each.dtype == "int64" and name not in tables and "mask" not in name:
            comments[name] = "the range was not found: write the values it may hold"
    del tensors
    paths = {} if outputs else _output_paths(result, {spec.name for spec in specs})
    interface = Interface(specs, tuple(dimensions), tuple(outputs or paths))
    try:
        calling.placed(result, interface)
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
        tensors, _ = trial.run(guess, {**_sizes(guess), "batch": _BATCH})
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
    import torch

    found = [path for path, value in calling.leaves(result) if isinstance(value, torch.Tensor)]
    if len(found) == 1 and not found[0]:
        return {"output": ""}
    names = [f"output_{path}" if path[0].isdecimal() else f"new_{path}" if path in inputs else path for path in found]
    return dict(zip(names, found, strict=True)) if len(found) > 1 else {names[0].removesuffix("_0"): found[0]}


def matching(
    candidates: Sequence[str], weights: Path, key: str | None, max_bytes: int | None
) -> dict[str, dict[str, Any]]:
    """Return which of `candidates` (MODULE:CLASS) take the state dict in `weights`, with the arguments they need."""
    header = read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    found = {}
    for target in candidates:
        located = trust.locate(target, (trust.ALWAYS_TRUSTED,))
        expected = shapes_of(trust.import_architecture(located), {})
        aligned, _ = fit.align(_meta(header.tensors), list(expected))
        # A search is only worth its time where most names are the network's.
        if sum(name in expected for name in aligned) * 2 < min(len(aligned), len(expected)):
            continue
        try:
            found[target] = dict(arguments(located, weights, {}, key=key, max_bytes=max_bytes).values)
        except MisfitError:
            continue
    return found
