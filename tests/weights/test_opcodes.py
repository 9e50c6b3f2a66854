"""Whatever Python's unpicklers would do with a pickle, the reader of its instructions has seen: no pickle is read two ways."""

from __future__ import annotations

import io
import pickle
import random
import struct
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import UnsafeError
from pipeline.weights import inspect, opcodes, pickles
from pipeline.weights.pickle_records import MalformedError
from tests.weights import assembler as asm
from tests.weights import evasions

if TYPE_CHECKING:
    from pathlib import Path

UNPICKLERS: dict[str, Any] = {"Python": pickle._Unpickler, "C": pickle.Unpickler}  # type: ignore[attr-defined]
PROGRAMS = 1500

GLOBALS = (
    ("os", "system"), ("sys", "modules"), ("innocent.deep", "f"), ("builtins", "eval"), ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("numpy", "dtype"), ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"), ("builtins", "set"), ("copyreg", "_reconstructor"), ("_codecs", "encode"),
    ("torch.jit._pickle", "restore_type_tag"), ("builtins", "object"),
)  # fmt: skip
NUMBERS = (
    b"I1\n", b"I0x10\n", b"I010\n", b"I 5\n", b"I1_0\n", b"I00\n", b"I01\n", b"L5L\n", b"L0x5L\n", b"L5\n", b"F1.5\n",
    b"F1_0.0\n", b"Fnan\n", b"K\x05", b"M\x05\x00", b"J\x05\x00\x00\x00", b"\x8a\x01\x05", b"\x8a\x00", b"G" + bytes(8),
    b"\x8b\x01\x00\x00\x00\x05", b"I1\x00abc\n", b"I\x00zz\n",
)  # fmt: skip
OTHERS = (
    *(bytes([code]) for code in b"N\x88\x89)]}\x8f((012t\x85\x86\x87ldaesu\x90\x91RRbb\x81\x92o\x94\x97\x98Q"),
    b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"p2\n", b"g2\n", b"r\x03\x00\x00\x00", b"j\x03\x00\x00\x00", b"C\x02ab",
    b"B\x02\x00\x00\x00ab", b"\x8e" + struct.pack("<Q", 2) + b"ab", b"\x96" + struct.pack("<Q", 2) + b"ab",
    b"\x95" + bytes(8), b"S'\xc3\xa9'\n", b'S"a\\x41"\n', b"P12\n", b"\x82\x01",
)  # fmt: skip
ENDS = (b")R", b")\x81", b"N\x85R", b"}b", b"](K\x01e0", b"N\x88s", b"K\x01a", b"]K\x01aR", b"(N\x90")


class Seen:
    """Stands for whatever a pickle names, and keeps what is done with it."""

    def __init__(self, log: list[tuple[str, str]], dotted: str) -> None:
        self.log, self.dotted = log, dotted

    def __call__(self, *_: Any, **__: Any) -> Seen:
        self.log.append((self.dotted, "calls"))
        return self

    def __setstate__(self, _: Any) -> None:
        self.log.append((self.dotted, "changes"))

    def __setitem__(self, *_: Any) -> None:
        self.log.append((self.dotted, "changes"))

    def append(self, *_: Any) -> None:
        self.log.append((self.dotted, "changes"))

    extend = add = append


