"""Arrays come in and go out through files; batches are split only where that changes nothing."""

from __future__ import annotations

import io
import itertools
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pipeline.errors import InputError, UnsafeError, WeighbridgeError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.release import bundle
from pipeline.release.load import Model, load_release
from pipeline.release.outputs import best, write
from pipeline.release.predict import (
    MAX_JSON_BYTES,
    predict_file,
    predict_folder,
    read_arrays,
    read_inputs,
    run,
)
from pipeline.release.standalone import read_golden
from tests.broken_arrays import SLOW_TO_MAKE, broken
from tests.weights.corpus import hostile

ONE = (InputSpec("x", "float32", ("batch", 4)),)
TWO = (InputSpec("x", "float32", ("batch", 4)), InputSpec("ids", "int64", ("batch",)))
X = np.arange(8, dtype=np.float32).reshape(2, 4)
IDS = np.array([3, 4])


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(X))
    np.save(tmp_path / "ids.npy", IDS)
    np.savez(tmp_path / "both.npz", x=X, ids=IDS)
    np.savez_compressed(tmp_path / "packed.npz", x=X)
    safetensors.numpy.save_file({"x": X, "ids": IDS}, tmp_path / "both.safetensors")
    (tmp_path / "list.json").write_text(json.dumps(X.tolist()))
    (tmp_path / "both.json").write_text(json.dumps({"x": X.tolist(), "ids": IDS.tolist()}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "specs"),
    [
        (["x.npy"], ONE),
        (["fortran.npy"], ONE),
        (["x={}x.npy"], ONE),
        (["packed.npz"], ONE),
        (["list.json"], ONE),
        (["x={}x.npy", "ids={}ids.npy"], TWO),
        (["x={}list.json", "ids={}ids.npy"], TWO),
        (["both.npz"], TWO),
        (["both.safetensors"], TWO),
        (["both.json"], TWO),
    ],
)
def test_every_kind_of_file_gives_the_same_arrays(folder, arguments, specs):
    paths = [text.format(f"{folder}/") if "=" in text else str(folder / text) for text in arguments]
    arrays = read_inputs(paths, specs)
    expected = {"x": X, "ids": IDS}
    assert arrays.keys() == {spec.name for spec in specs}
    for spec in specs:
        np.testing.assert_array_equal(arrays[spec.name], expected[spec.name])
        if "list.json" not in str(paths) or len(specs) == 1:
            assert arrays[spec.name].dtype == spec.dtype


def _npy(array, **header):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **header)
    return buffer.getvalue()


def _npy_that_says(shape, data=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def _zip(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            # A fixed date: the content is part of a test's name, which must not change with the clock.
            archive.writestr(zipfile.ZipInfo(name.replace("_npy", ".npy")), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "cannot be read as .npy"),
        ("a.npy", b"not an array", "cannot be read as .npy"),
        ("a.npy", _npy(np.array([{}], object), allow_pickle=True), "holds object, and only plain numbers"),
        ("a.npy", _npy(np.array(["text"])), "only plain numbers"),
        ("a.npy", _npy(X)[:-1], "its length says 31 bytes"),
        ("a.npy", _npy(X) + b"\0", "its length says 33 bytes"),
        ("a.npy", _npy_that_says((2**40,)), "its header says"),
        ("a.npy", _npy_that_says((-1, -1), b"\0" * 4), "its header says"),
        ("a.npz", b"PK not a zip", "cannot be read as .npz"),
        ("a.npz", _zip(x_npy=_npy(np.array([{}], object), allow_pickle=True)), "only plain numbers"),
        ("a.npz", _zip(readme=b"text"), "is no array"),
        ("a.npz", _zip(x_npy=_npy(np.zeros(10_000))), "unpack to more than"),
        ("a.safetensors", b"\xff" * 20, "cannot be read as .safetensors"),
        ("a.json", b"{", "cannot be read as .json"),
        ("a.json", b"[[1, 2], [3]]", "x holds lists of different lengths"),
        ("a.json", b"[1" + b"0" * 30 + b"]", "x holds integers of more than 64 bits"),
        ("a.json", b'["a"]', "x holds other things than numbers"),
        ("a.json", b"[" * 1500, "cannot be read as .json"),
        ("a.json", b"[1e300]", "x holds numbers that float32 does not"),
        ("a.json", b"\xff", "cannot be read as .json"),
        ("a.txt", b"", "no kind of file this reads"),
        ("a.npy", b"\0" * 20_000, "at most 10000 are read"),
    ],
)
def test_a_file_that_is_not_plain_numbers_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_inputs([str(tmp_path / name)], ONE, max_bytes=10_000)
    assert str(tmp_path / name) in caught.value.message


