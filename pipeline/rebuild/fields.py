"""Dataclasses among a constructor's arguments, taken apart: their fields are looked for like arguments of its own.

A constructor takes such an object where its annotation or its default says so; a config writes it as `pipeline.rebuild.objects` reads it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from pipeline.rebuild import objects, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.definitions import Parameter
from pipeline.weights.members import member_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


_MOST_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Fields:
    """The arguments of a constructor with the fields of dataclasses among them, of those within these too, by names of their own.

    `places` maps each field's name here to the arguments and fields that lead to it: its own name, where no other is called
    so. `targets` are the dataclasses by where they stand.
    """

    parameters: tuple[Parameter, ...]
    places: Mapping[str, tuple[str, ...]]
    targets: Mapping[tuple[str, ...], str]

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as a config has them: `{config: {_target_: "mine:Config", width: 8}}`."""
        found: dict[str, Any] = {}
        for path, target in self.targets.items():
            _holder(found, path)[path[-1]] = {objects.TARGET: target}
        for name, value in values.items():
            path = self.places.get(name, (name,))
            _holder(found, path)[path[-1]] = value
        order = [self.places.get(each.name, (each.name,))[0] for each in self.parameters]
        return {name: found[name] for name in dict.fromkeys([*order, *found]) if name in found}

    def flat(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a config by the names here, members of Enums as such; the reverse of `nested`."""
        found = {name: value for name, value in arguments.items() if (name,) not in self.targets}
        for name, path in self.places.items():
            held: Any = arguments
            for step in path:
                held = held.get(step, dataclasses.MISSING) if isinstance(held, dict) else dataclasses.MISSING
            if held is not dataclasses.MISSING:
                found[name] = held
        defaults = {each.name: each.default for each in self.parameters}
        return {name: _member(value, defaults.get(name)) for name, value in found.items()}

    def place(self, name: str) -> str:
        """Return where an argument stands below `model.arguments`."""
        return ".".join(self.places.get(name, (name,)))

    def building(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls a constructor, which takes arguments as a config has them, with the fields by their names here."""

        def built(**values: Any) -> Any:
            return build(**self.nested(values))

        built.__wrapped__ = build  # type: ignore[attr-defined]
        return built


def fields_of(
    make: Callable[..., Any],
    parameters: Sequence[Parameter],
    prefixes: Sequence[str],
    given: Mapping[str, Any] | None = None,
) -> Fields:
    """Take dataclasses among `parameters` apart whose classes are trusted, so that a config may name them.

    `given` are arguments as a config has them: of an object there, its own class counts.
    """
    function: Any = inspect.unwrap(make)
    called = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009 - mypy refuses it of a class
    leaves: list[tuple[tuple[str, ...], Parameter]] = []
    targets: dict[tuple[str, ...], str] = {}
    for each in parameters:
        taker = _Taker(prefixes, targets, leaves)
        taker.take((each.name,), each, _hints(called).get(each.name), (given or {}).get(each.name))
    counts = Counter(path[-1] for path, _ in leaves)
    found: list[Parameter] = []
    places: dict[str, tuple[str, ...]] = {}
    for path, each in leaves:
        name = path[-1] if counts[path[-1]] == 1 or len(path) == 1 else ".".join(path)
        found.append(each._replace(name=name))
        if len(path) > 1:
            places[name] = path
    return Fields(tuple(found), places, targets)


@dataclass(frozen=True, slots=True)
class _Taker:
    """Takes parameters apart as far as they are dataclasses: fills `targets`, and `leaves` in their order."""

    prefixes: Sequence[str]
    targets: dict[tuple[str, ...], str]
    leaves: list[tuple[tuple[str, ...], Parameter]]

    def take(self, path: tuple[str, ...], parameter: Parameter, hint: Any, given: Any) -> None:
        kind, default = self._kind(parameter, hint, given)
        if kind is None or len(path) > _MOST_DEPTH:
            self.leaves.append((path, parameter))
            return
        self.targets[path] = objects.target_of(kind)
        held = given if isinstance(given, dict) else {}
        for each in _parameters(kind, default):
            self.take((*path, each.name), each, _hints(kind).get(each.name), held.get(each.name))

    def _kind(self, parameter: Parameter, hint: Any, given: Any) -> tuple[type | None, Any]:
        """Return the dataclass of an argument, and the object that it is by default, None without one."""
        default = parameter.default
        is_object = dataclasses.is_dataclass(default) and not isinstance(default, type)
        if given is not None:
            return self._written(given), None
        kind = type(default) if is_object else hint
        is_taken = (
            isinstance(kind, type) and dataclasses.is_dataclass(kind) and (is_object or not parameter.has_default)
        )
        if not is_taken:
            return None, None
        is_trusted = attempt(objects.locate, {objects.TARGET: objects.target_of(kind)}, self.prefixes) is not None
        return (kind, default if is_object else None) if is_trusted else (None, None)

    def _written(self, given: Any) -> type | None:
        """Return the dataclass that an object of a config is of, if it names its fields."""
        if (
            not isinstance(given, dict)
            or objects.TARGET not in given
            or {objects.ARGUMENTS, objects.PARTIAL} & given.keys()
        ):
            return None
        kind: Any = attempt(lambda: trust.import_object(objects.locate(given, self.prefixes)))
        is_itself = isinstance(kind, type) and kind.__qualname__ == str(given[objects.TARGET]).rpartition(":")[2]
        return cast("type", kind) if is_itself and dataclasses.is_dataclass(kind) else None


def _hints(called: Any) -> dict[str, Any]:
    return attempt(get_type_hints, called) or {}


def _holder(found: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the table that holds the last step of a path."""
    for step in path[:-1]:
        found = found[step]
    return found


def _member(value: Any, default: Any) -> Any:
    """Return the member of an Enum that a config names; any other value as it is."""
    is_member = isinstance(default, Enum) and isinstance(value, dict) and len(value.get(objects.ARGUMENTS, ())) == 1
    if not is_member or value.keys() != {objects.TARGET, objects.ARGUMENTS}:
        return value
    return member_of(type(default), value[objects.ARGUMENTS][0]) or value


def _parameters(kind: type, default: Any) -> Iterator[Parameter]:
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if default is not None:
            yield Parameter(field.name, has_default=True, default=getattr(default, field.name))
        elif field.default_factory is not dataclasses.MISSING:
            yield Parameter(field.name, has_default=True, default=field.default_factory())
        elif field.default is not dataclasses.MISSING:
            yield Parameter(field.name, has_default=True, default=field.default)
        else:
            yield Parameter(field.name, has_default=False, default=None)
