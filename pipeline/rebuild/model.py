"""Rebuild the architecture, load its state dict strictly, and make it ready to run."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError, MisfitError, WeighbridgeError
from pipeline.rebuild import objects, preprocess, quantised, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.doctor import prefixes
from pipeline.rebuild.doctor.diagnosis import diagnose, possible_exceptions
from pipeline.rebuild.doctor.difference import Layout, layout_of_network, storage_of
from pipeline.rebuild.doctor.renames import Exceptions, combined
from pipeline.rebuild.fields import fields_of
from pipeline.rebuild.shapes import shapes_of, shapes_only
from pipeline.weights import read, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from pipeline.rebuild.network import Network


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode without gradients, and what was done to get there.

    `contradictions` say which arguments of the config are not what the checkpoint says of itself.
    """

    module: nn.Module
    notes: tuple[str, ...]
    weights_sha256: str
    contradictions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Opened:
    """A network as it is built, and its file's tensors under the names that the config gives them.

    `is_skeleton`: it is on the meta device, so that the tensors become its own instead of being copied.
    """

    located: trust.Located
    make: Callable[..., nn.Module]
    arguments: Mapping[str, Any]
    module: nn.Module
    is_skeleton: bool
    checkpoint: read.Checkpoint
    tensors: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]

    @property
    def layout(self) -> Layout:
        return layout_of_network(self.module)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def combined(self, network: Network, further: Exceptions) -> Exceptions:
        """Return the config's exceptions and further ones, which are for the names that the config's give, as one."""
        names, _ = prefixes.align(self.checkpoint.tensors, self.layout)
        return combined((network.rename, network.ignore), further, names)


def load(network: Network, *, device: str = "cpu", examine: bool = False) -> Loaded:
    """Build `network`, load its weights strictly and return it in eval mode on `device`, without gradients, its preprocessing in front.

    `examine`: look at the weights as well, which somebody has to once in a run (see `read.load`); unverified ones always are.

    Raises:
        UnsafeError: the architecture is not trusted, or the weights file is hostile.
        ArchitectureError: it does not exist or cannot be built from its arguments.
        WeightsError: the weights file cannot be read.
        MisfitError: the state dict does not fit, and the message names the change that makes it fit; or an argument is left
            at its default that the checkpoint says is another.
    """
    opened = _open(network, examine=examine)
    _require_fit(network, opened)
    contradictions = _contradictions(network, opened)
    expected = opened.module.state_dict()
    converted = {key: tensor.to(expected[key].dtype) for key, tensor in opened.tensors.items()}
    opened.module.load_state_dict(converted, strict=True, assign=opened.is_skeleton)
    if not opened.is_skeleton:
        _require_equal_ties(network, opened, converted)
    opened.module.eval().requires_grad_(False)  # noqa: FBT003 - torch's own signature
    if network.arriving is not None:
        preprocess.fold(opened.module, network.arriving)
    checkpoint = opened.checkpoint
    return Loaded(opened.module.to(device), (*checkpoint.notes, *opened.notes), checkpoint.sha256, contradictions)


def alternatives(network: Network) -> list[Network]:
    """Return `network` with each `rename` and `ignore` with which its file fits, as far as names and structure leave it open.

    One where they decide it, none where nothing fits: see `possible_exceptions`. Recorded outputs can choose among several.

    Raises as `load`, and MisfitError if there are too many.
    """
    opened = _open(network)
    found = [opened.combined(network, each) for each in possible_exceptions(opened.layout, opened.shapes)]
    return [replace(network, rename=rename, ignore=ignore) for rename, ignore in found]


def _open(network: Network, *, examine: bool = False) -> _Opened:
    located = trust.locate(network.architecture, network.trust)
    make = constructor(located, network)
    checkpoint = read.load(
        _path(network),
        key=network.key,
        max_bytes=network.max_bytes,
        verified=network.verified,
        examine=examine or network.verified is None,
    )
    with shapes_only():
        skeleton = _skeleton(make, network)
    module = skeleton if skeleton is not None else _build(make, network)
    quantised.require_none(module)
    expected = module.state_dict()
    given, notes = prefixes.align_with_exceptions(
        checkpoint.tensors, list(expected), network.rename, network.ignore, _path(network).name
    )
    if skeleton is not None and expected.keys() - given.keys():
        # What is tied may only be so where there are values.
        skeleton, module = None, _build(make, network)
    tensors, tied = prefixes.with_tied_names(given, layout_of_network(module))
    arguments = all_arguments(located, network)
    return _Opened(located, make, arguments, module, skeleton is not None, checkpoint, tensors, (*notes, *tied))


def _path(network: Network) -> Path:
    return Path(network.weights)


def constructor(located: trust.Located, network: Network) -> Callable[..., nn.Module]:
    """Return what builds the network from arguments as a config has them."""
    return objects.building(trust.import_architecture(located), network.trust, Path(network.folder))


def all_arguments(located: trust.Located, network: Network) -> dict[str, Any]:
    """Return the configured arguments over the signature's defaults: a default may be what has to change."""
    defaults = {each.name: each.default for each in located.parameters or () if each.default is not None}
    return defaults | dict(network.arguments)


def _build(make: Callable[..., nn.Module], network: Network) -> nn.Module:
    from torch import nn

    try:
        module = make(**network.arguments)
    except WeighbridgeError:
        raise
    except Exception as error:
        described = ", ".join(f"{key}={value!r}" for key, value in network.arguments.items())
        raise ArchitectureError(
            f"{network.architecture} cannot be built from ({described}): {type(error).__name__}: {error}",
            hint=f"change model.arguments ({network.places['model.arguments']})",
        ) from error
    if not isinstance(module, nn.Module):
        raise ArchitectureError(
            f"{network.architecture} returned {type(module).__name__}, which is not an nn.Module",
            hint="return the network itself from it",
        )
    return module