def test_a_json_file_that_would_fill_memory_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(InputError, match="of JSON are read") as caught:
        read_inputs([str(tmp_path / "a.json")], ONE)
    assert ".npy" in str(caught.value.hint)


def test_json_numbers_are_not_rounded_to_integers(tmp_path):
    (tmp_path / "a.json").write_text('{"ids": [1.5]}')
    with pytest.raises(InputError, match="ids holds numbers that int64 does not"):
        read_inputs([str(tmp_path / "a.json")], TWO)


def test_what_belongs_to_which_input_is_never_guessed(folder):
    with pytest.raises(InputError, match="holds one array, and the model takes x, ids"):
        read_inputs([str(folder / "x.npy")], TWO)
    with pytest.raises(InputError, match="x is given twice"):
        read_inputs([f"x={folder}/x.npy", f"{folder}/both.npz"], TWO)
    with pytest.raises(InputError, match="holds 2 arrays, and is given for x alone"):
        read_inputs([f"x={folder}/both.npz"], TWO)
    with pytest.raises(InputError, match="is not a file"):
        read_inputs([str(folder / "gone.npy")], ONE)


# Running

LARGE = np.random.default_rng(5).normal(size=(43, 4)).astype(np.float32)


def test_a_large_batch_is_split_and_joined_again(pristine, parameters):
    weight, bias = parameters
    outputs = run(load_release(pristine), {"x": LARGE})
    np.testing.assert_allclose(outputs["logits"], np.tanh(LARGE @ weight + bias), rtol=0, atol=1e-6)
    assert outputs["best"].shape == (43,)


def _model(function, specs, *dimensions):
    return Model(
        "m", "1", "function", Interface(tuple(specs), dimensions, ("y",)), lambda inputs: {"y": function(**inputs)}
    )


def test_parts_stay_within_the_declared_range_and_step():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x

    model = _model(double, ONE, Dimension("batch", 4, 12, 4))
    np.testing.assert_array_equal(run(model, {"x": LARGE[:40]})["y"], 2 * LARGE[:40])
    assert all(size in {4, 8, 12} for size in sizes)
    with pytest.raises(InputError, match="43, no multiple of 4"):
        run(model, {"x": LARGE})


def test_a_batch_on_another_axis_is_split_there_for_inputs_and_outputs():
    specs = (InputSpec("state", "float32", (2, "batch", 3)), InputSpec("x", "float32", ("batch", 4)))
    model = _model(lambda state, x: state.sum(2) + x.sum(1), specs, Dimension("batch", 1, 4))
    state = np.random.default_rng(0).normal(size=(2, 10, 3)).astype(np.float32)
    expected = state.sum(2) + LARGE[:10].sum(1)
    np.testing.assert_allclose(run(model, {"state": state, "x": LARGE[:10]})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),  # each row depends on the others
        lambda x: x.sum(0),  # no batch in the output
        lambda x: np.cumsum(x, 0),
        lambda x: np.argsort(x[:, 0]),
    ],
)
def test_what_a_split_would_change_is_refused(function):
    model = _model(function, ONE, Dimension("batch", 1, 8))
    with pytest.raises(InputError, match="batch is beyond its maximum of 8 and cannot be split"):
        run(model, {"x": LARGE})


