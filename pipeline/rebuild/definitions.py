"""What the source of a module says: which names it defines, imports and assigns, and what its constructors take."""

from __future__ import annotations

import ast
import re
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import ArchitectureError, UnsafeError
from pipeline.rebuild import sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Definition = ast.ClassDef | ast.FunctionDef

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class Imported(NamedTuple):
    """What `from … import name` names, with as many dots as `level`: from the module's own package on."""

    level: int
    module: str
    name: str


class Binding(NamedTuple):
    """A name that a module binds other than by class or def: how, in words, and what it then stands for.

    That is what was imported, or the expression that is its value where that is a dotted name; None for anything else.
    """

    name: str
    how: str
    origin: Imported | str | None


class Parameter(NamedTuple):
    """A parameter of a constructor; `default` is its literal, or None where it is not a literal."""

    name: str
    has_default: bool
    default: Any


def definitions_in(tree: ast.Module) -> dict[str, Definition]:
    """Return the classes and functions at the top level of a module, by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def origin_of(tree: ast.Module, module: str, path: Path, name: str) -> tuple[str, str] | None:
    """Return module and name of what `name` stands for, where the module says so or its package holds just one; else None.

    Followed are imports, those of everything (`*`) as well, and other names for what was imported or defined (`Net = net.Net`). Of several, as
    in try and except, the first that is there: what it turns out to be is looked at once it is imported.
    """
    if any(each.name == name for each in bindings(tree.body)) or path.name != "__init__.py":
        return _stated_origin(tree, module, path, name, ())
    return _stated_origin(tree, module, path, name, ()) or _lazy_origin(module, path, name)


def _stated_origin(
    tree: ast.Module, module: str, path: Path, name: str, seen: tuple[str, ...]
) -> tuple[str, str] | None:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    bound = list(bindings(tree.body))
    stars = [Imported(node.level, node.module or "", name) for node in _star_imports(tree)]
    named = [each.origin for each in bound if each.name == name]
    origins = [_resolved(each, tree, module, package, bound) for each in named or stars]
    found = [each for each in origins if each is not None and each != (module, name)]
    if len(found) == 1 and named:
        return found[0]
    return next((each for each in found if _defines(*each, (*seen, module))), None)


def _star_imports(tree: ast.Module) -> list[ast.ImportFrom]:
    return [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]


def _lazy_origin(module: str, path: Path, name: str) -> tuple[str, str] | None:
    """Return where a package defines what it makes available when it is first asked for."""
    files = sources.defining(path.parent, name)
    # What transformers generates its own modules from lies beside them, and is never imported.
    files = [each for each in files if not each.name.startswith("modular_")] or files
    if len(files) > 1:
        places = [f"{sources.module_name(path.parent, module, file)}:{name}" for file in files[:6]]
        raise ArchitectureError(
            f"{module} does not say which {name} it means: {len(files)} of its files define one",
            hint=f"name the one: {', '.join(places)}",
        )
    return (sources.module_name(path.parent, module, files[0]), name) if files else None


def _resolved(
    origin: Imported | str | None, tree: ast.Module, module: str, package: str, bound: Sequence[Binding]
) -> tuple[str, str] | None:
    """Return the module and name that an import or a dotted name stands for, seen from a module."""
    if isinstance(origin, Imported):
        return _absolute(origin, package)
    if origin is None:
        return None
    first, _, rest = origin.partition(".")
    if not rest:
        is_here = first in definitions_in(tree) or any(each.name == first for each in bound)
        return (module, first) if is_here else None
    for start in _modules_called(first, tree, package):
        before, _, last = f"{start}.{rest}".rpartition(".")
        return before, last
    return None


def _modules_called(name: str, tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the modules that a name stands for where a module imports them at its top level."""
    for node in tree.body:
        for each in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if isinstance(node, ast.Import) and name == (each.asname or each.name.partition(".")[0]):
                yield each.name if each.asname else name
            elif isinstance(node, ast.ImportFrom) and name == (each.asname or each.name):
                found = _absolute(Imported(node.level, node.module or "", each.name), package)
                yield from [] if found is None else [".".join(part for part in found if part)]


