"""Exported programs that can only compute: told from their bytes, before torch's loader sees them.

torch.export.load runs what a file says in many places: pickled tensors, constants and example inputs are loaded by pickle; the
name of an operator is looked up below torch, math and operator, whatever it is; sizes are texts that sympy evaluates; guards are
Python that is executed; a tree of inputs may name a class to import. Only files that leave all of this unused are let through. Sources:
torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py, torch/export/_unlift.py, torch/utils/_pytree.py.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats.pt2 import archive
from pipeline.weights import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.formats.pt2.archive import Archive

TOLD = frozenset({"nn_module_stack"})
"""What a node may tell of itself: loading keeps it as text."""

_HINT = "do not load it; its maker can export the network again with weighbridge, or as ONNX"
_ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|\.format_version|\.storage_alignment|\.data/[a-z_]+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|extra/[\w.]+"
)
# Of HOPs only loops and branches, whose graphs stand in the file; arithmetic of sizes by Python's own functions.
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+|torch\.ops\.higher_order\.(while_loop|cond|scan|map_impl)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|pos|abs|index)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(float|int|ite|max|min|not|sqrt|sum|fresh_size)"
    r"|torch\._sym_(sqrt|cos|sin|exp|log2)"
)
_DEEDS = re.compile(r"torch\.ops\.aten\.(from_file|save|_print|_assert_scalar_from_file)\b")
_SYMPY = frozenset(
    {
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
    }
    | {
        "ModularIndexing",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "TruncToFloat",
        "RoundToInt",
        "IntTrueDiv",
        "FloatTrueDiv",
    }
    | {"ToFloat", "FloatPow", "PowByNatural", "Where", "Identity", "IsNonOverlappingAndDenseIndicator", "Piecewise"}
    | {
        "ExprCondPair",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Eq",
        "Ne",
    }
    | {
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "true",
        "false",
        "oo",
        "int_oo",
        "floor",
        "ceiling",
        "Abs",
        "sqrt",
        "tuple",
    }
)
_SYMBOL = re.compile(r"[A-Za-z_]\w{0,40}")
_SIZE = re.compile(r"[suz]f?\d+")
# What torch's printer of guards writes (torch/utils/_sympy/printers.py, PythonPrinter).
_PYTHON = frozenset(
    {
        "L",
        "size",
        "max",
        "min",
        "abs",
        "round",
        "math",
        "floor",
        "ceil",
        "trunc",
        "sqrt",
        "log2",
        "torch",
        "sym_float",
        "_sym_sqrt",
    }
)
_HIGHEST_POWER = 8
_MAX_EXPRESSION = 10_000
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_EMPTY = frozenset({None, "null", "[]"})


def require_inert(path: Path) -> None:
    """Check that an exported program can only compute with tensors, whoever made it.

    Raises UnsafeError, naming the place, for a file that could do anything else when it is loaded or run, and WeightsError for
    one that is cut off or damaged.
    """
    with archive.opened(path) as held:
        try:
            _check(held)
        except _RefusedError as error:
            raise UnsafeError(f"{path.name}: {error}", hint=_HINT) from error
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            told = f"{path.name} holds no program as torch.export.save writes it: {type(error).__name__} {error}"
            raise WeightsError(told, hint=files.DAMAGED) from error


class _RefusedError(Exception):
    """What a file does, or holds, that no program needs."""


def _check(held: Archive) -> None:
    if strange := next((name for name in held.entries if not _ENTRY.fullmatch(name)), None):
        raise _RefusedError(f"entry {strange!r:.120} is no part of an exported program")
    if size := held.size_bytes(archive.EXAMPLES):
        raise _RefusedError(f"it brings example inputs as a pickle ({size:,} bytes)")
    for folder, config in zip(archive.PAYLOADS, archive.CONFIGS, strict=True):
        for name, stated in held.text(config)["config"].items():
            _check_payload(held, folder, name, stated)
    model = held.text(archive.MODEL)
    for text in model.get("guards_code", []):
        _check_expression(text, _PYTHON, "a guard")
    if unknown := next((each for each in model.get("verifiers", []) if each not in {"TRAINING", "ATEN", "EDGE"}), None):
        raise _RefusedError(f"it names a verifier {unknown!r:.80}")
    for key, value in _leaves(model):
        if check := _CHECKS.get(key):
            check(value)
        elif key.startswith("as_custom") or (key == "custom_obj_values" and value):
            raise _RefusedError("it holds an object of a class, which is loaded by pickle")


def _check_payload(held: Archive, folder: str, name: str, stated: Mapping[str, Any]) -> None:
    """Refuse a tensor that is pickled, and one that is larger than what the archive holds of it."""
    if stated["use_pickle"] is not False:
        raise _RefusedError(f"{name!r:.80} is loaded by pickle")
    meta, entry = stated["tensor_meta"], folder + stated["path_name"]
    if not _ENTRY.fullmatch(entry):
        raise _RefusedError(f"{name!r:.80} lies in {entry!r:.120}")
    itemsize = np.dtype(archive.DTYPES.get(meta["dtype"], "uint8")).itemsize
    declared = math.prod(archive.sizes(meta["sizes"])) * itemsize
    if declared > held.size_bytes(entry):
        raise _RefusedError(f"{name!r:.80} declares {declared:,} bytes, and {held.size_bytes(entry):,} are held of it")


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, at any depth."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _check_operator(value: Any) -> None:
    if isinstance(value, str) and (not _OPERATOR.fullmatch(value) or _DEEDS.match(value)):
        raise _RefusedError(f"it calls {value!r:.120}, which is no operator that only computes")


def _check_size(value: Any) -> None:
    _check_expression(value, _SYMPY, "a size")


def _check_expression(text: Any, known: frozenset[str], what: str) -> None:
    """Refuse a text that is evaluated and is more than numbers, comparisons, and functions that are known."""
    try:
        if not isinstance(text, str) or len(text) > _MAX_EXPRESSION:
            raise _RefusedError(f"{what} is no text, or one of more than {_MAX_EXPRESSION:,} characters")
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _RefusedError(f"{what} is no expression: {text!r:.80}") from error
    for node in ast.walk(tree):
        if problem := _problem(node, known):
            raise _RefusedError(f"{what} holds {problem}: {text!r:.120}")


def _problem(node: ast.AST, known: frozenset[str]) -> str | None:
    """Say what a part of an expression does that no size needs."""
    match node:
        case ast.Name(id=name) if name not in known and not _SIZE.fullmatch(name):
            return f"the name {name!r:.40}"
        case ast.Attribute(attr=name) if name not in known:
            return f"the attribute {name!r:.40}"
        case ast.Constant(value=value) if not isinstance(value, int | float | str | None):
            return "a constant of another kind"
        case ast.Constant(value=str() as value) if not _SYMBOL.fullmatch(value):
            return f"the text {value!r:.40}"
        case ast.BinOp(op=ast.Pow(), right=power) if not _is_low(power):
            return "a power"
    return None if isinstance(node, _ALLOWED) else f"a {type(node).__name__}"


def _is_low(power: ast.expr) -> bool:
    """Whether a power is a small number: others would take all memory, or all time."""
    return isinstance(power, ast.Constant) and isinstance(power.value, int) and 0 <= power.value <= _HIGHEST_POWER


_ALLOWED = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Subscript),
    *(ast.Expression, ast.Tuple, ast.keyword, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Load),
)


def _check_tree(value: Any) -> None:
    """Refuse the tree of inputs or outputs that names a class, which is imported then."""
    waiting = [json.loads(value)[1]]
    while waiting:
        tree = waiting.pop()
        if tree["type"] not in _TREES or tree["context"] not in _EMPTY:
            raise _RefusedError(f"its inputs or outputs name the class {tree['type']!r:.80}")
        waiting += tree["children_spec"]


def _check_told(value: Any) -> None:
    if value and (not isinstance(value, dict) or value.keys() - TOLD):
        names = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else str(value)
        raise _RefusedError(f"it tells {names:.120} of a node, of which loading makes objects")


def _check_names(value: Any) -> None:
    if unfit := next((each for each in value or [] if not _SYMBOL.fullmatch(str(each))), None):
        raise _RefusedError(f"an argument is called {unfit!r:.80}")


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_size,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "metadata": _check_told,
    "forward_arg_names": _check_names,
}
