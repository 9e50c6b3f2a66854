"""Of many machines one makes a result; one that dies is replaced after a while."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.storage.store import key
from tests.storage.places import QUICK, machine, signer

ONE = key("one")
BUILDER = """
import sys, time
from pathlib import Path
from tests.storage.places import machine, signer
from pipeline.storage.store import key
url, folder, name, seconds = sys.argv[1:]
made = machine(url, Path(folder, name), signer(Path(folder), "ours"))
def fill(where):
    print("building", flush=True)
    time.sleep(float(seconds))
    (where / "model.bin").write_bytes(name.encode())
found = made.cache.get(key("one")) or made.cache.put(key("one"), fill, "a result")
print((found / "model.bin").read_text(), flush=True)
"""


@pytest.fixture
def ours(tmp_path):
    return signer(tmp_path, "ours")


def _builder(tmp_path, name, seconds):
    command = [sys.executable, "-c", BUILDER, f"file://{tmp_path}/shared", str(tmp_path), name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("ours")
def test_two_processes_make_a_result_once(tmp_path):
    with _builder(tmp_path, "a", 1.5) as first, _builder(tmp_path, "b", 1.5) as second:
        said = first.communicate(timeout=30)[0].split() + second.communicate(timeout=30)[0].split()
    assert said.count("building") == 1
    assert len({each for each in said if each != "building"}) == 1


@pytest.mark.parametrize("at", ["while it builds", "before its first beat"])
def test_a_killed_builder_is_replaced_after_its_silence_and_not_before(tmp_path, ours, at):
    if at == "while it builds":
        with _builder(tmp_path, "a", 60) as first:
            assert first.stdout.readline() == "building\n"
            time.sleep(0.3)
            os.kill(first.pid, signal.SIGKILL)
    else:
        (tmp_path / "shared" / "claims" / ONE).mkdir(parents=True)
        (tmp_path / "shared" / "claims" / ONE / "0").write_bytes(b"{}")
    began_s = time.monotonic()
    made = machine(f"file://{tmp_path}/shared", tmp_path / "b", ours)
    assert made.make(ONE) == b"model"
    assert time.monotonic() - began_s >= QUICK.silent_s
    assert made.notices == ["waiting for another machine that makes a result"]


def test_a_build_that_failed_is_taken_over_at_once(tmp_path, ours):
    first = machine(f"file://{tmp_path}/shared", tmp_path / "a", ours)
    with pytest.raises(ZeroDivisionError):
        first.cache.put(ONE, lambda _: 1 / 0)
    began_s = time.monotonic()
    assert machine(f"file://{tmp_path}/shared", tmp_path / "b", ours).make(ONE) == b"model"
    assert time.monotonic() - began_s < QUICK.silent_s


def test_what_is_done_and_cannot_be_seen_is_made_again_after_a_while(tmp_path, ours):
    machine(f"file://{tmp_path}/shared", tmp_path / "a", ours).make(ONE)
    for each in (tmp_path / "shared" / "actions" / ONE).iterdir():
        each.unlink()
    second = machine(f"file://{tmp_path}/shared", tmp_path / "b", ours)
    began_s = time.monotonic()
    assert second.make(ONE) == b"model"
    assert second.built == [ONE]
    assert time.monotonic() - began_s >= QUICK.late_s


def test_a_claim_whose_answer_was_lost_is_still_ours(tmp_path, ours):
    made = machine(f"file://{tmp_path}/shared", tmp_path / "a", ours)
    create = made.shared.objects.create

    class Losing:
        url = made.shared.objects.url
        read, names, replace, remove = (
            getattr(made.shared.objects, each) for each in ("read", "names", "replace", "remove")
        )

        def create(self, name, content):
            create(name, content)
            return not name.startswith("claims/")

    made.shared.claims._objects = Losing()
    began_s = time.monotonic()
    assert made.make(ONE) == b"model"
    assert time.monotonic() - began_s < QUICK.silent_s


def test_several_results_are_held_in_one_order_so_that_nobody_waits_for_ever(tmp_path, ours):
    names = [key(each) for each in range(4)]
    built = []

    def work(name, wanted):
        made = machine(f"file://{tmp_path}/shared", tmp_path / name, ours)
        with made.cache.held(dict.fromkeys(wanted, "one of several")):
            for each in wanted:
                if made.cache.get(each) is None:
                    built.append(each)
                    made.cache.put(each, lambda folder: (folder / "x").write_bytes(b"x"), made=True)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, "abcd", [names, names[::-1], names[2:] + names[:2], names], timeout=60):
            pass
    assert sorted(built) == sorted(names)
    assert threading.active_count() < 20


def test_a_stranger_who_builds_without_end_is_not_waited_for(tmp_path, ours):
    stranger = machine(f"file://{tmp_path}/shared", tmp_path / "a", signer(tmp_path, "stranger"))
    made = machine(f"file://{tmp_path}/shared", tmp_path / "b", ours)
    with stranger.shared.claims.turn(ONE, "theirs", lambda: False, print):
        assert made.make(ONE) == b"model"
    assert made.notices == []
