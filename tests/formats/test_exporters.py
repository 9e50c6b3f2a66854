"""Real exports of small networks, held against the networks themselves on sizes no exporter saw."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError
from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from tests.formats import networks

X = InputSpec("x", "float32", ("batch", 4))
BATCH = Dimension("batch", 1, 16)
ONE = Interface((X,), (BATCH,), ("y",))
TWO = Interface(
    (InputSpec("first", "float32", ("batch", 3)), InputSpec("second", "float32", ("batch", 3))),
    (BATCH,),
    ("product", "sum"),
)
FORMATS = ("torchscript", "onnx", "pt2")
RUNNERS = {".torchscript": "torchscript", ".onnx": "onnxruntime-cpu", ".pt2": "torch-export"}


def export(network, interface, format_, folder, **options):
    exporter = formats()[format_]
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    folder.mkdir(exist_ok=True)
    job = FromNetwork(
        networks.made(network),
        interface,
        examples,
        folder / exporter.file,
        {"name": "test", "weights_sha256": "0" * 64},
    )
    return exporter.export(job, exporter.options.model_validate(options))


def run(artifact, interface, inputs):
    backend = backends()[RUNNERS[artifact.files[0].suffix]]
    source = Source(interface, artifact.files[0])
    return backend.open(source, backend.options()).run(inputs)


def expected(network, interface, inputs):
    with torch.inference_mode():
        result = networks.made(network)(*(torch.from_numpy(inputs[spec.name]) for spec in interface.inputs))
    values = [result[name] for name in interface.outputs] if isinstance(result, dict) else [result]
    return dict(zip(interface.outputs, (value.numpy() for value in values), strict=True))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("network", [networks.InPlace, networks.Norm], ids=lambda each: each.__name__)
def test_an_export_computes_what_the_network_does_at_every_declared_size(format_, network, tmp_path):
    artifact = export(network(), ONE, format_, tmp_path)
    for case in cases.sample(ONE, seed=1, cap_elements=1000):
        want = expected(network(), ONE, dict(case.inputs))
        got = run(artifact, ONE, case.inputs)
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5 * np.abs(want["y"]).max())


class NamedThree(networks.Named):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)


@pytest.mark.parametrize("format_", FORMATS)
def test_dict_outputs_keep_their_names_whatever_their_order(format_, tmp_path):
    artifact = export(NamedThree(), TWO, format_, tmp_path)
    case = cases.make(TWO, {"batch": 5}, seed=2, name="dict")
    want, got = expected(NamedThree(), TWO, dict(case.inputs)), run(artifact, TWO, case.inputs)
    for name in TWO.outputs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_auto_scripts_what_can_be_scripted_and_keeps_its_control_flow(tmp_path):
    artifact = export(networks.Branch(), ONE, "torchscript", tmp_path)
    assert artifact.facts["method"] == "script"
    assert artifact.notes == ()
    for size in (1, 3, 4, 9):
        case = cases.make(ONE, {"batch": size}, seed=0, name="branch")
        want, got = expected(networks.Branch(), ONE, dict(case.inputs)), run(artifact, ONE, case.inputs)
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5)


def test_auto_traces_what_cannot_be_scripted_and_says_why(tmp_path):
    artifact = export(networks.Unscriptable(), ONE, "torchscript", tmp_path)
    assert artifact.facts["method"] == "trace"
    assert "cannot be scripted" in artifact.notes[0]


def test_script_alone_fails_with_the_reason_and_the_fix(tmp_path):
    with pytest.raises(ExportError, match=r"torch\.jit\.script") as caught:
        export(networks.Unscriptable(), ONE, "torchscript", tmp_path, method="script")
    assert "trace" in caught.value.hint


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004 - as torch calls it
        return 2 * x


class ByHand(torch.nn.Module):
    def forward(self, x):
        return _Doubled.apply(x)


def test_a_trace_that_cannot_be_saved_is_refused_in_one_line_with_the_fix(tmp_path):
    with pytest.raises(
        ExportError, match=r"torch\.jit\.trace: Could not export Python function call '_Doubled'[^\n]*$"
    ) as caught:
        export(ByHand(), ONE, "torchscript", tmp_path)
    assert "leave `torchscript` out" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_a_trace_of_a_branch_is_wrong_on_the_other_side_so_parity_has_something_to_catch(tmp_path):
    artifact = export(networks.Branch(), ONE, "torchscript", tmp_path, method="trace")
    case = cases.make(ONE, {"batch": 9}, seed=0, name="branch")
    want, got = expected(networks.Branch(), ONE, dict(case.inputs)), run(artifact, ONE, case.inputs)
    assert not np.allclose(got["y"], want["y"])


def test_onnx_has_the_names_dimensions_and_opset_of_the_config(tmp_path):
    artifact = export(NamedThree(), TWO, "onnx", tmp_path, opset=19)
    model = onnx.load(artifact.files[0])
    assert [each.name for each in model.graph.input] == ["first", "second"]
    assert {each.name for each in model.graph.output} == {"product", "sum"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert next(each.version for each in model.opset_import if each.domain == "") == 19


def test_external_data_lies_beside_the_graph_and_is_loaded_from_there(tmp_path):
    wide = torch.nn.Sequential(torch.nn.Linear(4, 300), torch.nn.Linear(300, 2))  # tiny tensors stay in the graph
    artifact = export(wide, ONE, "onnx", tmp_path, external_data=True)
    assert [file.name for file in artifact.files] == ["model.onnx", "model.onnx.data"]
    case = cases.make(ONE, {"batch": 2}, seed=0, name="external")
    want = expected(wide, ONE, dict(case.inputs))["y"]
    np.testing.assert_allclose(run(artifact, ONE, case.inputs)["y"], want, rtol=1e-4, atol=1e-4)


def test_skipping_the_decomposition_pass_changes_no_result(tmp_path, monkeypatch):
    """Where the pass has nothing to do it is left out; the graph with it must compute the same."""
    fast = export(networks.Norm(), ONE, "onnx", tmp_path / "fast")
    monkeypatch.setattr("pipeline.formats.onnx.translate._is_translatable", lambda *_: False)
    slow = export(networks.Norm(), ONE, "onnx", tmp_path / "slow")
    case = cases.make(ONE, {"batch": 7}, seed=0, name="decompose")
    np.testing.assert_array_equal(run(fast, ONE, case.inputs)["y"], run(slow, ONE, case.inputs)["y"])


def test_in_place_operators_are_never_left_undecomposed():
    from pipeline.formats.onnx.translate import _is_translatable

    batch = torch.export.Dim("batch", min=1, max=8)
    arguments = {"dynamic_shapes": ({0: batch},), "strict": False}
    mutating = torch.export.export(networks.made(networks.InPlace()), (torch.ones(2, 4),), **arguments)
    functional = torch.export.export(networks.made(torch.nn.Linear(4, 4)), (torch.ones(2, 4),), **arguments)
    assert not _is_translatable(mutating, {})
    assert _is_translatable(functional, {})
    assert not _is_translatable(functional, {torch.ops.aten.linear.default: print})


class Fixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1)


def test_a_network_that_fixes_a_dynamic_size_is_refused_with_what_to_change(tmp_path):
    class Seven(torch.nn.Module):
        def forward(self, x):
            return x + torch.ones(7, 4)

    with pytest.raises(ExportError, match=r"torch\.export") as caught:
        export(Seven(), Interface((X,), (Dimension("batch", 7, 16),), ("y",)), "onnx", tmp_path, method="export")
    assert "dimensions" in (caught.value.hint or "")
    assert "the network itself fails at batch=" in (caught.value.hint or "")


def test_the_wrong_number_of_outputs_is_named(tmp_path):
    from pipeline.errors import ArchitectureError

    interface = Interface((X,), (BATCH,), ("y", "z"))
    with pytest.raises(ArchitectureError, match=r"returns 1 outputs \(one value\), the config names 2"):
        export(networks.Norm(), interface, "onnx", tmp_path)


def test_files_hold_who_they_are_and_no_path_of_this_machine(tmp_path):
    for format_ in FORMATS:
        artifact = export(networks.Norm(), ONE, format_, tmp_path / format_)
        data = b"".join(file.read_bytes() for file in artifact.files)
        for trace in (str(tmp_path), sys.prefix, __file__):
            assert trace.encode() not in data
    metadata = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx")).get_modelmeta().custom_metadata_map
    assert metadata["weighbridge.name"] == "test"
    extra = {"weighbridge.json": ""}
    torch.jit.load(str(tmp_path / "torchscript" / "model.torchscript"), _extra_files=extra)
    assert b"test" in extra["weighbridge.json"]


def test_a_dimension_in_steps_is_exported_and_named(tmp_path):
    interface = Interface((X,), (Dimension("batch", 1, 32, 8),), ("y",))
    artifact = export(networks.Norm(), interface, "onnx", tmp_path)
    assert onnx.load(artifact.files[0]).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
