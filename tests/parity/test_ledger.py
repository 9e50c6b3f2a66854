"""The ledger of torch's modules still tells what becomes of them, and its sweep survives every one."""

import json
import os
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from benchmarks import module_ledger
from benchmarks.module_ledger import BACKENDS, VERDICTS, verdict
from pipeline.worker.inprocess import InProcessRunner
from pipeline.worker.process import LocalRunner


@pytest.fixture(scope="module")
def ledger():
    return json.loads(module_ledger.LEDGER.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(ledger):
    """Two entries that pass, one that ONNX refuses and one with a mismatch, examined now."""
    rng = random.Random(8)
    of = {kind: [each["module"] for each in ledger["entries"] if verdict(each["onnx"]) == kind] for kind in VERDICTS}
    names = [*rng.sample(of["pass"], 2), *rng.sample(of["refused"], 1), *rng.sample(of["mismatch"], 1)]
    with pytest.MonkeyPatch.context() as patch:  # torch's own list takes six seconds to import, in each process
        patch.setattr(module_ledger, "RUNNER", InProcessRunner(packages=("benchmarks",)))
        return list(module_ledger.sweep(names))


def test_a_seeded_sample_fares_as_the_ledger_says(ledger, found):
    before = {each["module"]: each for each in ledger["entries"]}
    for each in found:
        was = before[each["module"]]
        assert {kind: verdict(each[kind]) for kind in BACKENDS} == {kind: verdict(was[kind]) for kind in BACKENDS}, each


def test_the_check_notices_whatever_fares_worse_and_names_it(ledger, found, capsys):
    assert module_ledger.check(found, ledger) == 0
    assert "0 fare worse than in the ledger, 0 better" in capsys.readouterr().out
    refused = next(each for each in found if verdict(each["onnx"]) == "refused")
    once = [each | {"onnx": "pass"} if each["module"] == refused["module"] else each for each in ledger["entries"]]
    assert module_ledger.check(found, ledger | {"entries": once}) == 1
    assert f"worse: {refused['module']}, onnx: refused" in capsys.readouterr().out


def test_the_ledger_holds_every_entry_of_module_db_once_with_a_known_verdict_and_no_crash(ledger):
    assert [each["module"] for each in ledger["entries"]] == module_ledger.entries()
    for kind in BACKENDS:
        verdicts = Counter(verdict(each[kind]) for each in ledger["entries"])
        assert set(verdicts) <= set(VERDICTS) - {"crash"}
        assert verdicts == ledger["counts"][kind]
    reasoned = [each[kind] for each in ledger["entries"] for kind in BACKENDS if each[kind] != "pass"]
    assert all(len(each.partition(": ")[2]) > 10 for each in reasoned)


class Dies(module_ledger.Examine):
    def run(self, _):
        os.abort()


class Lives(module_ledger.Examine):
    def run(self, _):
        return {"verdict": "pass", "reason": "", "samples": 3}


class Hangs(module_ledger.Examine):
    def run(self, _):
        time.sleep(60)


def test_an_entry_that_kills_its_process_or_never_ends_is_a_crash_and_the_next_goes_on(monkeypatch):
    monkeypatch.setattr(module_ledger, "RUNNER", LocalRunner(packages=("benchmarks", "tests")))
    monkeypatch.setattr(module_ledger, "BACKENDS", {})  # nothing is exported, so that nothing need be imported for it
    with ExitStack() as stack:
        children = module_ledger.Children(stack)
        for job, words in ((Dies, "SIGABRT"), (Hangs, "within 0.3 s")):
            with monkeypatch.context() as patched:
                patched.setattr(module_ledger, "Examine", job)
                patched.setattr(module_ledger, "TIMEOUT_S", 0.3 if job is Hangs else 60.0)
                row = children.ask("nn.ReLU", "torchscript")
                assert row["verdict"] == "crash"
                assert words in row["reason"]
                patched.setattr(module_ledger, "Examine", Lives)
                patched.setattr(module_ledger, "TIMEOUT_S", 60.0)
                assert children.ask("nn.ReLU", "torchscript")["verdict"] == "pass"
