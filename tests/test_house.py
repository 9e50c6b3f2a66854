"""The house: files of a size that can be read at once, and tests in the rooms of what they test."""

from pathlib import Path

import pytest

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
