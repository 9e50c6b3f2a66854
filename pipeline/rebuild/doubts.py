"""Which of a network's arguments nothing decides: neither its config, nor the shapes of its weights, nor what its file says.

A network is built with other plausible values, on meta tensors where it can be. That runs the architecture's code, which must be trusted, so
it belongs into a worker.
"""

from __future__ import annotations

import inspect
import json
import time
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pipeline.rebuild import model, objects, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.doctor.search import FAMILIES
from pipeline.rebuild.fields import fields_of
from pipeline.rebuild.shapes import build_for_shapes, shapes_of
from pipeline.weights import read, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from pipeline.rebuild.definitions import Parameter
    from pipeline.rebuild.doctor.difference import Layout
    from pipeline.rebuild.network import Network

_SECONDS = 10.0
_MOST_ITEMS = 4
_SHOWN = 60
_UNASKED = frozenset({"device", "pretrained"})
"""The device is ours to choose, and the weights are in the file."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """An argument that nothing decides: its value as a text, whether that is the code's default, and why it is in doubt.

    `is_idle`: the network computes the same with other values, as with another probability of dropping out.
    """

    name: str
    value: str
    is_default: bool
    why: str
    is_idle: bool


def undecided(network: Network) -> list[Doubt]:
    """Return the arguments of a network that neither the config nor anything else decides and that make a difference."""
    located = trust.locate(network.architecture, network.trust)
    make = model.constructor(located, network)
    weights = Path(network.weights)
    header = read.require_state_dict(weights, key=network.key, max_bytes=network.max_bytes)
    apart = fields_of(make, trust.parameters_of(located, make), network.trust, network.arguments)
    values = apart.flat(network.arguments)
    left = [each for each in apart.parameters if each.has_default and each.name not in values]
    doubts = Doubts(apart.building(make), weights.name, values, left)
    names = {each.name: each.default for each in apart.parameters}
    said = stated.read(weights, header, names, key=network.key, fits=doubts.fits)
    found = [doubt for each in left if (doubt := doubts.about(each, said))]
    return [replace(doubt, name=apart.place(doubt.name)) for doubt in found if not doubt.is_idle]


class Doubts:
    """Tells of each argument of a network, built with `values` for these weights, whether and why it is in doubt.

    `free` are the arguments that nobody chose.
    """

    def __init__(
        self,
        make: Callable[..., nn.Module],
        weights_name: str,
        values: Mapping[str, Any],
        free: Sequence[Parameter],
    ) -> None:
        self.make, self.weights_name, self.values = make, weights_name, values
        free_values = {each.name: values.get(each.name, each.default) for each in free}
        self.counts = {name: value for name, value in free_values.items() if type(value) is int and value > 0}
        self.options = _options(make)
        self.shapes = self._shapes({})
        self.deadline = time.monotonic() + _SECONDS

    def fits(self, changes: Mapping[str, Any]) -> bool | None:
        """Tell whether a network with these changes takes the same weights; None if it cannot be built."""
        shapes = self._shapes(changes)
        return None if shapes is None or self.shapes is None else shapes.is_same(self.shapes)

    def about(self, parameter: Parameter, said: stated.Stated) -> Doubt | None:
        """Return why the value of an argument is in doubt; None if the shapes decide it, or what the file says."""
        name, value = parameter.name, self.values.get(parameter.name, parameter.default)
        claim = said.claims.get(name)
        is_told = claim is not None and claim.is_certain and stated.is_same(claim.value, value)
        if is_told or name in _UNASKED or self._is_decided(name, value):
            return None
        is_default = parameter.has_default and stated.is_same(value, parameter.default)
        return Doubt(name, shown(value), is_default, self._why(parameter, said), self._is_idle(name, value))

    def _why(self, parameter: Parameter, said: stated.Stated) -> str:
        claim = said.claims.get(parameter.name)
        if claim is None:
            unread = said.unread.get(parameter.name)
            return f"{unread}, which is not read" if unread else f"neither the shapes nor {self.weights_name} tell"
        says = f"{claim.source} says {shown(claim.value)}"
        if not stated.is_plain(parameter.default) and not isinstance(claim.value, Enum):
            return f"{says}, which does not tell what that is in the code"
        if claim.others:
            return ", ".join([says, *(f"{source} says {shown(other)}" for source, other in claim.others)])
        if not claim.is_near:
            return f"{says}, which may mean something else"
        return f"{says}, {'with which the weights do not fit' if claim.is_sound else 'and more with which the weights do not fit'}"

    def _is_decided(self, name: str, value: Any) -> bool:
        """Tell whether shapes decide an argument: other plausible values can be built, and the weights fit none of them."""
        is_built = False
        for other in _others(value, self.options.get(name, ())):
            if self.shapes is None or time.monotonic() > self.deadline:
                return False
            shapes = self._shapes({name: other})
            if shapes is not None and shapes.is_same(self.shapes):
                return False
            is_built = is_built or shapes is not None
        return is_built and not self._is_traded(name, value)

    def _is_traded(self, name: str, value: Any) -> bool:
        """Tell whether shapes only decide the product of two arguments, as of a number of heads and the width of each."""
        if name not in self.counts:
            return False
        pairs = (
            {name: one, other: two}
            for other, count in self.counts.items()
            if other != name
            for one, two in ((value * 2, count // 2), (value // 2, count * 2))
            if one * two == value * count
        )
        return any(time.monotonic() < self.deadline and self.fits(changes) for changes in pairs)

    def _is_idle(self, name: str, value: Any) -> bool:
        """Tell whether networks built with other values, where there are such, do the same in eval mode."""
        in_time = takewhile(lambda _: time.monotonic() < self.deadline, _others(value, self.options.get(name, ())))
        fitting = islice((other for other in in_time if self.fits({name: other})), 2)
        behaviours = [self._behaviour({name: other}) for other in fitting]
        own = self._behaviour({}) if behaviours else None
        return own is not None and all(each is not None and _are_alike(own, each) for each in behaviours)

    def _behaviour(self, changes: Mapping[str, Any]) -> dict[tuple[str, str], Any] | None:
        return attempt(lambda: _behaviour(build_for_shapes(self.make, {**self.values, **changes})))

    def _shapes(self, changes: Mapping[str, Any]) -> Layout | None:
        return attempt(shapes_of, self.make, {**self.values, **changes})


def _behaviour(network: nn.Module) -> dict[tuple[str, str], Any] | None:
    """Return what decides, weights aside, what a network does in eval mode: its modules' classes and attributes.

    None where that is not in plain sight: hooks, and tensors whose values only the constructor knows.
    """
    from torch import nn

    saved = set(network.state_dict())
    machinery = vars(nn.Module())
    found: dict[tuple[str, str], Any] = {}
    for name, module in network.named_modules():
        if any(vars(module).get(each) for each in machinery if each.endswith("_hooks")):
            return None
        aside = {*machinery, *_idle_attributes(module)}
        found[name, ""] = type(module)
        found |= {(name, key): value for key, value in vars(module).items() if key not in aside}
    return found if saved.issuperset(model.tensors_of(network)) else None


def _idle_attributes(module: nn.Module) -> tuple[str, ...]:
    """Return what torch's own layers hold that makes no difference in eval mode, or that is a weight."""
    from torch import nn
    from torch.nn.modules import dropout

    if not type(module).__module__.startswith("torch.nn."):
        return ()  # what is derived from them may do otherwise
    match module:
        case dropout._DropoutNd():  # noqa: SLF001 - the base that all of them share
            return ("p",)
        case nn.RNNBase():
            return ("dropout", "_flat_weights", "_flat_weight_refs")
        case nn.MultiheadAttention():
            return ("dropout",)
    return ()


