"""What a program says of itself: a constant method that returns a JSON text with its names, read back through the runtime."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.errors import InputError
from pipeline.formats.format import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FORWARD = "forward"
METHOD = "weighbridge"
"""The constant method of a program that says what it is. A program has no other place for words of its maker."""

RUNTIME = "executorch.extension.pybindings._C"
"""The runtime itself. `executorch.runtime` is the same behind an import of the exporter, which takes five seconds."""

TURN = threading.RLock()
"""Held by whoever calls the runtime: it has one pool of threads a process, and one memory for the values of a method."""

# executorch/runtime/core/portable_type/scalar_type.h, the same numbers as torch's
_DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stated:
    """The names of a program's inputs and outputs, in its order, and who it is."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    identity: Mapping[str, str]

    def to_text(self) -> str:
        """Return the text that the constant method gives."""
        value = {"inputs": self.inputs, "outputs": self.outputs, "identity": dict(self.identity)}
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Place:
    """What a method takes or gives at one position: numpy's name of the dtype, and the largest size of each axis."""

    dtype: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A program that was loaded: how to call it by position, what it states of itself (None: nothing), its inputs and outputs."""

    call: Callable[[Sequence[Any]], list[Any]]
    stated: Stated | None
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    keep: object


def bindings() -> Any:
    """Return the runtime's own module."""
    import_module("torch")  # whose libraries it is linked against
    return import_module(RUNTIME)


def set_threads(wanted: int) -> int:
    """Set the threads of the process's one pool, unless 0 are wanted, and return how many it has.

    The only calls for it are private ones; they may not be made while a program runs.
    """
    found = bindings()
    with TURN, told():
        if wanted and found._threadpool_get_thread_count() != wanted:  # noqa: SLF001 - as above
            found._unsafe_reset_threadpool(wanted)  # noqa: SLF001 - as above
        return int(found._threadpool_get_thread_count())  # noqa: SLF001 - as above


def load(path: Path) -> Opened:
    """Load a program with all the checks that the runtime has. Only for files that are trusted.

    Raises:
        InputError: the runtime refuses it, with its reason.
    """
    runtime = bindings()
    with TURN, told() as said:
        try:
            program = runtime._load_program(  # noqa: SLF001 - it has no other name
                str(path), program_verification=runtime.Verification.InternalConsistency
            )
            methods = {program.get_method_name(index) for index in range(program.num_methods())}
            if FORWARD not in methods:
                raise InputError(
                    f"{path.name} has no method {FORWARD}, but {', '.join(sorted(methods)) or 'none'}",
                    hint="export it again",
                )
            method = program.load_method(FORWARD)
            stated = _stated(program, path.name) if METHOD in methods else None
            meta = method.method_meta()
            inputs = tuple(_place(meta.input_tensor_meta(each)) for each in range(meta.num_inputs()))
            outputs = tuple(_place(meta.output_tensor_meta(each)) for each in range(meta.num_outputs()))
        except RuntimeError as error:
            raise InputError(
                f"{path.name}: ExecuTorch does not load it: {reason(error, said())}", hint="export it again"
            ) from error
    return Opened(method, stated, inputs, outputs, program)


def signature(path: Path) -> Signature:
    """Return what a program takes and gives under its own names; one without names has none for its outputs.

    Raises:
        InputError: the runtime refuses it.
    """
    opened = load(path)
    given = opened.stated.inputs if opened.stated else [f"input_{index}" for index in range(len(opened.inputs))]
    inputs = tuple((name, place.dtype, None) for name, place in zip(given, opened.inputs, strict=True))
    outputs = opened.stated.outputs if opened.stated else ()
    return Signature(inputs, tuple((name, None, None) for name in outputs))


def _stated(program: Any, name: str) -> Stated:
    text = program.load_method(METHOD)(())[0]
    try:
        value = json.loads(text)
        return Stated(tuple(map(str, value["inputs"])), tuple(map(str, value["outputs"])), dict(value["identity"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name}: what it says of itself cannot be read: {text!r:.200}", hint="export it again"
        ) from error


def _place(meta: Any) -> Place:
    return Place(_DTYPES.get(meta.dtype(), f"ScalarType {meta.dtype()}"), tuple(meta.sizes()))


def reason(error: Exception, said: str) -> str:
    """Return a fault of the runtime in a line: what it wrote, of which the first line is where it began, else its number."""
    lines = [line.partition("] ")[2] or line for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if not line.startswith(_CHATTER)), "")
    return (first or next(iter(str(error).splitlines()), "") or type(error).__name__)[:300]


_CHATTER = ("Resetting threadpool", "Reading file", "Failed to open midr", "CPU info and manual")


class _Ear(io.TextIOBase):
    """Keeps what one thread writes, and passes on what the others do."""

    def __init__(self, beyond: TextIO) -> None:
        self._beyond, self._thread, self._kept = beyond, threading.get_ident(), io.StringIO()

    def write(self, text: str, /) -> int:
        """Keep or pass on a text."""
        return (self._kept if threading.get_ident() == self._thread else self._beyond).write(text)

    def heard(self) -> str:
        """Return what was kept."""
        return self._kept.getvalue()


@contextmanager
def listening() -> Iterator[Callable[[], str]]:
    """Keep what the runtime writes in this thread, where its calls write: to Python's own standard error."""
    before = sys.stderr
    ear = _Ear(before)
    sys.stderr = ear
    try:
        yield ear.heard
    finally:
        sys.stderr = before


@contextmanager
def told() -> Iterator[Callable[[], str]]:
    """Keep what is written to the process's standard error too, as some of its libraries do at first, and give what there is so far.

    Whoever else writes there meanwhile is kept as well: it is only for what takes moments.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        before = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            with listening() as heard:
                yield lambda: heard() + os.pread(kept.fileno(), 1 << 16, 0).decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)
