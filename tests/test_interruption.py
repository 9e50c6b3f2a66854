"""A run that is stopped or killed leaves no part of a release, and the next one needs no cleaning."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import psutil
import pytest

from pipeline.release import bundle
from pipeline.release.verify import check

STAGES = ("sample", "export", "parity", "benchmark", "release")


@contextmanager
def running(out, stage):
    """Start an export and yield its process when it has reached a stage."""
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "export",
        "configs/simplenet.yaml",
        "--out",
        str(out),
        "--set",
        "benchmark.seconds=1",
    ]
    # A test runner may have its children ignore SIGINT; a terminal does not.
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as process:
        while f"simplenet: {stage}" not in process.stderr.readline():
            assert process.poll() is None, process.stderr.read()
        yield process


def visible(out):
    """Return what a reader of the output folder sees: every release with a manifest, and `latest`."""
    folder = out / "simplenet"
    return [path for path in folder.glob("[!.]*") if path.name == "latest" or (path / "manifest.json").exists()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["export", "benchmark"])
def test_an_interrupt_ends_with_its_code_leaving_no_file_and_no_process(tmp_path, number, code, stage):
    with running(tmp_path, stage) as process:
        time.sleep(0.3)
        children = psutil.Process(process.pid).children()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_kill_9_in_any_stage_leaves_no_visible_release_and_the_next_run_succeeds(tmp_path):
    for stage in STAGES[:-1]:
        with running(tmp_path, stage) as process:
            time.sleep(0.2)
            process.kill()
        assert visible(tmp_path) == [], stage
    with running(tmp_path, "release") as process:
        process.kill()  # while the release is written: it is there whole, or not at all
    for path in visible(tmp_path):
        assert path.name == "latest" or check(path) == []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline.cli",
            "export",
            "configs/simplenet.yaml",
            "--out",
            str(tmp_path),
            "--no-benchmark",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    release = bundle.find(tmp_path / "simplenet")
    assert check(release) == []
    assert [path.name for path in (tmp_path / "simplenet").glob(".tmp-*")] == []
