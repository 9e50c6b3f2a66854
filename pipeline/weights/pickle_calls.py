"""The functions that a pickle of data may call, and the records of what they return.

They are what torch.save and numpy write for tensors, arrays and plain values: torch/serialization.py, torch/_utils.py,
numpy/_core/src/multiarray.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.weights.opcodes import Long
from pipeline.weights.pickle_records import DTYPE_BYTES, Global, Object, OddError, Storage, Tensor, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_TENSORS = 100_000
"""More tensors than that in one file are refused."""

_MAX_COPIED = 1_000_000
_MAX_RANK = 64
_MAX_SIZE = 2**63

_STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}  # fmt: skip
_STORAGES = {
    f"{module}.{name}": dtype for name, dtype in _STORAGE_DTYPES.items() for module in ("torch", "torch.cuda")
} | {"torch.storage.UntypedStorage": "uint8"}
_DTYPES = {f"torch.{name}": name for name in DTYPE_BYTES}
_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "builtins.object"}
_QSCHEMES = {
    f"torch.per_{name}" for name in (
        "tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric", "channel_affine_float_qparams",
    )
}  # fmt: skip
NAMED = frozenset({*_STORAGES, *_DTYPES, *_CLASSES, *_QSCHEMES})
"""Globals that a pickle may name, all of them by name, none by prefix; to call them is another matter."""

_HASHABLE = (str, int, float, bytes, complex, Global, Object, Long, type(None))
_NUMPY_CODE = re.compile(r"[<>=|]?(?:([fiubcSUV])(\d{1,9})|[mM]8|O[48]?|\?)")
_NUMPY_DTYPE, _NUMPY_ARRAY = "numpy.dtype", "numpy.ndarray"


@dataclass(slots=True)
class Declared:
    """All tensors and storages of a pickle, wherever they stand, and whether it has numpy numbers or arrays.

    `places` are the bytes of the file where the storages begin, by key, once somebody has looked for them there.
    """

    tensors: list[Tensor] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    has_numpy: bool = False
    places: dict[str, int] = field(default_factory=dict)
    copied: int = 0

    def add(self, tensor: Tensor) -> Tensor:
        """Return a tensor, having counted it; raises TooLargeError for too many in all."""
        self.tensors.append(tensor)
        # An optimizer holds two or three tensors for each parameter.
        if len(self.tensors) > 4 * MAX_TENSORS:
            raise TooLargeError(f"it declares more than {4 * MAX_TENSORS:,} tensors")
        return tensor

    def storage(self, kind: Any, key: Any, _location: Any, elements: Any, _view: Any = None) -> Storage:
        """Return the storage of a persistent id."""
        dtype = _STORAGES.get(kind.dotted) if isinstance(kind, Global) else None
        # torch.package numbers its storages.
        if dtype is None or type(key) not in (str, int) or not _is_size(elements) or _view is not None:
            raise OddError("a storage is not declared as torch.save does")
        made = Storage(str(key), dtype, elements)
        if self.storages.setdefault(made.key, made).nbytes != made.nbytes:
            raise OddError(f"storage {key!r} is declared twice with different sizes")
        return made

    def count_copy(self, items: Sequence[Any]) -> None:
        """Count items that are copied; raises TooLargeError for too many in all."""
        self.copied += len(items)
        if self.copied > _MAX_COPIED:
            raise TooLargeError("its pickle copies the same items again and again")


def hashable(key: Any) -> Any:
    """Return a key that hashes in constant time; nested tuples can be made to take forever."""
    if isinstance(key, _HASHABLE) or (
        isinstance(key, tuple) and len(key) <= 16 and all(isinstance(k, _HASHABLE) for k in key)
    ):
        return key
    raise OddError(f"a {type(key).__name__} is a key")


def require_tensor_class(kind: Any) -> None:
    """Raise OddError unless a tensor is of one of torch's own classes."""
    if not isinstance(kind, Global) or kind.dotted not in _CLASSES:
        raise OddError("a tensor is of a class that is not torch's own")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MAX_RANK or not all(map(_is_size, value)):
        raise OddError("a shape or stride is not a short tuple of sizes")
    return tuple(value)


# What the functions on the allow-list return


def _tensor(
    declared: Declared,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any = None,
    _hooks: Any = None,
    bits: Any = None,
    *_: Any,
) -> Tensor:
    special = "conjugated or negated" if bits else ""
    return _typed_tensor(declared, storage, offset, size, stride, special=special)


def _tensor_v3(
    declared: Declared,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    bits: Any = None,
    *_: Any,
) -> Tensor:
    special = "conjugated or negated" if bits else ""
    return _typed_tensor(declared, storage, offset, size, stride, _dtype(dtype), special)


