"""What the source of a module says: which names it defines, imports and assigns, and what its constructors take."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import ArchitectureError, UnsafeError
from pipeline.rebuild import sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Definition = ast.ClassDef | ast.FunctionDef

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class Parameter(NamedTuple):
    """A parameter of a constructor; `default` is its literal, or None where it is not a literal."""

    name: str
    has_default: bool
    default: Any


def definitions_in(tree: ast.Module) -> dict[str, Definition]:
    """Return the classes and functions at the top level of a module, by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def origin_of(tree: ast.Module, module: str, path: Path, name: str) -> tuple[str, str] | None:
    """Return module and name of what `name` stands for, where the module says so or its package holds just one; else None."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    bound = [origin for other, _, origin in bindings(tree.body) if other == name]
    if bound:
        return _absolute(bound[0], package) if len(bound) == 1 and bound[0] is not None else None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            source = _absolute((node.level, node.module or "", name), package)
            if source is not None and _defines(*source):
                return source
    if path.name != "__init__.py":
        return None
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


def _absolute(origin: tuple[int, str, str], package: str) -> tuple[str, str] | None:
    """Return the module and name that an import names, seen from a package."""
    level, module, name = origin
    if not level:
        return module, name
    parts = package.split(".")
    if level > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])]), name


def _defines(module: str, name: str) -> bool:
    try:
        path = sources.find(module)
        tree = sources.parse(sources.read(path), path)
    except (ArchitectureError, UnsafeError):
        return False
    return name in definitions_in(tree) or any(
        bound == name and origin is not None for bound, _, origin in bindings(tree.body)
    )


def bindings(body: Sequence[ast.AST]) -> Iterator[tuple[str, str, tuple[int, str, str] | None]]:
    """Yield name, how and origin of what imports and assignments bind at module level, at any depth of if, try, for and with.

    The origin of `from .a import b` is (1, "a", "b"); anything else has none.
    """
    pending = list(body)
    while pending:
        node = pending.pop()
        match node:
            case ast.Import(names=names):
                yield from (
                    (a.asname or a.name.partition(".")[0], f"imported (line {node.lineno})", None) for a in names
                )
            case ast.ImportFrom(names=names):
                source = "." * node.level + (node.module or "")
                how = f"imported from {source} (line {node.lineno})"
                yield from ((a.asname or a.name, how, (node.level, node.module or "", a.name)) for a in names)
            case ast.Name(ctx=ast.Store()):
                yield node.id, f"assigned (line {node.lineno})", None
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass  # a scope of its own
            case _:
                pending.extend(ast.iter_child_nodes(node))


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
