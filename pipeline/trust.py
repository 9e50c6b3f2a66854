"""Which architecture code may run, decided from its source text before any of it is imported."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import inspect
import re
import sys
import tomllib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from pipeline.errors import ArchitectureError, InputError, UnsafeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import nn

ALWAYS_TRUSTED = "pipeline.architectures"

_OWN_FOLDER = Path(__file__).resolve().parent
_MAX_SOURCE_BYTES = 4 * 2**20
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_TARGET = re.compile(rf"(?P<module>{_PREFIX.pattern}):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
# PEP 263. Another encoding could make Python read another program than the one parsed here.
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")


class Parameter(NamedTuple):
    """A parameter of a constructor; `default` is its literal, or None where it is not a literal."""

    name: str
    has_default: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Located:
    """An architecture found in its source file; `parameters` is None where the source alone cannot tell."""

    module: str
    name: str
    path: Path
    source_sha256: str
    parameters: tuple[Parameter, ...] | None


def suggestion(given: str, valid: Iterable[str]) -> str:
    """Return " (nearest valid: 'x')", else the short list of what is valid, else nothing."""
    names = sorted(set(valid))
    if close := difflib.get_close_matches(given, names, n=1, cutoff=0.5):
        return f" (nearest valid: {close[0]!r})"
    return f" (valid: {', '.join(map(repr, names))})" if 0 < len(names) <= 10 else ""


def trusted_prefixes(cwd: Path, extra: Sequence[str]) -> tuple[str, ...]:
    """Return the dotted prefixes that may run: ours, `--trust`, and `[tool.weighbridge] trust` of cwd/pyproject.toml.

    Raises InputError for a pyproject.toml that cannot be read and for a prefix that is not a dotted name.
    """
    path = cwd / "pyproject.toml"
    listed = [(prefix, "--trust") for prefix in extra] + [(prefix, str(path)) for prefix in _project_trust(path)]
    for prefix, source in listed:
        if not _PREFIX.fullmatch(prefix):
            raise InputError(
                f"{source}: {prefix!r} is not a dotted module name",
                hint="name a package or module, as in mymodels.vision",
            )
    return tuple(dict.fromkeys([ALWAYS_TRUSTED, *(prefix for prefix, _ in listed)]))


_read_toml = lru_cache(maxsize=1)(tomllib.loads)  # once for a hundred configs


def _project_trust(path: Path) -> list[str]:
    try:
        table = _read_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="correct it, or run from another folder") from error
    settings = table.get("tool", {})
    for key in ("weighbridge", "trust"):
        settings = settings.get(key, {}) if isinstance(settings, dict) else settings
    if settings == {}:
        return []
    if not isinstance(settings, list) or not all(isinstance(prefix, str) for prefix in settings):
        raise InputError(
            f"{path}: [tool.weighbridge] trust is {settings!r:.60}, not a list of texts", hint='trust = ["mymodels"]'
        )
    return settings


def locate(dotted: str, prefixes: Sequence[str]) -> Located:
    """Find `module:Name` under one of `prefixes` by reading files only; nothing is imported or run.

    Raises UnsafeError for what is not trusted or not defined where it is named, and ArchitectureError for a malformed
    name, an unknown module or name, and source that cannot be read.
    """
    module, name = _split(dotted)
    _require_trust(module, prefixes)
    path = _source_file(module)
    source = _read(path)
    definition = _definition(_parse(source, path), module, name, path)
    return Located(module, name, path, hashlib.sha256(source).hexdigest(), definition)


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
    if hashlib.sha256(_read(located.path)).hexdigest() != located.source_sha256:
        raise UnsafeError(f"{located.path} changed after it was checked", hint="run again")
    cwd = Path.cwd().resolve()
    # Left in place: a network may import from its own package later, when it is called.
    if located.path.is_relative_to(cwd) and str(cwd) not in sys.path:
        sys.path.append(str(cwd))
    try:
        module = importlib.import_module(located.module)
    except (Exception, SystemExit) as error:
        raise ArchitectureError(
            f"{located.module} ({located.path}) cannot be imported: {type(error).__name__}: {error}",
            hint="import it in Python to see where it fails",
        ) from error
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != located.path:
        raise UnsafeError(
            f"{located.module} was checked in {located.path} but Python imports it from {origin}",
            hint="remove or rename the other module of that name",
        )
    return _require_network(getattr(module, located.name, None), located)


def _split(dotted: str) -> tuple[str, str]:
    match = _TARGET.fullmatch(dotted)
    if match is None:
        strange = next((character for character in dotted if not character.isascii()), None)
        detail = f": {strange!r} (U+{ord(strange):04X}) is not ASCII" if strange else ""
        raise ArchitectureError(
            f"{dotted!r} is not module:Name{detail}", hint="write it as pipeline.architectures.mlp:MLP"
        )
    module, name = match["module"], match["name"]
    dunder = next((part for part in (*module.split("."), name) if part.startswith("__")), None)
    if dunder:
        raise UnsafeError(
            f"{dotted!r} reaches into Python's internals ({dunder})", hint="name a class of your own module"
        )
    return module, name


def _require_trust(module: str, prefixes: Sequence[str]) -> None:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UnsafeError(
            f"{module} belongs to Python itself, which holds no network", hint="name a module of your own"
        )
    if not any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes):
        raise UnsafeError(
            f"{module} is not trusted, and building a network runs its code (trusted: {', '.join(prefixes)})",
            hint=f"if you trust it, add --trust {module}, or to pyproject.toml: [tool.weighbridge] trust = [{module!r}]".replace(
                "'", '"'
            ),
        )


def _source_file(module: str) -> Path:
    """Return the resolved source file of a dotted module, found by walking folders."""
    top, *rest = module.split(".")
    start, base = _top_level(top)
    if not rest:
        return _inside(start / "__init__.py" if start.is_dir() else start, base, module)
    folder = start
    for depth, part in enumerate(rest, start=1):
        parent, folder = folder, folder / part
        is_last = depth == len(rest)
        found = _module_file(folder) if is_last else folder if _is_folder(folder) else None
        if found is None:
            known = _modules_in(parent)
            within = ".".join([top, *rest[: depth - 1]])
            raise ArchitectureError(
                f"{within} has no {'module' if is_last else 'package'} {part!r}{suggestion(part, known)}",
                hint=f"looked in {parent}",
            )
        if is_last:
            return _inside(found, base, module)
    raise AssertionError(module)


def _top_level(top: str) -> tuple[Path, Path]:
    """Return where a top-level package (its folder) or module (its file) is, and the folder that must hold the source."""
    if top == "pipeline":
        return _OWN_FOLDER, _OWN_FOLDER
    spec = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        return folder, folder
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        path = Path(spec.origin).absolute()
        return path, path.parent.resolve()
    raise ArchitectureError(
        f"there is no package or source file {top!r}", hint="run from the folder that holds it, or install its package"
    )


def _is_folder(path: Path) -> bool:
    # The listing, and not the file system, decides about upper and lower case.
    return path.is_dir() and path.name in {entry.name for entry in path.parent.iterdir()}


def _module_file(stem: Path) -> Path | None:
    """Return the file that Python would import, a package before a module of the same name."""
    if _is_folder(stem) and (stem / "__init__.py").is_file():
        return stem / "__init__.py"
    path = stem.with_name(f"{stem.name}.py")
    return path if path.is_file() else None


def _modules_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [
        entry.stem
        for entry in folder.iterdir()
        if not entry.name.startswith(("_", ".")) and (entry.suffix == ".py" or entry.is_dir())
    ]


def _inside(path: Path, base: Path, module: str) -> Path:
    resolved = path.resolve()
    if not resolved.is_relative_to(base) or resolved.name != path.name:
        raise UnsafeError(f"{module} is a link that leads from {path} to {resolved}", hint="put the file itself there")
    if not resolved.is_file():
        raise ArchitectureError(f"{module} has no source file {path}", hint="name the module that defines the network")
    return resolved


def _read(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_SOURCE_BYTES:
            raise UnsafeError(
                f"{path} has {size_bytes} bytes, the limit is {_MAX_SOURCE_BYTES}", hint="split the module"
            )
        return path.read_bytes()
    except OSError as error:
        raise ArchitectureError(f"{path} cannot be read: {error.strerror}", hint="check the file") from error


def _parse(source: bytes, path: Path) -> ast.Module:
    for line in source.splitlines()[:2]:
        coding = _CODING.match(line)
        if coding and coding[1].lower() not in (b"utf-8", b"utf8", b"ascii"):
            raise ArchitectureError(f"{path} is encoded as {coding[1].decode()}, not as UTF-8", hint="save it as UTF-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source.decode("utf-8").removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArchitectureError(f"{path} is not valid Python: {error}", hint="correct the file") from error


def _definition(tree: ast.Module, module: str, name: str, path: Path) -> tuple[Parameter, ...] | None:
    """Return the parameters of the one top-level class or function `name`, after refusing everything else so named."""
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    bound = dict(_bindings(tree.body))
    if name in bound:
        also = "is also" if name in definitions else "is not defined there but"
        raise UnsafeError(f"{name} in {path} {also} {bound[name]}", hint="name the module whose own class or def it is")
    definition = definitions.get(name)
    if definition is None:
        known = [other for other, node in definitions.items() if not other.startswith("_") and _is_network(node)]
        raise ArchitectureError(f"{module} defines no {name!r}{suggestion(name, known)}", hint=f"looked in {path}")
    if not _is_network(definition):
        raise ArchitectureError(
            f"{module}:{name} ({path}:{definition.lineno}) is not declared as a network",
            hint="a class must subclass torch.nn.Module; a function must say so: def build(...) -> nn.Module",
        )
    if isinstance(definition, ast.FunctionDef):
        return _parameters(definition, skip=0)
    return _class_parameters(definition, definitions, seen=())


def _bindings(body: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield (name, how) for what imports and assignments bind at module level, at any depth of if, try, for and with."""
    pending = list(body)
    while pending:
        node = pending.pop()
        match node:
            case ast.Import(names=names):
                yield from ((a.asname or a.name.partition(".")[0], f"imported (line {node.lineno})") for a in names)
            case ast.ImportFrom(names=names):
                source = "." * node.level + (node.module or "")
                yield from ((a.asname or a.name, f"imported from {source} (line {node.lineno})") for a in names)
            case ast.Name(ctx=ast.Store()):
                yield node.id, f"assigned (line {node.lineno})"
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass  # a scope of its own
            case _:
                pending.extend(ast.iter_child_nodes(node))


