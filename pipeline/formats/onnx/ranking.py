"""Which layers of a quantised file to leave as they were: for each number of layers, those without which it is the least wrong.

Each product is computed exactly on what reaches it in the float32 file, and held against what that gives: the error that this layer
adds by itself. What counts is what becomes of it at the outputs: a large error on a side path may vanish there, and a small one grow.
So the float32 file is run with such errors added where they arise, with each alone and with all but each. Both give an order, and
for each number of layers that one is taken whose first so many leave the least error, that of all others added at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.formats.onnx import pieces
from pipeline.formats.onnx.exact import Exact, copy_of, read_whole
from pipeline.formats.onnx.products import with_products
from pipeline.formats.onnx.session import session_options

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import onnx

    from pipeline.formats.format import Ranking
    from pipeline.interface import Arrays

_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose"})
_ADDED = "weighbridge.added"
_LARGEST = 2**31 - 2**20  # bytes of a file without others beside it
_DIGITS = 6  # of an error: what lies behind them is the order in which a processor adds


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that was quantised: its node in the float32 file, the tensor that its error is added to, its products: rows times weights."""

    name: str
    tensor: str
    off: Any
    products: float


def rank(wanted: Ranking) -> tuple[tuple[str, ...], ...]:
    """Return sets of nodes of the float32 file, the first of one node, the last of all: those to leave out where it is to be so many.

    Raises:
        ExportError: something in a file cannot be evaluated.
    """
    source = read_whole(wanted.source)
    layers = list(_layers(source, read_whole(wanted.file), wanted.inputs))
    if not layers:
        return ()
    with TemporaryDirectory(prefix="weighbridge-") as folder:
        error = _Outputs(source, layers, wanted, Path(folder))
        every = frozenset(range(len(layers)))
        orders = [
            _ordered(layers, {each: -error(frozenset({each})) for each in every}),
            _ordered(layers, {each: error(every - {each}) for each in every}),
        ]
        found = []
        for count in range(1, len(layers) + 1):
            firsts = list(dict.fromkeys(frozenset(order[:count]) for order in orders))
            left = firsts if len(firsts) == 1 else sorted(firsts, key=lambda each: error(every - each))
            found.append(left[0])
    return tuple(tuple(sorted(layers[each].name for each in chosen)) for chosen in found)


def _ordered(layers: Sequence[_Layer], errors: Mapping[int, float]) -> list[int]:
    """Return the layers in the order of some errors; of equal ones that with fewer products first."""
    return sorted(errors, key=lambda each: (errors[each], layers[each].products, layers[each].name))


def _layers(source: onnx.ModelProto, reduced: onnx.ModelProto, inputs: Arrays) -> Iterator[_Layer]:
    """Yield the layers that were quantised, each with the error that it adds by itself."""
    by_name = {node.name: node for node in source.graph.node}
    weights = {each.name: each for each in source.graph.initializer}
    sizes = {name: int(np.prod(each.dims)) for name, each in weights.items()}
    found = [(piece, node) for piece in pieces.of(reduced) if (node := _node(piece.name, by_name)) is not None]
    after = _following(source)
    names = {name for piece, node in found for name in (*piece.inputs, *after[node.output[0]])}
    known = {name for node in source.graph.node for name in node.output} | set(inputs)
    values = Exact(source).between(inputs, names & known)
    initializers = {each.name: each for each in reduced.graph.initializer}
    for piece, node in found:
        if not {*piece.inputs, *after[node.output[0]]} <= values.keys():
            continue
        given = {name: pieces.narrow(values[name]) for name in piece.inputs}
        evaluate = Exact(with_products(pieces.alone(piece, reduced, initializers, given)))
        got = next(iter(evaluate(given).values()))
        fitting = {name: _off(got, values[name], _bias(node, weights)) for name in after[node.output[0]]}
        name, off = min(fitting.items(), key=lambda each: _power(each[1]))
        products = _products(node, values[node.output[0]], sizes)
        yield _Layer(node.name, name, off.astype(np.float32), products)