def _skeleton(make: Callable[..., nn.Module], network: Network) -> nn.Module | None:
    """Build on the meta device, so that no initial value is computed only to be replaced; None where that is not sound.

    It is sound when the state dict supplies every tensor of the module exactly once: no tensors that share memory, none
    that is not in the state dict (those need the values their constructor gives them).
    """
    import torch

    try:
        module = _build(make, network)
    except ArchitectureError:
        return None
    tensors = tensors_of(module)
    distinct = len(set(map(storage_of, tensors.values()))) == len(tensors)
    plain = any(isinstance(value, torch.Tensor) for child in module.modules() for value in vars(child).values())
    complete = tensors.keys() <= module.state_dict().keys()
    return module if distinct and complete and not plain else None


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a network, under all their names, those that are not in its state dict as well."""
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def _require_fit(network: Network, opened: _Opened) -> None:
    misfit = diagnose(
        opened.layout,
        opened.shapes,
        arguments=opened.arguments,
        build_shapes=lambda arguments: shapes_of(opened.make, arguments),
        owner=network.architecture.rpartition(":")[2],
        weights_name=_path(network).name,
    )
    if misfit is None:
        return
    if misfit.changes is not None and (network.rename or network.ignore):
        rename, ignore = opened.combined(network, (misfit.rename, misfit.ignore))
        misfit = replace(misfit, rename=rename, ignore=ignore if misfit.ignore else ())
    places = network.places
    raise MisfitError(misfit.message(lambda key: places.get(key) or places["model.arguments"]), hint=misfit.hint)


def _contradictions(network: Network, opened: _Opened) -> tuple[str, ...]:
    """Say which arguments that the config writes out are not what the checkpoint says.

    Raises MisfitError for those that it does not write out: nobody decided them.
    """
    apart = fields_of(opened.make, trust.parameters_of(opened.located, opened.make), network.trust, network.arguments)
    make, arguments = apart.building(opened.make), apart.flat(network.arguments)

    def builds(changes: Mapping[str, Any], where: Callable[[], AbstractContextManager[None]]) -> bool | None:
        with where():
            layout = attempt(lambda: layout_of_network(make(**{**arguments, **changes})))
        return None if layout is None else layout.is_same(opened.layout)

    @cache
    def where() -> Callable[[], AbstractContextManager[None]]:
        return shapes_only if builds({}, shapes_only) else nullcontext

    def fits(changes: Mapping[str, Any]) -> bool | None:
        return builds(changes, where())

    names = {each.name: each.default for each in apart.parameters}
    defaults = {each.name: each.default for each in apart.parameters if each.has_default}
    said = stated.read(_path(network), opened.checkpoint.header, names, key=network.key, fits=fits)
    found = stated.contradictions(said, defaults, arguments, fits)
    if left := [each for each in found if not each.is_written]:
        used = ", ".join(f"{each.name}={each.used!r:.60}" for each in left)
        fixes = ", ".join(
            f"set model.arguments.{apart.place(each.name)} to {objects.written(each.claim.value)!r:.120}"
            for each in left
        )
        raise MisfitError(
            f"{_says(left)}; {network.places['model.arguments']} leaves {opened.located.name} at its default {used}",
            hint=f"{fixes}; or write out what is right, where the checkpoint is not",
            about="contradicted",
        )
    return tuple(
        f"{_says([each])}, and {network.places.get(f'model.arguments.{apart.places.get(each.name, (each.name,))[0]}', 'the config')} says "
        f"{each.used!r:.60}, which is taken"
        for each in found
    )


def _says(found: Sequence[stated.Contradiction]) -> str:
    """Return what a checkpoint says of arguments, by the sections that say it."""
    sources: dict[str, list[str]] = {}
    for each in found:
        sources.setdefault(each.claim.source, []).append(f"{each.name}={each.claim.value!r:.60}")
    return "; ".join(f"{source} says {', '.join(values)}" for source, values in sources.items())


def _require_equal_ties(network: Network, opened: _Opened, given: Mapping[str, torch.Tensor]) -> None:
    """Raise MisfitError where a network whose tensors share memory cannot hold what the file has for each of them."""
    held = opened.module.state_dict()
    shared = Counter(map(storage_of, held.values()))
    for name, tensor in held.items():
        if shared[storage_of(tensor)] == 1 or (largest := _largest_difference(tensor, given[name])) == 0:
            continue
        others = [each for each in held if each != name and storage_of(held[each]) == storage_of(tensor)]
        argument = _untied(opened.make, opened.arguments)
        build_so = (
            f"set model.arguments.{argument[0]} to {argument[1]!r}" if argument else "build it without tying them"
        )
        raise MisfitError(
            f"{name} and {others[-1]} are one tensor in {network.architecture.rpartition(':')[2]} and two in "
            f"{_path(network).name}, which differ by up to {largest:.3g}",
            hint=f"the network that was trained did not tie them: {build_so} ({network.places['model.arguments']})",
        )


def _largest_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference of two tensors, infinite where only one of them is a number."""
    import torch

    if torch.equal(first, second):
        return 0.0
    apart = (first.to(torch.complex128) - second.to(torch.complex128)).abs()
    same = (first == second) | (first.isnan() & second.isnan())
    return float(torch.where(same, 0.0, apart.nan_to_num(nan=torch.inf)).max())


def _untied(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the switch among the arguments that gives each name a tensor of its own, if there is one."""
    for name, value in arguments.items():
        if isinstance(value, bool):
            layout = attempt(shapes_of, make, {**arguments, name: not value})
            if layout is not None and not layout.tied:
                return name, not value
    return None
