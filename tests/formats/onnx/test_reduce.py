"""Files in other precisions: made of an artifact, the same bytes each time, smaller, and nothing that was left out changed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ExportError
from pipeline.formats.artifact import Artifact
from pipeline.formats.format import FromArtifact, Ranking
from pipeline.formats.onnx.audit import audit_graph
from pipeline.formats.onnx.exact import Exact
from pipeline.formats.onnx.graph import read
from pipeline.formats.onnx.ranking import rank
from pipeline.formats.onnx.reduce import derive
from tests.formats.onnx import small

PRECISIONS = [
    ("float16", "products"), ("float16-weights", "products"), ("bfloat16-weights", "products"), ("int8", "products"),
    ("int8-dynamic", "products"), ("int8-weights", "products"), ("int4-weights", "products"), ("float16", "convolutions"),
    ("float16-weights", "convolutions"), ("int8", "convolutions"),
]  # fmt: skip


def audited(file, network):
    made, _ = small.NETWORKS[network]()
    return audit_graph(read(file), small.state(made), None)


@pytest.mark.parametrize(("precision", "network"), PRECISIONS)
def test_weights_become_smaller_and_each_is_found_again(precision, network, tmp_path):
    written, _ = small.reduced(network, tmp_path, precision=precision)
    assert written.facts["weight_bytes"] < written.facts["weight_bytes_before"]
    assert written.facts["weights_reduced"] > 0.5
    found = audited(written.files[0], network)
    assert found["passed"], found["problems"]
    assert found["share"] == 0
    assert not any(each["dtype"] != "attribute" for each in found["unaccounted"])


@pytest.mark.parametrize(("precision", "network"), PRECISIONS)
def test_the_same_bytes_in_another_folder(precision, network, tmp_path):
    first, second = (
        small.reduced(network, tmp_path / each, precision=precision)[0].files[0].read_bytes() for each in ("a", "b c")
    )
    assert first == second
    assert str(tmp_path).encode() not in first


def test_what_is_left_out_stays_as_it_is_by_node_module_and_operator(tmp_path):
    scopes = {"second": {"name_scopes": "['', 'head', 'head.second', 'matmul']"}}
    for index, pattern in enumerate(["second", "head", "head.*", "MatMul"]):
        written, _ = small.reduced(
            "products", tmp_path / str(index), scopes, precision="int8-dynamic", leave_out=(pattern,)
        )
        weights = {each.name: each for each in onnx.load(written.files[0]).graph.initializer}
        np.testing.assert_array_equal(
            numpy_helper.to_array(weights["second.weight"]), small.state(small.products()[0])["second.weight"]
        )
        assert "first.weight" not in weights
        assert written.facts["left_out"] == ["second"]


@pytest.mark.parametrize("precision", ["int8", "int4-weights", "float16-weights"])
def test_leaving_a_layer_out_holds_for_every_precision(precision, tmp_path):
    written, _ = small.reduced("products", tmp_path, precision=precision, leave_out=("first",), block_size=16)
    kept = {each.name for each in onnx.load(written.files[0]).graph.initializer if each.data_type == 1}
    assert any(name.startswith("first.weight") for name in kept)


def test_a_pattern_that_names_nothing_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ExportError, match="nothing in onnx is called 'secnd'") as told:
        small.reduced("products", tmp_path, precision="int8-dynamic", leave_out=("secnd",))
    assert "second" in told.value.message


@pytest.mark.parametrize(
    "options", [{"precision": "int4-weights"}, {"precision": "int8-weights"}, {"precision": "int8-dynamic"}]
)
def test_a_file_in_which_no_weight_became_smaller_is_refused(options, tmp_path):
    """These change products alone, and say nothing of a network that has convolutions only."""
    with pytest.raises(ExportError, match="no weight became smaller"):
        small.reduced("convolutions", tmp_path, **options)
    assert not (tmp_path / "reduced.onnx").exists()


def test_leaving_everything_out_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no weight became smaller"):
        small.reduced("products", tmp_path, precision="int8-dynamic", leave_out=("*",))


def test_static_ranges_need_real_inputs(tmp_path):
    with pytest.raises(ExportError, match="no `calibration`"):
        small.reduced("products", tmp_path, precision="int8", calibrated=False)


def _changed(file, name, change):
    made = onnx.load(file)
    tensor = next(each for each in made.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(made, file)


def _swap(file, one, other):
    made = onnx.load(file)
    for node in made.graph.node:
        node.input[:] = [{one: other, other: one}.get(name, name) for name in node.input]
    onnx.save(made, file)


def _one_more(array):
    array.flat[3] = array.flat[3] + (3 if array.flat[3] < 100 else -3)
    return array


DEFECTS = {
    "a scale twice as large": lambda file, names: _changed(file, names["scale"], lambda each: each * 2),
    "a scale of one channel 2 % off": lambda file, names: _changed(
        file,
        names["scale"],
        lambda each: each * np.where(np.arange(each.size) == 2, 1.02, 1).astype(each.dtype).reshape(each.shape),
    ),
    "a zero point off by one": lambda file, names: _changed(
        file, names["zero"], lambda each: (each + 1).astype(each.dtype)
    ),
    "a weight three steps off": lambda file, names: _changed(file, names["weight"], _one_more),
}
NAMES = {
    "int8": {"weight": "first.weight_quantized", "scale": "first.weight_scale", "zero": "first.weight_zero_point"},
    "int8-dynamic": {
        "weight": "first.weight_Transposed_quantized", "scale": "first.weight_Transposed_scale", "zero": "first.weight_Transposed_zero_point",
    },
}  # fmt: skip


@pytest.mark.parametrize("precision", NAMES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_audit_tells_what_is_not_the_weight_rounded_to_its_steps(precision, defect, tmp_path):
    written, _ = small.reduced("products", tmp_path, precision=precision)
    DEFECTS[defect](written.files[0], NAMES[precision])
    found = audited(written.files[0], "products")
    assert not found["passed"]
    (problem,) = found["problems"]
    assert problem["where"] == NAMES[precision]["weight"]
    assert problem["nearest"] == "first.weight"
    assert "steps" in problem["problem"]


def test_the_audit_tells_a_scale_that_is_coarser_than_its_weight_needs(tmp_path):
    written, _ = small.reduced("products", tmp_path, precision="int8")
    names, scales = NAMES["int8"], []
    _changed(written.files[0], names["scale"], lambda each: scales.append(each * 4) or each * 4)
    weight = small.state(small.products()[0])["first.weight"]
    _changed(written.files[0], names["weight"], lambda _: np.rint(weight / scales[0].reshape(-1, 1)).astype(np.int8))
    (problem,) = audited(written.files[0], "products")["problems"]
    assert "as coarse as first.weight needs" in problem["problem"]


@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights"])
def test_the_audit_tells_a_changed_scale_of_a_block(precision, tmp_path):
    written, _ = small.reduced("products", tmp_path, precision=precision, block_size=16)
    scales = next(each.name for each in onnx.load(written.files[0]).graph.initializer if each.name.endswith("_scales"))
    _changed(written.files[0], scales, lambda each: each * np.float32(1.3))
    assert not audited(written.files[0], "products")["passed"]


@pytest.mark.parametrize("bad", ["first", "second"])
def test_the_layer_that_costs_most_is_left_out_first(bad, tmp_path):
    """One weight a thousand times as large as the others, one scale for all of them: what is left of the others is nothing."""
    made, interface = small.products()
    tensor = next(each for each in made.graph.initializer if each.name == f"{bad}.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1000 * np.abs(values).max()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    if bad == "second":
        for each in made.graph.initializer:
            if each.name.startswith("first"):
                silent = numpy_helper.to_array(each).copy()
                silent[0] = 0
                each.CopyFrom(numpy_helper.from_array(silent, each.name))
    source = small.artifact(made, tmp_path)
    options = small.OPTIONS.model_validate({"precision": "int8-dynamic", "per_channel": False})
    origin = FromArtifact(source, interface, tmp_path / "reduced.onnx", small.IDENTITY)
    written = derive(origin, options)
    inputs = small.samples(interface, rows=16)
    inputs["x"][:, 0] = 0  # so that the one large weight itself says nothing of the output
    assert rank(Ranking(written.files[0], source.files[0], inputs)) == ((bad,), ("first", "second"))


@pytest.mark.parametrize("sides", [2, 4, 7])
def test_a_layer_whose_error_vanishes_behind_it_is_left_out_behind_one_whose_error_stays(sides, tmp_path):
    """By themselves the layers on the side paths are the worst: one weight of each leaves nothing of its others. Little of it comes out."""
    made, interface = small.side_paths(sides)
    source = small.artifact(made, tmp_path)
    options = small.OPTIONS.model_validate({"precision": "int8-dynamic", "per_channel": False})
    written = derive(FromArtifact(source, interface, tmp_path / "reduced.onnx", small.IDENTITY), options)
    inputs = small.samples(interface, rows=16)
    sets = rank(Ranking(written.files[0], source.files[0], inputs))
    assert sets[1] == ("main.0", "main.1")
    assert [len(each) for each in sets] == list(range(1, sides + 3))
    assert sets == rank(Ranking(written.files[0], source.files[0], inputs))


def test_a_layer_that_only_an_output_depends_on_which_is_not_asked_about_is_left_out_last(tmp_path):
    made, interface = small.side_paths(2)
    made.graph.output.append(helper.make_tensor_value_info("scaled.0", TensorProto.FLOAT, ["batch", 16]))
    source = small.artifact(made, tmp_path)
    options = small.OPTIONS.model_validate({"precision": "int8-dynamic", "per_channel": False})
    written = derive(FromArtifact(source, interface, tmp_path / "reduced.onnx", small.IDENTITY), options)
    inputs = small.samples(interface, rows=16)
    assert rank(Ranking(written.files[0], source.files[0], inputs))[0] == ("side.0",)
    assert rank(Ranking(written.files[0], source.files[0], inputs, ("y",)))[1] == ("main.0", "main.1")


def test_ranges_of_an_artifact_made_before_are_not_measured_again(tmp_path, monkeypatch):
    made, interface = small.products()
    source = small.artifact(made, tmp_path)

    def derived(folder, before=None, **options):
        (tmp_path / folder).mkdir()
        origin = FromArtifact(
            source, interface, tmp_path / folder / "r.onnx", small.IDENTITY, small.samples(interface), before
        )
        return derive(origin, small.OPTIONS.model_validate({"precision": "int8", **options}))

    whole, wanted = derived("whole"), derived("wanted", leave_out=("first",))
    monkeypatch.setattr(Exact, "watched", lambda *_: pytest.fail("measured again"))
    got = derived("again", Artifact("r", "onnx", whole), leave_out=("first",))
    assert got.files[0].read_bytes() == wanted.files[0].read_bytes()


def test_leaving_out_by_itself_begins_with_nothing_left_out(tmp_path):
    written, _ = small.reduced("products", tmp_path, precision="int8-dynamic", leave_out="auto")
    assert written.facts["left_out"] == []
