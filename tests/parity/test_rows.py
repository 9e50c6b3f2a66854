"""Whether rows depend on one another is found out by asking the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import jobs, oracle, rows
from pipeline.rebuild import calling, cases

BATCH, LENGTH = Dimension("batch", 1, 9), Dimension("length", 1, 7)


class Calls(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


def examined(function, *parts, shape=("batch", 6), dimensions=(BATCH,)):
    torch.manual_seed(0)
    interface = Interface((InputSpec("x", "float32", shape),), dimensions, ("y",))
    module = Calls(function, *(make() for make in parts)).eval().requires_grad_(False)
    sampled = cases.sample(interface, seed=0, cap_elements=4000)
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=0)
    run = jobs.runner_of(jobs.Evaluated(module.double(), interface, reason is None))
    arrays = lambda inputs: {name: calling.array_from(each) for name, each in run(inputs).items()}  # noqa: E731
    return rows.examine(arrays, interface, sampled, references, seed=0)


def linear():
    return nn.Linear(6, 6)


def lstm():
    return nn.LSTM(6, 5)


IMAGE, TIMES = ("batch", 3, 8, 8), ("length", "batch", 6)


@pytest.mark.parametrize(
    "found",
    [
        lambda: examined(lambda x, first, second: second(first(x).relu()), linear, linear),
        lambda: examined(lambda x, each: each(x).argmax(-1), linear),
        lambda: examined(lambda x, each: each(x).mean((2, 3)), lambda: nn.Conv2d(3, 4, 3), shape=IMAGE),
        lambda: examined(lambda x, each: each(x.T).T, linear, shape=(6, "batch")),
        lambda: examined(
            lambda x, each: each(x)[0], lambda: nn.LSTM(6, 5, batch_first=True),
            shape=("batch", "length", 6), dimensions=(BATCH, LENGTH),
        ),
    ],
)  # fmt: skip
def test_rows_of_networks_that_treat_each_alone_are_independent(found):
    said = found()
    assert (said.verdict, said.dimension) == ("independent", "batch")
    assert len(said.cases) == 3


@pytest.mark.parametrize(
    "found",
    [
        lambda: examined(lambda x, each: each(x) - each(x).mean(0, keepdim=True), linear),
        lambda: examined(lambda x, each: torch.softmax(each(x) @ each(x).T, -1) @ x, linear),
        lambda: examined(lambda x, each: torch.log_softmax(each(x), 0), linear),
        lambda: examined(lambda x, each: each(x).cumsum(0), linear),
        lambda: examined(
            lambda x, each, norm: norm(each(x)).mean((2, 3)),
            lambda: nn.Conv2d(3, 4, 3), lambda: nn.BatchNorm2d(4, track_running_stats=False), shape=IMAGE,
        ),
        lambda: examined(lambda x, each: each(x) + 1e-5 * x.mean(0), linear),
    ],
)  # fmt: skip
def test_rows_that_change_with_the_rows_beside_them_are_dependent(found):
    said = found()
    assert (said.verdict, said.dimension, said.output) == ("dependent", "batch", "y")
    assert said.difference > 1e-6


def test_steps_in_time_are_no_rows():
    said = examined(lambda x, each: each(x)[0], lstm, shape=TIMES, dimensions=(LENGTH, BATCH))
    assert (said.verdict, said.dimension) == ("dependent", "length")


def test_a_score_for_every_pair_of_rows_depends_on_both():
    assert examined(lambda x, each: each(x) @ x.T, linear).verdict == "dependent"


def test_what_was_not_shown_says_why():
    said = examined(lambda x, each: each(x).mean(0), linear)
    assert (said.verdict, said.reason) == ("not shown", "output y has no axis of batch")
    fixed = examined(lambda x, each: each(x), linear, shape=(2, 6), dimensions=())
    assert (fixed.verdict, fixed.reason) == ("not shown", "no dimension stands once in the shape of every input")