def _is_network(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Tell whether a class has a base, or a function an annotation that can name a module class."""
    if isinstance(node, ast.ClassDef):
        return bool(node.bases)
    returns = node.returns
    if isinstance(returns, ast.Constant) and isinstance(returns.value, str):
        return bool(_PREFIX.fullmatch(returns.value))
    return isinstance(returns, ast.Name | ast.Attribute)


def _class_parameters(
    node: ast.ClassDef, definitions: Mapping[str, ast.ClassDef | ast.FunctionDef], *, seen: tuple[str, ...]
) -> tuple[Parameter, ...] | None:
    """Return the parameters of `__init__`, its own or of its one base in the same file."""
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if node.decorator_list or node.keywords or "__new__" in methods or node.name in seen:
        return None
    if "__init__" in methods:
        return _parameters(methods["__init__"], skip=1)
    if len(node.bases) != 1:
        return None
    base = ast.unparse(node.bases[0])
    if base in {"nn.Module", "torch.nn.Module", "Module"}:
        return ()
    parent = definitions.get(base)
    return _class_parameters(parent, definitions, seen=(*seen, node.name)) if isinstance(parent, ast.ClassDef) else None


def _parameters(node: ast.FunctionDef, *, skip: int) -> tuple[Parameter, ...] | None:
    signature = node.args
    if node.decorator_list or signature.kwarg or signature.posonlyargs:
        return None
    positional = signature.args
    absent = len(positional) - len(signature.defaults)
    defaults = [*([None] * absent), *signature.defaults, *signature.kw_defaults]
    return tuple(
        Parameter(argument.arg, default is not None, _literal(default))
        for argument, default in zip([*positional, *signature.kwonlyargs], defaults, strict=True)
    )[skip:]


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _require_network(found: Any, located: Located) -> type[nn.Module] | Callable[..., nn.Module]:
    """Return the imported object once it is a module class, or a function annotated with one, of that very module."""
    from torch import nn

    target = f"{located.module}:{located.name}"
    if getattr(found, "__module__", None) != located.module:
        raise UnsafeError(f"{target} is not defined in {located.module} once imported", hint="define it there")
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
