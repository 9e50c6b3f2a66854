"""Dataclasses among a constructor's arguments, taken apart: their fields are looked for like arguments of its own.

A constructor takes such an object where its annotation or its default says so; a config writes it as `pipeline.rebuild.objects` reads it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from pipeline.rebuild import objects
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.definitions import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Fields:
    """The arguments of a constructor with the fields of dataclasses among them, by names of their own.

    `places` maps each field's name here to its argument and its own name: the latter, where no other is called so.
    """

    parameters: tuple[Parameter, ...]
    places: Mapping[str, tuple[str, str]]
    targets: Mapping[str, str]

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as a config has them: `{config: {_target_: "mine:Config", width: 8}}`."""
        found: dict[str, Any] = {}
        for argument, target in self.targets.items():
            found[argument] = {objects.TARGET: target}
        for name, value in values.items():
            if name in self.places:
                argument, field = self.places[name]
                found[argument][field] = value
            else:
                found[name] = value
        order = [self.places.get(each.name, (each.name,))[0] for each in self.parameters]
        return {name: found[name] for name in dict.fromkeys([*order, *found]) if name in found}

    def building(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls a constructor, which takes arguments as a config has them, with the fields by their names here."""

        def built(**values: Any) -> Any:
            return build(**self.nested(values))

        built.__wrapped__ = build  # type: ignore[attr-defined]
        return built


def fields_of(make: Callable[..., Any], parameters: Sequence[Parameter], prefixes: Sequence[str]) -> Fields:
    """Take dataclasses among `parameters` apart whose classes are trusted, so that a config may name them."""
    function: Any = inspect.unwrap(make)
    called = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009 - mypy refuses it of a class
    hints = attempt(get_type_hints, called) or {}
    apart = {each.name: taken for each in parameters if (taken := _taken(each, hints.get(each.name), prefixes))}
    counts = Counter(
        name
        for each in parameters
        for name in ([f.name for f in apart[each.name][1]] if each.name in apart else [each.name])
    )
    found: list[Parameter] = []
    places: dict[str, tuple[str, str]] = {}
    for each in parameters:
        if each.name not in apart:
            found.append(each)
            continue
        for field in apart[each.name][1]:
            name = field.name if counts[field.name] == 1 else f"{each.name}.{field.name}"
            places[name] = (each.name, field.name)
            found.append(field._replace(name=name))
    return Fields(tuple(found), places, {name: target for name, (target, _) in apart.items()})


def _taken(parameter: Parameter, hint: Any, prefixes: Sequence[str]) -> tuple[str, list[Parameter]] | None:
    """Return how a config names an argument's dataclass, and its fields as parameters."""
    default = parameter.default
    is_given = dataclasses.is_dataclass(default) and not isinstance(default, type)
    kind = type(default) if is_given else hint
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)) or (parameter.has_default and not is_given):
        return None
    target = f"{kind.__module__}:{kind.__qualname__}"
    if attempt(objects.locate, {objects.TARGET: target}, prefixes) is None:
        return None
    return target, list(_parameters(kind, default if is_given else None))


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
