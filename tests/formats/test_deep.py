"""Deeply nested networks are exported, and nothing is left of what that took."""

import sys
import threading

import pytest
import torch
from torch import nn

from pipeline.formats.deep import with_room
from pipeline.rebuild import cases
from tests.formats.test_exporters import ONE, export, run


class Nested(nn.Module):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self.inner = Nested(levels - 1) if levels else nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 1


def test_a_network_of_many_levels_is_exported_where_pythons_recursion_ends_before(tmp_path):
    limit, stack = sys.getrecursionlimit(), threading.stack_size()
    written = export(Nested(120), ONE, "onnx", tmp_path)
    assert written.facts["method"] == "export"
    assert run(written, ONE, cases.make(ONE, {"batch": 3}, seed=0, name="deep").inputs)["y"].shape == (3, 4)
    assert (sys.getrecursionlimit(), threading.stack_size()) == (limit, stack)


def test_what_a_deep_network_raises_is_raised_where_it_was_asked_for():
    def work():
        raise LookupError(threading.current_thread().name)

    for levels in (1, 60):
        with pytest.raises(LookupError) as caught:
            with_room(Nested(levels), work)
        assert (caught.value.args == (threading.current_thread().name,)) == (levels == 1)
