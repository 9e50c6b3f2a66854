"""The products of whole numbers in a file, one by one, in onnxruntime and by the file's own word.

A quantised network amplifies: what lies between two steps falls on either, and a few layers later nothing agrees with anything, although
every layer is right. So each product is also run alone, on what reaches it in a real call: what comes before it is cut off, and its
error is its own. That shows what nothing warns of: onnxruntime adds products of 8 bits in 16 where a processor has AVX2 or AVX-512 and no
VNNI, which cuts off what does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.format import Product
from pipeline.formats.neighbours import neighbours
from pipeline.formats.onnx.exact import Exact, copy_of, read_whole
from pipeline.formats.onnx.products import with_products
from pipeline.formats.onnx.session import PRECISE_PRODUCTS, session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

    from pipeline.formats.format import ProductSearch
    from pipeline.interface import Arrays

_QUANTISED = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_DEQUANTISED = frozenset({"Conv", "MatMul", "Gemm"})
_INTEGER = frozenset({"MatMulInteger", "ConvInteger"})
_MOVED = 2
PRECISE = "the option `precise_products: true` of the backend"
UNSIGNED = "`weights: uint8` of the artifact"


@dataclass(frozen=True, slots=True)
class Piece:
    """A product with what quantises its input and scales its result: between which tensors it lies, and its nodes in order."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    nodes: tuple[onnx.NodeProto, ...]


def judge(wanted: ProductSearch) -> tuple[Product, ...]:
    """Return what became of each product of whole numbers in a file.

    Raises:
        ExportError: something in the file cannot be evaluated.
    """
    model = read_whole(wanted.file)
    found = list(of(model))
    names = {name for each in found for name in each.inputs}
    values = Exact(with_products(copy_of(model))).between(wanted.inputs, names)
    initializers = {each.name: each for each in model.graph.initializer}
    return tuple(_judged(each, model, initializers, values, wanted) for each in found)


def _judged(
    piece: Piece,
    model: onnx.ModelProto,
    initializers: Mapping[str, onnx.TensorProto],
    values: Mapping[str, Any],
    wanted: ProductSearch,
) -> Product:
    inputs = {name: narrow(values[name]) for name in piece.inputs}
    made = alone(piece, model, initializers, inputs)
    evaluate = Exact(with_products(copy_of(made)))
    exact = _only(evaluate(inputs))
    others = [
        _only(evaluate(inputs, "written")),
        *(_only(evaluate(_neighbours(inputs, each), "written")) for each in range(_MOVED)),
        *(_only(evaluate(inputs, "moved", each)) for each in range(_MOVED)),
    ]
    noise = np.max([np.abs(each.astype(np.float64) - exact) for each in others], axis=0)
    (floor,) = wanted.floors([exact], [noise])

    def factor(got: Any) -> float:
        return float(np.max(np.abs(got.astype(np.float64) - exact) / floor, initial=0.0))

    ran = _ran(made, inputs, wanted)
    cut = _only(evaluate(inputs, "saturating"))
    result = Product(
        name=piece.name,
        operator=piece.operator,
        factor=factor(ran),
        sqnr_db=_sqnr_db(ran, exact),
        saturating_factor=factor(cut),
        saturating_sqnr_db=_sqnr_db(cut, exact),
    )
    if result.factor <= wanted.limit:
        return result
    ways: dict[str, Callable[[], Any]] = {
        PRECISE: lambda: _ran(made, inputs, wanted, precise=True),
        UNSIGNED: lambda: _ran(_unsigned(made), inputs, wanted),
    }
    return replace(result, helped=tuple(said for said, way in ways.items() if factor(way()) <= wanted.limit))


def _ran(made: onnx.ModelProto, inputs: Arrays, wanted: ProductSearch, *, precise: bool = False) -> Any:
    import onnxruntime as ort

    options = session_options(wanted.options.get("graph_optimization_level", "all"), 1, wanted.custom_ops)
    if precise or wanted.options.get("precise_products"):
        options.add_session_config_entry(PRECISE_PRODUCTS, "1")
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))[0]


