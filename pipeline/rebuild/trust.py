"""Which architecture code may run, decided from its source text before any of it is imported."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pipeline.errors import ArchitectureError, InputError, UnsafeError, suggestion
from pipeline.rebuild import auto, definitions, imports, project, sources
from pipeline.rebuild.definitions import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from torch import nn

    from pipeline.rebuild.definitions import Definition

ALWAYS_TRUSTED = "pipeline.architectures"
_MOST_STEPS = 8

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_TARGET = re.compile(rf"(?P<module>{_PREFIX.pattern}):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Located:
    """An architecture found in its source file; `parameters` is None where the source alone cannot tell.

    `asked` is the module and name it was asked for under, where that is not where it is defined.
    """

    module: str
    name: str
    path: Path
    source_sha256: str
    parameters: tuple[Parameter, ...] | None
    asked: tuple[str, str] | None = None


def trusted_prefixes(cwd: Path, extra: Sequence[str]) -> tuple[str, ...]:
    """Return the dotted prefixes that may run: ours, `--trust`, and `[tool.weighbridge] trust` of cwd/pyproject.toml.

    Raises InputError for a pyproject.toml that cannot be read and for a prefix that is not a dotted name.
    """
    path = project.path_of(cwd)
    listed = [(prefix, "--trust") for prefix in extra] + [(prefix, str(path)) for prefix in project.trusted(cwd)]
    for prefix, source in listed:
        if not _PREFIX.fullmatch(prefix):
            raise InputError(
                f"{source}: {prefix!r} is not a dotted module name",
                hint="name a package or module, as in mymodels.vision",
            )
    return tuple(dict.fromkeys([ALWAYS_TRUSTED, *(prefix for prefix, _ in listed)]))


def locate(dotted: str, prefixes: Sequence[str]) -> Located:
    """Find `module:Name` under one of `prefixes` by reading files only; nothing is imported or run.

    A name that the module only imports is followed to where it is defined, as long as that is trusted too; so is one that a
    package makes available when it is first asked for.

    Raises UnsafeError for what is not trusted or not defined under a trusted prefix, and ArchitectureError for a malformed
    name, an unknown module or name, and source that cannot be read.
    """
    return _located(*_split(dotted), prefixes, _require_network_definition)


def locate_class(dotted: str, prefixes: Sequence[str]) -> Located:
    """Find a class that makes objects for arguments, as `locate` finds networks; raises as it does."""
    return _located(*_split(dotted), prefixes, _require_class)


def locate_function(dotted: str, prefixes: Sequence[str]) -> Located:
    """Find a function of the user's that is no network, as a metric is, as `locate` finds networks; raises as it does."""
    return _located(*_split(dotted), prefixes, _require_function, why="judging by it")


def _located(
    module: str,
    name: str,
    prefixes: Sequence[str],
    require: Callable[..., None],
    seen: tuple[str, ...] = (),
    why: str = "building a network",
) -> Located:
    _require_trust(module, prefixes, why=why)
    auto.require_none(f"{module}:{name}")
    path = sources.find(module)
    source = sources.read(path)
    tree = sources.parse(source, path)
    known = definitions.definitions_in(tree)
    target = f"{module}:{name}"
    if name not in known and len(seen) < _MOST_STEPS and target not in seen:
        origin = definitions.origin_of(tree, module, path, name)
        if origin is not None:
            _require_trust(
                origin[0], prefixes, f"{name} in {path} is not defined there but {_bound(tree, name)}: ", why
            )
            found = _located(*origin, prefixes, require, (*seen, target), why)
            return replace(found, asked=(module, name))
    definition = _definition(tree, module, name, path)
    require(definition, f"{target} ({path}:{definition.lineno})")
    parameters = definitions.parameters_in(definition, known)
    return Located(module, name, path, hashlib.sha256(source).hexdigest(), parameters)


