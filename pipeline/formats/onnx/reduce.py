"""A file in another precision, made from an ONNX artifact: by onnxruntime's own tools, and the same bytes each time.

Sources: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, …/float16.html
"""

from __future__ import annotations

import ast
import contextlib
import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ExportError, suggestion
from pipeline.formats.artifact import Written
from pipeline.formats.onnx import canonical
from pipeline.formats.onnx.exact import Exact, copy_of
from pipeline.formats.onnx.options import OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx

    from pipeline.formats.format import FromArtifact, Options
    from pipeline.interface import Arrays

_HEAVY = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""What a network spends its time and its weights on: left out are those of these that a pattern names."""
_BATCH = 16
_RANGES = "ranges.json"
_STORED = {"float16-weights": 10, "bfloat16-weights": 16}  # onnx.TensorProto.FLOAT16, BFLOAT16
_BITS = {"int8-weights": 8, "int4-weights": 4}
_FLOAT = 1  # onnx.TensorProto.FLOAT
_FEWEST = 64  # smaller tensors are norms and biases: they cost nothing, and rounding them does


def derive(origin: FromArtifact, options: Options) -> Written:
    """Write the artifact in the precision that the options say.

    Raises:
        ExportError: the tools refuse the file, a pattern names nothing in it, or no weight of it became smaller.
    """
    assert isinstance(options, OnnxOptions)  # noqa: S101 - the table pairs them
    if options.precision is None:
        raise ExportError(
            "an ONNX artifact from another has a precision of its own",
            hint="say which with `precision`, or leave out `from`",
        )
    import onnx

    model = onnx.load(str(origin.artifact.files[0]))
    left_out = _left_out(model, origin, options)
    made, notes = _made(model, origin, options, left_out)
    _forget_identity(made)
    before, after = _weight_bytes(model), _weight_bytes(made)
    share = _share_reduced(model, made)
    if not share or after >= before:
        raise ExportError(
            f"no weight became smaller: {before:,} bytes before, {after:,} after",
            hint="leave less out, or choose another precision: weights of 4 and 8 bits are those of MatMul and Gemm alone",
        )
    stripped = canonical.from_model(made, origin.target.parent, origin.target, identity=origin.identity)
    source = origin.artifact.written
    facts = {
        "precision": options.precision,
        "opset": next((each.version for each in made.opset_import if not each.domain), 0),
        "left_out": sorted(left_out),
        "weights_reduced": round(share, 6),
        "weight_bytes": after,
        "weight_bytes_before": before,
    }
    return Written(stripped.files, facts, tuple(notes), source.explanations, source.program)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What each way of making a file is given."""

    origin: FromArtifact
    options: OnnxOptions
    left_out: list[str]


def _made(
    model: onnx.ModelProto, origin: FromArtifact, options: OnnxOptions, left_out: list[str]
) -> tuple[onnx.ModelProto, list[str]]:
    ways: dict[str, Callable[[onnx.ModelProto, _Wanted], onnx.ModelProto]] = {
        "float16": _float16,
        "int8": _static,
        "int8-dynamic": _dynamic,
        **dict.fromkeys(_STORED, _stored),
        **dict.fromkeys(_BITS, _in_blocks),
    }
    with _quiet():
        try:
            made = ways[str(options.precision)](copy_of(model), _Wanted(origin, options, left_out))
        except ExportError:
            raise
        except Exception as error:
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ExportError(f"onnxruntime's tools refuse this file: {said[:300]}", hint=_hint(options)) from error
    notes = [f"left as they were: {', '.join(sorted(left_out)[:5])}"] if left_out else []
    if options.precision == "int8" and options.calibration_method != "minmax":
        notes.append(
            f"ranges by {options.calibration_method} are onnxruntime's: another processor may round them otherwise"
        )
    return made, notes


def _hint(options: OnnxOptions) -> str:
    return f"leave the part out that it names (`leave_out`), or take another precision than {options.precision}"


