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


class _Reader:
    """Reads a text from the source: names of one assignment and constants of other modules are followed."""

    def __init__(self, tree, constants):
        self.constants = constants
        self.local = {}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                        self.local.setdefault(function.name, {}).setdefault(node.targets[0].id, []).append(node.value)

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
        reader = _Reader(tree, own)
        inside = {
            id(node): function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            kind = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if kind in CLASSES and node.args:
                given = {each.arg: each.value for each in node.keywords}
                function = inside.get(id(node), "")
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
    for file, tree in trees().items():
        docs = {
            id(node.body[index].value)
            for node in ast.walk(tree)
            if isinstance(getattr(node, "body", None), list)
            for index in range(len(node.body))
            if isinstance(node.body[index], ast.Expr) and isinstance(node.body[index].value, ast.Constant)
        }
        parts = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values}
        reader = _Reader(tree, {})
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
            if is_text and id(node) not in docs | parts:
                place, text = f"{file}:{node.lineno}:{node.col_offset}", reader.text(node, "")
                # What is within an f-string has its place in Python 3.11.
                found[place] = max(found.get(place, ""), text, key=len)
    return found
