"""Each package is opened by what it is for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from huggingface_hub import ModelCard
from referencing import Registry
from referencing.jsonschema import DRAFT4

from pipeline.errors import DigestError, InputError
from pipeline.formats.openvino.record import OPENVINO
from pipeline.release import bundle
from pipeline.release.load import load_release
from pipeline.release.packages import KINDS, package
from pipeline.release.standalone import list_files
from pipeline.storage.store import same_tree
from tests.weights.ir import text, written

X = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)


def packaged(release, kind, tmp_path):
    return package(release, kind, tmp_path / f"{kind}{KINDS[kind].suffix}").path


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_release_gives_the_same_package_and_another_is_not_overwritten(
    pristine, content, changed, tmp_path, kind
):
    first, second = (packaged(pristine, kind, tmp_path / name) for name in ("a", "b"))
    if first.is_dir():
        assert same_tree(first, second)
    else:
        assert first.read_bytes() == second.read_bytes()
    assert packaged(pristine, kind, tmp_path / "a") == first
    narrower = {"batch": {"min": 1, "max": 4, "multiple_of": 1}}
    other = bundle.write(changed(manifest={**content.manifest, "dimensions": narrower}), tmp_path)
    with pytest.raises(InputError, match="exists and holds something else"):
        packaged(other, kind, tmp_path / "a")


@pytest.mark.parametrize("kind", ["oci", "zip"])
def test_what_is_in_the_way_stays_as_it_is(pristine, tmp_path, kind):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    (folder / "mine").mkdir(parents=True)
    for path in (file, folder):
        with pytest.raises(InputError, match=f"{path} exists and holds something else"):
            package(pristine, kind, path)
    assert file.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == [file, folder, folder / "mine"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_release_is_not_packaged(release, tmp_path, kind):
    (release / "model.onnx").write_bytes(b"")
    with pytest.raises(DigestError, match=r"model\.onnx"):
        packaged(release, kind, tmp_path)


def test_an_unknown_kind_is_named_with_the_known_ones(pristine, weighbridge):
    assert weighbridge("package", pristine, "--as", "tar").failed_with(2, "no package 'tar'", "triton, mlflow")


def test_the_command_says_where_and_what_next(pristine, weighbridge, tmp_path):
    done = json.loads(weighbridge("package", pristine, "--as", "zip", "--out", tmp_path / "a.zip", "--json").out)
    assert done["path"] == str(tmp_path / "a.zip")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-ec", done["next"]]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "ok: digests, golden cases" in ran.stdout


def test_the_help_says_what_each_kind_gives_and_under_which_name(weighbridge, pristine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = " ".join(weighbridge("package", "--help").out.split())
    for kind, each in KINDS.items():
        assert f"{kind}: a {'file' if each.suffix else 'folder'}, NAME-VERSION{each.suffix or f'-{kind}'}" in text
        path = package(pristine, kind).path
        assert path == Path(f"{pristine.parent.name}-{pristine.name}{each.suffix or f'-{kind}'}")
        assert path.is_file() == bool(each.suffix)


# Triton: its own schema, as NVIDIA publishes it (tritonclient 2.73.0, model_config.proto, BSD-3-Clause)


@pytest.fixture(scope="session")
def model_config():
    pool = descriptor_pool.DescriptorPool()
    schema = descriptor_pb2.FileDescriptorProto.FromString(Path("tests/release/triton_model_config.binpb").read_bytes())
    pool.Add(schema)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parsed(model_config, folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config())


def test_triton_reads_its_model_repository(pristine, model_config, tmp_path):
    repository = packaged(pristine, "triton", tmp_path)
    onnx = parsed(model_config, repository / "tiny")
    assert (onnx.name, onnx.platform, onnx.max_batch_size) == ("tiny", "onnxruntime_onnx", 8)
    assert onnx.HasField("dynamic_batching")
    assert [(each.name, each.data_type, list(each.dims)) for each in onnx.input] == [("x", 11, [4])]  # TYPE_FP32
    outputs = {each.name: (each.data_type, list(each.dims), list(each.reshape.shape)) for each in onnx.output}
    assert outputs == {"logits": (11, [3], []), "best": (9, [1], [])}  # TYPE_INT64
    script = parsed(model_config, repository / "tiny-torchscript")
    assert script.platform == "pytorch_libtorch"
    assert [each.name for each in (*script.input, *script.output)] == ["x__0", "logits__0", "best__1"]


@pytest.mark.parametrize("name", ["openvino", "ov-2"])
def test_triton_runs_openvino_files_by_its_backend_under_their_own_names_and_joins_no_requests(
    content, changed, model_config, tmp_path, weighbridge, name
):
    """Its backend fixes the batch at `max_batch_size` and refuses calls of fewer rows; it finds the .bin by the name of the .xml."""
    file = OPENVINO.file_of(name)
    path = written(tmp_path / "ir", text())
    bin_file = Path(file).with_suffix(".bin").name
    made = bundle.ModelFile(name, "openvino", file, path, extra_files={bin_file: path.with_suffix(".bin")})
    release = bundle.write(changed(models=(*content.models, made)), tmp_path)
    done = weighbridge("package", release, "--as", "triton", "--out", tmp_path / "repository")
    assert "on a processor with bfloat16 it computes in that" in done.err
    folder = tmp_path / "repository" / f"tiny-{name}"
    config = parsed(model_config, folder)
    assert (config.backend, config.platform, config.max_batch_size) == ("openvino", "", 0)
    assert not config.HasField("dynamic_batching")
    assert config.default_model_filename == ("" if name == "openvino" else "ov-2.xml")
    assert [(each.name, list(each.dims)) for each in config.input] == [("x", [-1, 4])]
    assert {each.name for each in (folder / "1").iterdir()} == {file, bin_file}
    assert parsed(model_config, tmp_path / "repository" / "tiny").max_batch_size == 8


def test_what_triton_would_open_is_there_and_runs(pristine, tmp_path):
    repository = packaged(pristine, "triton", tmp_path)
    session = onnxruntime.InferenceSession(repository / "tiny" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    expected = load_release(pristine)(x=X)["logits"]
    np.testing.assert_array_equal(session.run(["logits"], {"x": X})[0], expected)
    module = torch.jit.load(repository / "tiny-torchscript" / "1" / "model.pt")
    np.testing.assert_allclose(module(torch.from_numpy(X))[0].detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dimension", "batch"),
    [({"min": 2, "max": 8, "multiple_of": 1}, 0), ({"min": 1, "max": 8, "multiple_of": 4}, 0), ({"min": 1, "max": 5, "multiple_of": 1}, 5)],
)  # fmt: skip
def test_triton_batches_only_within_the_declared_range(content, changed, model_config, tmp_path, dimension, batch):
    release = bundle.write(changed(manifest={**content.manifest, "dimensions": {"batch": dimension}}), tmp_path)
    config = parsed(model_config, packaged(release, "triton", tmp_path) / "tiny")
    assert config.max_batch_size == batch
    assert config.HasField("dynamic_batching") == (batch > 0)
    assert list(config.input[0].dims) == ([4] if batch else [-1, 4])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "this release does not say whether rows of batch depend on one another"),
        ({"verdict": "dependent", "dimension": "batch", "cases": ["odd"], "output": "logits", "difference": 0.37}, "output logits of a row changes by 0.37 × its largest value"),
        ({"verdict": "not shown", "dimension": "batch", "cases": [], "reason": "no case has two rows of batch"}, "no case has two rows of batch"),
        ({"verdict": "independent", "dimension": "length", "cases": ["odd"]}, "it was asked of length"),
    ],
)  # fmt: skip
def test_triton_joins_no_requests_whose_rows_were_not_shown_to_be_independent(
    content, changed, model_config, tmp_path, weighbridge, rows, words
):
    release = bundle.write(changed(manifest={**content.manifest, "rows": rows}), tmp_path)
    done = weighbridge("package", release, "--as", "triton", "--out", tmp_path / "repository")
    config = parsed(model_config, tmp_path / "repository" / "tiny")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert list(config.input[0].dims) == [-1, 4]
    assert words in (tmp_path / "repository" / "tiny" / "config.pbtxt").read_text().splitlines()[0]
    assert words in done.err


# MLflow: its loader and server are in test_mlflow.py


def test_the_mlflow_model_states_what_its_loader_reads(pristine, tmp_path):
    folder = packaged(pristine, "mlflow", tmp_path)
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert model["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    assert (folder / model["flavors"]["onnx"]["data"]).read_bytes() == (pristine / "model.onnx").read_bytes()
    (entry,) = json.loads(model["signature"]["inputs"])
    assert entry == {"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}


def test_mlflow_takes_no_release_without_onnx(content, changed, tmp_path):
    release = bundle.write(changed(models=content.models[1:]), tmp_path)
    with pytest.raises(InputError, match="takes the ONNX model"):
        packaged(release, "mlflow", tmp_path)


# Hugging Face


def test_the_hubs_folder_has_a_card_with_figures_and_a_release_that_verifies(built, tmp_path):
    folder = packaged(built, "huggingface", tmp_path)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert "| onnxruntime-cpu | " in card.text.partition("## Measured")[2]
    done = subprocess.run([sys.executable, "-I", folder / "release" / "verify.py"], capture_output=True, check=False)
    assert done.returncode == 0


def test_the_hubs_card_states_latencies_where_the_release_was_timed(changed, tmp_path):
    row = {"name": "onnxruntime-cpu", "median_ms": 0.0123, "verdict": "faster"}
    timed = {"sizes": [{"sizes": {"batch": 1}, "control": "eager (again)", "rows": [row]}]}
    release = bundle.write(changed(report={"benchmark.json": json.dumps(timed).encode()}), tmp_path)
    assert (
        "| onnxruntime-cpu | 0.0123 | faster |"
        in (packaged(release, "huggingface", tmp_path) / "README.md").read_text()
    )


# OCI: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
# Schemas as published: image-spec 13cff54, and the config's of model-spec d78bf32 (both Apache-2.0)

SCHEMAS = {path.name: json.loads(path.read_bytes()) for path in Path("tests/release/oci").glob("*.json")}


@pytest.fixture(scope="module")
def conforms():
    """A function that holds a document against a published schema, named by its file."""
    resources = [(name, DRAFT4.create_resource(schema)) for name, schema in SCHEMAS.items()]
    # A reference is relative to its schema's id, whose last part is another name than the file's.
    bases = ("", "https://opencontainers.org/schema/", "https://opencontainers.org/schema/image/")
    registry = Registry().with_resources([(f"{base}{name}", each) for base in bases for name, each in resources])

    def check(document, name):
        jsonschema.validators.validator_for(SCHEMAS[name])(SCHEMAS[name], registry=registry).validate(document)

    return check


def follow(layout, descriptor):
    """Return a descriptor's blob, its digest and size checked."""
    algorithm, _, digest = descriptor["digest"].partition(":")
    blob = (layout / "blobs" / algorithm / digest).read_bytes()
    assert hashlib.new(algorithm, blob).hexdigest() == digest
    assert len(blob) == descriptor["size"]
    return blob