def _dynamic(model: onnx.ModelProto, wanted: _Wanted) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = wanted.options
    with _target() as file:
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            weight_type=QuantType.QInt8 if options.weights == "int8" else QuantType.QUInt8,
            nodes_to_exclude=_also_as_matmul(wanted.left_out),
        )
        return _loaded(file)


def _static(model: onnx.ModelProto, wanted: _Wanted) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    options, samples = wanted.options, wanted.origin.samples
    if not samples:
        raise ExportError(
            "int8 has no `calibration`: ranges that random inputs have hide real failures",
            hint="give real inputs (`calibration: FILE.npz`), or take int8-dynamic, which measures at every call",
        )
    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with _target() as file:
        # Measured by onnxruntime, a range would depend on in which order this processor adds.
        cache = _ranges(model, samples, wanted) if options.calibration_method == "minmax" else None
        quantize_static(
            model,
            file,
            None if cache else _Reader(samples, wanted.origin),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(options.operators),
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            activation_type=kinds[options.activations],
            weight_type=kinds[options.weights],
            nodes_to_exclude=wanted.left_out,
            calibrate_method=methods[options.calibration_method],
            calibration_cache_path=cache,
        )
        return _loaded(file)


def _ranges(model: onnx.ModelProto, samples: Arrays, wanted: _Wanted) -> Path:
    """Return a file of ranges: that of an artifact which differs in what was left out, or one beside the artifact."""
    before = wanted.origin.before
    known = before.files[0].with_name(_RANGES) if before is not None and before.files else None
    if known is not None and known.is_file():
        return known
    return _measured(model, samples, wanted, wanted.origin.target.with_name(_RANGES))


def _measured(model: onnx.ModelProto, samples: Arrays, wanted: _Wanted, file: Path) -> Path:
    """Write the least and the largest value of each floating tensor over all samples, evaluated exactly, as onnxruntime's tool reads them."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f" and value.size:
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(np.nanmin(value))), max(high, float(np.nanmax(value))))

    evaluate = Exact(model)
    for batch in _batches(samples, wanted.origin):
        evaluate.watched(batch, watch)
    found = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), file)
    return file


class _Reader:
    """Gives the calibration data in batches that the declared range has room for, as onnxruntime's calibrater asks for them."""

    def __init__(self, samples: Arrays, origin: FromArtifact) -> None:
        self._batches = iter(_batches(samples, origin))

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next batch, None behind the last."""
        return next(self._batches, None)


def _batches(samples: Arrays, origin: FromArtifact) -> Iterator[dict[str, Any]]:
    interface = origin.interface
    firsts = {spec.shape[0] if spec.shape else None for spec in interface.inputs}
    dimension = next((each for each in interface.dimensions if firsts == {each.name} and each.formula is None), None)
    if dimension is None:
        yield dict(samples)
        return
    count = len(next(iter(samples.values())))
    step = max(1, min(_BATCH, dimension.max))
    for start in range(0, count, step):
        yield {name: array[start : start + step] for name, array in samples.items()}


def _float16(model: onnx.ModelProto, wanted: _Wanted) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=wanted.left_out or None)
    sorted_one = ONNXModel(made)
    sorted_one.topological_sort()
    return made


def _stored(model: onnx.ModelProto, wanted: _Wanted) -> onnx.ModelProto:
    """Keep weights in 16 bits, and cast them where they are read."""
    import onnx

    kind = _STORED[str(wanted.options.precision)]
    graph = model.graph
    by_name = {each.name: each for each in graph.initializer}
    reading: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            reading.setdefault(name, []).append(node)
    casts = []
    for name, tensor in by_name.items():
        users = reading.get(name, [])
        is_weight = tensor.data_type == _FLOAT and int(np.prod(tensor.dims)) >= _FEWEST
        if not is_weight or not users or any(each.name in wanted.left_out for each in users):
            continue
        values = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        if not np.isfinite(values.astype(np.float64)).all():
            continue  # larger than float16 can be
        tensor.CopyFrom(onnx.helper.make_tensor(f"{name}.stored", kind, tensor.dims, values.tobytes(), raw=True))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.stored"], [name], f"{name}.cast", to=_FLOAT))
    for index, cast in enumerate(casts):
        graph.node.insert(index, cast)
    return model


def _in_blocks(model: onnx.ModelProto, wanted: _Wanted) -> onnx.ModelProto:
    """Weights of 8 or 4 bits, with a scale for each block of a column; Gemm becomes MatMul and Add, which the tool passes over otherwise."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    plain = ONNXModel(model)
    plain.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        plain.model,
        bits=_BITS[str(wanted.options.precision)],
        block_size=wanted.options.block_size,
        is_symmetric=True,
        nodes_to_exclude=_also_as_matmul(wanted.left_out),
    )
    quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    _remove_unread(made)
    return made


