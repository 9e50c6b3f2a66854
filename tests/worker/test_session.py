"""What opening tells, and what it does not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends.backend import Session
from pipeline.backends.variant import Variant
from pipeline.errors import DefectError, WeightsError
from pipeline.parity.jobs import Evaluate, Rehearse
from pipeline.rebuild import cases
from pipeline.run.plan import Settings, plan
from pipeline.weights import read, verified
from pipeline.worker.inprocess import InProcessRunner
from pipeline.worker.job import Context
from pipeline.worker.session import Bind, CallTogether, ReadChanges, ReadPlacement, Run, TimeBlock, _Opened, opened

EAGER = Variant("eager", "eager", None, required=True)


@pytest.fixture
def weights(tmp_path):
    return Path(_copied(tmp_path / "simplenet.pth"))


def _copied(path):
    path.write_bytes(Path("configs/weights/simplenet.pth").read_bytes())
    return path


def planned(folder, weights):
    return plan(Path("configs/simplenet.yaml"), Settings(out=folder, overrides=(f"model.weights={weights}",)))


def test_a_run_takes_the_digest_of_its_weights_once_and_no_opening_takes_it_again(tmp_path, weights, monkeypatch):
    taken, examined, digest, doubts = [], [], verified.digest, read._doubts
    monkeypatch.setattr(verified, "digest", lambda path: taken.append(path) or digest(path))
    monkeypatch.setattr(read, "_doubts", lambda tensors: examined.append(tensors) or doubts(tensors))
    found = planned(tmp_path, weights)
    sampled = cases.sample(found.interface, seed=0, cap_elements=100)
    with InProcessRunner().start("the oracle", threads=1) as worker:
        rehearsed = worker.call(Rehearse(network=found.network, interface=found.interface, cases=sampled), timeout_s=60)
        worker.call(Evaluate(seed=0), timeout_s=60)
    assert rehearsed.sha256 == found.weights_sha256
    for _ in range(2):
        with opened(InProcessRunner(), EAGER, found.interface, found.network, threads=1, timeout_s=60) as (_, facts):
            assert facts["load_ms"] > 0
    assert taken == [weights]
    assert len(examined) == 1


def test_weights_that_change_during_a_run_are_not_opened(tmp_path, weights):
    found = planned(tmp_path, weights)
    state = torch.load(weights, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, weights)
    with (
        pytest.raises(WeightsError, match=r"simplenet\.pth changed during the run"),
        opened(InProcessRunner(), EAGER, found.interface, found.network, threads=1, timeout_s=60),
    ):
        pass


@pytest.mark.parametrize(
    "request_",
    [
        Run(inputs={}),
        ReadPlacement(),
        Bind(scenario="one", inputs={}),
        TimeBlock(scenario="one", calls=1, longest_s=1.0),
        CallTogether(scenario="one", callers=1, seconds=0.1),
        Evaluate(seed=0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_needs_a_session_says_that_none_was_opened(request_):
    worker = InProcessRunner().start("the worker", threads=1)
    with pytest.raises(DefectError, match="which no job has left"):
        worker.call(request_, timeout_s=60)


def test_on_a_gpu_the_first_call_after_other_inputs_is_kept_apart():
    """Its libraries look for an algorithm then: on an H100 770 ms of a call that takes 2.2 ms."""
    made = []
    session = Session(
        run=dict,
        bind=lambda arrays: lambda: made.append(len(arrays["x"])),
        bind_on_device=lambda _: lambda count: [1] * count,
    )
    context = Context()
    context.leave(_Opened(session))
    for name, rows in (("one", 1), ("eight", 8)):
        Bind(scenario=name, inputs={"x": np.zeros(rows, "float32")}).run(context)
    counts = [
        len(TimeBlock(scenario=name, calls=2, longest_s=1.0).run(context)) for name in ("one", "one", "eight", "one")
    ]
    assert counts == [2, 2, 2, 2]
    assert made == [1, 1, 1, 1, 8, 8, 8, 1, 1, 1], "a call more where the inputs changed"
    assert {name: len(each) for name, each in ReadChanges().run(context).items()} == {"eight": 1, "one": 1}


def test_on_the_processor_every_call_is_timed():
    made = []
    context = Context()
    context.leave(_Opened(Session(run=dict, bind=lambda _: lambda: made.append(1))))
    for name in ("one", "eight"):
        Bind(scenario=name, inputs={}).run(context)
        TimeBlock(scenario=name, calls=2, longest_s=1.0).run(context)
    assert len(made) == 4
    assert ReadChanges().run(context) == {}
