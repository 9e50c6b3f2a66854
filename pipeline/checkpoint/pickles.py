"""What a pickle would build, read without building it: a pickle machine that knows records only.

No class is looked up, imported or called. Functions on the allow-list (what torch.save writes for tensors and plain
values) become records; every other global is kept by name, with what the file would do with it. The format is that of
`pickletools`; the persistent ids and rebuild functions are those of torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from mmap import mmap

MAX_TENSORS = 100_000
"""More tensors than that in one file are refused."""

# Both bound the time of reading to a second: 30,000 tensors take a million instructions, and name a handful of globals.
_MAX_OPCODES = 1_200_000
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
_REFERENCES = {"torch.Tensor", "torch.nn.parameter.Parameter"}


class MalformedError(ValueError):
    """The bytes are no pickle, or one that torch.save does not write.

    `foreign` are the globals up to there: a reader that runs as it reads would have run them before it failed.
    """

    def __init__(self, message: str, foreign: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.foreign = foreign or {}


class TooLargeError(ValueError):
    """Reading on would exhaust time or memory."""


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

    `foreign` holds the globals outside the allow-list, each with the most the file does with it: "names", "makes" an
    object of it, "calls" it. `tensors` and `storages` list all there are, wherever they stand; `numpy_scalars` tells
    whether there are numpy numbers, `end` where in the stream the pickle ended.
    """

    value: Any
    foreign: Mapping[str, str]
    tensors: Sequence[Tensor]
    storages: Mapping[str, Storage]
    protocol: int
    numpy_scalars: bool
    end: int


