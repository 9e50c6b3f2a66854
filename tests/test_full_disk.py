"""A disk that is full, failing, read-only or elsewhere ends a run with one clear error and leaves nothing of it."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import pytest

from tests import strace, tiny, tuned
from tests.forking import forked

needs_strace = pytest.mark.skipif(strace.unavailable() is not None, reason=str(strace.unavailable()))
SEED = 8
SAMPLE = 3
SAID = {"ENOSPC": "no space left on the disk", "EIO": "the disk reports an input/output error"}
FAILING = (*strace.WRITING, *strace.SYNCING, *strace.RENAMING)
TAKING_SPACE = (*FAILING, "mkdir", "mkdirat", "openat")


def faults(scene):
    """Return every fault to inject into a scene: (point, error's name, whether it lasts)."""
    return [
        (point, error, lasts)
        for point in scene.points
        for error, calls in (("ENOSPC", TAKING_SPACE), ("EIO", FAILING))
        if point.call in calls
        for lasts in (False, True)
        if not (lasts and point.call == "openat")  # a full disk still opens what is there
    ]


def survive_a_fault(scene, fault, out):
    """Let one call of an export, or it and all that follow, fail; hold the run, what is left and the next run to the claim."""
    point, error, lasts = fault
    scene.restored(out)
    inject = f"{point.call}:error={error}:when={point.nth}{'+' if lasts else ''}"
    failed = strace.run(lambda: tiny.export(out, 1), inject)
    tiny.require_old_or_new(scene, out)
    assert tiny.temporaries(out) == []
    if failed.code == 0:  # what failed was a log or a time stamp
        assert tiny.latest_of(out) in scene.new
    else:
        require_one_error(failed, 4, SAID[error])
    tiny.require_next_run_succeeds(scene, out)


def require_one_error(ended, code, words):
    assert ended.code == code, f"exit {ended.code}: {ended.err}"
    assert ended.err.startswith("error: cannot write")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


@needs_strace
@pytest.mark.parametrize("has_old", [False, True], ids=["first release", "next release"])
def test_a_full_or_failing_disk_is_one_error_and_leaves_nothing(tmp_path, has_old):
    scene = tiny.scene(tmp_path, has_old=has_old)
    for fault in tiny.spread(faults(scene), SAMPLE, SEED):
        survive_a_fault(scene, fault, tmp_path / "out")


@contextmanager
def mounted(place, options):
    """Mount a file system in memory while the block runs."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("free_bytes", [1 << 12, 1 << 17, 1 << 18])
def test_a_disk_that_is_really_full_is_one_error_and_leaves_nothing(tmp_path, free_bytes):
    with mounted(tmp_path / "disk", "size=8m") as disk:
        (disk / "filler").write_bytes(bytes((8 << 20) - free_bytes))
        ended = forked(lambda: tiny.export(disk / "out", 1))
        require_one_error(ended, 4, "no space left on the disk")
        assert tiny.versions(disk / "out") == {}
        assert tiny.temporaries(disk / "out") == []
        (disk / "filler").unlink()
        assert forked(lambda: tiny.export(disk / "out", 1)).code == 0
        assert len(tiny.versions(disk / "out")) == 1


def test_a_read_only_target_is_an_input_error(tmp_path):
    with mounted(tmp_path / "disk", "size=8m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        require_one_error(forked(lambda: tiny.export(disk / "out", 1)), 2, "read-only")


@pytest.mark.parametrize("deep", [["n" * 300], ["n" * 200] * 25], ids=["name", "path"])
def test_a_path_too_long_is_an_input_error(tmp_path, deep):
    out = tmp_path.joinpath(*deep)
    require_one_error(forked(lambda: tiny.export(out, 1)), 2, "too long")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("apart", [".cache", tiny.NAME])
def test_a_cache_or_a_release_on_another_file_system_changes_nothing(tmp_path, apart):
    scene = tiny.scene(tmp_path, has_old=False)
    with mounted(tmp_path / "elsewhere" / apart, "size=8m") as disk:
        tiny.require_next_run_succeeds(scene, disk.parent)


@needs_strace
def test_a_full_or_failing_disk_leaves_the_old_recommendation_and_nothing_else(tmp_path, built):
    scene = tuned.scene(tmp_path, built)
    every = faults(scene)
    critical = [
        each
        for each in every
        if each[0].call in strace.RENAMING or (".lock" in each[0].text and "EEXIST" in each[0].text)
    ]
    for fault in [*critical, *every[:: len(every) // SAMPLE]]:
        tuned.survive_a_fault(scene, fault, tmp_path / "out", SAID)
