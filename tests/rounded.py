"""A format that is an ONNX file with its weights rounded, as a quantised one is, and a backend that opens it; and metrics to judge it by."""

from __future__ import annotations

import math
import os
import sys

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.backends import table as backends_table
from pipeline.backends.backend import Backend
from pipeline.backends.onnxruntime import ONNXRUNTIME_CPU
from pipeline.formats import table as formats_table
from pipeline.formats.artifact import Written
from pipeline.formats.format import Format, Options


class Bits(Options):
    bits: int


def _derive(origin, options):
    """Round every matrix to whole multiples of its largest value ÷ 2^(bits − 1)."""
    model = onnx.load(origin.artifact.files[0])
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2:
            step = np.abs(values).max() / 2 ** (options.bits - 1)
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / step) * step).astype(values.dtype), tensor.name))
    onnx.save(model, origin.target)
    return Written((origin.target,), {"bits": options.bits})


ROUNDED = Format("rounded", "ONNX with rounded weights", Bits, "model.rounded", derive=_derive, derived_from="onnx")
RUNS = Backend(
    name="rounded-cpu",
    summary="onnxruntime",
    format="rounded",
    device="cpu",
    install="nothing",
    options=ONNXRUNTIME_CPU.options,
    probe=lambda: None,
    open=ONNXRUNTIME_CPU.open,
)


def install(monkeypatch):
    """Put both into their tables until the monkeypatch is undone; return what has to be called then."""
    for table, cached, each in (
        (formats_table, formats_table.formats, ROUNDED),
        (backends_table, backends_table.backends, RUNS),
    ):
        monkeypatch.setattr(table, "BUILT_IN", (*table.BUILT_IN, each))
        cached.cache_clear()

    def undo():
        monkeypatch.undo()
        formats_table.formats.cache_clear()
        backends_table.backends.cache_clear()

    return undo


def right(outputs, sample):
    return float(outputs["logits"].argmax() == sample["labels"])


def raises(outputs, _sample):
    return outputs["nothing"]


def not_a_number(_outputs, _sample):
    return math.nan


def outside(_outputs, _sample):
    return 1.5


def crashes(_outputs, _sample):
    os._exit(3)


def text(_outputs, _sample):
    return [1, 2]


def number_as_text(_outputs, _sample):
    return "0.5"


def leaves(_outputs, _sample):
    sys.exit(0)
