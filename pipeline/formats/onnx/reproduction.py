"""A culprit alone: one node as an ONNX model, its inputs with both values, and a script that shows the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.onnx.truths import exposed

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.formats.onnx.graph import Graph
    from pipeline.formats.onnx.truths import Truths
    from pipeline.interface import Arrays


@dataclass(frozen=True, slots=True)
class Culprit:
    """The node where the error begins, in the network's and in the file's words; factors are error ÷ noise floor.

    `problem`: what is wrong where no element can say it, else None.
    """

    node: str
    operator: str
    module: str
    source: str
    attributes: dict[str, Any]
    output: str
    factor: float
    input_factor: float
    worst_index: tuple[int, ...]
    expected: float
    got: float
    consumers: tuple[str, ...]
    explored: int
    certain: bool
    problem: str | None = None


def write_reproduction(
    graph: Graph,
    culprit: Culprit,
    inputs: Arrays,
    known: Truths,
    folder: Path,
    *,
    level: str,
    custom_ops: Path | None = None,
) -> None:
    """Write the culprit alone as an ONNX model, its inputs with both values, and a script that shows the difference."""
    import onnx

    values = {**exposed(graph.model, inputs, level=level, custom_ops=custom_ops), **inputs}
    node = next(each for each in graph.nodes if each.name == culprit.node and culprit.output in each.outputs)
    constants = {each.name: each.value for each in graph.constants}
    feed = {name: values[name] for name in dict.fromkeys(node.inputs) if name in values and name not in constants}
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    model = helper.make_model(
        helper.make_graph(
            [node.proto],
            "culprit",
            [_info(name, value) for name, value in feed.items()],
            [_info(culprit.output, values[culprit.output])],
            [
                numpy_helper.from_array(constants[name], name)
                for name in dict.fromkeys(node.inputs)
                if name in constants
            ],
        ),
        opset_imports=list(graph.model.opset_import),
        ir_version=graph.model.ir_version,
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "culprit.onnx")
    expected = known.values[culprit.output][0]
    np.savez(folder / "culprit.npz", **{f"in:{name}": value for name, value in feed.items()}, expected=expected)
    (folder / "culprit.py").write_text(
        _SCRIPT.format(
            node=culprit.node, operator=culprit.operator, module=culprit.module or "the network", output=culprit.output
        ),
        encoding="utf-8",
    )


_SCRIPT = '''"""Shows where {node} ({operator}, of {module}) differs from the network. Needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).parent
data = np.load(here / "culprit.npz")
session = ort.InferenceSession(str(here / "culprit.onnx"), providers=["CPUExecutionProvider"])
(got,) = session.run(None, {{name[3:]: data[name] for name in data.files if name.startswith("in:")}})
expected = data["expected"]
if got.shape != expected.shape:
    print(f"output {output}: shape {{list(got.shape)}} instead of {{list(expected.shape)}}")
    raise SystemExit
error = np.abs(got.astype(np.float64) - expected)
worst = np.unravel_index(int(np.argmax(error)), error.shape)
print("output {output}: largest difference", error[worst], "at", tuple(map(int, worst)))
print("  this node:  ", got[worst])
print("  the network:", expected[worst])
'''


def _info(name: str, value: Any) -> Any:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, list(value.shape))
