"""Every error that weighbridge raises on purpose, collected from its source: where, of which class, with which words."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline import errors

ROOT = Path(errors.__file__).parent
CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if inspect.isclass(each) and issubclass(each, errors.WeighbridgeError)
}
HOLE = "\0"
"""Stands in a skeleton for what is only known when it runs."""


@dataclass(frozen=True)
class Raised:
    """A place that makes an error: its words have HOLE for what is filled in; `hint` is None where there is none."""

    file: str
    line: int
    end: int
    kind: str
    message: str
    hint: str | None
    about: str | None

    @property
    def place(self):
        """Return where it is, as a person finds it again."""
        return f"{self.file}: {self.shown(self.message)[:60]}"

    @staticmethod
    def shown(text):
        return text.replace(HOLE, "…")

    def made(self, message):
        """Whether a message that was met may be one of this place."""
        words = [re.escape(part) for part in self.message.split(HOLE)]
        return re.fullmatch(".*?".join(words), message, re.DOTALL)


@dataclass(frozen=True)
class _Source:
    """What a file has: its calls with the function they are in, what each function assigns to a name, and its texts but for docstrings."""

    calls: list[tuple[ast.Call, str]]
    local: dict[str, dict[str, list[ast.expr]]]
    texts: list[ast.expr]


def _source(tree):
    """Read a file's tree in one pass: the whole of pipeline/ takes a second."""
    source, passed = _Source([], {}, []), set()
    pending = [(tree, ())]
    while pending:
        node, functions = pending.pop()
        if isinstance(node, ast.FunctionDef):
            functions = (*functions, node.name)
        if isinstance(body := getattr(node, "body", None), list):
            passed |= {
                id(each.value) for each in body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            }
        if isinstance(node, ast.JoinedStr):
            passed |= {id(each) for each in node.values}
        if isinstance(node, ast.Call):
            source.calls.append((node, functions[-1] if functions else ""))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            for each in functions:
                source.local.setdefault(each, {}).setdefault(node.targets[0].id, []).append(node.value)
        is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if is_text and id(node) not in passed:
            source.texts.append(node)
        pending.extend((each, functions) for each in ast.iter_child_nodes(node))
    return source


class _Reader:
    """Reads a text from the source: names of one assignment and constants of other modules are followed."""

    def __init__(self, local, constants):
        self.constants = constants
        self.local = local

    def text(self, node, function):  # noqa: PLR0911 - one for each form
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.JoinedStr():
                return "".join(
                    each.value if isinstance(each, ast.Constant) else self.filled(each.value, function)
                    for each in node.values
                )
            case ast.IfExp():
                return f"{self.text(node.body, function)}{HOLE}{self.text(node.orelse, function)}"
            case ast.BoolOp():
                return HOLE.join(self.text(each, function) for each in node.values)
            case ast.Name(id=name) if len(found := self.local.get(function, {}).get(name, ())) == 1:
                return self.text(found[0], function)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in self.constants:
                return self.text(self.constants[name], function)
            case ast.Call(func=ast.Name(id="command"), args=words):
                return " ".join(["weighbridge", *(self.text(each, function) for each in words)])
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.List(elts=parts)]):
                return HOLE.join(self.text(each, function) for each in parts)
            case _:
                return HOLE

    def filled(self, node, function):
        """Return what fills an f-string: the text of a constant or a command, else a hole."""
        local = self.local.get(function, {}).get(getattr(node, "id", ""), [node])
        is_known = (
            isinstance(node, ast.Attribute | ast.Call)
            or (isinstance(node, ast.Name) and node.id in self.constants)
            or (len(local) == 1 and isinstance(local[0], ast.JoinedStr))
        )
        return self.text(node, function) if is_known else HOLE


@cache
def trees():
    """Return the parsed source of every file of pipeline/ by its path there."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def _sources():
    return {file: _source(tree) for file, tree in trees().items()}


@cache
def raised():
    """Return every place that makes an error, in the order of files and lines."""
    constants = {
        node.targets[0].id: node.value
        for tree in trees().values()
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.strip("_").isupper()
    }
    found = []
    for file, tree in trees().items():
        own = constants | {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        source = _sources()[file]
        reader = _Reader(source.local, own)
        for node, function in source.calls:
            kind = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if kind in CLASSES and node.args:
                given = {each.arg: each.value for each in node.keywords}
                hint = reader.text(given["hint"], function) if "hint" in given else None
                about = reader.text(given["about"], function) if "about" in given else CLASSES[kind].about
                found.append(
                    Raised(
                        file,
                        node.lineno,
                        node.end_lineno,
                        kind,
                        reader.text(node.args[0], function),
                        hint,
                        about,
                    )
                )
    return tuple(sorted(found, key=lambda each: (each.file, each.line)))


@cache
def texts():
    """Return every text in the source that is no docstring, by where it stands; HOLE for what fills an f-string."""
    found = {}
    for file, source in _sources().items():
        reader = _Reader({}, {})
        for node in source.texts:
            place, text = f"{file}:{node.lineno}:{node.col_offset}", reader.text(node, "")
            # What is within an f-string has its place in Python 3.11.
            found[place] = max(found.get(place, ""), text, key=len)
    return found
