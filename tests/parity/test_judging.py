"""Accuracy is judged for any interface: rows of a batch or calls of their own, whole numbers, dicts, state, two dynamic sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backends.variant import Variant
from pipeline.config.accuracy import AccuracyConfig
from pipeline.errors import InputError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import judging, samples
from pipeline.parity.truth import Conditions
from pipeline.rebuild.network import Network
from pipeline.worker.inprocess import InProcessRunner

COUNT = 37


class Tokens(nn.Module):
    """Whole numbers and a mask of [batch, length]; returns classes of floats and the best of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.head(self.embedding(ids) * mask.unsqueeze(-1)).mean(1)
        return {"scores": scores, "best": scores.argmax(-1)}


class Stateful(nn.Module):
    """A step with its state in and out, of fixed sizes: each sample is a call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = self.cell(x, state)
        return new.sum(-1), new


class Pooled(nn.Module):
    """One row for a whole batch: there is nothing of each sample in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).mean(0)


TOKENS = Interface(
    (
        InputSpec("ids", "int64", ("batch", "length"), 0, 50, "uniform"),
        InputSpec("mask", "float32", ("batch", "length"), 0, 1, "mask"),
    ),
    (Dimension("batch", 2, 8), Dimension("length", 1, 16)),
    ("scores", "best"),
)
STATEFUL = Interface((InputSpec("x", "float32", (1, 4)), InputSpec("state", "float32", (1, 6))), (), ("y", "new"))
ROWS = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 8),), ("y",))


def drawn(interface: Interface, *leading: int, length: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        spec.name: [length if size == "length" else size for size in spec.shape if size != "batch"]
        for spec in interface.inputs
    }
    return {
        spec.name: rng.integers(0, 50, (*leading, *shapes[spec.name]))
        if spec.dtype == "int64"
        else rng.random((*leading, *shapes[spec.name]), dtype=np.float32)
        for spec in interface.inputs
    }


def judged(kind, interface, found, folder, **criteria):
    """Judge eager in float32 against eager in float64."""
    torch.manual_seed(0)
    torch.save(kind().state_dict(), folder / "net.pth")
    network = Network(f"{__name__}:{kind.__name__}", {}, str(folder / "net.pth"), ("tests",), {})
    conditions = Conditions(interface, network, threads=1, timeout_s=60, runner=InProcessRunner())
    wanted = AccuracyConfig(samples="x.npz", **criteria)
    return judging.judge(Variant("eager", "eager", None, required=True), wanted, found, conditions, double=True)


def by_output(claims):
    return {(each.criterion, each.output): each for each in claims}


def test_rows_of_a_batch_are_samples_and_every_output_has_its_claims(tmp_path):
    found = samples.parse(drawn(TOKENS, COUNT), TOKENS, "x.npz")
    claims = by_output(judged(Tokens, TOKENS, found, tmp_path, sqnr_db=100.0, top1_agreement=0.9))
    assert claims.keys() == {("sqnr_db", "scores"), ("top1_agreement", "scores"), ("top1_agreement", "best")}
    assert {each.samples for each in claims.values()} == {COUNT}
    assert {each.verdict for each in claims.values()} == {"pass"}
    assert claims["sqnr_db", "scores"].lowest > 110


def test_where_no_dimension_is_the_batch_each_sample_is_a_call(tmp_path):
    found = samples.parse(drawn(STATEFUL, COUNT), STATEFUL, "x.npz")
    assert found.batch is None
    claims = by_output(judged(Stateful, STATEFUL, found, tmp_path, sqnr_db=100.0, top1_agreement=0.9))
    assert claims.keys() == {("sqnr_db", "y"), ("sqnr_db", "new"), ("top1_agreement", "new")}  # y has one value only
    assert {each.samples for each in claims.values()} == {COUNT}


def test_outputs_without_a_row_for_each_sample_are_judged_call_by_call_or_refused(tmp_path):
    found = samples.parse(drawn(ROWS, COUNT), ROWS, "x.npz")
    with pytest.raises(InputError, match=r"'y' has shape \[3\] where 8 samples .* no row for each") as caught:
        judged(Pooled, ROWS, found, tmp_path, sqnr_db=100.0)
    assert "one more leading axis" in caught.value.hint
    stacked = samples.parse(drawn(ROWS, COUNT, 5), ROWS, "x.npz")
    (claim,) = judged(Pooled, ROWS, stacked, tmp_path, sqnr_db=100.0)
    assert (claim.samples, claim.verdict) == (COUNT, "pass")


def test_only_the_outputs_that_are_named_are_asked_of(tmp_path):
    found = samples.parse(drawn(TOKENS, COUNT), TOKENS, "x.npz")
    claims = judged(Tokens, TOKENS, found, tmp_path, top1_agreement=0.9, outputs=["best"])
    assert [each.output for each in claims] == ["best"]


def test_a_criterion_that_no_output_can_have_is_refused(tmp_path):
    found = samples.parse(drawn(TOKENS, COUNT), TOKENS, "x.npz")
    with pytest.raises(InputError, match="sqnr_db is asked for, and none of the outputs") as caught:
        judged(Tokens, TOKENS, found, tmp_path, sqnr_db=30.0, outputs=["best"])
    assert caught.value.hint


def tokens_metric(outputs: dict, sample: dict) -> float:
    """Fail unless it is given one sample, with what lies beside the inputs."""
    assert outputs["scores"].shape == (5,)
    assert sample["ids"].shape == (5,)
    return float(outputs["best"] == sample["labels"])


def test_a_metric_is_given_the_arrays_of_one_sample(tmp_path):
    arrays = {**drawn(TOKENS, COUNT), "labels": np.arange(COUNT) % 5}
    found = samples.parse(arrays, TOKENS, "x.npz")
    (claim,) = judged(Tokens, TOKENS, found, tmp_path, metric=f"{__name__}:tokens_metric", margin=0.5)
    assert (claim.value, claim.samples, claim.lowest) == (0.0, COUNT, 0.0)
