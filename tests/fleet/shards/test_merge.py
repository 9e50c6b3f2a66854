"""What several exports wrote is put together whole, checked, and once; nothing is lost, and what failed stays visible."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.fleet.shards import merge as merging
from pipeline.fleet.shards.merge import merge
from pipeline.fleet.shards.shard import ConfigRun, Record, file_name
from pipeline.release import bundle
from pipeline.release.standalone import check_files
from pipeline.storage.store import canonical_json, digest_file


def ran(root, name, at, release=None, error=None):
    """Leave a run.json as an export does."""
    (root / name).mkdir(parents=True, exist_ok=True)
    run = {"name": name, "started_at": f"2026-11-{at:02}T10:00:00.000+00:00", "exit_code": 1 if error else 0}
    run |= {"release": release.name} if release else {"error": error}
    (root / name / "run.json").write_bytes(canonical_json(run))


def export(root, content, at, **fields):
    """Write a release with all that an export leaves beside it."""
    if version := fields.get("version"):
        manifest = fields.get("manifest", content.manifest)
        fields["manifest"] = manifest | {"config": {"release": {"version": version}}}
    release = bundle.write(replace(content, **fields), root)
    ran(root, release.parent.name, at, release)
    built_from = {"parts": {}, "version": release.name, "sums_sha256": digest_file(release / "SHA256SUMS")}
    (release.parent / ".built-from.json").write_bytes(canonical_json(built_from))
    return release


def fail(root, name, at, why="parity failed"):
    """Leave what an export leaves whose gate closed."""
    ran(root, name, at, error=why)
    return bundle.write_failed(name, root, {"parity.json": why.encode()})


def contents(root):
    """Every file that is no lock, with its bytes and when it was written."""
    return {
        each.relative_to(root).as_posix(): (each.read_bytes(), each.stat().st_mtime_ns)
        for each in sorted(root.rglob("*"))
        if each.is_file() and not each.name.endswith("lock")
    }


def put_together(*given):
    *sources, out = given
    return merge(sources, out, pytest.fail)


def test_releases_of_two_machines_are_put_together_with_all_that_belongs_to_them(content, tmp_path):
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    first = export(one, content, 1)
    second = export(two, content, 2, name="other", version="1.0.0")
    failed = fail(two, "bad", 3)
    found = put_together(one, two, out)
    assert {each.name: (each.copied, each.latest) for each in found.names} == {
        "bad": ([], None), "other": (["1.0.0"], "1.0.0"), "tiny": ([first.name], first.name),
    }  # fmt: skip
    for release, root in ((first, one), (second, two)):
        copy = out / release.relative_to(root)
        assert check_files(copy) == []
        for name in ("latest", "run.json", ".built-from.json"):
            assert (copy.parent / name).read_bytes() == (release.parent / name).read_bytes()
    assert (out / "bad" / "failed" / "report" / "parity.json").read_bytes() == (
        failed / "report" / "parity.json"
    ).read_bytes()
    assert (found.failures, found.exit_code) == ({"bad": "parity failed"}, 1)


def test_a_second_merge_changes_nothing_and_says_the_same(content, tmp_path):
    one, out = tmp_path / "one", tmp_path / "out"
    export(one, content, 1)
    fail(one, "bad", 1)
    first = put_together(one, out)
    before = contents(out)
    again = put_together(one, out)
    assert contents(out) == before
    assert (again.failures, again.exit_code) == (first.failures, first.exit_code) == ({"bad": "parity failed"}, 1)
    assert all(not each.copied and not each.written for each in again.names)


def test_a_second_merge_reads_no_model(content, tmp_path, monkeypatch):
    export(tmp_path / "one", content, 1)
    put_together(tmp_path / "one", tmp_path / "out")
    monkeypatch.setattr(merging.standalone, "check_files", pytest.fail)
    put_together(tmp_path / "one", tmp_path / "out")


def test_after_a_merge_an_export_of_the_same_config_is_up_to_date(built, tmp_path, weighbridge):
    assert weighbridge("merge", built.parent.parent, "--out", tmp_path / "out").code == 0
    done = weighbridge("export", "configs/simplenet.yaml", "--out", tmp_path / "out", "--no-benchmark")
    assert done.out.startswith(f"up to date: {tmp_path / 'out' / 'simplenet' / built.name}")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_newest_run_is_latest_whatever_the_order_and_other_versions_stay(content, tmp_path, order):
    sources = tmp_path / "one", tmp_path / "two"
    export(sources[0], content, 5, version="2.0.0", sign=None)
    export(sources[1], content, 4, version="10.0.0")
    found = put_together(*(sources[each] for each in order), tmp_path / "out")
    assert found.names[0].latest == "2.0.0"
    assert found.names[0].copied == ["10.0.0", "2.0.0"]
    assert json.loads((tmp_path / "out" / "tiny" / ".built-from.json").read_text())["version"] == "2.0.0"


def test_what_is_there_and_newer_stays_latest(content, tmp_path):
    export(tmp_path / "out", content, 9, version="2.0.0")
    export(tmp_path / "one", content, 4, version="1.0.0")
    assert put_together(tmp_path / "one", tmp_path / "out").names[0].latest == "2.0.0"
    assert (tmp_path / "out" / "tiny" / "1.0.0" / "manifest.json").is_file()


def test_a_newer_run_that_failed_is_told_and_takes_no_release_away(content, tmp_path):
    export(tmp_path / "one", content, 1, version="1.0.0")
    fail(tmp_path / "two", "tiny", 2)
    found = put_together(tmp_path / "one", tmp_path / "two", tmp_path / "out")
    assert (found.names[0].latest, found.exit_code) == ("1.0.0", 1)
    assert (tmp_path / "out" / "tiny" / "failed" / "report").is_dir()
    export(tmp_path / "three", content, 3, version="1.0.0")
    assert put_together(tmp_path / "three", tmp_path / "out").exit_code == 0


def test_one_version_with_two_contents_is_refused_and_the_file_is_named(content, tmp_path, weighbridge):
    export(tmp_path / "one", content, 1, version="1.0.0")
    export(tmp_path / "two", content, 2, version="1.0.0", manifest=content.manifest | {"tools": {"weighbridge": "2"}})
    export(tmp_path / "two", content, 2, name="another")
    done = weighbridge("merge", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")
    assert done.failed_with(2, "tiny 1.0.0 was built twice", "manifest.json", str(tmp_path / "one"), "release.version")
    assert (tmp_path / "out" / "another" / "latest").is_file()
    assert not (tmp_path / "out" / "tiny" / "1.0.0").exists()


def test_one_build_with_two_reports_keeps_the_first_and_says_so(content, tmp_path):
    first = export(tmp_path / "one", content, 1)
    export(tmp_path / "two", content, 2, report={"parity.json": b"[]"})
    found = put_together(tmp_path / "one", tmp_path / "two", tmp_path / "out")
    assert "reports differ" in found.names[0].notes[0]
    assert found.exit_code == 0
    copy = tmp_path / "out" / "tiny" / first.name / "report" / "parity.json"
    assert copy.read_bytes() == (first / "report" / "parity.json").read_bytes()


@pytest.mark.parametrize("harm", ["flip", "cut", "add", "link", "report"])
def test_a_release_that_is_not_as_it_was_built_is_not_copied(content, tmp_path, harm, weighbridge):
    release = export(tmp_path / "one", content, 1)
    model = release / "model.onnx"
    if harm == "link":
        (tmp_path / "secret").write_text("x")
        model.unlink()
        model.symlink_to(tmp_path / "secret")
    elif harm == "add":
        (release / "extra.bin").write_bytes(b"x")
    elif harm == "report":
        (release / "report" / "parity.json").write_bytes(b"[]")
    else:
        content_bytes = bytearray(model.read_bytes())
        content_bytes[50] ^= 1
        model.write_bytes(content_bytes if harm == "flip" else content_bytes[:50])
    done = weighbridge("merge", tmp_path / "one", "--out", tmp_path / "out")
    assert done.failed_with(3 if harm == "link" else 1, "model.onnx" if harm in {"flip", "cut", "link"} else "")
    assert not (tmp_path / "out" / "tiny" / release.name).exists()
    assert not (tmp_path / "out" / "tiny" / "latest").exists()
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_what_was_damaged_where_it_goes_is_mended_by_a_whole_copy(content, tmp_path):
    release = export(tmp_path / "one", content, 1)
    put_together(tmp_path / "one", tmp_path / "out")
    copy = tmp_path / "out" / "tiny" / release.name
    (copy / "model.onnx").write_bytes(b"gone")
    assert "damaged, and was replaced" in put_together(tmp_path / "one", tmp_path / "out").names[0].notes[0]
    assert check_files(copy) == []


def test_a_release_in_the_folder_of_another_name_is_refused(content, tmp_path, weighbridge):
    release = export(tmp_path / "one", content, 1)
    shutil.copytree(release, tmp_path / "two" / "innocent" / release.name)
    assert weighbridge("merge", tmp_path / "two", "--out", tmp_path / "out").failed_with(1, "it is tiny")


def test_without_what_it_was_built_from_a_release_is_merged_and_that_is_said(content, tmp_path):
    release = export(tmp_path / "one", content, 1)
    (release.parent / ".built-from.json").unlink()
    found = put_together(tmp_path / "one", tmp_path / "out")
    assert "an export will build it again" in found.names[0].notes[0]
    assert found.exit_code == 0


def record(root, index, count, split, *runs, at="2026-11-01T10:00:00.000+00:00", ended=True):
    root.mkdir(parents=True, exist_ok=True)
    made = Record(schema_version=1, index=index, count=count, split=split, at=at, ended=ended, runs=runs)
    (root / file_name(index, count)).write_bytes(canonical_json(made.to_json()))


def broken(config="bad.yaml", name=None):
    return ConfigRun(config=config, name=name, version=None, exit_code=2, error="there is no key 'modle'")


def test_a_config_that_failed_in_a_shard_stays_visible_without_a_run_or_a_release(tmp_path, weighbridge):
    split = {"bad.yaml": 1, "good.yaml": 2}
    record(tmp_path / "one", 1, 2, split, broken())
    record(tmp_path / "two", 2, 2, split)
    for _ in range(2):
        done = weighbridge("merge", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")
        assert done.failed_with(1, "failed: bad.yaml: there is no key 'modle'")
    alone = weighbridge("merge", tmp_path / "out", "--out", tmp_path / "out", "--json")
    assert (alone.code, json.loads(alone.out)["failures"]) == (1, {"bad.yaml": "there is no key 'modle'"})


def test_a_later_run_that_went_well_takes_the_failure_back(content, tmp_path):
    record(tmp_path / "one", 1, 1, {"bad.yaml": 1}, broken(name="tiny"))
    export(tmp_path / "two", content, 2)
    assert put_together(tmp_path / "one", tmp_path / "two", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (None, "of 2 shards there is no 2"),
        ({"ended": False}, "shard 2 of 2 did not come to its end"),
        (
            {"split": {"a.yaml": 1, "b.yaml": 1}},
            "did not split the same configs in the same way: they differ on b.yaml",
        ),
    ],
)
def test_a_shard_that_is_missing_was_stopped_or_split_otherwise_closes_the_merge(tmp_path, second, said, weighbridge):
    split = {"a.yaml": 1, "b.yaml": 2}
    record(tmp_path / "one", 1, 2, split)
    if second is not None:
        record(tmp_path / "two", 2, 2, **{"split": split, **second})
    sources = [each for each in (tmp_path / "one", tmp_path / "two") if each.is_dir()]
    assert weighbridge("merge", *sources, "--out", tmp_path / "out").failed_with(1, said)
    if second is None:  # the other one comes later
        record(tmp_path / "late", 2, 2, split)
        assert weighbridge("merge", tmp_path / "late", "--out", tmp_path / "out").code == 0


def test_a_folder_of_such_folders_is_taken_as_a_runner_downloads_it(content, tmp_path):
    export(tmp_path / "down" / "releases-1", content, 1)
    export(tmp_path / "down" / "releases-2", content, 1, name="other")
    assert [each.name for each in put_together(tmp_path / "down", tmp_path / "out").names] == ["other", "tiny"]


def test_a_folder_with_nothing_of_an_export_is_refused(tmp_path, weighbridge):
    (tmp_path / "notes").mkdir()
    done = weighbridge("merge", tmp_path / "notes", "--out", tmp_path / "out")
    assert done.failed_with(2, "holds no release, no failed run and no record of a shard", "export --out")
    assert weighbridge("merge", tmp_path / "none", "--out", tmp_path / "out").failed_with(2, "cannot be read")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"started_at": "tomorrow", "exit_code": 0}', '{"started_at": 7}', "[" * 10_000]
)
def test_a_run_that_cannot_be_read_is_older_than_any_other(content, tmp_path, text):
    export(tmp_path / "one", content, 1, version="1.0.0")
    (tmp_path / "one" / "tiny" / "run.json").write_text(text)
    export(tmp_path / "two", content, 1, version="2.0.0")
    assert put_together(tmp_path / "one", tmp_path / "two", tmp_path / "out").names[0].latest == "2.0.0"


CHANGING = ("mkdir", "rename", "replace", "unlink")


@pytest.mark.parametrize("nth", [*range(1, 30, 2), 40, 50])
def test_killed_at_any_change_of_the_disk_nothing_is_half_there_and_the_next_merge_ends_it(content, tmp_path, nth):
    one, out = tmp_path / "one", tmp_path / "out"
    release = export(one, content, 1)
    fail(one, "bad", 1)
    child = os.fork()
    if child == 0:
        _die_at(nth)
        merge([one], out, print)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or nth >= 40
    copy = out / "tiny" / release.name
    assert not copy.exists() or check_files(copy) == []
    latest = out / "tiny" / "latest"
    assert not latest.exists() or latest.read_text() == f"{release.name}\n"
    found = put_together(one, out)
    assert found.failures == {"bad": "parity failed"}
    assert check_files(copy) == []
    expected = {name: each[0] for name, each in contents(one).items()}
    assert {name: each[0] for name, each in contents(out).items()} == expected
    assert not list(out.rglob(".tmp-*"))


def _die_at(nth):
    """Kill this process in place of the nth change of a file or folder by its name."""
    done = 0
    for name in CHANGING:
        real = getattr(Path, name)

        def change(self, *given, real=real, **named):
            nonlocal done
            done += 1
            if done == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *given, **named)

        setattr(Path, name, change)