def _are_alike(one: Mapping[tuple[str, str], Any], other: Mapping[tuple[str, str], Any]) -> bool:
    return one.keys() == other.keys() and all(stated.is_same(one[key], other[key]) for key in one)


def shown(value: Any) -> str:
    """Return a value in a line, a class or function by its name."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Enum) and stated.is_plain(value.value):  # as a config has it
        return json.dumps(objects.written(value), ensure_ascii=False)
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _options(make: Callable[..., nn.Module]) -> dict[str, tuple[Any, ...]]:
    """Return what arguments may be, where their annotations list it."""
    function: Any = inspect.unwrap(make)
    called = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009 - mypy refuses it of a class
    hints = attempt(get_type_hints, called) or {}
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _others(value: Any, options: tuple[Any, ...]) -> Iterator[Any]:
    """Yield other values that an argument might as well have."""
    if options:
        yield from (option for option in options if option != value)
    elif isinstance(value, Enum):
        yield from (member for member in type(value) if member is not value)
    elif isinstance(value, bool):
        yield not value
    elif value is None:
        yield from (True, 1, 8, 64, 0.5)
    elif isinstance(value, int | float):
        yield from _other_numbers(value)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: other} for other in _first(item))
    elif isinstance(value, list | tuple):
        kind: Callable[[list[Any]], Any] = list if isinstance(value, list) else tuple
        for index, item in enumerate(value[:_MOST_ITEMS]):
            yield from (kind([*value[:index], other, *value[index + 1 :]]) for other in _first(item))
        yield kind([*value, *(value[-1:] or [8])])


def _first(item: Any) -> Iterator[Any]:
    yield from islice(_others(item, ()), 1)


def _other_numbers(value: float | int) -> Iterator[float]:
    if isinstance(value, float):
        yield from (value / 2, value * 2) if value else (0.1, 0.5, 1.0)
        return
    near = (value * 2, value // 2, value + 1, value - 1) if value > 0 else (value + 1, value + 2, value - 1)
    family = [other for each in FAMILIES if value in each for other in each]
    yield from (other for other in dict.fromkeys((*near, *family)) if other != value and (other >= 0 or value <= 0))
