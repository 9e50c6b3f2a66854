"""`tune` on a real release of a tiny network: what it chooses among, what is proven first, what it writes, how it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.backends import onnxruntime
from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.benchmark import heats
from pipeline.benchmark.machine import processor
from pipeline.benchmark.recommended import Recommended
from pipeline.config import load, resolved
from pipeline.errors import ConfigError, GateError, InterruptedRunError, WorkerError
from pipeline.release import bundle
from pipeline.release.verify import check
from pipeline.run import candidates
from pipeline.run import tune as tuning
from pipeline.run.plan import Settings, vocabulary
from pipeline.run.tune import tune
from pipeline.worker.inprocess import InProcessRunner

SIMPLENET = Path("configs/simplenet.yaml")
SECONDS = 1.0


@pytest.fixture(scope="module")
def out(built, tmp_path_factory):
    """A copy of the folder that `built` lies in, with everything that was kept."""
    return Path(shutil.copytree(built.parent.parent, tmp_path_factory.mktemp("tuned") / "out"))


def settings(out, *overrides, **more):
    """In this process and with one thread: what is timed says nothing, and it is quick."""
    chosen = (f"tune.seconds={SECONDS}", "tune.size={batch: 2}", *overrides)
    return Settings(out=out, overrides=chosen, runner=InProcessRunner(), threads=1, **more)


@pytest.fixture(scope="module")
def tuned(out):
    """What one run gave, with the digests of the release before."""
    before = bundle.file_digests(bundle.find(out / "simplenet"))
    return before, tune(SIMPLENET, settings(out))


def variant(name="onnxruntime-cpu", **options):
    return Variant(name, name, backends()[name].format, required=True, options=options)


def test_every_number_of_threads_is_tried_and_other_options_one_at_a_time():
    found = {way.name: dict(way.variant.options) for way in candidates.ways([variant()], 3)}
    threads = {f"onnxruntime-cpu ({'1 thread' if n == 1 else f'{n} threads'}": n for n in (1, 2, 3)}
    assert found == {
        f"{name}{said})": {"intra_op_num_threads": count, **changed}
        for name, count in threads.items()
        for said, changed in (
            ("", {}),
            (", graph_optimization_level extended", {"graph_optimization_level": "extended"}),
            (", memory_arena false", {"memory_arena": False}),
        )
    }


def test_what_a_config_says_of_a_variant_is_where_its_options_are_changed_from():
    found = candidates.ways([variant(graph_optimization_level="extended")], 1)
    assert [way.variant.options["graph_optimization_level"] for way in found] == ["extended", "all", "extended"]


def test_the_plainest_come_first():
    assert [way.threads for way in candidates.ways([variant(), variant("torchscript")], 2)] == [1] * 4 + [2] * 4


@pytest.mark.parametrize("name", [each.name for each in backends().values() if each.tunable or each.threads_option])
def test_what_backends_say_may_be_tuned_are_options_of_theirs_and_values_that_they_take(name):
    backend = backends()[name]
    for option, values in backend.tunable.items():
        assert backend.options.model_fields[option].default in values
        assert len({json.dumps(each) for each in values}) == len(values) > 1
        for value in values:
            backend.options.model_validate({option: value})
    if backend.threads_option:
        assert backend.options.model_validate({backend.threads_option: 1})


def test_the_answer_is_in_the_report_and_the_release_is_what_it_was(tuned):
    before, found = tuned
    assert check(found.release) == []
    assert bundle.file_digests(found.release) == before
    assert Recommended.read(found.release / "report" / "recommended.json") == found.found
    assert not list(found.release.glob(".*"))
    for page in ("report.md", "report.html"):
        text = (found.release / "report" / page).read_text("utf-8")
        assert "The choice" in text
        assert found.found.chosen in text


def test_the_answer_says_what_was_tried_and_what_was_measured_of_it(tuned):
    _, (_, found) = tuned[0], (tuned[1].release, tuned[1].found)
    assert {each.choice.backend for each in found.candidates} == {"onnxruntime-cpu", "torchscript"}
    assert len(found.candidates) == 4
    assert (found.processor, found.cores, found.sizes) == (processor(), 1, {"batch": 2})
    assert found.candidate(found.chosen).choice == found.choice
    assert found.chosen in found.tied
    for each in found.candidates:
        assert each.choice.options
        assert each.factor is not None
        assert each.factor <= 16
        assert each.median_ms > 0
        assert each.file_bytes > 1000
        assert each.launches >= 3
        assert each.p99.calls > 0


def counted(monkeypatch):
    """Return a list that grows with each launch that is made."""
    made, make = [], heats.Launches.__call__
    monkeypatch.setattr(heats.Launches, "__call__", lambda *given: made.append(given[1:3]) or make(*given))
    return made


def test_a_second_run_makes_no_launch_and_gives_the_same_answer(tuned, out, monkeypatch):
    made = counted(monkeypatch)
    again = tune(SIMPLENET, settings(out))
    assert made == []
    assert again.found == tuned[1].found


def test_a_launch_in_which_somebody_failed_is_not_kept_so_that_the_next_run_tries_again(tmp_path):
    class Made:
        arm_s = turn_s = 0.1

        def __init__(self, failures):
            self.failures, self.count = failures, 0

        def __call__(self, _phase, _index, names, leader):
            self.count += 1
            return heats.Heat({key: {0: 0.5} for key in names}, leader, {0: 0.5}, 0.1, failures=self.failures)

        def learn(self, *_):
            pass

    chosen = settings(tmp_path)
    state = SimpleNamespace(settings=chosen, plan=SimpleNamespace(config=SimpleNamespace(name="it")))
    for failures, wanted in ({"b": "was ended by SIGSEGV"}, 2), ({}, 1):
        made = Made(failures)
        with tuning.results(chosen).in_use():
            for _ in range(2):
                heat = tuning._Kept(state, f"base {wanted}", made, False, [])("race", 0, ("a", "b"), "a")
                assert heat.failures == failures
        assert made.count == wanted


@pytest.mark.usefixtures("tuned")
def test_where_every_candidate_fails_the_limits_are_not_to_blame(out, monkeypatch):
    def fail(_, phase, index, names, leader):  # noqa: ARG001
        return heats.Heat({}, leader, {}, 0.1, failures=dict.fromkeys(names, "exited with status 7"))

    monkeypatch.setattr(heats.Launches, "__call__", fail)
    with pytest.raises(
        WorkerError, match=r"no candidate could be timed:.*\n.*dropped out: exited with status 7"
    ) as told:
        tune(SIMPLENET, settings(out), again=True)
    assert "limits" not in told.value.hint


@pytest.mark.usefixtures("tuned")
def test_again_times_everything_again(out, monkeypatch):
    made = counted(monkeypatch)
    tune(SIMPLENET, settings(out), again=True)
    assert len(made) >= 3


def test_a_run_that_was_interrupted_goes_on_with_the_launches_that_it_has(built, tmp_path, monkeypatch):
    out = Path(shutil.copytree(built.parent.parent, tmp_path / "out"))
    made, make = [], heats.Launches.__call__

    def stopped(*given):
        if len(made) == 2:
            raise InterruptedRunError
        made.append(given[1:3])
        return make(*given)

    chosen = settings(
        out, "exports=[onnx]", "backends=[onnxruntime-cpu]", "require=[]", "benchmark.reference=onnxruntime-cpu"
    )
    with monkeypatch.context() as patched:
        patched.setattr(heats.Launches, "__call__", stopped)
        with pytest.raises(InterruptedRunError):
            tune(SIMPLENET, chosen)
    assert not (bundle.find(out / "simplenet") / "report" / "recommended.json").exists()
    further = counted(monkeypatch)
    tune(SIMPLENET, chosen)
    assert made == [("race", 0), ("race", 1)]
    assert further[0] == ("race", 2)


def test_what_does_not_pass_with_its_options_is_not_raced(tuned, out, monkeypatch):
    prove = tuning.prove_all

    def failing(state):
        proven = prove(state)
        proofs = tuple(
            replace(each, status="fail", reason="off by 1") if "extended" in each.variant.name else each
            for each in proven.proofs
        )
        return replace(proven, proofs=proofs)

    monkeypatch.setattr(tuning, "prove_all", failing)
    found = tune(SIMPLENET, settings(out)).found
    assert {each.name for each in tuned[1].found.candidates} - {each.name for each in found.candidates} == {
        "onnxruntime-cpu (1 thread, graph_optimization_level extended)"
    }
    assert found.notes == (
        "onnxruntime-cpu (1 thread, graph_optimization_level extended) is not raced: fail: off by 1",
    )


@pytest.mark.usefixtures("tuned")
def test_each_candidate_is_opened_for_its_proof_with_its_own_options(out, monkeypatch):
    opened, really = [], onnxruntime.open_on
    monkeypatch.setattr(
        onnxruntime,
        "open_on",
        lambda source, level, asked: (
            opened.append((level, asked.threads, asked.memory_arena)) or really(source, level, asked)
        ),
    )
    monkeypatch.setattr(tuning, "_raced", lambda *_, **__: pytest.fail("nothing is timed here"))
    with pytest.raises(pytest.fail.Exception):
        tune(SIMPLENET, settings(out, "parity.limit=17"))
    assert {("all", 1, True), ("extended", 1, True), ("all", 1, False)} <= set(opened)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.bytes=10", "its files hold 4"),
        ("tune.precision=[int8]", "onnx: its precision is own, and tune.precision is int8"),
        ("tune.p99_ms=0.000001", "and p99_ms is 1e-06"),
    ],
)
def test_where_nothing_keeps_a_limit_nothing_is_written_and_each_ones_reason_is_said(out, override, words):
    file = bundle.find(out / "simplenet") / "report" / "recommended.json"
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(GateError, match=words) as raised:
        tune(SIMPLENET, settings(out, override))
    assert raised.value.hint.startswith("raise the limits")
    assert (file.read_bytes() if file.exists() else None) == before


def test_what_takes_more_memory_than_the_limit_is_not_chosen(out):
    """A process forked from one that has imported the runtime may take no more than that: then a limit of a byte is kept, and by it alone."""
    try:
        found = tune(SIMPLENET, settings(out, "tune.memory_bytes=1")).found
    except GateError as error:
        assert "and memory_bytes is 1" in error.message  # noqa: PT017 - it need not be raised
    else:
        assert found.candidate(found.chosen).peak_bytes <= 1


@pytest.mark.parametrize("objective", ["throughput", "memory", "size"])
def test_every_objective_gives_an_answer(out, objective):
    found = tune(SIMPLENET, settings(out, f"tune.objective={objective}")).found
    assert found.objective == objective
    least = min(each.file_bytes for each in found.candidates)
    assert objective != "size" or found.candidate(found.chosen).file_bytes == least


def test_what_tune_says_is_no_part_of_what_a_release_is(tuned, out):
    config = load(SIMPLENET, overrides=("tune.p99_ms=5",), vocabulary=vocabulary())
    assert "tune" not in resolved(config)
    assert config.tune.p99_ms == 5
    assert tuned[1].release == bundle.find(out / "simplenet")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.objective=speed", "tune.objective"),
        ("tune.size={bacth: 1}", "nearest valid: 'batch'"),
        ("tune.size={batch: 65}", "goes from 1 to 64"),
        ("tune.seconds=0", "tune.seconds"),
        ("tune.precision=[]", "tune.precision"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(override, words):
    with pytest.raises(ConfigError, match=words):
        load(SIMPLENET, overrides=(override,), vocabulary=vocabulary())