def _absolute(origin: Imported, package: str) -> tuple[str, str] | None:
    """Return the module and name that an import names, seen from a package."""
    level, module, name = origin
    if not level:
        return module, name
    parts = package.split(".")
    if level > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])]), name


def _defines(module: str, name: str, seen: tuple[str, ...]) -> bool:
    if module in seen:
        return False
    try:
        path = sources.find(module)
        tree = sources.parse(sources.read(path), path)
    except (ArchitectureError, UnsafeError):
        return False
    return name in definitions_in(tree) or _stated_origin(tree, module, path, name, seen) is not None


def bindings(body: Sequence[ast.AST]) -> Iterator[Binding]:
    """Yield what imports and assignments bind at module level, at any depth of if, try, for and with, in their order."""
    pending = deque(body)
    while pending:
        node = pending.popleft()
        match node:
            case ast.Import(names=names):
                yield from (
                    Binding(a.asname or a.name.partition(".")[0], f"imported (line {node.lineno})", None) for a in names
                )
            case ast.ImportFrom(names=names):
                source = "." * node.level + (node.module or "")
                how = f"imported from {source} (line {node.lineno})"
                yield from (
                    Binding(a.asname or a.name, how, Imported(node.level, node.module or "", a.name)) for a in names
                )
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name() | ast.Attribute() as value):
                yield Binding(name, f"assigned (line {node.lineno})", _dotted(value))
            case ast.Name(ctx=ast.Store()):
                yield Binding(node.id, f"assigned (line {node.lineno})", None)
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass  # a scope of its own
            case _:
                pending.extendleft(reversed(list(ast.iter_child_nodes(node))))


def _dotted(value: ast.expr) -> str | None:
    text = ast.unparse(value)
    return text if _DOTTED.fullmatch(text) else None


def is_network(node: Definition) -> bool:
    """Tell whether a class has a base, or a function an annotation that can name a module class, or none and a result."""
    if isinstance(node, ast.ClassDef):
        return bool(node.bases)
    returns = node.returns
    if returns is None:
        return any(isinstance(each, ast.Return) and each.value is not None for each in _own_statements(node))
    if isinstance(returns, ast.Constant) and isinstance(returns.value, str):
        return bool(_DOTTED.fullmatch(returns.value))
    return isinstance(returns, ast.Name | ast.Attribute)


def _own_statements(node: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield what is inside a function, but not inside functions and classes of its own."""
    pending: list[ast.AST] = list(node.body)
    while pending:
        each = pending.pop()
        yield each
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(each))


def parameters_in(
    node: Definition, definitions: Mapping[str, Definition], *, seen: tuple[str, ...] = ()
) -> tuple[Parameter, ...] | None:
    """Return what a function takes, or a class through its `__init__` or that of its one base in the same file.

    None where the source alone cannot tell.
    """
    if isinstance(node, ast.FunctionDef):
        return _parameters(node)
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if node.decorator_list or node.keywords or "__new__" in methods or node.name in seen:
        return None
    if "__init__" in methods:
        found = _parameters(methods["__init__"])
        return None if found is None else found[1:]
    if len(node.bases) != 1:
        return None
    base = ast.unparse(node.bases[0])
    if base in {"nn.Module", "torch.nn.Module", "Module"}:
        return ()
    parent = definitions.get(base)
    return parameters_in(parent, definitions, seen=(*seen, node.name)) if isinstance(parent, ast.ClassDef) else None


def _parameters(node: ast.FunctionDef) -> tuple[Parameter, ...] | None:
    signature = node.args
    if node.decorator_list or signature.kwarg or signature.posonlyargs:
        return None
    absent = len(signature.args) - len(signature.defaults)
    defaults = [*([None] * absent), *signature.defaults, *signature.kw_defaults]
    return tuple(
        Parameter(argument.arg, default is not None, _literal(default))
        for argument, default in zip([*signature.args, *signature.kwonlyargs], defaults, strict=True)
    )


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
