"""What an OpenVINO file has of the quantised ONNX file that it was made from.

That file rounded the network's constants, and its audit holds each against the network. OpenVINO takes them over as they are, under their
own names where it can: whole numbers, scales and zero points, bits for bits. A QuantizeLinear becomes a FakeQuantize between the
least and the largest number that its scale and zero point can say. So what is in the one file is held against the other, not against a
network that never had it: a bound of 6 that became 5.98 there is right here, and 5.98 that became 6 here is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.known import is_floating
from pipeline.formats.ledger import Problem
from pipeline.formats.onnx import audit, kernels, quantised
from pipeline.formats.onnx.graph import read as read_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.formats.format import AuditSubject
    from pipeline.formats.ledger import Audit, Constant
    from pipeline.formats.onnx.graph import Graph as OnnxGraph
    from pipeline.formats.openvino.graph import Graph

TAKEN = "as in the file it was made from"
_BOUNDS = "FakeQuantize"
_ROUNDINGS = 4 * 2.0**-24


@dataclass(frozen=True, slots=True)
class Source:
    """An audited ONNX file: its constants by content and by name, what its whole numbers stand for, and the bounds of its steps."""

    name: str
    audit: Audit
    by_content: Mapping[tuple[str, bytes], str]
    by_name: Mapping[str, Any]
    meant: Sequence[tuple[str, Any]]
    bounds: Any

    def holds(self, constant: Constant, graph: Graph) -> str | None:
        """Return the constant of the source that one of an OpenVINO file is, or follows from; an empty name for bounds of its steps."""
        value = constant.value
        if value.dtype.kind in "OSU" or not value.size:
            return None
        if found := self.by_content.get(_content(value)):
            return found
        if not is_floating(value):
            return None
        if _only_bounds(constant, graph) and self._are_bounds(value):
            return ""
        return next((name for name, each in self.meant if each.size == value.size and _is_near(value, each)), None)

    def _are_bounds(self, value: Any) -> bool:
        wide = value.reshape(-1, 1).astype(np.float64)
        return bool(self.bounds.size and (np.abs(wide - self.bounds) <= _ROUNDINGS * np.abs(self.bounds)).any(1).all())

    def contradicts(self, constant: Constant, graph: Graph) -> Problem | None:
        """Return what is wrong with a constant that is not the source's: one under the name of the source's, or bounds that none of its steps has."""
        value, wanted = constant.value, self.by_name.get(constant.name)
        if wanted is not None and wanted.dtype == value.dtype and wanted.size == value.size:
            differing = int((value.reshape(-1) != wanted.reshape(-1)).sum())
            words = f"is not what {self.name} has under this name, which it was made from: {differing} of {value.size} elements differ"
            return Problem(constant.name, words, constant.name, differing, int(value.size))
        if self.bounds.size and is_floating(value) and _only_bounds(constant, graph):
            words = f"is {value.reshape(-1)[0]:.9g}, and no scale and zero point of {self.name}, which it was made from, gives such a bound"
            return Problem(constant.name, words, elements=int(value.size))
        return None

    def keys(self, name: str) -> tuple[str, ...]:
        """Return the tensors of the state dict that a constant of the source holds."""
        return self.audit.holds.get(name, ())

    def lacks(self, state: Mapping[str, Any]) -> set[str]:
        """Return the state dict's tensors that no constant of the source holds: whether that is right, its own audit says."""
        return {*state} - {key for keys in self.audit.holds.values() for key in keys}


def read(file: Path, subject: AuditSubject, program: Mapping[str, Any] | None) -> Source:
    """Return a quantised ONNX file, audited against the network.

    Raises:
        InputError: it is no valid ONNX model.
    """
    graph = read_onnx(file)
    found = audit.account_graph(graph, subject.state, program, subject.effect)
    return Source(
        name=file.name,
        audit=found,
        by_content={key: each.name for each in graph.constants for key in _contents(each.value)},
        by_name={each.name: each.value for each in graph.constants},
        meant=[(each.name, each.value) for each in quantised.of(graph)],
        bounds=np.array(sorted(set(_bounds(graph)))),
    )


def _contents(value: Any) -> Iterator[tuple[str, bytes]]:
    yield _content(value)
    if value.ndim == 2:
        yield _content(value.T)


def _content(value: Any) -> tuple[str, bytes]:
    return value.dtype.name, np.ascontiguousarray(value).tobytes()


def _bounds(graph: OnnxGraph) -> Iterator[float]:
    """Yield the least and the largest number of each QuantizeLinear: as whole ones, and as what they stand for."""
    constants = {each.name: each.value for each in graph.constants}
    for node in graph.nodes:
        names = [each for each in node.inputs[1:3] if each]
        if node.operator != "QuantizeLinear" or not all(each in constants for each in names):
            continue
        scale = constants[names[0]].astype(np.float64)
        zero = constants[names[1]] if len(names) > 1 else np.zeros(scale.shape, np.uint8)
        for end in kernels.RANGES[zero.dtype.name]:
            yield float(end)
            yield from (scale * (end - zero.astype(np.float64))).reshape(-1).tolist()


def _only_bounds(constant: Constant, graph: Graph) -> bool:
    users = graph.users(constant)
    return bool(users) and all(layer.type == _BOUNDS and position > 0 for layer, position in users)


def _is_near(value: Any, wanted: Any) -> bool:
    wide, flat = value.reshape(-1).astype(np.float64), wanted.reshape(-1)
    return bool((np.abs(wide - flat) <= _ROUNDINGS * np.abs(flat)).all())
