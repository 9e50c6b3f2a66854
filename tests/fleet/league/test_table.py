"""Every release below some folders is in the table with what it states of itself; what cannot be read is a row that says so."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

from pipeline.errors import InputError
from pipeline.fleet.league.table import collect
from pipeline.report.league import League
from pipeline.report.standings import COLUMNS, groups
from tests.fleet.releases import (
    ELSEWHERE,
    UNTIMED,
    backend,
    benchmark,
    exported,
    failed,
    parity,
    ran,
    release,
)


def table(found):
    """The rows of all tables, by their headings."""
    names = [column.heading for column in COLUMNS]
    return [
        dict(zip(names, (column.text(line) for column in COLUMNS), strict=True))
        for group in groups(found)
        for line in group.lines
    ]


def row(found, **wanted):
    (only,) = [each for each in table(found) if wanted.items() <= each.items()]
    return only


def test_a_row_has_what_a_release_states_of_an_artifact_on_a_backend(content, tmp_path):
    written = release(tmp_path, content, times=benchmark(peaks={"onnxruntime-cpu": [3_000_000, 1_000_000, 2_000_000]}))
    found = row(collect([tmp_path]), backend="onnxruntime-cpu")
    size = (written / "model.onnx").stat().st_size
    assert found == {
        "model": "tiny", "version": written.name, "artifact": "onnx", "backend": "onnxruntime-cpu", "verdict": "pass", "× noise floor": "1.5",
        "ratio": "0.50 [0.49, 0.51] faster", "latency": "1 ms", "size": f"{size} B", "memory": "2 MB", "precision": "own", "accuracy": "",
        "recommended": "", "why": "",
    }  # fmt: skip
    assert row(collect([tmp_path]), backend="eager")["ratio"] == "reference"


def test_the_table_of_a_real_release_has_its_backends(built):
    found = collect([built.parent.parent])
    assert [each["backend"] for each in table(found) if each["verdict"] == "pass"] == [
        "eager",
        "torchscript",
        "onnxruntime-cpu",
    ]
    assert row(found, backend="onnxruntime-cpu")["artifact"] == "onnx"
    assert row(found, backend="onnxruntime-cuda")["verdict"] == "unavailable"
    assert [each.title for each in groups(found)] == ["Not timed"]


def test_the_newest_of_each_name_is_shown_and_every_version_if_asked(content, tmp_path):
    for version in ("2.0.0", "1.0.0"):
        release(tmp_path, content, version=version)
    assert {each["version"] for each in table(collect([tmp_path]))} == {"1.0.0"}  # written last
    assert {each["version"] for each in table(collect([tmp_path], every=True))} == {"1.0.0", "2.0.0"}


@pytest.mark.parametrize("inside", ["", "tiny", "tiny/VERSION", ".."])
def test_releases_are_found_wherever_they_are_below_a_folder(content, tmp_path, inside):
    written = release(tmp_path / "deep" / "down", content)
    given = (tmp_path / "deep" / "down" / inside.replace("VERSION", written.name)).resolve()
    assert len(table(collect([given, given]))) == 2


def test_timings_of_two_kinds_of_nodes_are_never_in_one_table(content, tmp_path):
    release(tmp_path, content, "one")
    release(tmp_path, content, "two", times=benchmark(on=ELSEWHERE))
    release(tmp_path, content, "three")
    release(tmp_path, content, "four", times=UNTIMED)
    found = {group.title: {line.entry.name for line in group.lines} for group in groups(collect([tmp_path]))}
    epyc, xeon, untimed = found
    assert (found[epyc], found[xeon], found[untimed]) == ({"one", "three"}, {"two"}, {"four"})
    assert "EPYC" in epyc
    assert "Xeon" in xeon
    assert untimed == "Not timed"


def test_a_run_that_ended_without_a_release_is_rows_with_the_reason(tmp_path):
    failed(tmp_path)
    ran(tmp_path, "crashed", error="the exporter of onnx was ended by SIGKILL")
    rows = table(collect([tmp_path]))
    assert [(each["model"], each["verdict"], each["backend"]) for each in rows] == [
        ("bad", "no release", ""), ("bad", "fail", "onnxruntime-cpu"), ("crashed", "no release", ""),
    ]  # fmt: skip
    assert "40 × the noise floor" in rows[0]["why"]
    assert rows[1]["× noise floor"] == "40"
    assert "SIGKILL" in rows[-1]["why"]


def test_no_folder_of_the_machine_that_failed_is_in_a_table(tmp_path):
    why = "it begins at /home/me/venv/net.py:12, see https://a.b/c; the report is in /scratch/user 1/x/failed, and/or in a/b"
    judged = parity(
        backend(factor=40.0, status="fail", reason="ended; again: python /home/me/out/bad/crashes/rerun.py")
    )
    failed(tmp_path, why=why, judged=judged)
    rows = table(collect([tmp_path]))
    assert (
        rows[0]["why"]
        == "it begins at …/net.py:12, see https://a.b/c; the report is in …/user 1/x/failed, and/or in a/b"
    )
    assert rows[1]["why"] == "ended; again: python …/rerun.py"


def test_a_failure_after_a_release_is_told_beside_it_and_a_release_after_a_failure_alone(content, tmp_path):
    release(tmp_path, content, "worse")
    failed(tmp_path, "worse")
    failed(tmp_path, "better")
    release(tmp_path, content, "better")
    rows = table(collect([tmp_path]))
    assert {each["verdict"] for each in rows if each["model"] == "worse"} == {"pass", "fail", "no release"}
    assert {each["verdict"] for each in rows if each["model"] == "better"} == {"pass"}


def test_what_a_report_calls_right_and_the_manifest_does_not_list_is_not_released(content, tmp_path):
    claim = {
        "verdict": "fail",
        "variant": "x",
        "required": False,
        "file": "f",
        "sha256": "0",
        "confidence": 0.95,
        "claims": [],
    }
    judged = parity(
        backend(), backend("ort-int8", required=False), exports=[exported(), exported("int8", accuracy=claim)]
    )
    release(tmp_path, content, judged=judged)
    assert row(collect([tmp_path]), backend="ort-int8")["verdict"] == "not released"
    assert row(collect([tmp_path]), backend="onnxruntime-cpu")["verdict"] == "pass"


def test_a_format_that_refused_is_a_row(content, tmp_path):
    refused = {"name": "torchscript", "status": "refused", "reason": "a branch on values"}
    release(tmp_path, content, judged=parity(exports=[exported(), refused]))
    assert row(collect([tmp_path]), verdict="refused")["why"] == "a branch on values"


def test_an_artifact_that_no_backend_opened_is_a_row(content, tmp_path):
    release(tmp_path, content, judged=parity(exports=[exported(), exported("torchscript")]))
    assert row(collect([tmp_path]), artifact="torchscript")["verdict"] == "not run"


def recommending(digest, variant="onnxruntime-cpu", artifact="onnx", result="best"):
    choice = {"variant": variant, "backend": variant, "artifact": artifact, "options": {}}
    return {
        "schema_version": 1,
        "digest": digest,
        "objective": "latency",
        "processor": "EPYC",
        "result": result,
        "choice": choice,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "best for latency"),
        ({"result": "not told apart"}, "taken, not told apart for latency"),
        ({"digest": "0" * 64}, ""),
        ({"artifact": "torchscript"}, ""),
        ({"variant": "ort-int8"}, ""),
    ],
)
def test_what_is_recommended_is_shown_if_it_is_among_what_was_proven(content, tmp_path, change, said):
    written = release(tmp_path, content)
    digest = json.loads((written / "manifest.json").read_bytes())["digest"]
    (written / "report" / "recommended.json").write_text(json.dumps(recommending(**{"digest": digest, **change})))
    assert [each["recommended"] for each in table(collect([tmp_path])) if each["recommended"]] == (
        [said] if said else []
    )


def grow(file):
    with file.open("ab") as opened:
        opened.truncate(10**9)


def become(file, make):
    file.unlink()
    make(file)


def lose(written):
    (written.parent / "latest").write_text("../../etc\n")
    shutil.rmtree(written)


HARMS = {
    "manifest": lambda at: (at / "manifest.json").write_bytes(b"{"),
    "manifest of another kind": lambda at: (at / "manifest.json").write_text('{"schema_version": 1, "name": []}'),
    "deep": lambda at: (at / "manifest.json").write_text("[" * 100_000),
    "huge": lambda at: grow(at / "manifest.json"),
    "model": lambda at: (at / "model.onnx").unlink(),
    "cut": lambda at: (at / "model.onnx").write_bytes(b""),
    "parity": lambda at: (at / "report" / "parity.json").write_bytes(b"{}"),
    "no parity": lambda at: (at / "report" / "parity.json").unlink(),
    "no report": lambda at: shutil.rmtree(at / "report"),
    "pipe": lambda at: become(at / "report" / "benchmark.json", os.mkfifo),
    "endless": lambda at: become(at / "manifest.json", lambda file: file.symlink_to("/dev/zero")),
    "latest": lose,
}


@pytest.mark.parametrize("what", HARMS)
def test_a_damaged_or_hostile_release_is_a_row_that_says_so_and_the_others_are_shown(
    content, tmp_path, what, weighbridge
):
    HARMS[what](release(tmp_path, content, "broken"))
    release(tmp_path, content, "whole")
    done = weighbridge("league", tmp_path, "--json")
    assert done.code == 0, done.err
    found = League.from_text(done.out)
    assert {each.state for each in found.entries if each.name == "whole"} == {"released"}
    if what not in {
        "endless",
        "latest",
    }:  # without a manifest there is no release; of these, the run is all that is left
        assert row(found, model="broken", verdict="damaged")["why"]
    assert "Traceback" not in done.err


def test_what_a_stranger_wrote_is_cut_and_moves_no_cursor(content, tmp_path):
    hostile = "\x1b[2J\u202egnp.exe\r\n" + "x" * 10_000
    release(tmp_path, content, judged=parity(backend(status="unavailable", reason=hostile, required=False)))
    why = row(collect([tmp_path]), backend="onnxruntime-cpu")["why"]
    assert why.startswith("�[2J�gnp.exe  xxx")
    assert len(why) == 300


def test_what_json_prints_is_of_the_published_schema(content, tmp_path, weighbridge):
    release(tmp_path, content, times=benchmark(peaks={"onnxruntime-cpu": [1]}))
    failed(tmp_path)
    document = json.loads(weighbridge("league", tmp_path, "--against", tmp_path, "--json").out)
    published = json.loads(Path("schema/league.schema.json").read_bytes())
    assert published == json.loads(weighbridge("schema", "--of", "league").out)
    jsonschema.validate(document, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"machines": None}, published)


def test_folders_without_a_release_are_refused(tmp_path, weighbridge):
    assert weighbridge("league", tmp_path).failed_with(2, "holds no release", "weighbridge export --out")
    assert weighbridge("league", tmp_path / "none").failed_with(2, "there is no folder")
    with pytest.raises(InputError):
        collect([tmp_path])
