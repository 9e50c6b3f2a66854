"""The table of translations is the one that torch puts together, and is put together once."""

import pytest

from pipeline.formats.onnx import torchlib

registration = pytest.importorskip("torch.onnx._internal.exporter._registration")


def told(table):
    """Return what a table says of every operator."""
    return {
        name: [(each.onnx_function, each.signature, each.is_complex, each.opset_introduced) for each in found]
        for name, found in table.functions.items()
    }


@pytest.mark.parametrize("opset", [18, torchlib.USUAL_OPSET])
def test_it_is_what_torch_puts_together_itself(opset):
    theirs = registration.ONNXRegistry.from_torchlib(opset_version=opset)
    with torchlib.shared():
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
    torchlib.prepare()
    with torchlib.shared():
        first = registration.ONNXRegistry().from_torchlib(opset_version=torchlib.USUAL_OPSET)
        assert registration.ONNXRegistry().from_torchlib(opset_version=torchlib.USUAL_OPSET) is first
    assert vars(registration.ONNXRegistry)["from_torchlib"] is before
