"""Several processes that export to one folder at once: every release is whole, and each result is made exactly once."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import partial

from tests import tiny
from tests.forking import Child, forked, together

PROCESSES = 4
ROUNDS = 4


def export_together(out, processes, rounds):
    """Let processes export the same versions, half of them under another name; hold what comes of it against the claim."""
    builds = out.parent / "builds"

    def rounds_of_one(name):
        return max(tiny.export(out, seed, partial(_note, builds, seed), name) for seed in range(rounds))

    names = [tiny.NAME, "another"]
    ended = together([partial(rounds_of_one, names[index % 2]) for index in range(processes)])
    assert [each.code for each in ended] == [0] * processes, [each.err for each in ended]
    assert Counter(builds.read_text().split()) == {str(seed): 1 for seed in range(rounds)}
    assert [len(tiny.versions(out, name)) for name in names] == [rounds, rounds]
    assert tiny.temporaries(out) == []


def _note(builds, seed, event):
    if event.status == "working":
        with builds.open("a") as file:
            file.write(f"{seed}\n")


def test_processes_that_export_the_same_build_each_result_once_and_leave_whole_releases(tmp_path):
    tiny.export(tmp_path / "warm", 0)
    export_together(tmp_path / "out", PROCESSES, ROUNDS)


def test_a_killed_holder_of_every_lock_blocks_nobody(tmp_path):
    out = tmp_path / "out"
    tiny.export(tmp_path / "warm", 0)
    building_read, building_write = os.pipe()

    def hang(event):
        if event.status == "working":  # in the middle of a result, with the locks of the run, the result and the cache
            os.write(building_write, b"x")
            time.sleep(3600)

    holder = Child.ready(lambda: tiny.export(out, 1, hang))
    holder.begin()
    os.read(building_read, 1)
    waiting = [Child.ready(lambda: tiny.export(out, 1)) for _ in range(2)]
    for child in waiting:
        child.begin()
    holder.kill()
    assert holder.end().code == -9
    assert [child.end().code for child in waiting] == [0, 0]
    assert len(tiny.versions(out)) == 1
    assert forked(lambda: tiny.export(out, 1)).code == 0
    assert tiny.temporaries(out) == []
