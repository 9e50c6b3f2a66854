"""The kinds of defect that networks others wrote met in exporters and runtimes, each with a network of a few lines.

    python -m benchmarks.zoo.reproductions [PATTERN]

Exports each by hand, by both routes of plain `torch.onnx.export`, runs the file in onnxruntime and holds it against the network in
float64. Prints a line per kind and route; ends with 1 if one comes to something else than the table says, as a newer torch may.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from benchmarks.zoo import defective
from benchmarks.zoo.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    Tensors = tuple[torch.Tensor, ...]
    Sizes = dict[str, int]

ROUTES = ("dynamo", "torchscript")
_TOLERANCE = 1e-3
"""What is wrong here is off by more than a tenth."""


@dataclass(frozen=True)
class Came:
    """What an export came to: at which sizes first, and words of the message."""

    to: Literal["right", "refused", "does not load", "does not run", "wrong"]
    at: str = ""
    words: str = ""

    def __str__(self) -> str:
        return f"{self.to}{f' at {self.at}' if self.at else ''}{f' ({self.words})' if self.words else ''}"

    def covers(self, seen: Came) -> bool:
        """Return whether what was seen is what is stated here."""
        return (self.to, self.at) == (seen.to, seen.at) and self.words in seen.words


@dataclass(frozen=True)
class Kind:
    """A kind of defect: `inputs` makes inputs of given sizes, of which the first of `sizes` is the example; `axes` are the dynamic ones."""

    name: str
    sentence: str
    network: Callable[[], nn.Module]
    inputs: Callable[..., Tensors]
    sizes: tuple[Sizes, ...]
    axes: tuple[dict[int, str], ...]
    dynamo: Came
    torchscript: Came

    def stated(self, route: str) -> Came:
        """Return what a route comes to."""
        return self.dynamo if route == "dynamo" else self.torchscript


def _rows(batch: int) -> Tensors:
    return (torch.arange(batch * 4, dtype=torch.float32).reshape(batch, 4) / 3,)


def _images(batch: int) -> Tensors:
    return (_normal(batch, 3, 4),)


def _sequence(length: int) -> Tensors:
    return (_normal(2, length, 4),)


def _whole(length: int) -> Tensors:
    return *_sequence(length), torch.ones(2, length, dtype=torch.bool)


def _hidden(length: int) -> Tensors:
    mask = torch.ones(2, length, length, dtype=torch.bool)
    mask[1, 0] = False
    return _normal(2, 1, length, 4), mask


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


_BATCH, _LENGTH = ({0: "batch"},), ({1: "length"},)
_BATCHES: tuple[Sizes, ...] = ({"batch": 2}, {"batch": 1}, {"batch": 5})
_LENGTHS: tuple[Sizes, ...] = ({"length": 3}, {"length": 1}, {"length": 6})
_RIGHT = Came("right")

KINDS = (
    Kind(
        "operator of one's own",
        "An operator from torch.library has no ONNX function: transformers' mixtures of experts call one (grouped_mm_fallback).",
        defective.OwnOperator, _rows, _BATCHES, _BATCH,
        Came("refused", words="No ONNX function found for <OpOverload(op='weighbridge_reproductions.doubled'"),
        Came("refused", words="unrecognized namespace weighbridge_reproductions::doubled"),
    ),
    Kind(
        "histogram",
        "torch.histc over the range of its values is written by no route, and with a given range by the dynamo route only: mixtures of experts count by it.",
        defective.Histogram, _rows, _BATCHES, _BATCH,
        Came("refused", words="aten_histc with min == max (0.0) is not supported"),
        Came("refused", words="Exporting the operator 'aten::histc' to ONNX"),
    ),
    Kind(
        "triangular system",
        "torch.linalg.solve_triangular, of linear attention with a delta rule, is written by no route.",
        defective.Triangular, _sequence, _LENGTHS, _LENGTH,
        Came("refused", words="No ONNX function found for <OpOverload(op='aten.linalg_solve_triangular'"),
        Came("refused", words="Exporting the operator 'aten::linalg_solve_triangular' to ONNX"),
    ),
    Kind(
        "attention that hides all",
        "A row of a boolean mask that hides every position gives 0 in torch's scaled_dot_product_attention, and a mean of all positions in the dynamo route's file.",
        defective.HiddenRows, _hidden, _LENGTHS, ({2: "length"}, {1: "length", 2: "length"}),
        Came("wrong", at="length=3"),
        _RIGHT,
    ),
    Kind(
        "loop over a length",
        "A Python loop over a dynamic length runs as often in the file as for the example.",
        defective.Loop, _sequence, _LENGTHS, _LENGTH,
        Came("refused", words="tracing inferred a static shape of 3"),
        Came("does not run", at="length=1", words="indices element out of data bounds"),
    ),
    Kind(
        "list as long as the batch",
        "A list with an entry for every image of the batch is as long in the file as for the example.",
        defective.Listed, _images, _BATCHES, _BATCH,
        Came("refused", words="tracing inferred a static shape of 2"),
        Came("does not run", at="batch=1", words="Split size 1 exceeds the remaining size"),
    ),
    Kind(
        "branch on a size",
        "A branch on a dynamic size is taken in the file as for the example, and nothing is said: neither of Dim.DYNAMIC nor of a named Dim.",
        defective.BranchOnSize, _sequence, _LENGTHS, _LENGTH,
        Came("wrong", at="length=6"),
        Came("wrong", at="length=6"),
    ),
    Kind(
        "branch on values",
        "A branch on what a tensor holds is taken in a trace as for the example; torch.export refuses it.",
        defective.BranchOnValues, _rows, _BATCHES, _BATCH,
        Came("refused", words="Could not guard on data-dependent expression"),
        Came("wrong", at="batch=5"),
    ),
    Kind(
        "network that knows it is exported",
        "The network computes something else while it is exported: transformers drops a mask of ones outside of an export, and with it, in some networks, the causal part.",
        defective.Skipping, _whole, _LENGTHS, (*_LENGTH, *_LENGTH),
        Came("wrong", at="length=3"),
        Came("wrong", at="length=3"),
    ),
    Kind(
        "squeeze of more than one",
        "torch's squeeze leaves a dimension that is not 1 as it is; ONNX's Squeeze, which the dynamo route writes, must not meet one.",
        defective.Squeezed, _images, _BATCHES, _BATCH,
        Came("does not load", words="Dimension of input 2 must be 1 instead of 4"),
        _RIGHT,
    ),
    Kind(
        "several clamps of a clamp",
        "The optimiser of the dynamo route fuses each with the first, and leaves bounds out of the file that nodes take: their names are the same.",
        defective.Clamps, _rows, _BATCHES, _BATCH,
        Came("does not load", words="is not a graph input, initializer, or output of a previous node"),
        _RIGHT,
    ),
    Kind(
        "view by strides",
        "as_strided with sizes of the input: a trace writes the places of the example's elements.",
        defective.Strided, _sequence, ({"length": 6}, {"length": 2}, {"length": 10}), _LENGTH,
        Came("refused", words="No ONNX function found for <OpOverload(op='aten.sym_stride'"),
        Came("does not run", at="length=2", words="indices element out of data bounds"),
    ),
    Kind(
        "windows of what was padded",
        "unfold along a dynamic length needs, in the torchscript route, a size that padding hides from it.",
        defective.PaddedWindows, _sequence, _LENGTHS, _LENGTH,
        _RIGHT,
        Came("refused", words="ONNX export of operator Unfold, input size not accessible"),
    ),
    Kind(
        "repeat along the last dimension",
        "repeat_interleave along dimension -1 replaces, in the torchscript route, a -1 elsewhere in the network: a view then asks for another size, at the example's too.",
        defective.Repeated, _sequence, _LENGTHS, _LENGTH,
        _RIGHT,
        Came("does not run", at="length=3", words="cannot be reshaped to the requested shape"),
    ),
    Kind(
        "permutation counted from behind",
        "The torchscript route writes negative dimensions of a permute as they are, which ONNX does not have.",
        defective.Permuted, _sequence, _LENGTHS, _LENGTH,
        _RIGHT,
        Came("does not load", words="Invalid attribute perm {0, -1, -2}"),
    ),
    Kind(
        "unfold counted from behind",
        "The torchscript route unfolds along a negative dimension into another order of dimensions, and nothing is said.",
        defective.Unfolded, _images, _BATCHES, _BATCH,
        _RIGHT,
        Came("wrong", at="batch=2"),
    ),
    Kind(
        "epsilon of a hundred-millionth",
        "The dynamo route's optimiser takes a constant of 1e-8 or less for 0 and leaves the addition out: norms written by hand lose their epsilon.",
        defective.SmallEpsilon, _rows, _BATCHES, _BATCH,
        Came("wrong", at="batch=2"),
        _RIGHT,
    ),
)  # fmt: skip


def main(pattern: str = "", kinds: Sequence[Kind] = KINDS) -> int:
    """Reproduce the kinds whose names match; return 1 if one came to something else than stated."""
    different = 0
    for kind in kinds:
        if not re.search(pattern, kind.name):
            continue
        for route in ROUTES:
            stated, found = kind.stated(route), seen(kind, route)
            same = stated.covers(found)
            different += not same
            print(f"{kind.name}, {route}: {stated if same else f'{found}, and not as stated: {stated}'}", flush=True)
    return 1 if different else 0


def seen(kind: Kind, route: str) -> Came:
    """Export a kind's network by a route, run the file at every size, and return what that came to."""
    network = kind.network().eval()
    names = [f"input{index}" for index in range(len(kind.axes))]
    with tempfile.TemporaryDirectory(prefix="reproductions-") as folder:
        file = Path(folder) / "model.onnx"
        try:
            with _quiet(), torch.no_grad():
                _export(network, kind.inputs(**kind.sizes[0]), names, kind.axes, route, file)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything
            return Came("refused", words=_flat(error))
        return _run(file, network, names, kind)


