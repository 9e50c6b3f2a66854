"""An ExecuTorch program is told by its first bytes, and one whose parts lie where no exporter puts them is refused."""

import pytest

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import executorch_header, headers, inspect
from pipeline.weights.kinds import Kind


def program(plan=120, data=64, base=None, *, root=48, length=32, identifier=b"ET12", stated=None, tail=b""):
    """Return a program with a header of these numbers, and nothing but zeros behind it."""
    base = (128 if data else 0) if base is None else base
    numbers = ((root, 4), (plan, 8), (base, 8), (data if stated is None else stated, 8))
    words = [value.to_bytes(size, "little") for value, size in numbers]
    head = words[0] + identifier + b"eh00" + length.to_bytes(4, "little") + words[1] + words[2] + words[3]
    return head.ljust(max(plan, (base if data else 0) + data), b"\0") + tail


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "model.pte"
        path.write_bytes(content)
        return path

    return write


def test_it_is_told_by_its_bytes_and_described(file):
    described = inspect.description_of(file(program()))
    assert described.kind == "ExecuTorch program"
    assert "without checking all of it" in described.explanation
    assert described.tensors == ()
    assert executorch_header.read(program(), "x").end == 192


def test_one_without_data_behind_its_plan_is_one_too(file):
    assert headers.read(file(program(data=0))).kind is Kind.EXECUTORCH


@pytest.mark.parametrize("end", [13, 39, 40, 100, 127, 191])
def test_one_that_is_cut_off_is_a_truncated_file(end, file):
    path = file(program()[:end])
    assert headers.read(path).kind is Kind.TRUNCATED
    with pytest.raises(WeightsError, match="cut off"):
        executorch_header.read(path.read_bytes(), path.name)


CRAFTED = {
    "a root outside the plan": (program(root=4000), "outside its 120 bytes"),
    "a root inside the header": (program(root=8), "outside its 120 bytes"),
    "a root between two words": (program(root=50), "outside its 120 bytes"),
    "a header without end": (program(length=2**31), "a header of 2,147,483,648 bytes"),
    "a header too short": (program(length=8), "a header of 8 bytes"),
    "data inside the plan": (program(base=64, data=128), "inside its plan"),
    "data nowhere": (program(base=0, data=0, stated=64), "not where they begin"),
    "something behind": (program(tail=b"MZ hidden"), "hides 9 bytes"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_one_that_no_exporter_writes_is_refused_by_rule(name, file):
    content, words = CRAFTED[name]
    with pytest.raises(UnsafeError, match=words):
        headers.read(file(content))


@pytest.mark.parametrize("content", [program(identifier=b"XX12"), program()[:9], b"\0\0\0\0ET12" + b"\0" * 100])
def test_other_files_are_not_taken_for_one(content, file):
    assert headers.read(file(content)).kind is not Kind.EXECUTORCH
    with pytest.raises(WeightsError, match="no ExecuTorch program"):
        executorch_header.read(content, "model.pte")


def test_numbers_of_64_bits_are_only_numbers(file):
    assert headers.read(file(program(stated=2**64 - 1))).kind is Kind.TRUNCATED
