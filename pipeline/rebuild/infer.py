"""The arguments that a network is built with, as its weights file implies them; and with `infer_inputs`, its whole config.

Networks are built on meta tensors, which have shapes and no data, as long as their constructors can do without: no weight is
loaded. It runs the architecture's code, which must be trusted, so it belongs into a worker.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping  # noqa: TC003 - read when answers are validated
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError, MisfitError
from pipeline.rebuild import objects, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.doctor import prefixes
from pipeline.rebuild.doctor.diagnosis import diagnose
from pipeline.rebuild.doubts import Doubt, Doubts, shown
from pipeline.rebuild.fields import fields_of
from pipeline.rebuild.shapes import shapes_of
from pipeline.weights import read, stated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

    from pipeline.rebuild.definitions import Parameter
    from pipeline.rebuild.doctor.misfit import Misfit
    from pipeline.weights.header import Header

_SEARCH_SECONDS = 20.0
_TEST_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """Constructor arguments with which a state dict fits strictly.

    `sources` says which of them come from what the checkpoint says, by its section. `checks` are the arguments that nothing
    decides, or not alone, each with what is used and why it is in doubt. `rename` and `ignore` are the exceptions of the
    config that it takes beside them; `names_by` is who has them so, None where they were told from words, numbers and shapes.
    """

    values: Mapping[str, Any]
    checks: Mapping[str, str]
    sources: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    names_by: str | None = None

    @property
    def unsure(self) -> tuple[str, ...]:
        """The names of the arguments to look at."""
        return tuple(self.checks)


def arguments(
    located: trust.Located,
    weights: Path,
    given: Mapping[str, Any],
    *,
    key: str | None = None,
    max_bytes: int | None,
    trusted: Sequence[str] = (),
) -> Arguments:
    """Return the arguments that make the network fit `weights`; those in `given` are taken as they are.

    The others are what the checkpoint says of them, unless its shapes do not fit then, and else what fits. Fields of dataclasses
    under the `trusted` prefixes are found as arguments are.

    Raises:
        WeightsError, UnsafeError: the file is no state dict.
        ArchitectureError: the network cannot be built at all.
        MisfitError: no arguments were found with which it fits; the message shows the closest.
    """
    header = read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    network = _Unbuilt(located, given, header, weights.name, trusted)
    defaults = {each.name: each.default for each in network.parameters}
    said = stated.read(weights, header, defaults, key=key, fits=network.fits)
    taken = {
        name: said.claims[name].value for name, default in defaults.items() if _is_taken(name, default, said, trusted)
    }
    start, refused = network.start(taken)
    misfit = network.misfit_or_raise(start, taken)
    chosen = {**start, **(misfit.changes or {} if misfit else {})}
    rename, ignore = (misfit.rename, misfit.ignore) if misfit else ({}, ())
    expected = list(shapes_of(network.make, chosen))
    _, notes = prefixes.align_with_exceptions(network.tensors, expected, rename, ignore, weights.name)
    confirmed = {name: value for name, value in taken.items() if stated.is_same(chosen.get(name), value)}
    free = [each for each in network.parameters if each.name not in confirmed]
    doubts = Doubts(network.make, weights.name, chosen, free)
    doubtful = [doubt for each in network.parameters if (doubt := doubts.about(each, said))]
    checks = {network.fields.place(each.name): _sentence(each, located.name) for each in doubtful}
    for name, value in taken.items():
        if name not in confirmed:
            how = "it cannot be built" if name in refused else "the weights do not fit"
            says = f"{said.claims[name].source} says {shown(value)}, with which {how}"
            checks[network.fields.place(name)] = f"{shown(chosen.get(name))} is used; {says}"
    # What is only a default is not written down: `check` asks for it until somebody does.
    left_out = {each.name for each in doubtful if each.is_default and each.name not in confirmed}
    values = {
        name: list(value) if isinstance(value, tuple) else objects.written(value)
        for name, value in chosen.items()
        if name not in left_out
    }
    return Arguments(network.fields.nested(values), checks, _by_source(confirmed, said), notes, rename, ignore)


def _sentence(doubt: Doubt, owner: str) -> str:
    idle = ", but other values change nothing in eval mode" if doubt.is_idle else ""
    return f"{doubt.value} is {f'the default of {owner}' if doubt.is_default else 'used'}; {doubt.why}{idle}"


def _by_source(names: Iterable[str], said: stated.Stated) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {}
    for name in names:
        source = said.claims[name].source
        sources[source] = (*sources.get(source, ()), name)
    return sources


def _is_taken(name: str, default: Any, said: stated.Stated, trusted: Sequence[str]) -> bool:
    """Tell whether what a file says can be an argument: where the code has a class or function, a file has its name only."""
    if name not in said.claims:
        return False
    value = said.claims[name].value
    if isinstance(default, Enum) and isinstance(value, Enum):
        return stated.is_plain(value.value) and attempt(objects.locate, objects.written(value), trusted) is not None
    return stated.is_plain(default)


class _Unbuilt:
    """A network whose arguments are looked for, with those that were given, and what a file declares of its tensors."""

    def __init__(
        self,
        located: trust.Located,
        given: Mapping[str, Any],
        header: Header,
        weights_name: str,
        trusted: Sequence[str],
    ) -> None:
        self.located, self.given, self.weights_name = located, given, weights_name
        build = objects.building(trust.import_architecture(located), trusted, Path())
        free = [each for each in trust.parameters_of(located, build) if each.name not in given]
        self.fields = fields_of(build, free, trusted)
        self.parameters: Sequence[Parameter] = self.fields.parameters
        self.make = self.fields.building(build)
        self.tensors = _meta(header)

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Tell whether the weights fit with these values, whatever the other arguments are."""
        try:
            start, _ = self.start(values)
        except ArchitectureError:
            return False
        misfit = self.misfit(start, {**values, **self.given}, _TEST_SECONDS)
        return misfit is None or (misfit.is_mended and not misfit.ignore)

    def start(self, said: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return arguments to start the search from, and which of those that the file says had to be left out for that.

        They are the defaults, and for the others what the file says, or else the first values that build.
        """
        defaults = {each.name: each.default for each in self.parameters if each.has_default and _is_searched(each)}
        needed = [each.name for each in self.parameters if not each.has_default]
        failure: Exception | None = None
        for refused in _fewer(list(said)):
            taken = {name: value for name, value in said.items() if name not in refused}
            for values in _guesses([name for name in needed if name not in taken]):
                start = {**defaults, **values, **taken, **self.given}
                try:
                    shapes_of(self.make, start)
                except Exception as error:  # noqa: BLE001 - a constructor may raise anything for values it does not take
                    failure = failure or error
                    continue
                return start, refused
        raise ArchitectureError(
            f"{self.located.name} could not be built to compare it with the file: {type(failure).__name__}: {failure}",
            hint=f"give what it needs ({', '.join(needed)}): --set model.arguments.NAME=VALUE"
            if needed
            else f"{self.located.name}() must work in Python, or give other values: --set model.arguments.NAME=VALUE",
        )

    def misfit(self, start: Mapping[str, Any], fixed: Mapping[str, Any], seconds: float) -> Misfit | None:
        """Return what makes the network that `start` builds take the file's tensors, without changing what is `fixed`."""
        expected = shapes_of(self.make, start)
        tensors, _ = prefixes.align(self.tensors, list(expected))
        return diagnose(
            expected,
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            arguments={name: value for name, value in start.items() if name not in fixed},
            build_shapes=lambda changes: shapes_of(self.make, {**start, **changes}),
            owner=self.located.name,
            weights_name=self.weights_name,
            seconds=seconds,
        )

    def misfit_or_raise(self, start: Mapping[str, Any], said: Mapping[str, Any]) -> Misfit | None:
        """Return what makes the weights fit, changing what the file says only where nothing else helps.

        Raises MisfitError where nothing fits.
        """
        seconds = _SEARCH_SECONDS / (2 if said else 1)
        misfit = self.misfit(start, {**self.given, **said}, seconds)
        # Leaving tensors out is the last thing to try.
        if said and misfit is not None and (not misfit.is_mended or misfit.ignore):
            misfit = self.misfit(start, self.given, seconds)
        if misfit is None or misfit.is_mended:
            return misfit
        by_hand = "if the weights belong to this network, give what it is built with: --set model.arguments.NAME=VALUE"
        raise MisfitError(misfit.message(lambda _: "not set yet"), hint=misfit.hint or by_hand)


def _fewer(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield which names to do without: none, then each alone, then all."""
    yield ()
    if len(names) > 1:
        yield from ((name,) for name in names)
    if names:
        yield tuple(names)


def _is_searched(parameter: Parameter) -> bool:
    return parameter.default is not None and stated.is_plain(parameter.default)


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


def _meta(header: Header) -> dict[str, torch.Tensor]:
    import torch

    return {
        each.name: torch.empty(each.shape, dtype=getattr(torch, each.dtype, torch.float32), device="meta")
        for each in header.tensors
    }


def matching(
    candidates: Sequence[str], weights: Path, key: str | None, max_bytes: int | None
) -> dict[str, dict[str, Any]]:
    """Return which of `candidates` (MODULE:CLASS) take the state dict in `weights`, with the arguments they need."""
    header = read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    found = {}
    for target in candidates:
        located = trust.locate(target, (trust.ALWAYS_TRUSTED,))
        expected = shapes_of(trust.import_architecture(located), {})
        aligned, _ = prefixes.align(_meta(header), list(expected))
        # A search is only worth its time where most names are the network's.
        if sum(name in expected for name in aligned) * 2 < min(len(aligned), len(expected)):
            continue
        try:
            found[target] = dict(arguments(located, weights, {}, key=key, max_bytes=max_bytes).values)
        except MisfitError:
            continue
    return found
