"""What is told of the objects beside tensors: where they stand, their class, and what they hold, in a line."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.weights import beside, headers, inspect
from pipeline.weights.pickle_records import Object
from tests.effort import at_most
from tests.weights import abuses, inert_corpus
from tests.weights import assembler as asm

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = inert_corpus.objects()


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("Enum", "my_project.kinds.Phase", "Phase('train')"),
        ("path", "pathlib.PurePosixPath", "PurePosixPath('runs/a/b.yaml')"),
        ("absolute path", "pathlib.PosixPath", "PosixPath('/data/images')"),
        ("Windows path", "pathlib.PureWindowsPath", "PureWindowsPath('C:\\\\data\\\\x')"),
        ("datetime", "datetime.datetime", "2026-03-04 05:06:07"),
        ("Decimal", "decimal.Decimal", "Decimal('0.10')"),
        ("UUID", "uuid.UUID", "UUID('00000000-0000-0040-0000-000000000000')"),
        ("SimpleNamespace", "types.SimpleNamespace", "SimpleNamespace(width=32, depth=3, net={scale: 2.5, acts: ['gelu', 'relu']})"),
        ("OmegaConf", "omegaconf.dictconfig.DictConfig", "{width: 32, depth: 3, net: {scale: 2.5, acts: ['gelu', 'relu']}, same: 32}"),
        ("AttributeDict", "lightning.fabric.utilities.data.AttributeDict", "AttributeDict(width=32, depth=3, net={scale: 2.5, acts: ['gelu', 'relu']})"),
        ("dataclass", "my_project.config.NetConfig", "NetConfig(width=32, depth=3, optimizer=Optimizer(lr=0.001, betas=[0.9, 0.99]))"),
        ("frozen dataclass with slots", "my_project.config.Frozen", "Frozen(32, 'a')"),
        ("namedtuple", "my_project.config.Sizes", "Sizes(1, [2])"),
        ("a class with slots", "my_project.tracking.Slotted", "Slotted(count=3, total=0.5)"),
        ("a list of one's own", "my_project.tracking.Vocabulary", "Vocabulary('a', 'b')"),
    ],
)  # fmt: skip
def test_an_object_is_told_by_its_place_class_and_content(name: str, kind: str, shown: str, tmp_path: Path) -> None:
    saved = {"state_dict": inert_corpus.state(), "hyper_parameters": {"runs": [1, OBJECTS[name]]}}
    description = inspect.description_of(inert_corpus.save(saved, tmp_path / "a.ckpt"))
    assert description.held == (beside.Held("hyper_parameters.runs.1", kind, shown),)
    assert [tensor.name for tensor in description.tensors] == list(inert_corpus.state())
    assert description.next[0].startswith(f"weighbridge inspect {tmp_path / 'a.ckpt'} --save-weights")


def test_what_is_only_named_is_told_too_and_pythons_own_data_is_no_need(tmp_path: Path) -> None:
    saved = {"state_dict": inert_corpus.state(), "meter": [inert_corpus.Meter], "seen": OBJECTS["defaultdict"]}
    description = inspect.description_of(inert_corpus.save(saved, tmp_path / "a.ckpt"))
    assert description.held == (beside.Held("meter.0", "my_project.tracking.Meter", "named only"),)
    assert description.needs == ("my_project.tracking.Meter",)


def _chain(length: int) -> Any:
    made = Object("innocent.Thing")
    for _ in range(length):
        made = Object("innocent.Thing", state={"a": made, "b": made})
    return made


def test_what_holds_itself_or_the_same_again_and_again_is_told_shortly() -> None:
    itself = Object("innocent.Thing")
    itself.state = {"x": itself, "y": [itself] * 1000}
    with at_most(20):
        for value in (itself, _chain(400), Object("innocent.Thing", tuple(range(10**6)))):
            assert len(beside.shown(value)) <= 200
        assert len(repr(itself)) < 50


def test_objects_that_share_much_or_lie_deep_are_told_in_little_time(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    new = asm.glob("innocent", "Thing") + b")\x81"
    table = asm.EMPTY_DICT + b"(" + b"".join(asm.number(index) + b"N" for index in range(200_000)) + b"uq\x07"
    pairs = new + b"(" + b"".join(asm.number(index) + b"N" for index in range(100_000)) + b"uq\x08"
    many = b"](" + (new + b"h\x07b" + new + b"h\x07h\x07\x86b" + new + b"h\x08b") * 3_000 + b"e"
    deep = b"]" * 400 + b"(" + b"h\x08" * 100_000 + b"e" + b"a" * 399
    path.write_bytes(abuses.file(asm.tuple_of(table, pairs, many, deep)))
    header = headers.read(path)
    with at_most(40):
        assert len(list(itertools.islice(beside.held(header), 1_000))) == 1_000


def test_huge_numbers_as_keys_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    huge = b"\x8b" + (5_000).to_bytes(4, "little") + b"\x7f" * 5_000
    path.write_bytes(abuses.file(asm.EMPTY_DICT + huge + abuses.THING + b"s"))
    (held,) = beside.held(headers.read(path))
    assert held.place == "hyper_parameters.a huge number"


def test_texts_of_a_file_are_shown_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    thing = asm.glob("innocent", "Thing") + b")\x81" + asm.dict_of({"a\nb\x1b[2J": asm.text("c\nd" * 1000)}) + asm.BUILD
    path.write_bytes(abuses.file(thing))
    (held,) = beside.held(headers.read(path))
    assert held.shown.isprintable()
    assert len(held.shown) < 200