def _also_as_matmul(names: list[str]) -> list[str]:
    """Return names of nodes with those that onnxruntime gives a Gemm which it takes apart."""
    return [each for name in names for each in (name, f"{name}_MatMul")]


def _left_out(model: onnx.ModelProto, origin: FromArtifact, options: OnnxOptions) -> list[str]:
    """Return the nodes that the patterns name: by the network's modules, by their own names, or by their operator.

    Raises:
        ExportError: a pattern names none.
    """
    known = {node.name: _names(node, origin) for node in model.graph.node}
    found: dict[str, None] = {}
    for pattern in () if options.leave_out == "auto" else options.leave_out:
        named = [node for node, names in known.items() if any(_fits(pattern, each) for each in names)]
        if not named:
            every = sorted({name for node in model.graph.node if node.op_type in _HEAVY for name in known[node.name]})
            raise ExportError(
                f"leave_out: nothing in {origin.artifact.name} is called {pattern!r}{suggestion(pattern, every)}",
                hint="name modules of the network (encoder.layer.0 stands for all below it), nodes or operators",
            )
        found |= dict.fromkeys(named)
    return list(found)


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _names(node: onnx.NodeProto, origin: FromArtifact) -> list[str]:
    """Return what a node may be called: itself, its operator, and the modules of the network that it was made from."""
    stated = origin.artifact.written.explanations.get(node.name, {}).get("name_scopes", "")
    scopes: list[str] = []
    with contextlib.suppress(ValueError, SyntaxError):
        scopes = [str(each) for each in ast.literal_eval(stated or "[]")]
    return [node.name, node.op_type, *(each for each in scopes[:-1] if each)]


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(_size_bytes(each) for each in model.graph.initializer)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    import onnx

    return len(tensor.raw_data) or int(onnx.numpy_helper.to_array(tensor).nbytes)


def _share_reduced(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    """Return which part of the floating weights' elements is kept in fewer bits."""
    old = {
        each.name: int(np.prod(each.dims))
        for each in before.graph.initializer
        if each.data_type == _FLOAT and int(np.prod(each.dims)) >= _FEWEST
    }
    kept = sum(
        int(np.prod(each.dims)) for each in after.graph.initializer if each.data_type == _FLOAT and each.name in old
    )
    total = sum(old.values())
    return 1 - kept / total if total else 0.0


def _remove_unread(model: onnx.ModelProto) -> None:
    read = {name for each in canonical.messages(model) if hasattr(each, "op_type") for name in each.input}
    read |= {each.name for each in model.graph.output}
    kept = [each for each in model.graph.initializer if each.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _forget_identity(model: onnx.ModelProto) -> None:
    """Remove what the artifact says of itself, and what the tools say of themselves: the new one says it again."""
    kept = [each for each in model.metadata_props if not each.key.startswith((canonical.IDENTITY_PREFIX, "onnx."))]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    del model.graph.value_info[:]


@contextlib.contextmanager
def _target() -> Iterator[Path]:
    with TemporaryDirectory(prefix="weighbridge-") as folder:
        yield Path(folder) / "model.onnx"


def _loaded(file: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice of the tools from the log: it is about steps that are taken here already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