def test_a_batch_whose_rows_were_shown_to_depend_on_one_another_is_not_split_even_if_these_would_not_show_it():
    rows = {"verdict": "dependent", "dimension": "batch", "cases": ["odd"], "output": "y", "difference": 0.4}
    model = replace(_model(lambda x: x, ONE, Dimension("batch", 1, 8)), rows=rows)
    with pytest.raises(InputError, match=r"cannot be split: rows of batch depend on one another .*output y"):
        run(model, {"x": LARGE})
    other = replace(model, rows={**rows, "dimension": "length"})
    np.testing.assert_array_equal(run(other, {"x": LARGE})["y"], LARGE)


def test_only_the_first_dimension_is_split_and_a_narrow_range_is_not():
    specs = (InputSpec("x", "float32", ("batch", "length")),)
    model = _model(lambda x: x, specs, Dimension("batch", 1, 64), Dimension("length", 1, 3))
    with pytest.raises(InputError, match="length is 4, declared is 1 to 3"):
        run(model, {"x": LARGE})
    narrow = _model(lambda x: x, ONE, Dimension("batch", 8, 8))
    with pytest.raises(InputError, match="too narrow to split"):
        run(narrow, {"x": LARGE[:16]})


def test_wrong_inputs_get_the_models_own_error():
    model = _model(lambda x: x, ONE, Dimension("batch", 1, 8))
    with pytest.raises(InputError, match="missing x"):
        run(model, {})
    with pytest.raises(InputError, match="x is float64"):
        run(model, {"x": LARGE.astype(np.float64)})


# Writing

OUTPUTS = {"logits": X, "file": IDS}


def test_every_format_is_read_back_equal(tmp_path):
    for name in ("out.npz", "out.safetensors", "out.json"):
        write(OUTPUTS, tmp_path / name)
        arrays = read_inputs([str(tmp_path / name)], TWO)
        assert arrays.keys() == OUTPUTS.keys()
        for key, array in OUTPUTS.items():
            np.testing.assert_array_equal(arrays[key], array)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["logits"], X)
    write({"y": X}, tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), X)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.npy", "out.npz", "out.safetensors"]


def test_without_a_file_outputs_are_one_json_document_on_stdout(capsys):
    write(OUTPUTS)
    assert json.loads(capsys.readouterr().out) == {"logits": X.tolist(), "file": IDS.tolist()}


def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match="y holds NaN or infinity"):
        write({"y": np.array([math.nan])}, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"a \.npy holds one array"):
        write(OUTPUTS, tmp_path / "out.npy")
    with pytest.raises(InputError, match="no kind of file this writes"):
        write(OUTPUTS, tmp_path / "out.txt")
    assert list(tmp_path.iterdir()) == []


# The best classes

LABELS = {"logits": ("cat", "dog", "cow")}


def test_the_best_classes_are_named_the_best_first():
    logits = np.array([[0.1, 2.0, -1.0], [5.0, 4.0, 4.5]], np.float32)
    found = best({"logits": logits, "best": IDS}, LABELS, 2).classes
    assert found == {
        "logits": [
            [{"label": "dog", "value": 2.0}, {"label": "cat", "value": pytest.approx(0.1)}],
            [{"label": "cat", "value": 5.0}, {"label": "cow", "value": 4.5}],
        ]
    }
    assert best({"logits": logits[0]}, LABELS, 9).classes["logits"][-1] == {"label": "cow", "value": -1.0}


@pytest.mark.parametrize(
    ("outputs", "labels", "said"),
    [
        ({"logits": np.zeros((2, 3))}, {}, "does not name the classes of logits"),
        ({"logits": np.zeros((2, 4))}, LABELS, r"shape \[2, 4\], and the release names 3 classes"),
        ({"logits": np.array([math.nan, 0, 0])}, LABELS, "NaN or infinity"),
    ],
)
def test_classes_that_cannot_be_named_are_one_error(outputs, labels, said):
    with pytest.raises(InputError, match=said):
        best(outputs, labels, 1)


