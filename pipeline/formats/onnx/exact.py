"""What an ONNX file says, computed exactly: whole numbers as written, float64 between. The oracle of a file with precisions of its own.

onnx's reference evaluator runs the file. Where that is told to be exact, every floating number of the file is widened to float64, casts
between them included, and what is left of the file's rounding is what it says in whole numbers: QuantizeLinear and its like.
The same file as written, in its own precisions, and with what is rounded to whole numbers moved a little before, shows how far a
healthy runtime may be from that: a number that lies between two steps falls on either side, and no runtime is wrong for it.

Sources: https://onnx.ai/onnx/operators, and for MatMulNBits docs/ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.formats.onnx import kernels, products
from pipeline.formats.onnx.canonical import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    import onnx

    from pipeline.formats.format import How
    from pipeline.interface import Arrays

_CUT = "leave it out with `leave_out`, or choose another precision"


class Exact:
    """A file that can be evaluated; `model` has its weights in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._models = {False: model}

    def __call__(self, inputs: Arrays, how: How = "exact", seed: int = 0) -> dict[str, Any]:
        """Return the outputs by name: in float64 what is floating, unless it is evaluated as written.

        Raises:
            ExportError: nothing here computes an operator of the file.
        """
        return self._evaluated(inputs, how, seed, ())

    def watched(self, inputs: Arrays, watch: Callable[[str, Any], object]) -> None:
        """Evaluate exactly, and show each tensor that a node gives, and each input, by its name."""
        for name, each in inputs.items():
            watch(name, _wide(each))
        self._evaluated(inputs, "exact", 0, (), watch)

    def between(self, inputs: Arrays, names: Collection[str]) -> dict[str, Any]:
        """Return tensors inside the file by name, exactly."""
        return self._evaluated(inputs, "exact", 0, names)

    def _evaluated(
        self,
        inputs: Arrays,
        how: How,
        seed: int,
        names: Collection[str],
        watch: Callable[[str, Any], object] = lambda *_: None,
    ) -> dict[str, Any]:
        is_wide = how != "written"
        moves = kernels.moves(seed) if how == "moved" else None
        own = [*kernels.operators(moves), *products.operators(how == "saturating")]
        evaluator = _evaluator(self._model(is_wide), own)
        given = {name: _wide(each) if is_wide else each for name, each in inputs.items()}
        with np.errstate(all="ignore"):
            return _run(evaluator, given, names or evaluator.output_names, watch)

    def _model(self, is_wide: bool) -> onnx.ModelProto:  # noqa: FBT001 - the one thing it depends on
        if is_wide not in self._models:
            self._models[is_wide] = widened(self._models[False])
        return self._models[is_wide]


def read(path: Path) -> Exact:
    """Return a file to evaluate. All of it is read into memory."""
    return Exact(products.with_products(read_whole(path)))


def read_whole(path: Path) -> onnx.ModelProto:
    """Return a model with all its weights in it."""
    import onnx

    return onnx.load(str(path))


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the same content, to be changed."""
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    return found


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with all floating numbers in float64, and nothing between that rounds them to less."""
    import onnx

    found = copy_of(model)
    for each in list(messages(found)):
        if isinstance(each, onnx.TensorProto) and each.data_type in _NARROW:
            wide = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(each).astype(np.float64), each.name)
            each.CopyFrom(wide)
        elif isinstance(each, onnx.TypeProto.Tensor) and each.elem_type in _NARROW:
            each.elem_type = _DOUBLE
        elif isinstance(each, onnx.NodeProto):
            _widen_node(each)
    return found


_DOUBLE = 11  # onnx.TensorProto.DOUBLE
_NARROW = frozenset({1, 10, 16})  # FLOAT, FLOAT16, BFLOAT16
_TYPES = frozenset({"to", "dtype", "output_dtype"})


def _widen_node(node: onnx.NodeProto) -> None:
    """Widen what a node says of types in its attributes, and a constant that is no tensor."""
    import onnx

    for attribute in node.attribute:
        if attribute.name in _TYPES and attribute.i in _NARROW:
            attribute.i = _DOUBLE
        elif node.op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
            single = attribute.name == "value_float"
            values = np.asarray(attribute.f if single else list(attribute.floats), np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(values)))


def _wide(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype in (np.float32, np.float16) else array


def _evaluator(model: onnx.ModelProto, operators: Sequence[type]) -> Any:
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model, new_ops=list(operators))
    except Exception as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ExportError(f"what this file says cannot be computed exactly: {said[:300]}", hint=_CUT) from error


def _run(
    evaluator: Any, inputs: Mapping[str, Any], wanted: Collection[str], watch: Callable[[str, Any], object]
) -> dict[str, Any]:
    """Run node by node, and let go of what no later node reads; onnx's own `run` keeps it all."""
    last = {name: index for index, node in enumerate(evaluator.rt_nodes_) for name in _reads(node)}
    kept = {*wanted, *evaluator.rt_inits_}
    values: dict[str, Any] = {"": None, **evaluator.rt_inits_, **inputs}
    for index, node in enumerate(evaluator.rt_nodes_):
        given = [values[name] for name in node.input]
        context = {"context": values} if node.need_context() else {}
        try:
            made = node.run(*given, **context)
        except Exception as error:
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ExportError(
                f"{node.op_type} {node.onnx_node.name} cannot be computed exactly: {said[:300]}", hint=_CUT
            ) from error
        for name, each in zip(node.output, made, strict=False):
            values[name] = each
            watch(name, each)
        for name in {*node.input, *node.output} - kept:
            if name and last.get(name, -1) <= index:
                values.pop(name, None)
    return {name: np.asarray(values[name]) for name in wanted}


def _reads(node: Any) -> set[str]:
    """Return the names that a node reads, those of its subgraphs' nodes included."""
    return {name for each in messages(node.onnx_node) if hasattr(each, "op_type") for name in each.input}