def unpickled(unpickler: Any, data: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Return what an unpickler does with what it finds, and whether it comes to the end."""
    log: list[tuple[str, str]] = []

    class Watched(unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            log.append((f"{module}.{name}", "names"))
            return Seen(log, f"{module}.{name}")

        def persistent_load(self, identity: Any) -> Any:
            is_class = isinstance(identity, tuple) and len(identity) > 1 and identity[0] == "module"
            return identity[1] if is_class else Seen([], "a storage")

    try:
        Watched(io.BytesIO(data)).load()
    except Exception:  # noqa: BLE001 - whatever a crafted pickle makes of it
        return log, False
    return log, True


def _text(source: random.Random, value: str) -> bytes:
    made = value.encode()
    return source.choice(
        (
            b"X" + struct.pack("<I", len(made)) + made,
            b"\x8c" + bytes([len(made)]) + made,
            b"\x8d" + struct.pack("<Q", len(made)) + made,
            b"V" + made + b"\n",
            b"S'" + made + b"'\n",
            b"U" + bytes([len(made)]) + made,
            b"T" + struct.pack("<i", len(made)) + made,
        )
    )


def _global(source: random.Random) -> bytes:
    module, name = source.choice(GLOBALS)
    first, second = _text(source, module), _text(source, name)
    return source.choice(
        (
            asm.glob(module, name),
            asm.glob(module, name),
            first + second + b"\x93",
            first + b"q\x05" + second + b"q\x0600h\x05h\x06\x93",
            b"(" + f"i{module}\n{name}\n".encode(),
            b"(" + _text(source, "module") + asm.glob(module, name) + b"NNtQ",
        )
    )


def program(source: random.Random) -> bytes:
    """Return a pickle of drawn instructions, some of them in orders that mean something."""
    draws = (
        lambda: _global(source),
        lambda: _global(source) + source.choice(ENDS),
        lambda: source.choice(NUMBERS),
        lambda: _text(source, source.choice(("a", "os", "system", "storage"))),
        lambda: source.choice(OTHERS),
        lambda: source.choice(OTHERS),
        lambda: source.choice((b"]", b"N", b"K\x01", b"}", _global(source))) + source.choice(ENDS),
    )
    pieces = [source.choice(draws)() for _ in range(source.randint(1, 12))]
    return source.choice((b"", b"\x80\x02", b"\x80\x04")) + b"".join(pieces) + source.choice((b".", b".", b""))


def require_seen(data: bytes) -> bool:
    """Hold that nothing that an unpickler does is unseen; return whether one did something that is not data."""
    problem = None
    try:
        foreign = dict(pickles.parse(data).foreign)
    except MalformedError as error:
        problem, foreign = type(error), dict(error.foreign)
    did = False
    for unpickler in UNPICKLERS.values():
        log, ended = unpickled(unpickler, data)
        assert not (ended and problem is MalformedError), data  # what loads is not called damaged
        for dotted, how in log:
            known = pickles._is_allowed(dotted)
            assert known or dotted in foreign, (data, dotted)
            assert known or how == "names" or foreign[dotted] != "names", (data, dotted, how)
            did = did or (not known and (ended or how != "names"))
    return did


def test_what_unpicklers_do_is_seen_and_refused_whatever_the_instructions(tmp_path: Path) -> None:
    source, path = random.Random(13), tmp_path / "weights"
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes, by the unpicklers
        for _ in range(PROGRAMS):
            data = program(source)
            if require_seen(data):
                path.write_bytes(data)
                with pytest.raises(UnsafeError):
                    inspect.description_of(path)
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", evasions.differences(evasions.NOWHERE))
def test_pickles_that_stricter_readers_give_up_are_loaded_by_pythons_own(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    made = io.BytesIO(evasions.differences(marker)[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):  # a reader of several pickles comes to the last one
            if made.tell() < len(made.getvalue()):
                pickle.load(made)  # noqa: S301 - shows that the payload is real
    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "name", "argument"),
    [
        (b"I0x10\n", "INT", 16),
        (b"I01\n", "INT", True),
        (b"I1\x00abc\n", "INT", 1),
        (b"L-5L\n", "LONG", -5),
        (b"F1.5\n", "FLOAT", 1.5),
        (b"S'a\\x41'\n", "STRING", "aA"),
        (b"V\\u00e9\n", "UNICODE", "é"),
        (b"cos\nsystem\n", "GLOBAL", ("os", "system")),
        (b"\x8a\x02\x00\xff", "LONG1", -256),
        (b"p12\n", "PUT", 12),
    ],
)
def test_arguments_are_read_as_unpicklers_read_them(data: bytes, name: str, argument: object) -> None:
    assert next(opcodes.instructions(data, 0)) == (name, argument, len(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"I1", b"Iab\n", b"S'a\n", b"c\xff\n\n", b"X\x05\x00\x00\x00ab", b"\x8b\xff\xff\xff\xff", b"\x00"],
)
def test_where_every_unpickler_stops_the_reader_does_too(data: bytes) -> None:
    with pytest.raises(opcodes.CutOffError):
        list(opcodes.instructions(data, 0))
    for unpickler in UNPICKLERS.values():
        assert unpickled(unpickler, data) == ([], False)


def test_bytes_that_are_too_long_for_a_name_are_not_copied() -> None:
    data = asm.pickle(b"\x8e" + struct.pack("<Q", 2**26) + bytes(2**26))
    assert pickles.parse(data).value.length == 2**26


def test_names_of_python_2_count_where_unpicklers_take_them() -> None:
    named = asm.glob("__builtin__", "eval")
    assert pickles.parse(asm.pickle(named, 2)).foreign == {"builtins.eval": "names"}
    assert pickles.parse(asm.pickle(asm.glob("__builtin__", "set"), 2)).foreign == {}
    assert pickles.parse(asm.pickle(asm.glob("__builtin__", "set"), 4)).foreign == {"__builtin__.set": "names"}