def test_predict_gives_the_best_classes_of_an_example_by_name(changed, content, weighbridge, tmp_path):
    logits, other = content.manifest["outputs"]
    named = {**content.manifest, "outputs": [{**logits, "labels": ["cat", "dog", "cow"]}, other]}
    release = bundle.write(changed(manifest=named), tmp_path)
    done = weighbridge("predict", release, "--example", "--top", 1)
    (row,) = json.loads(done.out)["logits"]
    case = read_golden(release / "golden.safetensors").cases[0]
    assert row[0]["label"] == ["cat", "dog", "cow"][case.outputs["logits"][0].argmax()]
    weighbridge("predict", release, "--example", "--top", 1, "--output", tmp_path / "a.npz").failed_with(2, "a.json")
    weighbridge("predict", release, "--example", "--top", 1, "--output", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(done.out)


def test_without_inputs_or_with_two_kinds_predict_says_what_to_give(pristine, weighbridge):
    assert weighbridge("predict", pristine).failed_with(2, "there is no input", "--example")
    assert weighbridge("predict", pristine, "--example", "--input", "x.npy").failed_with(2, "both given")


# Folders


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for index in range(5):
        np.save(folder / f"{index}.npy", LARGE[index : index + 2])
    (folder / "notes.txt").write_text("not an input")
    return folder


def test_a_folder_is_run_file_by_file_with_progress(pristine, inputs, tmp_path):
    model, seen = load_release(pristine), []
    assert predict_folder(model, inputs, tmp_path / "out", lambda *each: seen.append(each)) == 5
    assert seen == [(index + 1, 5, f"{index}.npy") for index in range(5)]
    for index in range(5):
        with np.load(tmp_path / "out" / f"{index}.npz", allow_pickle=False) as loaded:
            np.testing.assert_array_equal(loaded["logits"], model(x=LARGE[index : index + 2])["logits"])


def test_without_an_output_a_folder_gives_a_json_line_for_each_file(pristine, inputs, capsys):
    predict_folder(load_release(pristine), inputs, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [f"{index}.npy" for index in range(5)]
    assert all(set(line["outputs"]) == {"logits", "best"} for line in lines)


def test_files_are_written_as_they_are_done_and_a_bad_one_is_named(pristine, inputs, tmp_path):
    np.save(inputs / "3.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match=r"3\.npy: x has shape \[2, 5\]"):
        predict_folder(load_release(pristine), inputs, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_a_folder_that_cannot_be_told_apart_or_is_empty_is_refused(pristine, inputs, tmp_path):
    (inputs / "0.json").write_text(json.dumps(LARGE[:1].tolist()))
    with pytest.raises(InputError, match=r"several files 0\.\*"):
        predict_folder(load_release(pristine), inputs, tmp_path / "out")
    with pytest.raises(InputError, match="holds no inputs"):
        predict_folder(load_release(pristine), tmp_path, None)


def test_a_place_that_cannot_take_the_outputs_is_refused_before_anything_runs(inputs, tmp_path):
    model = _model(lambda **_: pytest.fail("it ran"), ONE, Dimension("batch", 1, 8))
    with pytest.raises(InputError, match="no kind of file this writes"):
        predict_file(model, [str(inputs / "0.npy")], tmp_path / "out.txt")
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(InputError, match="is a file, and a folder's outputs go to a folder"):
        predict_folder(model, inputs, tmp_path / "out")
    with pytest.raises(InputError, match="is a folder, and a folder is run alone"):
        predict_file(model, [str(inputs), str(inputs / "0.npy")], None)


def test_the_command_takes_a_file_or_a_folder(pristine, inputs, tmp_path, weighbridge):
    done = weighbridge("predict", pristine, "--input", inputs, "--output", tmp_path / "out", "--json")
    assert json.loads(done.out) == {"output": str(tmp_path / "out"), "wrote": "5 files", "backend": "onnxruntime-cpu"}
    done = weighbridge("predict", pristine, "--input", inputs / "0.npy")
    assert set(json.loads(done.out)) == {"logits", "best"}
    assert weighbridge("predict", pristine, "--input", inputs / "0.npy", "--device", "tpu").failed_with(2, "no device")


def test_a_hostile_file_given_as_an_input_is_unsafe_whatever_its_name(tmp_path):
    marker, suffixes = tmp_path / "marker", itertools.cycle([".npy", ".npz", ".safetensors", ".json"])
    for (name, path), suffix in zip(hostile(tmp_path, marker).items(), suffixes, strict=False):
        named = path.rename(path.with_suffix(suffix))
        with pytest.raises(UnsafeError):
            read_inputs([str(named)], ONE)
        assert not marker.exists(), name


@pytest.mark.parametrize(
    ("name", "content"), [("x.json", b"[[1, 2"), ("x.npy", b"\x93NUMPY"), ("x.npz", b"PK"), ("x.safetensors", bytes(9))]
)
def test_a_broken_file_given_as_an_input_is_merely_wrong(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as"):
        read_inputs([str(tmp_path / name)], ONE)


def test_an_empty_past_in_json_is_as_wide_as_declared(tmp_path):
    spec = InputSpec("past.0.key", "float32", ("batch", 2, "past", 8))
    (tmp_path / "x.json").write_text('{"past": [{"key": [[[], []]]}]}')
    assert read_inputs([str(tmp_path / "x.json")], (spec,))["past.0.key"].shape == (1, 2, 0, 8)


def test_json_may_be_nested_as_the_network_takes_it(tmp_path):
    specs = (
        InputSpec("past.0.key", "float32", (2,)),
        InputSpec("past.0.value", "float32", (2,)),
        InputSpec("x", "float32", (1,)),
    )
    nested = {"past": [{"key": [1, 2], "value": [3, 4]}], "x": [5]}
    flat = {"past.0.key": [1, 2], "past.0.value": [3, 4], "x": [5]}
    for document in (nested, flat):
        (tmp_path / "step.json").write_text(json.dumps(document))
        found = read_inputs([str(tmp_path / "step.json")], specs)
        assert {name: each.tolist() for name, each in found.items()} == {
            name: list(map(float, each)) for name, each in flat.items()
        }


def test_a_batch_that_other_sizes_follow_from_is_not_split():
    interface = Interface(
        (InputSpec("x", "float32", ("batch", 2)), InputSpec("y", "float32", ("batch", "twice"))),
        (Dimension("batch", 1, 2), Dimension("twice", 2, 4, formula="2 * batch")),
        ("z",),
    )
    inputs = {"x": np.ones((4, 2), np.float32), "y": np.ones((4, 8), np.float32)}
    with pytest.raises(InputError, match="batch is 4, declared is 1 to 2"):
        run(Model("m", "1", "b", interface, dict), inputs)


WHOLE = {
    "no arrays", "float64", "whole numbers", "too narrow", "one axis", "no axis", "four axes", "no rows", "another name", "NaN", "infinity",
}  # fmt: skip


@pytest.mark.parametrize("what", sorted({*broken(Path("marker"))} - WHOLE - {SLOW_TO_MAKE}))
def test_whatever_is_wrong_with_a_file_of_arrays_ends_in_one_of_our_own_errors(what, tmp_path):
    wrong = broken(tmp_path / "marker")[what]
    wrong.put(tmp_path / f"x{wrong.suffix}")
    with pytest.raises(WeighbridgeError) as told:
        read_arrays(tmp_path / f"x{wrong.suffix}")
    assert told.value.exit_code in wrong.codes
    assert told.value.hint
    assert told.value.message.isprintable()
    assert not (tmp_path / "marker").exists()