def _unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with signed weights of 8 bits, and their zero points, as unsigned ones: what they stand for is the same."""
    import onnx

    found = copy_of(model)
    by_name = {each.name: each for each in found.graph.initializer}
    for node in found.graph.node:
        places = {"DequantizeLinear": (0, 2), **dict.fromkeys(_INTEGER, (1, 3))}.get(node.op_type)
        names = [node.input[each] for each in places or () if each < len(node.input)]
        pair = [by_name[name] for name in names if name in by_name and by_name[name].data_type == onnx.TensorProto.INT8]
        for each in pair if len(pair) == len(names) == 2 else ():
            moved = onnx.numpy_helper.to_array(each).astype(np.int16) + 128
            each.CopyFrom(onnx.numpy_helper.from_array(moved.astype(np.uint8), each.name))
    return found


def of(model: onnx.ModelProto) -> Iterator[Piece]:
    """Yield the products of whole numbers in a model."""
    nodes = list(model.graph.node)
    made_by = {name: node for node in nodes for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    constants = {each.name for each in model.graph.initializer}
    for node in nodes:
        if node.op_type in _INTEGER:
            output = _scaled(node, users)
        elif node.op_type in _DEQUANTISED and _is_dequantised(node, made_by):
            output = _requantised(node, users)
        elif node.op_type == "MatMulNBits":
            output = node.output[0]
        else:
            continue
        if output is not None:
            inside, starts = _between(output, node, made_by, constants)
            order = [each for each in nodes if id(each) in inside]
            yield Piece(node.name or output, node.op_type, tuple(sorted(starts)), output, tuple(order))


def _is_dequantised(node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    return all(name in made_by and made_by[name].op_type == "DequantizeLinear" for name in node.input[:2])


def _scaled(node: onnx.NodeProto, users: Mapping[str, Sequence[onnx.NodeProto]]) -> str | None:
    """Return the floating result behind a product of whole numbers: behind its cast, and the scale where it has one of its own."""
    cast = next((each for each in users.get(node.output[0], ()) if each.op_type == "Cast"), None)
    if cast is None:
        return None
    scale = next((each for each in users.get(cast.output[0], ()) if each.op_type == "Mul"), None)
    return str((scale or cast).output[0])


def _requantised(node: onnx.NodeProto, users: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """Return the result behind a product, as the runtime fuses it: dequantised again, where it is quantised at once."""
    after = users.get(node.output[0], ())
    if len(after) == 1 and after[0].op_type == "QuantizeLinear":
        back = [each for each in users.get(after[0].output[0], ()) if each.op_type == "DequantizeLinear"]
        if back:
            return str(back[0].output[0])
    return str(node.output[0])


def _between(
    output: str, product: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], constants: set[str]
) -> tuple[set[int], set[str]]:
    """Return the nodes of a piece by identity, and the floating tensors at which it begins: those that are quantised for it."""
    inside: set[int] = set()
    starts: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if not name or name in constants:
            continue
        maker = made_by.get(name)
        if maker is None or (product.op_type == "MatMulNBits" and maker is not product):
            starts.add(name)
        elif id(maker) not in inside:
            inside.add(id(maker))
            is_start = maker.op_type in _QUANTISED and maker.output[0] != product.output[0]
            own = is_start and product.output[0] not in maker.input
            if own:
                starts |= {each for each in maker.input[:1] if each not in constants}
                waiting += [each for each in maker.input[1:] if each]
            else:
                waiting += list(maker.input)
    return inside, starts


def alone(
    piece: Piece, model: onnx.ModelProto, initializers: Mapping[str, onnx.TensorProto], inputs: Arrays
) -> onnx.ModelProto:
    """Return a model of a piece."""
    import onnx

    read = {name for node in piece.nodes for name in node.input}
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(each.dtype) for name, each in inputs.items()}
    graph = onnx.helper.make_graph(
        list(piece.nodes),
        "piece",
        [onnx.helper.make_tensor_value_info(name, kinds[name], list(each.shape)) for name, each in inputs.items()],
        [onnx.helper.make_tensor_value_info(piece.output, onnx.TensorProto.FLOAT, None)],
        [each for name, each in initializers.items() if name in read],
    )
    return onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _neighbours(inputs: Arrays, seed: int) -> dict[str, Any]:
    """Return what reaches a piece, moved: what the order of a long sum before it may cost."""
    rng = np.random.default_rng(seed)
    return {name: neighbours(each, rng) for name, each in inputs.items()}


def narrow(value: Any) -> Any:
    """Return what a runtime is given of a tensor."""
    return value.astype(np.float32) if value.dtype == np.float64 else value


def _only(outputs: Mapping[str, Any]) -> Any:
    return next(iter(outputs.values()))


def _sqnr_db(got: Any, exact: Any) -> float:
    """Return the ratio of signal to error in dB, 200 at most: float64 knows no more."""
    error, signal = float(np.sum((got.astype(np.float64) - exact) ** 2)), float(np.sum(exact**2))
    if not signal:
        return 0.0 if error else 200.0
    return min(200.0, 10 * float(np.log10(signal / error))) if error else 200.0
