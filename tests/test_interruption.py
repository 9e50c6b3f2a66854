"""Killed at any moment, a run leaves the old release or a whole new one, and the next run ends as if nothing had been."""

from __future__ import annotations

import random

import pytest

from tests import strace, tiny

pytestmark = pytest.mark.skipif(strace.unavailable() is not None, reason=str(strace.unavailable()))
SEED = 8
SAMPLE = 6


def survive_a_kill(scene, point, out):
    """Kill an export at one of its calls, and hold what is left, and the next run, against the claim."""
    scene.restored(out)
    killed = strace.run(lambda: tiny.export(out, 1), f"{point.call}:signal=KILL:when={point.nth}")
    assert killed.code == -9, f"exit {killed.code}: {killed.err}"
    hit = killed.points[-1]
    assert (hit.call, hit.nth) == (point.call, point.nth)
    tiny.require_old_or_new(scene, out)
    tiny.require_next_run_succeeds(scene, out)


@pytest.mark.parametrize("has_old", [False, True], ids=["first release", "next release"])
def test_a_run_that_is_killed_at_a_call_that_changes_the_disk_leaves_no_part_of_a_release(tmp_path, has_old):
    scene = tiny.scene(tmp_path, has_old=has_old)
    assert len(scene.points) > 100
    renames = [each for each in scene.points if each.call in strace.RENAMING]
    for point in [*renames[:2], *random.Random(SEED).sample(scene.points, SAMPLE)]:
        survive_a_kill(scene, point, tmp_path / "out")