def check_arguments(located: Located, arguments: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (argument, problem) for each unknown and each missing argument, as far as the source alone can tell."""
    if located.parameters is None:
        return []
    known = [parameter.name for parameter in located.parameters]
    unknown = [
        (
            name,
            f"{located.name} has no argument {name!r}{suggestion(name, known)}"
            if known
            else f"{located.name} takes no arguments, so not {name!r}",
        )
        for name in arguments
        if name not in known
    ]
    return unknown + [
        (parameter.name, f"{located.name} needs the argument {parameter.name!r}")
        for parameter in located.parameters
        if not parameter.has_default and parameter.name not in arguments
    ]


def parameters_of(located: Located, make: type[nn.Module] | Callable[..., nn.Module]) -> tuple[Parameter, ...]:
    """Return the named parameters of what `import_architecture` returned, with the very defaults that the code has."""
    try:
        found = inspect.signature(make).parameters.values()
    except (ValueError, TypeError):
        return located.parameters or ()
    named = [each for each in found if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}]
    return tuple(
        Parameter(each.name, each.default is not each.empty, None if each.default is each.empty else each.default)
        for each in named
    )


def import_architecture(located: Located) -> type[nn.Module] | Callable[..., nn.Module]:
    """Import what `locate` found, and check that it is what was found: runs code, so call it in a worker.

    Raises ArchitectureError where the import fails or the object is no nn.Module class or function returning one, and
    UnsafeError where Python imported another file than the one that was read.
    """
    return _require_network(import_object(located), located)


def import_object(located: Located) -> Any:
    """Import what `locate` or `locate_class` found, and check that it is what was found; raises as `import_architecture`."""
    if hashlib.sha256(sources.read(located.path)).hexdigest() != located.source_sha256:
        raise UnsafeError(f"{located.path} changed after it was checked", hint="run again")
    folder = str(sources.folder_of(located.module, located.path))
    # Left in place: a network may import from its own package later, when it is called.
    if located.path.is_relative_to(Path.cwd().resolve()) and folder not in sys.path:
        sys.path.append(folder)
    module = _imported(located.module, located.path)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != located.path:
        raise UnsafeError(
            f"{located.module} was checked in {located.path} but Python imports it from {origin}",
            hint="remove or rename the other module of that name",
        )
    found = getattr(module, located.name, None)
    if getattr(found, "__module__", None) != located.module:
        raise UnsafeError(
            f"{located.module}:{located.name} is not defined in {located.module} once imported", hint="define it there"
        )
    if (
        located.asked is not None
        and getattr(_imported(located.asked[0], located.path), located.asked[1], None) is not found
    ):
        raise UnsafeError(
            f"{':'.join(located.asked)} is another object than {located.module}:{located.name} once imported",
            hint="name the module that defines it",
        )
    return found


def _imported(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise imports.failure(name, path, error) from error


def _split(dotted: str) -> tuple[str, str]:
    match = _TARGET.fullmatch(dotted)
    if match is None:
        strange = next((character for character in dotted if not character.isascii()), None)
        detail = f": {strange!r} (U+{ord(strange):04X}) is not ASCII" if strange else ""
        raise ArchitectureError(
            f"{dotted!r} is not module:Name{detail}", hint="write it as in pipeline.architectures.simplenet:SimpleNet"
        )
    module, name = match["module"], match["name"]
    dunder = next((part for part in (*module.split("."), name) if part.startswith("__")), None)
    if dunder:
        raise UnsafeError(
            f"{dotted!r} reaches into Python's internals ({dunder})", hint="name a class of your own module"
        )
    return module, name


def _bound(tree: ast.Module, name: str) -> str:
    return next((each.how for each in definitions.bindings(tree.body) if each.name == name), "imported with others (*)")


def _is_trusted(module: str, prefixes: Sequence[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _require_trust(module: str, prefixes: Sequence[str], how: str = "", why: str = "building a network") -> None:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UnsafeError(
            f"{how}{module} belongs to Python itself, which holds no network", hint="name a module of your own"
        )
    if not _is_trusted(module, prefixes):
        raise UnsafeError(
            f"{how}{module} is not trusted, and {why} runs its code (trusted: {', '.join(prefixes)})",
            hint=f"if you trust it, add --trust {module}, or to pyproject.toml: [tool.weighbridge] trust = [{module!r}]".replace(
                "'", '"'
            ),
            about="trust",
        )


def _definition(tree: ast.Module, module: str, name: str, path: Path) -> Definition:
    """Return the one top-level class or function `name`, after refusing everything else so named."""
    defined = definitions.definitions_in(tree)
    bound = {each.name: each.how for each in definitions.bindings(tree.body)}
    if name in bound:
        also = "is also" if name in defined else "is not defined there but"
        raise UnsafeError(f"{name} in {path} {also} {bound[name]}", hint="name the module whose own class or def it is")
    definition = defined.get(name)
    if definition is None:
        known = [other for other, node in defined.items() if not other.startswith("_") and definitions.is_network(node)]
        raise ArchitectureError(
            f"{module} defines no {name!r}{suggestion(name, known)}", hint=f"name what {path} defines"
        )
    return definition


def _require_network_definition(definition: Definition, what: str) -> None:
    if not definitions.is_network(definition):
        raise ArchitectureError(
            f"{what} is not declared as a network",
            hint="a class must subclass torch.nn.Module; a function must return one: def build(...) -> nn.Module",
        )


def _require_class(definition: Definition, what: str) -> None:
    if not isinstance(definition, ast.ClassDef):
        raise UnsafeError(
            f"{what} is a function, and arguments are made by classes only",
            hint="name a class, or one of its class methods",
        )


def _require_function(definition: Definition, what: str) -> None:
    if isinstance(definition, ast.ClassDef):
        raise ArchitectureError(
            f"{what} is a class", hint="name a function of the module: def metric(outputs, sample): …"
        )


def _require_network(found: Any, located: Located) -> type[nn.Module] | Callable[..., nn.Module]:
    """Return the imported object if it is a module class, or a function that is annotated with one, or with nothing."""
    from torch import nn

    target = f"{located.module}:{located.name}"
    if not isinstance(found, type) and callable(found) and "return" not in getattr(found, "__annotations__", {}):
        made: Callable[..., nn.Module] = found  # what it returns is looked at once it did
        return made
    returned = found if isinstance(found, type) else _returned(found, target)
    if not (isinstance(returned, type) and issubclass(returned, nn.Module)):
        raise ArchitectureError(
            f"{target} is no network: {returned!r} does not subclass torch.nn.Module",
            hint="derive the class from torch.nn.Module, or annotate the function with a class that does",
        )
    return found  # type: ignore[no-any-return]


def _returned(function: Any, target: str) -> object:
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError) as error:
        raise ArchitectureError(
            f"the annotations of {target} cannot be evaluated: {error}", hint="import at run time what they name"
        ) from error
