"""The house: files of a size that can be read at once, and tests in the rooms of what they test."""

import ast
from pathlib import Path

import pytest

from pipeline.backends.table import BUILT_IN as BACKENDS
from pipeline.formats.table import BUILT_IN as FORMATS

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
LONG = {"release/standalone.py"}  # it ships as one file


def too_long(folder):
    """Return the Python files below a folder that have more lines than can be read at once, with how many."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in sorted(folder.rglob("*.py"))}
    return {path.relative_to(folder).as_posix(): count for path, count in lines.items() if count > MOST_LINES}


def test_no_file_is_too_long_to_be_read_at_once():
    found = too_long(ROOT / "pipeline")
    assert {name: count for name, count in found.items() if name not in LONG} == {}
    assert found.keys() >= LONG


@pytest.mark.parametrize(("count", "found"), [(400, {}), (401, {"room/file.py": 401})])
def test_a_file_is_too_long_from_401_lines_on(tmp_path, count, found):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "file.py").write_text("# a line\n" * count)
    assert too_long(tmp_path) == found


def test_the_rooms_of_the_tests_are_those_of_the_house():
    rooms = {path.parent.name for path in ROOT.glob("pipeline/*/__init__.py")}
    beside = {"benchmarks", "scripts", "sweeps"}  # what is no part of the product
    tested = {path.parent.name for path in ROOT.glob("tests/*/__init__.py")}
    assert tested - beside <= rooms


NAMES = {each.name for each in (*FORMATS, *BACKENDS)}
MAY_COMPARE = {
    "formats",
    "backends",
    "release/standalone.py",  # it ships by itself, and can import neither table
}


def compared_names(source):
    """Return the names of formats and backends that a module compares something with: in ==, in, case, or as keys."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [each for each in node.keys if each is not None]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {
            "startswith",
            "endswith",
            "get",
            "removesuffix",
        }:
            parts = node.args
        inside = [each for part in parts for each in ast.walk(part)]
        found += [
            (each.lineno, each.value) for each in inside if isinstance(each, ast.Constant) and each.value in NAMES
        ]
    return sorted(set(found))


def test_nobody_outside_their_rooms_compares_the_name_of_a_format_or_a_backend():
    found = {}
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        name = path.relative_to(ROOT / "pipeline").as_posix()
        if name.partition("/")[0] not in MAY_COMPARE and name not in MAY_COMPARE:
            text = path.read_text("utf-8")
            if any(each in text for each in NAMES):
                found |= {f"{name}:{line}": word for line, word in compared_names(text)}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "x == 'onnx'",
        "'torchscript' != x",
        "x in {'onnx', 'other'}",
        "x not in ('eager',)",
        "{'onnxruntime-cpu': 1}[x]",
        "table.get('onnx')",
        "match x:\n    case 'onnx':\n        pass",
    ],
)
def test_a_comparison_is_seen_in_each_of_its_forms(source):
    assert compared_names(source)