def _following(source: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Return, for each tensor, itself and what a Relu or Clip makes of it: the tools put these into the range that it is rounded to."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for node in source.graph.node for name in node.output}
    for node in source.graph.node:
        if node.op_type in {"Relu", "Clip"} and node.input[0] in found:
            found[node.input[0]] = (node.input[0], node.output[0])
    return found


def _node(name: str, by_name: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that one of a quantised file was made of: the tools call it like that, and something more."""
    fitting = [each for each in by_name if each and (name == each or name.startswith(f"{each}_"))]
    return by_name[max(fitting, key=len)] if fitting else None


def _bias(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> Any:
    """Return the bias of a Gemm, which the tools may add behind its product; 0 where there is none."""
    import onnx

    named = weights.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
    return 0.0 if named is None else onnx.numpy_helper.to_array(named).astype(np.float64)


def _off(got: Any, wanted: Any, bias: Any) -> Any:
    """Return the error of a layer: with its bias or without, whichever fits."""
    if got.shape != wanted.shape:
        return np.zeros(())
    return min((got - wanted, got + bias - wanted), key=_power)


def _power(values: Any) -> float:
    return float(np.sum(values.astype(np.float64) ** 2))


def _products(node: onnx.NodeProto, output: Any, sizes: Mapping[str, int]) -> float:
    weights = max((sizes.get(name, 0) for name in node.input), default=0)
    channels = output.shape[1] if node.op_type in _CHANNELS_FIRST and output.ndim > 1 else (output.shape or (1,))[-1]
    return float(weights * output.size / max(int(channels), 1))


class _Outputs:
    """The float32 file in onnxruntime, with an input more for each layer: what is added to its result."""

    def __init__(self, source: onnx.ModelProto, layers: Sequence[_Layer], wanted: Ranking, folder: Path) -> None:
        import onnxruntime as ort

        self._layers, self._inputs = layers, dict(wanted.inputs)
        file = _saved(_with_additions(source, layers), folder)
        try:
            self._session = ort.InferenceSession(
                str(file), session_options("all", 1, None), providers=["CPUExecutionProvider"]
            )
            self._names = [each.name for each in self._session.get_outputs() if "float" in each.type]
            self._names = [each for each in self._names if each in wanted.outputs] or self._names
            self._right = self._run(frozenset())
        except Exception as error:
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ExportError(
                f"onnxruntime cannot run this file with errors added: {said[:300]}", hint="name what to leave out"
            ) from error
        self._known: dict[frozenset[int], float] = {}

    def __call__(self, wrong: frozenset[int]) -> float:
        """Return how far off the outputs are with the errors of some layers: their power ÷ that of the output, of the worst output."""
        if wrong not in self._known:
            found = self._run(wrong)
            shares = [
                _power(one.astype(np.float64) - other) / (_power(other) or 1.0)
                for one, other in zip(found, self._right, strict=True)
            ]
            self._known[wrong] = float(f"{max(shares, default=0.0):.{_DIGITS}g}")
        return self._known[wrong]

    def _run(self, wrong: Collection[int]) -> list[Any]:
        zero = np.zeros((), np.float32)
        added = {f"{_ADDED}.{at}": each.off if at in wrong else zero for at, each in enumerate(self._layers)}
        return list(self._session.run(self._names, {**self._inputs, **added}))


def _with_additions(source: onnx.ModelProto, layers: Sequence[_Layer]) -> onnx.ModelProto:
    """Return the model with an input added to the tensor of each layer."""
    import onnx

    made = copy_of(source)
    del made.graph.value_info[:]
    for at, layer in enumerate(layers):
        index, node = next((index, node) for index, node in enumerate(made.graph.node) if layer.tensor in node.output)
        place, exact = list(node.output).index(layer.tensor), f"{_ADDED}.exact.{at}"
        node.output[place] = exact
        name = f"{_ADDED}.{at}"
        made.graph.node.insert(index + 1, onnx.helper.make_node("Add", [exact, name], [layer.tensor], name))
        made.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return made


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    import onnx

    file = folder / "model.onnx"
    onnx.save(model, str(file), save_as_external_data=model.ByteSize() > _LARGEST)
    return file
