"""What a pickle would build, read without building it: a pickle machine that knows records only.

No class is looked up, imported or called. Functions on the allow-list (what torch.save and numpy write for tensors, arrays
and plain values) become records; every other global is kept by name, with what the file would do with it. The persistent
ids and rebuild functions are those of torch/serialization.py and torch/_utils.py, states of arrays those of
numpy/_core/src/multiarray.
"""

from __future__ import annotations

import math
import re
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.weights import opcodes
from pipeline.weights.opcodes import Long

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.weights.files import Bytes

MAX_TENSORS = 100_000
"""More tensors than that in one file are refused."""

# Both bound the time of reading to a second: 30,000 tensors take a million instructions, and name a handful of globals.
MAX_OPCODES = 1_200_000
_MAX_GLOBALS = 10_000
_MAX_COPIED = 1_000_000
_MAX_MARKS = 1_000
_MAX_DEPTH = 500
_MAX_RANK = 64
_MAX_SIZE = 2**63

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1, "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
"""torch's name of a dtype → bytes of one element."""

_STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}  # fmt: skip
_QSCHEMES = {
    f"torch.{name}"
    for name in (
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
        "per_channel_affine_float_qparams",
    )
}
_STORAGES = {
    f"{module}.{name}": dtype for name, dtype in _STORAGE_DTYPES.items() for module in ("torch", "torch.cuda")
} | {"torch.storage.UntypedStorage": "uint8"}
_DTYPES = {f"torch.{name}": name for name in DTYPE_BYTES}
_REFERENCES = {"torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "builtins.object"}
_NUMPY_CODE = re.compile(r"[<>=|]?(?:([fiubcSUV])(\d{1,9})|[mM]8|O[48]?|\?)")
_NUMPY_DTYPE, _NUMPY_ARRAY = "numpy.dtype", "numpy.ndarray"
_HOW = ("names", "makes", "changes", "calls")


class MalformedError(ValueError):
    """The bytes are no pickle, or one that is cut off or damaged: every unpickler stops where this reader does.

    `foreign` are the globals up to there: a reader that runs as it reads would have run them before it failed.
    """

    def __init__(self, message: str, foreign: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.foreign = foreign or {}


class CraftedError(MalformedError):
    """The pickle does what no saving function makes one do, and an unpickler may well go on behind it.

    It was read on all the same, so that `foreign` are all globals that it names; `is_whole` tells that it has an end.
    """

    def __init__(self, message: str, foreign: Mapping[str, str], *, is_whole: bool) -> None:
        super().__init__(message, foreign)
        self.is_whole = is_whole


class TooLargeError(Exception):
    """Reading on would exhaust time or memory."""


class _StoppedError(Exception):
    """An instruction finds nothing on the stack or in the memo: every unpickler stops there."""


class _OddError(ValueError):
    """An instruction does what no saving function makes one do."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle asks Python to import."""

    dotted: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers that tensors view: its key in the file, its dtype and number of elements."""

    key: str
    dtype: str
    elements: int

    @property
    def nbytes(self) -> int:
        """Size in bytes, as declared."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as declared: shape and stride in elements, and the storage it views from `offset` (elements) on.

    `parts` are the tensors a sparse one is made of; it and a tensor without data (meta device) have no storage.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0
    storage: Storage | None = None
    parts: tuple[Tensor, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements, as declared."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of a contiguous copy."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(slots=True, eq=False)
class Object:
    """What a foreign global would have made: the global, its arguments, and the state it would have been given."""

    maker: str
    arguments: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A pickle's value as records.

    `foreign` holds the globals outside the allow-list, each with the most the file does with it: "names" it, "makes" an
    object of it, "changes" it, "calls" it. `own` are those of them that it makes networks of (nn.Module) and uses for
    nothing else. `tensors` and `storages` list all there are, wherever they stand; `has_numpy` tells whether there are
    numpy numbers or arrays, `end` where in the bytes the pickle ended.
    """

    value: Any
    foreign: Mapping[str, str]
    own: frozenset[str]
    tensors: Sequence[Tensor]
    storages: Mapping[str, Storage]
    protocol: int
    has_numpy: bool
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
            raise MalformedError(f"not a complete pickle: {error}", machine.foreign) from error
        raise CraftedError(machine.problem, machine.foreign, is_whole=False) from error
    if machine.problem is not None:
        raise CraftedError(machine.problem, machine.foreign, is_whole=True)
    _require_shallow(value)
    return Parsed(
        value,
        machine.foreign,
        machine.own(),
        machine.tensors,
        machine.storages,
        machine.protocol,
        machine.has_numpy,
        end,
    )


def is_module(value: Any) -> bool:
    """Tell whether a record is an object with the state of an nn.Module."""
    if not isinstance(value, Object):
        return False
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    return isinstance(state, dict) and "_modules" in state and "_parameters" in state


class _Machine:
    """A stack machine over records; every method is one group of pickle's opcodes.

    What no saving function writes is kept as `problem`, and the reading goes on: an unpickler may go on as well. So an
    instruction takes from the stack and leaves on it as many values as for an unpickler, whatever they are.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.foreign: dict[str, str] = {}
        self.made: list[Object] = []
        self.storages: dict[str, Storage] = {}
        self.protocol = 0
        self.has_numpy = False
        self.tensors: list[Tensor] = []
        self.copied = 0
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

    def do(self, handler: Callable[[_Machine, Any], None], argument: Any) -> None:
        try:
            handler(self, argument)
        except _ODD as error:
            self.note_problem(error)

    def own(self) -> frozenset[str]:
        others = {each.maker for each in self.made if not is_module(each)}
        return frozenset(
            each.maker for each in self.made if each.maker not in others and self.foreign.get(each.maker) == "makes"
        )

    def note_problem(self, error: Exception) -> None:
        if self.problem is None:
            self.problem = str(error)[:200]

    def take(self) -> Any:
        if not self.stack:
            raise _StoppedError("a value is missing")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise _StoppedError("a value is missing")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def drop_to_mark(self, _: object) -> None:
        self.pop_mark()

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

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _StoppedError(f"nothing was remembered as {index}")
        self.stack.append(self.memo[index])

    def proto(self, version: int) -> None:
        self.protocol = version

    def make_tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.take() for _ in range(count)])))

    def append(self, items: Sequence[Any]) -> None:
        target = self.top()
        if isinstance(target, Object):
            self.use(target.maker, "calls")  # its append or extend
            target.items.extend(items)
        elif isinstance(target, Global):
            self.use(target.dotted, "changes")
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise _OddError(f"items are appended to a {type(target).__name__}")

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.top()
        if isinstance(target, Object):
            self.use(target.maker, "calls")  # its __setitem__
            target.items.extend(items)
        elif isinstance(target, Global):
            self.use(target.dotted, "changes")
        elif isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_hashable(key)] = value
        else:
            raise _OddError(f"keys are set on a {type(target).__name__}")

    def one_list_item(self, _: object) -> None:
        self.append([self.take()])

    def one_dict_item(self, _: object) -> None:
        value, key = self.take(), self.take()
        self.set_items([key, value])

    def new_dict(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def global_by_text(self, name: tuple[str, str]) -> None:
        self.push_global(*name)

    def global_from_stack(self, _: object) -> None:
        name, module = self.take(), self.take()
        if not (isinstance(module, str) and isinstance(name, str)):
            self.stack.append(Object("a global whose name is no text"))
            raise _OddError("a global's name is not a text")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        self.globals += 1
        if self.globals > _MAX_GLOBALS:
            raise TooLargeError(f"its pickle names more than {_MAX_GLOBALS:,} globals")
        if not module or not module.isprintable():
            raise _StoppedError(f"no module is called {module!r:.80}")
        if self.protocol < 3:  # names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        made = Global(f"{module}.{name}")
        self.note(made.dotted, "names")
        self.stack.append(made)

    def extension(self, code: int) -> None:
        dotted = f"copyreg.extension-{code}"
        self.note(dotted, "names")
        self.stack.append(Global(dotted))

    def buffer(self, _: object) -> None:
        raise _StoppedError("it takes bytes from outside the file")

    def persistent_text(self, argument: str) -> None:
        self.persistent(argument)

    def persistent_from_stack(self, _: object) -> None:
        self.persistent(self.take())

    def persistent(self, identity: Any) -> None:
        match identity:
            case ("module", found, *_):  # a class with its source, as torch wrote until 1.5
                self.stack.append(found)
            case ("storage", *declared):
                self.stack.append(self.attempt("a storage", self.storage, declared))
            case _:
                self.stack.append(Object("a persistent id"))
                raise _OddError("it refers to an object outside the file that is no storage")

    def storage(self, kind: Any, key: Any, _location: Any, elements: Any, _view: Any = None) -> Storage:
        dtype = _STORAGES.get(kind.dotted) if isinstance(kind, Global) else None
        # torch.package numbers its storages.
        if dtype is None or type(key) not in (str, int) or not _is_size(elements) or _view is not None:
            raise _OddError("a storage is not declared as torch.save does")
        made = Storage(str(key), dtype, elements)
        if self.storages.setdefault(made.key, made).nbytes != made.nbytes:
            raise _OddError(f"storage {key!r} is declared twice with different sizes")
        return made

    def reduce(self, _: object) -> None:
        arguments, function = self.take(), self.take()
        self.stack.append(self.call(function, arguments, "calls"))

    def new_object(self, _: object) -> None:
        arguments, maker = self.take(), self.take()
        self.stack.append(self.call(maker, arguments, "makes" if arguments == () else "calls"))

    def new_object_ex(self, _: object) -> None:
        keywords, arguments, maker = self.take(), self.take(), self.take()
        self.stack.append(self.call(maker, arguments, "makes" if arguments == () and keywords == {} else "calls"))

    def object_from_mark(self, _: object) -> None:
        items = self.pop_mark()
        if not items:
            raise _StoppedError("a value is missing")
        maker, *arguments = items
        self.stack.append(self.call(maker, tuple(arguments), "calls"))

    def instance(self, name: tuple[str, str]) -> None:
        self.push_global(*name)  # pickle.py imports it before it looks for the mark
        maker, arguments = self.take(), tuple(self.pop_mark())
        self.stack.append(self.call(maker, arguments, "calls"))

    def call(self, function: Any, arguments: Any, how: str) -> Any:
        """Return the record of `function(*arguments)`."""
        if isinstance(function, Object):
            # What a foreign global returned is called in turn: it is that global's doing.
            self.use(function.maker, how)
            return Object(function.maker, arguments)
        if not isinstance(function, Global):
            self.note_problem(_OddError("it calls something that is not a global"))
            return Object("a call")
        if function.dotted in _BUILDERS:
            build = _BUILDERS[function.dotted]
            return self.attempt(function.dotted, lambda *given: build(self, *given), arguments)
        if function.dotted == "copyreg._reconstructor":
            return self.reconstructed(arguments)
        # Also what may be named (a storage class, torch.Tensor) is not to be called: that allocates as the file says.
        self.use(function.dotted, how)
        made = Object(function.dotted, arguments)
        self.made.append(made)
        return made

    def attempt(self, name: str, build: Callable[..., Any], arguments: Any) -> Any:
        """Return what `build` makes of the arguments; where they are none that it takes, that is a problem."""
        try:
            return build(*arguments)
        except _ODD as error:
            self.note_problem(error)
            return Object(name)

    def reconstructed(self, arguments: Any) -> Any:
        match arguments:
            case (Global() as maker, Global("builtins.object"), None):
                return self.call(maker, (), "makes")
            case (Global() as maker, Global() as base, _):  # the base is called with the state
                self.use(base.dotted, "calls")
                return self.call(maker, (), "calls")
            case _:
                self.note_problem(_OddError("it restores an object of no class"))
                return Object("copyreg._reconstructor")

    def build(self, _: object) -> None:
        state, target = self.take(), self.top()
        if isinstance(target, Global):
            self.use(target.dotted, "changes")
        elif isinstance(target, Object) and target.maker in _STATES:
            _STATES[target.maker](target, state)
        elif isinstance(target, Object):
            target.state = state
        elif not isinstance(target, dict):
            # A dict's attributes (`_metadata` of a state dict) are not needed.
            raise _OddError(f"a state is set on a {type(target).__name__}")

    def note(self, dotted: str, how: str) -> None:
        if not _is_allowed(dotted):
            self.use(dotted, how)

    def use(self, dotted: str, how: str) -> None:
        """Keep the most that is done with a global."""
        self.foreign[dotted] = max(self.foreign.get(dotted, "names"), how, key=_HOW.index)

    def keep(self, tensor: Tensor) -> Tensor:
        self.tensors.append(tensor)
        # An optimizer holds two or three tensors for each parameter.
        if len(self.tensors) > 4 * MAX_TENSORS:
            raise TooLargeError(f"it declares more than {4 * MAX_TENSORS:,} tensors")
        return tensor

    def count_copy(self, items: Sequence[Any]) -> None:
        self.copied += len(items)
        if self.copied > _MAX_COPIED:
            raise TooLargeError("its pickle copies the same items again and again")


def _is_allowed(dotted: str) -> bool:
    known = (_BUILDERS, _STORAGES, _DTYPES, _QSCHEMES, _REFERENCES)  # all of them by name, none by prefix
    return dotted == "copyreg._reconstructor" or any(dotted in names for names in known)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _hashable(key: Any) -> Any:
    """Return a key that hashes in constant time; nested tuples can be made to take forever."""
    plain = isinstance(key, str | int | float | bytes | complex | Global | Long | None)
    if plain or (isinstance(key, tuple) and len(key) <= 16 and all(isinstance(k, str | int | float) for k in key)):
        return key
    raise _OddError(f"a {type(key).__name__} is a key")


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MAX_RANK or not all(map(_is_size, value)):
        raise _OddError("a shape or stride is not a short tuple of sizes")
    return tuple(value)


# What the allow-list's functions would return, as records


def _tensor(machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return _typed_tensor(machine, storage, offset, size, stride, None)


def _tensor_v3(
    machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    return _typed_tensor(machine, storage, offset, size, stride, _dtype(dtype))


def _typed_tensor(machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None) -> Tensor:
    shape, steps = _sizes(size), _sizes(stride)
    if not isinstance(storage, Storage) or not _is_size(offset) or len(shape) != len(steps):
        raise _OddError("a tensor is not declared as torch.save does")
    return machine.keep(Tensor(dtype or storage.dtype, shape, steps, offset, storage))


def _dtype(value: Any) -> str:
    if not isinstance(value, Global) or value.dotted not in _DTYPES:
        raise _OddError("a tensor's dtype is not one")
    return _DTYPES[value.dotted]


def _meta_tensor(machine: _Machine, dtype: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return machine.keep(Tensor(_dtype(dtype), _sizes(size), _sizes(stride)))


def _sparse_tensor(machine: _Machine, layout: Any, data: Any) -> Tensor:
    parts = tuple(part for part in data if isinstance(part, Tensor))
    size = next((item for item in data if isinstance(item, tuple)), None)
    if not isinstance(layout, str) or len(parts) < 2:
        raise _OddError("a sparse tensor lacks its indices or values")
    return machine.keep(Tensor(parts[-1].dtype, _sizes(size), parts=parts))


def _same(_machine: _Machine, data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _OddError("a parameter is made of something that is no tensor")
    return data


def _subclass(machine: _Machine, function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    if not isinstance(kind, Global) or kind.dotted not in _REFERENCES:
        raise _OddError("a tensor is of a class that is not torch's own")
    return machine.call(function, arguments, "calls")


def _dict(machine: _Machine, pairs: Any = ()) -> dict[Any, Any]:
    machine.count_copy(pairs)
    entries = pairs.items() if isinstance(pairs, dict) else pairs
    return {_hashable(key): value for key, value in entries}


def _set(machine: _Machine, items: Any = ()) -> list[Any]:
    machine.count_copy(items)
    return [_hashable(item) for item in items]


def _size(machine: _Machine, items: Any = ()) -> tuple[int, ...]:
    machine.count_copy(items)
    return _sizes(items)


def _bytes(machine: _Machine, text: Any = b"", encoding: Any = "latin-1") -> bytes | Long:
    # A number would be a size to allocate; other codecs compress, or take quadratic time.
    if isinstance(text, Long):
        return text
    if not isinstance(text, str | bytes) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise _OddError("bytes are not made of a plain text")
    machine.count_copy(range(len(text) // 1000))  # characters are copied that much faster than items
    return text if isinstance(text, bytes) else text.encode(encoding)


def _text(_machine: _Machine, *parts: Any) -> str:
    if not all(isinstance(part, str) or _is_size(part) for part in parts):
        raise _OddError("a device or layout is not named by a text")
    return ":".join(map(str, parts))


def _complex(_machine: _Machine, real: Any = 0, imaginary: Any = 0) -> complex:
    return complex(real, imaginary)


def _numpy_dtype(machine: _Machine, code: Any, *_: Any) -> Object:
    if not isinstance(code, str) or not _NUMPY_CODE.fullmatch(code):
        raise _OddError("a numpy dtype is not a plain one")
    machine.count_copy("x")
    return Object(_NUMPY_DTYPE, (code.lstrip("<>=|"),))


def _describe_dtype(dtype: Object, state: Any) -> None:
    # Fields and shapes of elements can make numpy take numbers for addresses.
    match state:
        case (int(), str(), None, None, None, int(), int(), int(), *_):
            dtype.state = state
        case _:
            raise _OddError("a numpy dtype is not one of plain numbers, texts or objects")


def _numpy_scalar(machine: _Machine, dtype: Any, data: Any) -> Object:
    code = _code(dtype)
    if code.startswith("O") or not isinstance(data, bytes | str | Long):
        raise _OddError("a numpy number is not made of a dtype and bytes")
    machine.has_numpy = True
    return Object("numpy scalar", (code,), (dtype.state, data))


def _numpy_array(machine: _Machine, kind: Any, shape: Any, code: Any) -> Object:
    """Return an empty array; what it holds is its state."""
    if kind != Global("numpy.ndarray") or math.prod(_sizes(shape)) or code not in (b"b", "b"):
        raise _OddError("a numpy array is not made as numpy does")
    machine.has_numpy = True
    return Object(_NUMPY_ARRAY)


def _fill_array(array: Object, state: Any) -> None:
    match state:
        case (int(), tuple() as shape, Object() as dtype, bool(), held):
            _require_filled(_code(dtype), _sizes(shape), held)
            array.arguments, array.state = (_code(dtype), shape), held
        case _:
            raise _OddError("a numpy array has another state than numpy gives it")


def _array_of_buffer(machine: _Machine, held: Any, dtype: Any, shape: Any, _order: Any = "C") -> Object:
    _require_filled(_code(dtype), _sizes(shape), held)
    machine.has_numpy = True
    return Object(_NUMPY_ARRAY, (_code(dtype), shape))


def _code(dtype: Any) -> str:
    if not isinstance(dtype, Object) or dtype.maker != _NUMPY_DTYPE or not dtype.arguments:
        raise _OddError("the dtype of a numpy array is none")
    code: str = dtype.arguments[0]
    return code


def _require_filled(code: str, shape: tuple[int, ...], held: Any) -> None:
    elements = math.prod(shape)
    if code.startswith("O"):
        is_filled = isinstance(held, list) and len(held) == elements
    else:
        found = _NUMPY_CODE.fullmatch(code)
        kind, width = (found[1], found[2]) if found else (None, None)
        wanted = elements * int(width or (1 if code == "?" else 8)) * (4 if kind == "U" else 1)
        # Of bytes that were written as a text, each takes one or two in the file.
        most = 2 * wanted if isinstance(held, Long) else wanted
        is_filled = isinstance(held, bytes | str | Long) and wanted <= len(held) <= most
    if not is_filled:
        raise _OddError(f"a numpy array of {elements:,} elements holds more or less than them")


def _own_value(_machine: _Machine, value: Any, *_: Any) -> Any:
    return value


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _same,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy._core.numeric._frombuffer": _array_of_buffer,
    # torch/jit/_pickle.py: each gives its first argument back
    **dict.fromkeys(
        (f"torch.jit._pickle.{name}" for name in (
            "restore_type_tag", "build_intlist", "build_tensorlist", "build_doublelist", "build_boollist",
        )),
        _own_value,
    ),
}  # fmt: skip
_STATES: dict[str, Callable[[Object, Any], None]] = {_NUMPY_DTYPE: _describe_dtype, _NUMPY_ARRAY: _fill_array}
_ODD = (_OddError, TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)

_LITERALS = {
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.proto,
    "FRAME": lambda _machine, _argument: None,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "DICT": _Machine.new_dict,
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": _Machine.one_list_item,
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": _Machine.one_dict_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": lambda machine, _: machine.push(machine.top()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_by_text,
    "STACK_GLOBAL": _Machine.global_from_stack,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "NEXT_BUFFER": _Machine.buffer,
    "READONLY_BUFFER": lambda machine, _: machine.push(machine.take()),
    "PERSID": _Machine.persistent_text,
    "BINPERSID": _Machine.persistent_from_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_ex,
    "OBJ": _Machine.object_from_mark,
    "INST": _Machine.instance,
    "BUILD": _Machine.build,
}


def children(value: Any) -> Sequence[Any]:
    """Return what a record holds directly."""
    match value:
        case dict():
            return list(value.values())
        case list() | tuple():
            return value
        case Object():
            return [value.arguments, value.state, *value.items]
        case _:
            return ()


def _require_shallow(value: Any) -> None:
    """Refuse nesting that overflows the stack of whoever walks, hashes or copies it; shared values are visited once."""
    seen: set[int] = set()
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in children(item) if _is_new(child, seen)]
        if not level:
            return
    raise TooLargeError(f"its pickle nests deeper than {_MAX_DEPTH} levels")


def _is_new(value: Any, seen: set[int]) -> bool:
    if not isinstance(value, dict | list | tuple | Object) or id(value) in seen:
        return False
    seen.add(id(value))
    return True
