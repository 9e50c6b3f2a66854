"""Both ways to ONNX: what each takes, what `auto` comes to and why, and that no file is narrower than its config."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError
from pipeline.formats import capture, forward
from pipeline.formats.artifact import Written
from pipeline.formats.format import FromNetwork
from pipeline.formats.refusal import refused
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import calling, cases

ANY_LENGTH = Interface(
    (InputSpec("frames", "float32", ("batch", "time", 4)),),
    (Dimension("batch", 1, 6), Dimension("time", 1, 12)),
    ("y",),
)
ROWS = Interface((InputSpec("x", "float32", ("batch", 6)),), (Dimension("batch", 1, 16),), ("y",))
PICTURES = Interface(
    (InputSpec("image", "float32", ("batch", 2, "height")),),
    (Dimension("batch", 1, 2), Dimension("height", 9, 40)),
    ("y",),
)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layer = kind(4, 3, batch_first=True, **options)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.layer(frames)[0]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3)

    def forward(self, frames: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gru(frames, hidden)


class Padded(nn.Module):
    """Pads to a multiple of 8, which named dimensions refuse, and crops again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(2, 3, 3, 2, 1), nn.ConvTranspose1d(3, 1, 4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height = image.shape[2]
        return self.up(self.down(nn.functional.pad(image, (0, -height % 8))).relu())[:, :, :height]


class Unique(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.unique((x * 2 + 0.3).round().long())


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Decomposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


class Passing(nn.Module):
    """Gives an input as it came, one value twice, and whole numbers."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * 2
        return x, y, y, y.argmax(1)


def write(network, interface, folder, **options):
    torch.manual_seed(0)
    chosen = formats()["onnx"]
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    folder.mkdir(exist_ok=True)
    origin = FromNetwork(network.eval().requires_grad_(False), interface, examples, folder / "model.onnx", {})
    return chosen.export(origin, chosen.options.model_validate(options))


def require_right(written, network, interface):
    """Fail unless a file computes what the network does in every case that parity would draw."""
    backend = backends()["onnxruntime-cpu"]
    session = backend.open(Source(interface, written.files[0]), backend.options())
    for case in cases.sample(interface, seed=1, cap_elements=2000):
        with torch.inference_mode():
            result = network(*calling.tensors_from(case.inputs).values())
        values = [result] if isinstance(result, torch.Tensor) else result
        for (name, got), want in zip(session.run(case.inputs).items(), values, strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5, err_msg=f"{name} in {case.name}")


def test_recurrent_layers_of_any_length_are_exported_as_they_are(tmp_path):
    """Named dimensions refuse them; what was captured with these before must not be captured again."""
    network = Recurrent(nn.LSTM)
    written = write(network, ANY_LENGTH, tmp_path)
    assert (written.facts["method"], written.notes) == ("export", ())
    require_right(written, network, ANY_LENGTH)


def test_a_state_goes_in_and_out_at_every_batch_and_length(tmp_path):
    state = InputSpec("hidden", "float32", (1, "batch", 3), -1, 1, "uniform")
    frames = InputSpec("frames", "float32", ("time", "batch", 4))
    interface = Interface((frames, state), ANY_LENGTH.dimensions, ("y", "last"))
    network = Stateful()
    require_right(write(network, interface, tmp_path, method="trace"), network, interface)


def test_what_is_captured_at_one_length_is_traced_and_both_ranges_are_named(tmp_path):
    network = Recurrent(nn.RNN)
    written = write(network, ANY_LENGTH, tmp_path / "auto")
    assert written.facts["method"] == "trace"
    assert "time: declared 1 to 12, captured 3 only" in written.notes[0]
    require_right(written, network, ANY_LENGTH)
    graph = onnx.load(written.files[0]).graph
    named = {each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in (*graph.input, *graph.output)}  # fmt: skip
    assert named == {"frames": ["batch", "time", 4], "y": ["batch", "time", 3]}

    with pytest.raises(ExportError, match="declared 1 to 12, captured 3 only") as caught:
        write(Recurrent(nn.RNN), ANY_LENGTH, tmp_path / "export", method="export")
    assert "the network itself takes other sizes" in (caught.value.hint or "")


@pytest.mark.parametrize(("network", "interface"), [(Padded(), PICTURES), (Unique(), ROWS)], ids=["padded", "unique"])
def test_what_named_dimensions_refuse_is_captured_with_hints(network, interface, tmp_path):
    written = write(network, interface, tmp_path)
    assert written.facts["method"] == "export"
    require_right(written, network, interface)


def test_a_size_that_is_captured_narrower_than_declared_is_told_with_both_ranges():
    def found(network, *dimensions):
        names = tuple(each.name for each in dimensions)
        interface = Interface((InputSpec("x", "float32", names),), dimensions, ("y",))
        sizes = dict.fromkeys(names, 4)
        examples = cases.make(interface, sizes, seed=0, name="exporter").inputs
        prepared = forward.prepare(network, interface, examples)
        with pytest.raises(ExportError) as caught:
            capture.wide(prepared, interface)
        return caught.value.message

    class Few(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[0] < 10 else x

    class Square(nn.Module):
        def forward(self, x):
            return x + x.T

    assert "a: declared 2 to 40, captured 2 to 9" in found(Few(), Dimension("a", 2, 40))
    assert "a and b: declared independent, captured as one size" in found(
        Square(), *(Dimension(each, 2, 9) for each in "ab")
    )


def test_the_same_trace_has_the_same_bytes_no_path_and_every_kind_of_output(tmp_path):
    interface = Interface(ROWS.inputs, ROWS.dimensions, ("same", "twice", "again", "best"))
    network = Passing()
    first = write(network, interface, tmp_path / "first", method="trace", opset=18)
    second = write(Passing(), interface, tmp_path / "second", method="trace", opset=18)
    data = first.files[0].read_bytes()
    assert data == second.files[0].read_bytes()
    for place in (str(tmp_path), sys.prefix, __file__):
        assert place.encode() not in data
    assert next(each.version for each in onnx.load(first.files[0]).opset_import if not each.domain) == 18
    require_right(first, network, interface)


def test_a_trace_goes_up_to_an_opset_and_its_weights_may_lie_beside_it(tmp_path):
    with pytest.raises(ExportError, match="up to 20, not 21") as caught:
        write(nn.Linear(6, 2), ROWS, tmp_path / "refused", method="trace", opset=21)
    assert "method: export" in (caught.value.hint or "")
    network = nn.Linear(6, 300)
    written = write(network, ROWS, tmp_path / "beside", method="trace", external_data=True)
    assert [each.name for each in written.files] == ["model.onnx", "model.onnx.data"]
    require_right(written, network, ROWS)


def test_a_branch_on_a_value_is_told_with_its_line_what_it_is_and_what_to_do(tmp_path):
    with pytest.raises(ExportError, match=r"a branch, which follows from values at .*: if x.sum\(\) > 0") as caught:
        write(Branch(), ROWS, tmp_path / "export", method="export")
    assert "torch.where" in (caught.value.hint or "")
    written = write(Branch(), ROWS, tmp_path / "auto")
    assert "if x.sum() > 0" in written.refused
    assert any("what the example gave stays in the file" in each for each in written.notes)


def test_where_both_ways_refuse_both_reasons_are_told(tmp_path):
    with pytest.raises(ExportError, match=r"torch.onnx.export: it cannot export the operator aten.*svd.*dynamo=False") as caught:  # fmt: skip
        write(Decomposed(), ROWS, tmp_path)
    assert "return torch.linalg.svdvals(x)" in caught.value.message


def test_there_is_another_way_only_where_nobody_chose_one_and_the_first_was_taken():
    chosen = formats()["onnx"]

    def other(method, came_to):
        written = came_to and Written((), {"method": came_to})
        return chosen.alternative(chosen.options.model_validate({"method": method}), written)

    assert other("auto", "export") == other("auto", None) == {"method": "trace"}
    assert other("auto", "trace") is other("export", "export") is other("trace", "trace") is None


def test_an_operator_with_a_known_way_round_it_is_refused_with_that_way():
    said = "No ONNX function found for <OpOverload(op='transformers.grouped_mm_fallback', overload='default')>"
    refusal = refused("torch.onnx.export", RuntimeError(said), nn.Identity())
    assert "the operator transformers.grouped_mm_fallback" in refusal.message
    assert "experts_implementation='batched_mm'" in (refusal.hint or "")


class Halved(nn.Module):
    """Its second output has half of the steps, rounded up: as many as another input has at the example's sizes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(4, 3, 3, stride=2, padding=1)

    def forward(self, frames, others):
        return self.layer(frames), others.sum(2)


def test_an_axis_of_an_output_has_a_name_only_where_it_has_that_size_at_all_sizes(tmp_path):
    inputs = tuple(
        InputSpec(name, "float32", ("batch", 4, size)) for name, size in (("frames", "time"), ("others", "steps"))
    )
    dimensions = (Dimension("batch", 1, 4), Dimension("time", 3, 12), Dimension("steps", 1, 8))
    interface = Interface(inputs, dimensions, ("y", "sums"))
    network = Halved()
    written = write(network, interface, tmp_path, method="trace")
    graph = onnx.load(written.files[0]).graph
    (_, channels, steps), _ = (each.type.tensor_type.shape.dim for each in graph.output)
    assert channels.dim_value == 3
    assert steps.dim_param == "y_2"
    require_right(written, network, interface)


def test_a_file_that_the_checker_refuses_twice_is_made_the_other_way(tmp_path, monkeypatch):
    refusals = iter([onnx.checker.ValidationError("no such size")] * 2)
    check = onnx.checker.check_model

    def check_model(*arguments, **named):
        if (error := next(refusals, None)) is not None:
            raise error
        return check(*arguments, **named)

    monkeypatch.setattr(onnx.checker, "check_model", check_model)
    written = write(nn.Linear(6, 2), ROWS, tmp_path)
    assert written.facts["method"] == "trace"
    assert "onnx.checker refuses the exported model: no such size" in written.notes[0]


class Clamps(nn.Module):
    """torch's optimiser joins clamps of a clamp, and forgets what it joined them with."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (x * 2).clamp(-10, 10)
        return x.clamp(-1, 1), x.clamp(-2, 2)


def test_a_file_that_the_optimiser_broke_is_made_without_it(tmp_path):
    network = Clamps()
    interface = Interface(ROWS.inputs, ROWS.dimensions, ("y", "z"))
    written = write(network, interface, tmp_path)
    assert written.facts["method"] == "export"
    assert written.notes[0].startswith("torch.onnx's optimiser was left out: onnx.checker refuses what it made (")
    require_right(written, network, interface)


class Ignoring(nn.Module):
    def forward(self, ignored: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return x * 2


@pytest.mark.parametrize("method", ["export", "trace"])
def test_a_file_takes_the_inputs_that_nothing_uses(method, tmp_path):
    network = Ignoring()
    inputs = (InputSpec("ignored", "float64", ("batch",)), *ROWS.inputs, InputSpec("mask", "bool", ("batch", 3)))
    interface = Interface(inputs, ROWS.dimensions, ("y",))
    written = write(network, interface, tmp_path, method=method)
    given = onnx.load(written.files[0]).graph.input
    assert [each.name for each in given] == ["ignored", "x", "mask"]
    assert [each.dim_param or each.dim_value for each in given[2].type.tensor_type.shape.dim] == ["batch", 3]
    require_right(written, network, interface)


class Histogram(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(x, 4)


def test_what_the_exporters_own_code_raises_is_told_with_the_networks_line(tmp_path):
    with pytest.raises(ExportError) as caught:
        write(Histogram(), ROWS, tmp_path)
    assert "onnxscript" not in caught.value.message
    assert "torch.histc(x, 4)" in caught.value.message