def parse(stream: IO[bytes] | mmap) -> Parsed:
    """Read one pickle from `stream`, which is left behind its STOP.

    Raises MalformedError for what is no such pickle, and TooLargeError for one made to exhaust the reader.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes in a text, which the file chose
            value = machine.run(stream)
    except TooLargeError:
        raise
    except MalformedError as error:
        raise MalformedError(str(error), machine.foreign) from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as error:
        raise MalformedError(f"not a complete pickle: {error}", machine.foreign) from error
    _require_shallow(value)
    return Parsed(
        value,
        machine.foreign,
        machine.tensors,
        machine.storages,
        machine.protocol,
        machine.numpy_scalars,
        stream.tell(),
    )


class _Machine:
    """A stack machine over records; every method is one group of pickle's opcodes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.foreign: dict[str, str] = {}
        self.storages: dict[str, Storage] = {}
        self.protocol = 0
        self.numpy_scalars = False
        self.tensors: list[Tensor] = []
        self.copied = 0
        self.globals = 0

    def run(self, stream: IO[bytes] | mmap) -> Any:
        # A memory map reads, tells and finds lines as a file does, which is all that genops asks for.
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", stream))):
            if count > _MAX_OPCODES:
                raise TooLargeError(f"its pickle has more than {_MAX_OPCODES:,} instructions")
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name != "STOP":
                _HANDLERS[opcode.name](self, argument)
        return self.stack.pop()

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
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def proto(self, version: int) -> None:
        self.protocol = version

    def make_tuple(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise MalformedError("a tuple lacks items")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def append(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Object):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise MalformedError(f"items are appended to a {type(target).__name__}")

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        pairs = list(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, Object):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                target[_hashable(key)] = value
        else:
            raise MalformedError(f"keys are set on a {type(target).__name__}")

    def one_list_item(self, _: object) -> None:
        self.append([self.stack.pop()])

    def one_dict_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def new_dict(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def global_by_text(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push_global(module, name)

    def global_from_stack(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise MalformedError("a global's name is not a text")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        self.globals += 1
        if self.globals > _MAX_GLOBALS:
            raise TooLargeError(f"its pickle names more than {_MAX_GLOBALS:,} globals")
        # Names of Python 2, which pickle protocols up to 2 still carry.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[(module, name)]
        elif module in IMPORT_MAPPING:
            module = IMPORT_MAPPING[module]
        made = Global(f"{module}.{name}")
        self.note(made.dotted, "names")
        self.stack.append(made)

    def extension(self, code: int) -> None:
        self.note(f"copyreg extension {code}", "calls")
        self.stack.append(Object(f"copyreg extension {code}"))

    def persistent_text(self, argument: str) -> None:
        self.persistent(argument)

    def persistent_from_stack(self, _: object) -> None:
        self.persistent(self.stack.pop())

    def persistent(self, identity: Any) -> None:
        kind = identity[0] if isinstance(identity, tuple) and identity else None
        if kind == "storage":
            self.stack.append(self.storage(*identity[1:]))
        elif kind == "module" and isinstance(identity[1], Global):
            self.stack.append(identity[1])
        else:
            raise MalformedError("it refers to an object outside the file that is no storage")

    def storage(self, kind: Any, key: Any, _location: Any, elements: Any, _view: Any = None) -> Storage:
        dtype = _STORAGES.get(kind.dotted) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or not _is_size(elements) or _view is not None:
            raise MalformedError("a storage is not declared as torch.save does")
        made = Storage(key, dtype, elements)
        if self.storages.setdefault(key, made).nbytes != made.nbytes:
            raise MalformedError(f"storage {key!r} is declared twice with different sizes")
        return made

    def reduce(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments, "calls"))

    def new_object(self, _: object) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(maker, arguments, "makes"))

    def new_object_ex(self, _: object) -> None:
        _keywords, arguments, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(maker, arguments, "makes"))

    def object_from_mark(self, _: object) -> None:
        maker, *arguments = self.pop_mark()
        self.stack.append(self.call(maker, tuple(arguments), "calls"))

    def instance(self, argument: str) -> None:
        arguments = tuple(self.pop_mark())
        self.global_by_text(argument)
        self.stack.append(self.call(self.stack.pop(), arguments, "calls"))

    def call(self, function: Any, arguments: Any, how: str) -> Any:
        """Return the record of `function(*arguments)`."""
        if isinstance(function, Object):
            # What a foreign global returned is called in turn: it is that global's doing.
            self.blame(function.maker, how)
            return Object(function.maker, arguments)
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise MalformedError("it calls something that is not a global")
        build = _BUILDERS.get(function.dotted)
        if build is not None:
            return build(self, *arguments)
        if function.dotted == "copyreg._reconstructor" and isinstance(arguments[0], Global):
            return self.call(arguments[0], (), "makes")
        # Also what may be named (a storage class, torch.Tensor) is not to be called: that allocates as the file says.
        self.blame(function.dotted, how)
        return Object(function.dotted, arguments)

    def build(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Object):
            target.state = state
        elif not isinstance(target, dict):
            # A dict's attributes (`_metadata` of a state dict) are not needed.
            raise MalformedError(f"a state is set on a {type(target).__name__}")

    def note(self, dotted: str, how: str) -> None:
        if not _is_allowed(dotted):
            self.blame(dotted, how)

    def blame(self, dotted: str, how: str) -> None:
        order = ("names", "makes", "calls")
        self.foreign[dotted] = max(self.foreign.get(dotted, "names"), how, key=order.index)

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
    known = (_BUILDERS, _STORAGES, _DTYPES, _QSCHEMES, _REFERENCES)
    return dotted == "copyreg._reconstructor" or any(dotted in names for names in known)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _hashable(key: Any) -> Any:
    """Return a key that hashes in constant time; nested tuples can be made to take forever."""
    plain = isinstance(key, str | int | float | bytes | complex | Global | None)
    if plain or (isinstance(key, tuple) and len(key) <= 16 and all(isinstance(k, str | int | float) for k in key)):
        return key
    raise MalformedError(f"a {type(key).__name__} is a key")


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MAX_RANK or not all(map(_is_size, value)):
        raise MalformedError("a shape or stride is not a short tuple of sizes")
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
        raise MalformedError("a tensor is not declared as torch.save does")
    return machine.keep(Tensor(dtype or storage.dtype, shape, steps, offset, storage))


def _dtype(value: Any) -> str:
    if not isinstance(value, Global) or value.dotted not in _DTYPES:
        raise MalformedError("a tensor's dtype is not one")
    return _DTYPES[value.dotted]


def _meta_tensor(machine: _Machine, dtype: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return machine.keep(Tensor(_dtype(dtype), _sizes(size), _sizes(stride)))


def _sparse_tensor(machine: _Machine, layout: Any, data: Any) -> Tensor:
    parts = tuple(part for part in data if isinstance(part, Tensor))
    size = next((item for item in data if isinstance(item, tuple)), None)
    if not isinstance(layout, str) or len(parts) < 2:
        raise MalformedError("a sparse tensor lacks its indices or values")
    return machine.keep(Tensor(parts[-1].dtype, _sizes(size), parts=parts))


def _same(_machine: _Machine, data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise MalformedError("a parameter is made of something that is no tensor")
    return data


def _subclass(machine: _Machine, function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    if not isinstance(kind, Global) or kind.dotted not in _REFERENCES:
        raise MalformedError("a tensor is of a class that is not torch's own")
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


def _bytes(machine: _Machine, text: Any = b"", encoding: Any = "latin-1") -> bytes:
    # A number would be a size to allocate; other codecs compress, or take quadratic time.
    if not isinstance(text, str | bytes) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise MalformedError("bytes are not made of a plain text")
    machine.count_copy(range(len(text) // 1000))  # characters are copied that much faster than items
    return (
        text if isinstance(text, bytes) else text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    )


def _text(_machine: _Machine, *parts: Any) -> str:
    if not all(isinstance(part, str) or _is_size(part) for part in parts):
        raise MalformedError("a device or layout is not named by a text")
    return ":".join(map(str, parts))


def _complex(_machine: _Machine, real: Any = 0, imaginary: Any = 0) -> complex:
    return complex(real, imaginary)


def _numpy_dtype(machine: _Machine, code: Any, *_: Any) -> Object:
    if not isinstance(code, str) or code.lstrip("<>|=")[:1] not in tuple("fiubc") or not code[-1:].isdigit():
        raise MalformedError("a numpy dtype is not a plain number")
    machine.count_copy("x")
    return Object("numpy.dtype", (code,))


def _numpy_scalar(machine: _Machine, dtype: Any, data: Any) -> Object:
    if not isinstance(dtype, Object) or dtype.maker != "numpy.dtype" or not isinstance(data, bytes):
        raise MalformedError("a numpy number is not made of a dtype and bytes")
    machine.numpy_scalars = True
    return Object("numpy scalar", dtype.arguments, (dtype.state, data))


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
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}

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
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
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
