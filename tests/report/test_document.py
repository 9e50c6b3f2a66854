"""Reports that somebody else wrote, or that were damaged: one clear error that names the key, or a report."""

import contextlib
import copy
import json
import random
from pathlib import Path

import jsonschema
import pytest

from pipeline.errors import InputError
from pipeline.report import junit, markdown
from pipeline.report.compare import Recorded, compare
from pipeline.report.document import read
from pipeline.run.schemas import SCHEMAS
from pipeline.storage.documents import Count, Many, Number, Part


@pytest.fixture
def stored(documents, tmp_path):
    """Write the documents after a change to one of them, and return the release they are in."""

    def store(change=lambda _: None):
        (tmp_path / "report").mkdir(exist_ok=True)
        found = copy.deepcopy(documents.to_json())
        change(found)
        for name, document in found.items():
            (tmp_path / "report" / f"{name}.json").write_text(json.dumps(document))
        return tmp_path

    return store


def test_a_report_is_read_as_it_was_written(stored, documents):
    assert read(stored()) == documents


@pytest.mark.parametrize("name", ["config", "manifest", "parity", "benchmark"])
def test_the_published_schema_is_the_codes_own(name):
    assert json.loads(Path(f"schema/{name}.schema.json").read_bytes()) == SCHEMAS[name]()


@pytest.mark.parametrize("name", ["parity", "benchmark"])
def test_a_report_fits_its_published_schema_and_one_with_another_key_does_not(name, documents):
    validator = jsonschema.Draft202012Validator(SCHEMAS[name]())
    document = documents.to_json()[name]
    validator.validate(document)
    with pytest.raises(jsonschema.ValidationError, match="more"):
        validator.validate(document | {"more": 1})


def test_a_failed_report_fits_its_published_schema_too(failed):
    jsonschema.Draft202012Validator(SCHEMAS["parity"]()).validate(json.loads((failed / "parity.json").read_bytes()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each["parity"].pop("rules"), "parity.json: rules: field required"),
        (lambda each: each["parity"].update(colour="red"), "parity.json: colour: extra inputs are not permitted"),
        (lambda each: each["parity"].update(schema_version=2), "parity.json: schema_version: input should be 1"),
        (lambda each: each["parity"]["backends"][1].update(status="fine"), "parity.json: backends.1.status: input should be 'pass'"),
        (lambda each: each["parity"]["exports"][0].update(size_bytes=-1), "parity.json: exports.0.exported.size_bytes: "),
        (lambda each: each["parity"]["backends"][0]["findings"][0].update(factor="big"), "backends.0.findings.0.factor: "),
        (lambda each: each["benchmark"]["sizes"][1]["rows"][0].update(median_ms=0), "benchmark.json: sizes.1.rows.0.median_ms: "),
        (lambda each: each["benchmark"]["sizes"][0]["rows"][2].update(ratio=-1.0), "benchmark.json: sizes.0.rows.2.ratio: "),
        (lambda each: each["benchmark"]["sizes"][0]["samples"].pop("arms"), "benchmark.json: sizes.0.samples.arms: field required"),
        (lambda each: each["benchmark"]["sizes"][0]["samples"].update(schema=2), "sizes.0.samples.schema: input should be 1"),
        (lambda each: each["benchmark"]["sizes"][0]["samples"]["plan"].update(seconds=-1.0), "benchmark seconds is -1.0"),
        (lambda each: each["benchmark"]["machine"].pop("governor"), "benchmark.json: machine.governor: field required"),
        (lambda each: each["benchmark"].update(machine="mine"), "benchmark.json: machine: "),
    ],
)  # fmt: skip
def test_a_damaged_report_is_one_error_that_names_the_file_and_the_key(stored, change, said):
    release = stored(change)
    with pytest.raises(InputError) as caught:
        read(release)
    assert caught.value.message.startswith(f"{release} holds no readable report: ")
    assert said in caught.value.message
    assert caught.value.hint == "export again with --rebuild"


def test_a_report_that_was_damaged_anywhere_is_one_error_or_is_shown(stored):
    """Every reader of a report takes what was read: nothing in it may break one."""
    rng, broken = random.Random(7), 0
    for _ in range(150):
        release = stored(lambda found: _damage(found, rng))
        try:
            documents = read(release)
        except InputError:
            broken += 1
            continue
        markdown.render("net", documents)
        junit.render("net", documents.parity)
        recorded = Recorded(documents, {"onnx": 1}, None)
        with contextlib.suppress(InputError):
            compare(recorded, recorded, margin=0.05, force=True).to_json()
    assert 20 < broken < 150


def _damage(found, rng):
    """Replace one value by another kind or another number, or remove it."""
    places = list(_places(found["parity"])) + list(_places(found["benchmark"]))
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice([None, 0, -1, 1e308, 2**70, "", "x", True, [], {}, "inf", [1], {"a": 1}, 5e-324])


def _places(value):
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(each, dict | list):
            yield from _places(each[:3] if isinstance(each, list) and len(each) > 50 else each)


class Noted(Part):
    errors: Many[Number]
    count: Count | None = None


def test_what_is_not_finite_is_written_as_text_and_read_again():
    noted = Noted(errors=(float("inf"), float("-inf"), 0.5))
    assert noted.to_json() == {"errors": ["inf", "-inf", 0.5]}
    assert Noted.from_json(noted.to_json()) == noted
    assert str(Noted.from_json({"errors": ["nan"]}).errors[0]) == "nan"


@pytest.mark.parametrize("value", ["infinity", "1", [], None, True])
def test_no_other_text_is_a_number(value):
    with pytest.raises(ValueError, match=r"^errors\.0: "):
        Noted.from_json({"errors": [value]})


def test_a_list_of_nothing_but_errors_is_told_by_its_first():
    with pytest.raises(ValueError, match=r"^errors\.0: [^(]*$"):
        Noted.from_text(b'{"errors": [' + b"[]," * 1_000_000 + b"[]]}")
