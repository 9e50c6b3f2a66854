"""What a pickle would build, read without building it: a pickle machine that knows records only.

Functions on the allow-list give records; every other global is kept by name, with what the file would do with it.
"""

from __future__ import annotations

import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.weights import opcodes, pickle_objects
from pipeline.weights.pickle_calls import ALLOWED, NAMED, Declared, hashable, require_tensor_class, set_state
from pipeline.weights.pickle_records import (
    CraftedError,
    Global,
    MalformedError,
    Object,
    OddError,
    TooLargeError,
    require_shallow,
)
from pipeline.weights.pickle_uses import Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.weights.files import Bytes

    _Judge = Callable[[Declared, str, Any], bool]

# Both bound the time of reading to a second: 30,000 tensors take a million instructions, and name a handful of globals.
MAX_OPCODES = 1_200_000
_MAX_GLOBALS = 10_000
_MAX_MARKS = 1_000


class _StoppedError(Exception):
    """An instruction finds nothing on the stack or in the memo: every unpickler stops there."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A pickle's value as records, and all that it declares.

    `foreign` holds the globals outside the allow-list, each with the most the file does with it: "names" it, "makes" an
    object of it, "changes" it, "calls" it. `own` are those of them that it makes networks of (nn.Module) and uses for
    nothing else; `acting` those with which it does more than to name them, to make an object and to fill it (see `pipeline.weights.inert`).
    `end` is where in the bytes the pickle ended.
    """

    value: Any
    foreign: Mapping[str, str]
    own: frozenset[str]
    acting: frozenset[str]
    declared: Declared
    protocol: int
    end: int


@dataclass(slots=True)
class Budget:
    """How many instructions may still be read, by all readings that share it."""

    left: int = MAX_OPCODES