def _quantised_tensor(declared: Declared, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return _typed_tensor(declared, storage, offset, size, stride, special="quantised")


def _typed_tensor(
    declared: Declared, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None, special: str = ""
) -> Tensor:
    shape, steps = _sizes(size), _sizes(stride)
    if not isinstance(storage, Storage) or not _is_size(offset) or len(shape) != len(steps):
        raise OddError("a tensor is not declared as torch.save does")
    return declared.add(Tensor(dtype or storage.dtype, shape, steps, offset, storage, special=special))


def _dtype(value: Any) -> str:
    if not isinstance(value, Global) or value.dotted not in _DTYPES:
        raise OddError("a tensor's dtype is not one")
    return _DTYPES[value.dotted]


def _meta_tensor(declared: Declared, dtype: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return declared.add(Tensor(_dtype(dtype), _sizes(size), _sizes(stride)))


def _sparse_tensor(declared: Declared, layout: Any, data: Any) -> Tensor:
    parts = tuple(part for part in data if isinstance(part, Tensor))
    size = next((item for item in data if isinstance(item, tuple)), None)
    if not isinstance(layout, str) or len(parts) < 2:
        raise OddError("a sparse tensor lacks its indices or values")
    return declared.add(Tensor(parts[-1].dtype, _sizes(size), parts=parts, special="sparse"))


def _parameter(_: Declared, data: Any, *_more: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise OddError("a parameter is made of something that is no tensor")
    return data


def _dict(declared: Declared, pairs: Any = ()) -> dict[Any, Any]:
    declared.count_copy(pairs)
    entries = pairs.items() if isinstance(pairs, dict) else pairs
    return {hashable(key): value for key, value in entries}


def _set(declared: Declared, items: Any = ()) -> list[Any]:
    declared.count_copy(items)
    return [hashable(item) for item in items]


def _size(declared: Declared, items: Any = ()) -> tuple[int, ...]:
    declared.count_copy(items)
    return _sizes(items)


def _bytes(declared: Declared, text: Any = b"", encoding: Any = "latin-1") -> bytes | Long:
    # A number would be a size to allocate; other codecs compress, or take quadratic time.
    if isinstance(text, Long):
        return text
    if not isinstance(text, str | bytes) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise OddError("bytes are not made of a plain text")
    declared.count_copy(range(len(text) // 1000))  # characters are copied that much faster than items
    return text if isinstance(text, bytes) else text.encode(encoding)


def _text(_: Declared, *parts: Any) -> str:
    if not all(isinstance(part, str) or _is_size(part) for part in parts):
        raise OddError("a device or layout is not named by a text")
    return ":".join(map(str, parts))


def _numpy_dtype(declared: Declared, code: Any, *_: Any) -> Object:
    if not isinstance(code, str) or not _NUMPY_CODE.fullmatch(code):
        raise OddError("a numpy dtype is not a plain one")
    declared.count_copy("x")
    return Object(_NUMPY_DTYPE, (code.lstrip("<>=|"),))


def _numpy_scalar(declared: Declared, dtype: Any, data: Any) -> Object:
    code = _code(dtype)
    if code.startswith("O") or not isinstance(data, bytes | str | Long):
        raise OddError("a numpy number is not made of a dtype and bytes")
    declared.has_numpy = True
    return Object("numpy scalar", (code,), (dtype.state, data))


def _numpy_array(declared: Declared, kind: Any, shape: Any, code: Any) -> Object:
    """Return an empty array; what it holds is its state."""
    if kind != Global("numpy.ndarray") or math.prod(_sizes(shape)) or code not in (b"b", "b"):
        raise OddError("a numpy array is not made as numpy does")
    declared.has_numpy = True
    return Object(_NUMPY_ARRAY)


def _array_of_buffer(declared: Declared, held: Any, dtype: Any, shape: Any, _order: Any = "C") -> Object:
    _require_filled(_code(dtype), _sizes(shape), held)
    declared.has_numpy = True
    return Object(_NUMPY_ARRAY, (_code(dtype), shape))


def set_state(target: Object, state: Any) -> None:
    """Give an object the state that the file has for it; raises OddError for one that numpy gives none of its own."""
    match target.maker, state:
        # Fields and shapes of elements can make numpy take numbers for addresses.
        case "numpy.dtype", (int(), str(), None, None, None, int(), int(), int(), *_):
            target.state = state
        case "numpy.dtype", _:
            raise OddError("a numpy dtype is not one of plain numbers, texts or objects")
        case "numpy.ndarray", (int(), tuple() as shape, Object() as dtype, bool(), held):
            _require_filled(_code(dtype), _sizes(shape), held)
            target.arguments, target.state = (_code(dtype), shape), held
        case "numpy.ndarray", _:
            raise OddError("a numpy array has another state than numpy gives it")
        case _:
            target.state = state


def _code(dtype: Any) -> str:
    if not isinstance(dtype, Object) or dtype.maker != _NUMPY_DTYPE or not dtype.arguments:
        raise OddError("the dtype of a numpy array is none")
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
        raise OddError(f"a numpy array of {elements:,} elements holds more or less than them")


ALLOWED: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised_tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "builtins.set": _set,
    "builtins.complex": lambda _, real=0, imaginary=0: complex(real, imaginary),
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
    "numpy.dtype": _numpy_dtype,
    **{
        f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in (
            ("multiarray.scalar", _numpy_scalar), ("multiarray._reconstruct", _numpy_array), ("numeric._frombuffer", _array_of_buffer),
        )
    },
    # torch/jit/_pickle.py: each gives its first argument back
    **dict.fromkeys(
        (f"torch.jit._pickle.{name}" for name in (
            "restore_type_tag", "build_intlist", "build_tensorlist", "build_doublelist", "build_boollist",
        )),
        lambda _, value, *_more: value,
    ),
}  # fmt: skip
"""Function → what makes a record of what it returns, of `Declared` and its arguments; it raises OddError, or as Python does
for arguments that it does not take."""