def unpack(layout, folder):
    """Check an image layout as its specification has it; write its layers where their annotations say."""
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    (descriptor,) = index["manifests"]
    manifest = json.loads(follow(layout, descriptor))
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, descriptor["mediaType"])
    config = json.loads(follow(layout, manifest["config"]))
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    for layer in manifest["layers"]:
        path = folder / layer["annotations"]["org.cncf.model.filepath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(follow(layout, layer))
    reachable = {each["digest"] for each in (descriptor, manifest["config"], *manifest["layers"])}
    assert reachable == {f"sha256:{path.name}" for path in (layout / "blobs" / "sha256").iterdir()}
    return manifest


def test_the_oci_layout_is_valid_and_unpacks_to_the_release(pristine, tmp_path):
    manifest = unpack(packaged(pristine, "oci", tmp_path), tmp_path / "unpacked")
    assert same_tree(pristine, tmp_path / "unpacked")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    types = {each["annotations"]["org.cncf.model.filepath"]: each["mediaType"] for each in manifest["layers"]}
    assert types["model.onnx"] == "application/vnd.cncf.model.weight.v1.raw"
    assert types["README.md"] == "application/vnd.cncf.model.doc.v1.raw"


def test_the_oci_layout_fits_the_schemas_that_image_spec_and_model_spec_publish(pristine, conforms, tmp_path):
    layout = packaged(pristine, "oci", tmp_path)
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(follow(layout, index["manifests"][0]))
    conforms(json.loads((layout / "oci-layout").read_bytes()), "image-layout-schema.json")
    conforms(index, "image-index-schema.json")
    conforms(manifest, "image-manifest-schema.json")
    conforms(json.loads(follow(layout, manifest["config"])), "model-config-schema.json")
    for wrong in ({"size": -1}, {"digest": "sha256:"}, {"mediaType": "none"}):
        with pytest.raises(jsonschema.ValidationError):
            conforms({**manifest, "config": {**manifest["config"], **wrong}}, "image-manifest-schema.json")


def test_a_changed_blob_is_not_a_valid_layout(pristine, tmp_path):
    layout = packaged(pristine, "oci", tmp_path)
    blob = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with pytest.raises(AssertionError):
        unpack(layout, tmp_path / "unpacked")


# zip


def test_the_zip_unpacks_to_the_release(pristine, tmp_path):
    with zipfile.ZipFile(packaged(pristine, "zip", tmp_path)) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "unpacked")
    root = tmp_path / "unpacked" / f"tiny-{pristine.name}"
    assert same_tree(pristine, root)
    assert list_files(root) == list_files(pristine)


def test_weights_beside_the_graph_travel_along(content, changed, tmp_path):
    """Triton takes model.onnx.data beside the model; MLflow's package cannot, and says so."""
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    onnx = replace(
        content.models[0],
        extra_files={"model.onnx.data": tmp_path / "model.onnx.data"},
        facts={"opset": 20, "external_data": True},
    )
    release = bundle.write(changed(models=(onnx, content.models[1])), tmp_path / "out")
    assert (packaged(release, "triton", tmp_path) / "tiny" / "1" / "model.onnx.data").is_file()
    with pytest.raises(InputError, match=r"keeps them beside it") as caught:
        packaged(release, "mlflow", tmp_path)
    assert "external_data: false" in str(caught.value.hint)


def test_the_default_place_is_named_after_the_release(pristine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pristine, tmp_path / "here")
    assert package(tmp_path / "here", "oci").path == Path(f"tiny-{pristine.name}-oci")
    assert package(tmp_path / "here", "zip").path == Path(f"tiny-{pristine.name}.zip")
