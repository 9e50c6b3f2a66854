"""What a release says of itself is read by programs that know nothing of weighbridge."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from pipeline.release.manifest import schema
from pipeline.release.verify import check
from pipeline.storage.store import canonical_json, digest_file


def read(release, name):
    return json.loads((release / name).read_bytes())


@pytest.fixture(params=["tiny", "simplenet"])
def any_release(request, pristine):
    return pristine if request.param == "tiny" else request.getfixturevalue("built")


def test_the_manifest_fits_its_published_schema(any_release):
    published = json.loads(Path("schema/manifest.schema.json").read_bytes())
    assert published == schema()
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.Draft202012Validator(published).validate(read(any_release, "manifest.json"))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("weights"),
        lambda manifest: manifest.update(more=1),
        lambda manifest: manifest["files"][0].update(path="../outside"),
        lambda manifest: manifest["inputs"][0].update(shape="any"),
        lambda manifest: manifest["backends"].update(eager={"verdict": "fail"}),
    ],
)
def test_a_manifest_of_another_form_fits_neither_the_schema_nor_the_check(release, change):
    manifest = read(release, "manifest.json")
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(manifest)
    (release / "manifest.json").write_bytes(canonical_json(manifest))
    assert check(release)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own schema library
def test_the_bill_of_materials_is_valid_cyclonedx_and_names_what_the_release_is_made_of(any_release):
    text = (any_release / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = Bom.from_json(json.loads(text))
    assert bom.metadata.component.type.value == "machine-learning-model"
    manifest = read(any_release, "manifest.json")
    named = {component.name for component in bom.components}
    assert {"model.onnx", "model.torchscript", "golden.safetensors", "verify.py", manifest["weights"]["file"]} <= named
    assert manifest["tools"].keys() - {"weighbridge"} <= named
    hashes = {each.name: next(iter(each.hashes)).content for each in bom.components if each.hashes}
    assert hashes["model.onnx"] == digest_file(any_release / "model.onnx")


def test_the_bill_of_materials_states_licence_and_datasets_of_the_config(pristine):
    component = read(pristine, "sbom.cdx.json")["metadata"]["component"]
    assert component["licenses"] == [{"expression": "MIT"}]
    assert component["modelCard"]["modelParameters"]["datasets"] == [{"type": "dataset", "name": "seeded noise"}]
    assert component["description"] == "Tells three classes apart"


def test_the_provenance_is_an_in_toto_statement_about_every_other_file(any_release):
    statement = read(any_release, "provenance.json")
    manifest = read(any_release, "manifest.json")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert subjects == {
        entry["path"]: entry["sha256"] for entry in manifest["files"] if entry["path"] != "provenance.json"
    }
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["config"] == manifest["config"]
    inputs = {each["name"]: each.get("digest", {}).get("sha256") for each in definition["resolvedDependencies"]}
    assert inputs[manifest["weights"]["file"]] == manifest["weights"]["sha256"]
    assert inputs[manifest["architecture"]["name"]] == manifest["architecture"]["sha256"]


def test_the_provenance_is_read_by_in_totos_own_bindings(any_release):
    """Protobuf's JSON reader refuses a field that the published messages lack."""
    text = (any_release / "provenance.json").read_text()
    statement = Statement.copy_from_pb(json_format.Parse(text, StatementMessage()))
    statement.validate()
    predicate = json_format.ParseDict(json.loads(text)["predicate"], Provenance())
    assert predicate.build_definition.build_type == "urn:weighbridge:export:1"
    assert predicate.run_details.builder.id.startswith("pkg:pypi/weighbridge@")


def test_nothing_outside_the_report_holds_a_time(any_release):
    for name in ("manifest.json", "provenance.json", "sbom.cdx.json", "README.md"):
        text = (any_release / name).read_text()
        assert not re.search(r"20\d\d-\d\d-\d\d", text), name


def test_the_model_files_are_opened_by_who_knows_nothing_of_us_and_say_what_they_are(built):
    weights = read(built, "manifest.json")["weights"]["sha256"]
    onnx.checker.check_model(built / "model.onnx", full_check=True)
    stated = {each.key: each.value for each in onnx.load(built / "model.onnx").metadata_props}
    assert stated["weighbridge.name"] == "simplenet"
    assert stated["weighbridge.weights_sha256"] == weights
    x = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    session = onnxruntime.InferenceSession(built / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": x})
    extra = {"weighbridge.json": ""}
    module = torch.jit.load(built / "model.torchscript", _extra_files=extra)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), logits, rtol=0, atol=1e-5)
    assert json.loads(extra["weighbridge.json"]) == {"name": "simplenet", "weights_sha256": weights}