def parse(data: Bytes, start: int = 0, budget: Budget | None = None) -> Parsed:
    """Read the pickle that begins at `start`.

    Raises MalformedError for one that is cut off or none, CraftedError for one that torch and numpy do not write, and
    TooLargeError for one made to exhaust the reader.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes in a text, which the file chose
            value, end = machine.run(data, start, budget or Budget())
    except (opcodes.CutOffError, _StoppedError) as error:
        if machine.problem is None:
            raise MalformedError(f"not a complete pickle: {error}", machine.uses.most) from error
        raise CraftedError(machine.problem, machine.uses.most, is_whole=False) from error
    if machine.problem is not None:
        raise CraftedError(machine.problem, machine.uses.most, is_whole=True)
    require_shallow(value)
    uses = machine.uses
    return Parsed(value, uses.most, uses.own(), frozenset(uses.acting), machine.declared, machine.protocol, end)


class _Machine:
    """A stack machine over records; every method is one group of pickle's opcodes.

    What no saving function writes is kept as `problem`, and the reading goes on: an unpickler may go on as well. So an
    instruction takes from the stack and leaves on it as many values as for an unpickler, whatever they are.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.uses = Uses()
        self.declared = Declared()
        self.protocol = 0
        self.globals = 0
        self.problem: str | None = None

    def run(self, data: Bytes, start: int, budget: Budget) -> tuple[Any, int]:
        """Return the value and where the pickle ends."""
        end, left = start, budget.left
        try:
            for name, argument, end in opcodes.instructions(data, start):  # noqa: B007 - the last one is STOP's
                left -= 1
                if left < 0:
                    raise TooLargeError("its pickle has more instructions than are read")
                if name in _LITERALS:
                    self.stack.append(argument)
                elif name in _CONSTANTS:
                    self.stack.append(_CONSTANTS[name])
                elif name != "STOP":
                    self.do(_HANDLERS[name], argument)
        finally:
            budget.left = left
        return self.take(), end

    def do(self, handler: Callable[[_Machine, Any], object], argument: Any) -> None:
        try:
            handler(self, argument)
        except _ODD as error:
            self.note_problem(error)

    def note_problem(self, error: Exception) -> None:
        if self.problem is None:
            self.problem = str(error)[:200]

    # The stack

    def take(self) -> Any:
        if not self.stack:
            raise _StoppedError("a value is missing")
        return self.stack.pop()

    def take_last(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.take() for _ in range(count)]))

    def top(self) -> Any:
        if not self.stack:
            raise _StoppedError("a value is missing")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        if len(self.marks) >= _MAX_MARKS:
            raise TooLargeError(f"its pickle nests deeper than {_MAX_MARKS:,} levels")
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise _StoppedError("a mark is missing")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _StoppedError(f"nothing was remembered as {index}")
        self.stack.append(self.memo[index])

    def proto(self, version: int) -> None:
        self.protocol = version

    # Lists and dicts

    def extend(self, items: Sequence[Any]) -> None:
        target = self.top()
        is_foreign = self.is_foreign(target)
        if isinstance(target, Object):
            target.items.extend(items)
        elif not is_foreign:
            if not isinstance(target, list):
                raise OddError(f"items are appended to a {type(target).__name__}")
            target.extend(items)

    def update(self, items: Sequence[Any]) -> None:
        target = self.top()
        is_foreign = self.is_foreign(target)
        pairs = ((hashable(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        if isinstance(target, Object):
            target.pairs.extend(pairs)
        elif not is_foreign:
            if not isinstance(target, dict):
                raise OddError(f"keys are set on a {type(target).__name__}")
            target.update(pairs)

    def is_foreign(self, target: Any) -> bool:
        """Tell whether items are given to what a foreign global is or made, by a method of its own."""
        if isinstance(target, Object):
            self.uses.add(target.maker, "calls")  # its append, extend or __setitem__
        elif isinstance(target, Global):
            self.uses.add(target.dotted, "changes")
        return isinstance(target, Object | Global)

    def new_dict(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.update(items)

    # Globals

    def global_from_stack(self, _: object) -> None:
        module, name = self.take_last(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            self.stack.append(Object("a global whose name is no text"))
            raise OddError("a global's name is not a text")
        self.push_global((module, name))

    def push_global(self, full_name: tuple[str, str]) -> None:
        module, name = full_name
        self.globals += 1
        if self.globals > _MAX_GLOBALS:
            raise TooLargeError(f"its pickle names more than {_MAX_GLOBALS:,} globals")
        if not module or not module.isprintable():
            raise _StoppedError(f"no module is called {module!r:.80}")
        if self.protocol < 3:  # names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.push_named(f"{module}.{name}")

    def extension(self, code: int) -> None:
        self.push_named(f"copyreg.extension-{code}")

    def push_named(self, dotted: str) -> None:
        if not _is_allowed(dotted):
            self.uses.add(dotted, "names")
        self.stack.append(Global(dotted))

    def buffer(self, _: object) -> None:
        raise _StoppedError("it takes bytes from outside the file")

    def persistent(self, identity: Any) -> None:
        match identity:
            case ("module", found, *_):  # a class with its source, as torch wrote until 1.5
                self.stack.append(found)
            case ("storage", *declared):
                self.stack.append(self.attempt("a storage", self.declared.storage, declared))
            case _:
                self.stack.append(Object("a persistent id"))
                raise OddError("it refers to an object outside the file that is no storage")

    # Calls

    def reduce(self, _: object) -> None:
        function, arguments = self.take_last(2)
        self.stack.append(self.call(function, arguments, "calls", pickle_objects.is_class_called))

    def new_object(self, _: object) -> None:
        maker, arguments = self.take_last(2)
        how = "makes" if arguments == () else "calls"
        self.stack.append(self.call(maker, arguments, how, pickle_objects.is_class_made))

    def new_object_ex(self, _: object) -> None:
        maker, arguments, keywords = self.take_last(3)
        self.stack.append(self.call(maker, arguments, "makes" if arguments == () and keywords == {} else "calls"))

    def object_from_mark(self, _: object) -> None:
        items = self.pop_mark()
        if not items:
            raise _StoppedError("a value is missing")
        maker, *arguments = items
        self.stack.append(self.call(maker, tuple(arguments), "calls"))

    def instance(self, name: tuple[str, str]) -> None:
        self.push_global(name)  # pickle.py imports it before it looks for the mark
        maker, arguments = self.take(), tuple(self.pop_mark())
        self.stack.append(self.call(maker, arguments, "calls"))

    def call(self, function: Any, arguments: Any, how: str, is_inert: _Judge = pickle_objects.never) -> Any:
        """Return the record of `function(*arguments)`; `is_inert` tells whether that does no more than to make an object."""
        if isinstance(function, Object):
            # What a foreign global returned is called in turn: it is that global's doing.
            self.uses.act(function.maker, how)
            return Object(function.maker, arguments)
        if not isinstance(function, Global):
            self.note_problem(OddError("it calls something that is not a global"))
            return Object("a call")
        dotted = function.dotted
        if dotted in ALLOWED:
            return self.attempt(dotted, partial(ALLOWED[dotted], self.declared), arguments)
        if dotted in _CALLS_IN_TURN:
            return self.attempt(dotted, partial(_CALLS_IN_TURN[dotted], self), arguments)
        self.uses.add(dotted, how)
        if dotted in pickle_objects.DATA:
            return self.attempt(dotted, partial(pickle_objects.DATA[dotted], self.declared), arguments)
        # Also what may be named (a storage class, torch.Tensor) is not to be called: that allocates as the file says.
        if not is_inert(self.declared, dotted, arguments):
            self.uses.act(dotted, how)
        return self.uses.made(Object(dotted, arguments))

    def attempt(self, name: str, build: Callable[..., Any], arguments: Any) -> Any:
        """Return what `build` makes of the arguments; where they are none that it takes, that is a problem."""
        try:
            return build(*arguments)
        except _ODD as error:
            self.note_problem(error)
            return Object(name)

    def reconstructed(self, *arguments: Any) -> Any:
        match arguments:
            case (Global() as maker, Global("builtins.object"), None):
                return self.call(maker, (), "makes", pickle_objects.is_class_made)
            case (Global() as maker, Global() as base, _):  # the base is called with the state
                self.uses.act(base.dotted, "calls")
                return self.call(maker, (), "calls")
            case _:
                raise OddError("it restores an object of no class")

    def subclassed(self, function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
        require_tensor_class(kind)
        return self.call(function, arguments, "calls")

    def build(self, _: object) -> None:
        state, target = self.take(), self.top()
        if isinstance(target, Global):
            self.uses.add(target.dotted, "changes")
        elif isinstance(target, Object):
            set_state(target, state)
        elif not isinstance(target, dict):
            # A dict's attributes (`_metadata` of a state dict) are not needed.
            raise OddError(f"a state is set on a {type(target).__name__}")


_ODD = (OddError, TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)
_CALLS_IN_TURN = {
    "copyreg._reconstructor": _Machine.reconstructed,
    "torch._tensor._rebuild_from_type_v2": _Machine.subclassed,
}


def _is_allowed(dotted: str) -> bool:
    return dotted in NAMED or dotted in ALLOWED or dotted in _CALLS_IN_TURN


_LITERALS = {
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _Machine.proto,
    "FRAME": lambda _machine, _: None,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "DICT": _Machine.new_dict,
    "TUPLE1": lambda machine, _: machine.push(machine.take_last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take_last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take_last(3)),
    "APPEND": lambda machine, _: machine.extend(machine.take_last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.take_last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.global_from_stack,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    "NEXT_BUFFER": _Machine.buffer,
    "READONLY_BUFFER": lambda machine, _: machine.push(machine.take()),
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.take()),
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_ex,
    "OBJ": _Machine.object_from_mark,
    "INST": _Machine.instance,
    "BUILD": _Machine.build,
}
