"""What torch.onnx.export does needlessly is left out, and what it gives is the same."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from onnxscript.rewriter import _rewrite_rule as rewrite_rule

from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx import shortcuts
from pipeline.formats.onnx.export import export
from pipeline.formats.onnx.options import OnnxOptions
from pipeline.interface import Dimension, InputSpec, Interface

registration = pytest.importorskip("torch.onnx._internal.exporter._registration")


def told(table):
    """Return what a table says of every operator."""
    return {
        name: [(each.onnx_function, each.signature, each.is_complex, each.opset_introduced) for each in found]
        for name, found in table.functions.items()
    }


@pytest.mark.parametrize("opset", [18, shortcuts.USUAL_OPSET])
def test_it_is_what_torch_puts_together_itself(opset):
    theirs = registration.ONNXRegistry.from_torchlib(opset_version=opset)
    with shortcuts.taken():
        ours = registration.ONNXRegistry.from_torchlib(opset_version=opset)
    mine, other = told(ours), told(theirs)
    assert list(mine) == list(other)
    for name in mine:
        assert [(function, complex_, since) for function, _, complex_, since in mine[name]] == [
            (function, complex_, since) for function, _, complex_, since in other[name]
        ]
        assert [str(signature) for _, signature, *_ in mine[name]] == [
            str(signature) for _, signature, *_ in other[name]
        ]
    assert ours.opset_version == theirs.opset_version


def test_it_is_put_together_once_and_torch_is_left_as_it_was():
    before = vars(registration.ONNXRegistry)["from_torchlib"]
    shortcuts.prepare()
    with shortcuts.taken():
        first = registration.ONNXRegistry().from_torchlib(opset_version=shortcuts.USUAL_OPSET)
        assert registration.ONNXRegistry().from_torchlib(opset_version=shortcuts.USUAL_OPSET) is first
    assert vars(registration.ONNXRegistry)["from_torchlib"] is before


class Block(torch.nn.Module):
    """What the optimiser has rules for: a bias to merge, casts and slices that do nothing, a transpose, an activation."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 8)

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.norm(self.inner(x).float()))[:, :].transpose(0, 1).transpose(0, 1)
        return (torch.matmul(hidden, self.outer.weight.T) + self.outer.bias).clamp(min=0.0).reshape(x.shape[0], -1)


class Mixed(torch.nn.Module):
    """Sums of whole numbers, half and single precision, and numbers of the code: their types have to be made explicit."""

    def forward(self, x, count):
        half = (x * 2 + count).half() + 1
        return half + x, count / 3, (1.0 - count.double()) * x, torch.where(count > 1, x, 0)


BLOCK = Interface((InputSpec("x", "float32", ("batch", 8)),), (Dimension("batch", 1, 8),), ("y",))
MIXED = Interface(
    (InputSpec("x", "float32", ("batch", 8)), InputSpec("count", "int64", ("batch", 8), low=0, high=4)),
    (Dimension("batch", 1, 8),),
    ("a", "b", "c", "d"),
)


@pytest.mark.parametrize(("kind", "interface"), [(Block, BLOCK), (Mixed, MIXED)], ids=["rules", "types"])
def test_a_file_made_with_them_has_the_bytes_of_one_made_without(kind, interface, tmp_path, monkeypatch):
    torch.manual_seed(0)
    module, inputs = kind().eval(), {"x": np.ones((3, 8), np.float32), "count": np.ones((3, 8), np.int64)}
    examples = {each.name: inputs[each.name] for each in interface.inputs}
    tried = []
    whole = rewrite_rule.RewriteRule.try_rewrite
    monkeypatch.setattr(rewrite_rule.RewriteRule, "try_rewrite", lambda *a, **k: tried.append(a) or whole(*a, **k))

    def made(name):
        (tmp_path / name).mkdir()
        origin = FromNetwork(module, interface, examples, tmp_path / name / "model.onnx", {})
        return export(origin, OnnxOptions(method="export")).files[0].read_bytes()

    quickly, with_shortcuts = made("with"), len(tried)
    monkeypatch.setattr(shortcuts, "taken", nullcontext)
    tried.clear()
    assert quickly == made("without")
    assert 0 < with_shortcuts < len(tried) / 5


def test_a_version_that_lacks_what_they_need_is_done_without_them(monkeypatch):
    monkeypatch.delattr(rewrite_rule.RewriteRule, "try_rewrite")
    before = vars(registration.ONNXRegistry)["from_torchlib"]
    with shortcuts.taken():
        assert not hasattr(rewrite_rule.RewriteRule, "try_rewrite")
        assert vars(registration.ONNXRegistry)["from_torchlib"] is not before
