"""Killed at any moment, a run leaves the old release or a whole new one, and the next run ends as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests import faults, strace, tiny, tuned

needs_strace = pytest.mark.skipif(strace.unavailable() is not None, reason=str(strace.unavailable()))
SEED = 8
SAMPLE = 3


def survive_a_kill(scene, point, out):
    """Kill an export at one of its calls, and hold what is left, and the next run, against the claim."""
    scene.restored(out)
    killed = strace.run(lambda: tiny.export(out, 1), f"{point.call}:signal=KILL:when={point.nth}")
    assert killed.code == -9, f"exit {killed.code}: {killed.err}"
    hit = killed.points[-1]
    assert (hit.call, hit.nth) == (point.call, point.nth)
    tiny.require_old_or_new(scene, out)
    tiny.require_next_run_succeeds(scene, out)


@needs_strace
@pytest.mark.parametrize("has_old", [False, True], ids=["first release", "next release"])
def test_a_run_that_is_killed_at_a_call_that_changes_the_disk_leaves_no_part_of_a_release(tmp_path, has_old):
    scene = tiny.scene(tmp_path, has_old=has_old)
    assert len(scene.points) > 100
    for point in tiny.spread(scene.points, SAMPLE, SEED):
        survive_a_kill(scene, point, tmp_path / "out")


def listen():
    """Undo what a child inherits where the tests themselves were started to ignore signals (as in the background)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def stop_a_run(out, *, number, when, options=("--no-benchmark",), times=1, command="export"):
    """Send a signal to a real export as soon as `when(process)` returns; hold what follows against the claim.

    Returns how long the run took to end, in seconds.
    """
    line, environment = faults.command(command, "configs/simplenet.yaml", "--out", out, *options)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=environment, **pipes, preexec_fn=listen) as run:
        when(run)
        began_s = time.monotonic()
        for _ in range(times):
            run.send_signal(number)
            time.sleep(0.05 if times > 1 else 0.0)
        err = run.communicate(timeout=60)[1]
        took_s = time.monotonic() - began_s
    left = faults.orphans(environment)
    assert left == ()
    if run.returncode != 0:  # 0: it was done before the signal came
        assert run.returncode in {128 + number, -number}, err
    if run.returncode == 128 + number and times == 1:
        assert "run the same command again to go on" in err
        assert tiny.temporaries(out) == []
    assert "Traceback" not in err or run.returncode == -number  # before there is anything to stop
    tiny.versions(out)
    return took_s


def reading_until(words):
    """Return what waits until a run says some words."""

    def wait(run):
        while words not in run.stderr.readline():
            assert run.poll() is None

    return wait


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_signal_ends_a_run_with_its_exit_code_leaves_nothing_and_says_how_to_go_on(tmp_path, number):
    stop_a_run(tmp_path, number=number, when=reading_until("export"))
    log = json.loads((tmp_path / "simplenet" / "run.json").read_bytes())
    assert log["exit_code"] in {128 + number, 0}  # 0: it was done before the signal came


def test_a_second_signal_ends_a_run_at_once_and_its_workers_with_it(tmp_path):
    stop_a_run(tmp_path, number=signal.SIGINT, when=reading_until("export"), times=2)


@needs_strace
def test_a_tune_that_is_killed_while_it_writes_leaves_the_old_recommendation_or_the_new_one(tmp_path, built):
    scene = tuned.scene(tmp_path, built)
    exchanges = [each for each in scene.points if each.call in strace.RENAMING]
    assert exchanges
    for point in [*exchanges, *tiny.spread(scene.points, SAMPLE, SEED)]:
        tuned.survive_a_kill(scene, point, tmp_path / "out")