def _export(
    network: nn.Module, inputs: Tensors, names: list[str], axes: tuple[dict[int, str], ...], route: str, file: Path
) -> None:
    if route == "dynamo":
        shapes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in axes)
        torch.onnx.export(
            network, inputs, str(file), input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    else:
        named = dict(zip(names, axes, strict=True))
        torch.onnx.export(
            network, inputs, str(file), input_names=names, dynamic_axes=named, dynamo=False, opset_version=18
        )


def _run(file: Path, network: nn.Module, names: list[str], kind: Kind) -> Came:
    try:
        session = opened(file)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common class
        return Came("does not load", words=_flat(error))
    taken = {each.name for each in session.get_inputs()}
    for sizes in kind.sizes:
        at, inputs = ", ".join(f"{name}={size}" for name, size in sizes.items()), kind.inputs(**sizes)
        wanted = _called(network, inputs)
        try:
            got = session.run(
                None, {name: each.numpy() for name, each in zip(names, inputs, strict=True) if name in taken}
            )
        except Exception as error:  # noqa: BLE001
            return Came("does not run", at, _flat(error))
        if not all(_near(array, tensor) for array, tensor in zip(got, wanted, strict=True)):
            return Came("wrong", at)
    return Came("right")


def _called(network: nn.Module, inputs: Tensors) -> Tensors:
    """Return what a network gives in float64."""
    with torch.no_grad():
        found = copy.deepcopy(network).double()(
            *(each.double() if each.is_floating_point() else each for each in inputs)
        )
    return found if isinstance(found, tuple) else (found,)


def _near(array: np.ndarray, tensor: torch.Tensor) -> bool:
    return array.shape == tuple(tensor.shape) and np.allclose(array, tensor.numpy(), rtol=_TOLERANCE, atol=_TOLERANCE)


def _flat(error: BaseException | None) -> str:
    """Return the messages of an error and of what caused it, on one line."""
    messages = []
    while error is not None:
        messages.append(" ".join(str(error).split()))
        error = error.__cause__
    return "; ".join(messages)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what exporters print, some of it below Python, and their warnings."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, stream)
            os.close(kept)
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main("".join(sys.argv[1:2])))
