"""Objects in a network's arguments, by Hydra's convention: `{_target_: "package.module:Class", name: value, …}`.

A class is found and trusted as an architecture is (see `pipeline.rebuild.trust`); of torch.nn the modules are trusted as well. A class
method makes an object too: `{_target_: "transformers:BertConfig.from_json_file", json_file: config.json}`. Texts among an
object's arguments that name a file beside the config mean that file.

Source: https://hydra.cc/docs/advanced/instantiate_objects/overview/
"""

from __future__ import annotations

import functools
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError, ConfigError, UnsafeError, WeighbridgeError
from pipeline.rebuild import trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.rebuild.trust import Located

TARGET, ARGUMENTS, PARTIAL = "_target_", "_args_", "_partial_"
ALSO_TRUSTED = ("torch.nn",)


def targets(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each object in nested arguments with its path: ("config", {"_target_": …})."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict) and TARGET in value:
        yield path, value
    for key, item in items:
        yield from targets(item, f"{path}.{key}" if path else str(key))


def written(value: Any) -> Any:
    """Return a value as a config has it: a member of an Enum by its class and value."""
    if not isinstance(value, Enum):
        return value
    return {TARGET: target_of(type(value)), ARGUMENTS: [value.value]}


def target_of(kind: type) -> str:
    """Return a class as a config names it."""
    return f"{kind.__module__}:{kind.__qualname__}"


def locate(given: Mapping[str, Any], prefixes: Sequence[str]) -> Located:
    """Find the class of an object without importing anything.

    Raises:
        ConfigError: it is not written as an object is.
        UnsafeError, ArchitectureError: as `trust.locate`.
    """
    target = given[TARGET]
    if not isinstance(target, str):
        raise ConfigError(f"{TARGET} is {target!r:.60}, not a text", hint='write it as "package.module:Class"')
    strange = [key for key in given if key.startswith("_") and key not in {TARGET, ARGUMENTS, PARTIAL}]
    if strange:
        raise ConfigError(
            f"{strange[0]!r} is none of what an object understands", hint=f"use {TARGET}, {ARGUMENTS}, {PARTIAL}"
        )
    dotted, _ = _split(target)
    return trust.locate_class(dotted, (*prefixes, *ALSO_TRUSTED))


def files(value: Any, folder: Path) -> list[Path]:
    """Return the files beside the config that objects in nested arguments read."""
    found = []
    for _, given in targets(value):
        texts = [item for item in [*given.values(), *given.get(ARGUMENTS, [])] if isinstance(item, str)]
        found += [path for text in texts if (path := _beside(text, folder)) is not None]
    return found


def make(value: Any, prefixes: Sequence[str], folder: Path) -> Any:
    """Return nested arguments with their objects made: runs code, so call it in a worker.

    Raises:
        ArchitectureError: a class does not take what it is given.
        UnsafeError: it is not trusted.
    """
    if isinstance(value, list):
        return [make(item, prefixes, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if TARGET not in value:
        return {key: make(item, prefixes, folder) for key, item in value.items()}
    called = _callable(value, prefixes)
    given = {
        key: make(_path(item, folder), prefixes, folder)
        for key, item in value.items()
        if key not in {TARGET, ARGUMENTS, PARTIAL}
    }
    positional = [make(_path(item, folder), prefixes, folder) for item in value.get(ARGUMENTS, [])]
    if value.get(PARTIAL):
        return functools.partial(called, *positional, **given)
    try:
        return called(*positional, **given)
    except WeighbridgeError:
        raise
    except Exception as error:
        shown = ", ".join([*map(repr, positional), *(f"{key}={item!r:.60}" for key, item in given.items())])
        raise ArchitectureError(
            f"{value[TARGET]}({shown}) failed: {type(error).__name__}: {error}",
            hint="correct its arguments under model.arguments",
        ) from error


def building(constructor: Callable[..., Any], prefixes: Sequence[str], folder: Path) -> Callable[..., Any]:
    """Return what calls a constructor with arguments as a config has them."""

    def build(**arguments: Any) -> Any:
        return constructor(**make(arguments, prefixes, folder))

    build.__wrapped__ = constructor  # type: ignore[attr-defined]  # its signature is that of the constructor
    return build


def _callable(given: Mapping[str, Any], prefixes: Sequence[str]) -> Callable[..., Any]:
    """Return a class, or one of its class methods."""
    found = trust.import_object(locate(given, prefixes))
    _, method = _split(given[TARGET])
    if not isinstance(found, type):
        raise UnsafeError(f"{given[TARGET]} is {type(found).__name__} once imported, not a class", hint="name a class")
    if method is None:
        return found
    held = next((vars(base)[method] for base in found.__mro__ if method in vars(base)), None)
    if not isinstance(held, classmethod | staticmethod):
        raise ArchitectureError(f"{given[TARGET]} is no class method", hint="name the class, or a method that makes it")
    return getattr(found, method)  # type: ignore[no-any-return]


def _split(target: str) -> tuple[str, str | None]:
    """Return module:Class and the class method, of module:Class.method or Hydra's package.module.Class.method."""
    if ":" not in target:
        parts = target.split(".")
        first = next((index for index, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
        target = f"{'.'.join(parts[:first])}:{'.'.join(parts[first:])}"
    module, _, rest = target.partition(":")
    name, _, method = rest.partition(".")
    if method and (not method.isidentifier() or method.startswith("_")):
        raise UnsafeError(f"{target!r} reaches into a class", hint="name a class, or one of its public class methods")
    return f"{module}:{name}", method or None


def _path(value: Any, folder: Path) -> Any:
    found = _beside(value, folder) if isinstance(value, str) else None
    return value if found is None else str(found)


def _beside(text: str, folder: Path) -> Path | None:
    """Return the file of that name beside the config, if there is one."""
    if not text or len(text) > 255 or "\0" in text or Path(text).is_absolute() or ".." in Path(text).parts:
        return None
    path = folder / text
    return path if path.is_file() else None
