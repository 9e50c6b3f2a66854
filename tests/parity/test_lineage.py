"""What reaches an output is known as far as every step is, and nothing is guessed beyond."""

import pytest
import torch
from torch import nn

from pipeline.parity import lineage

LINEAR = nn.Linear(6, 5).requires_grad_(False)
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def follow(network, x=X, **options):
    with torch.inference_mode():
        found = lineage.follow(lambda: {"y": network(x)}, [x], LINEAR.parameters(), **options)
    return found.trails["y"], found


@pytest.mark.parametrize(
    ("network", "weights", "inputs"),
    [
        (LINEAR, True, True),
        (lambda _: LINEAR.weight * 2, True, False),
        (lambda x: x > 0, False, True),
        (lambda x: torch.arange(x.shape[0]), False, False),
        (torch.ones_like, False, False),
        (lambda x: torch.zeros(1) + x.sum().item(), False, True),
        (lambda x: torch.zeros(4, 6).index_put_((torch.tensor([0]),), x[:1])[:2], False, True),
    ],
)
def test_it_is_known_whether_weights_or_inputs_reach_an_output(network, weights, inputs):
    trail, _ = follow(network)
    assert (trail.weights, trail.inputs) == (weights, inputs)


def test_what_is_written_into_part_of_a_tensor_reaches_all_that_share_its_memory():
    def network(x):
        out = torch.zeros(3, 5)
        out[:2] = LINEAR(x)[:2]
        return out

    assert follow(network)[0].weights


@pytest.mark.parametrize(
    ("network", "moved"),
    [
        (torch.sigmoid, 1.0),
        (lambda x: 1 - torch.sigmoid(x).T[1:] * 3, 3.0),
        (lambda x: torch.sigmoid(x) - torch.softmax(x, 1), 2.0),
        (lambda x: torch.sigmoid(x).mean(1), 1.0),
        (lambda x: x.clone().sigmoid_(), 1.0),
        (lambda x: torch.sigmoid(x).topk(2, 1)[0], 1.0),
    ],
)
def test_how_far_a_last_sigmoid_moves_an_output_is_known_to_first_order_and_at_worst(network, moved):
    trail, _ = follow(network)
    assert trail.moved.max() == pytest.approx(moved)
    assert trail.bounded


@pytest.mark.parametrize("network", [lambda x: torch.sigmoid(x).log(), lambda x: LINEAR(torch.sigmoid(x)), torch.tanh])
def test_a_sigmoid_with_more_behind_it_is_not_the_last(network):
    assert follow(network)[0].moved is None


def test_products_of_sigmoids_move_by_what_the_other_is():
    trail, _ = follow(lambda x: torch.sigmoid(x) * torch.sigmoid(-x))
    assert torch.allclose(trail.moved, torch.ones(3, 6, dtype=torch.float64))


def test_a_skipped_sigmoid_returns_what_enters_it_and_the_others_do_not():
    def network(x):
        return torch.sigmoid(x) + torch.sigmoid(x + 1)

    _, found = follow(network, skipped=frozenset({1}))
    assert torch.equal(found.outputs["y"], X + torch.sigmoid(X + 1))


@pytest.mark.parametrize(
    ("network", "indices"),
    [
        (lambda x: x.argmax(1), lambda cells: cells % 6),
        (lambda x: x.argmax(), lambda cells: cells),
        (lambda x: x.sort(1, descending=True)[1].T[None], lambda cells: cells % 6),
        (lambda x: x.topk(2, 1)[1] // 2 + 7, lambda cells: cells % 6 // 2 + 7),
        (lambda x: LINEAR(x).max(1)[1].int(), lambda cells: cells % 5),
        (lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])), lambda cells: cells % 4),
    ],
)
def test_what_an_index_was_chosen_from_is_known(network, indices):
    trail, found = follow(network)
    (source,) = found.sources
    assert torch.equal(found.outputs["y"].long(), indices(trail.chosen.cells - source.first))


def test_a_label_is_decided_on_and_a_probability_is_not():
    assert follow(lambda x: LINEAR(x).argmax(1).float())[0].decided
    assert not follow(lambda x: torch.softmax(LINEAR(x), 1))[0].decided


def test_the_coarsest_precision_on_the_way_is_known():
    double, x = nn.Linear(6, 5).double(), X.double()
    with torch.inference_mode():
        found = lineage.follow(
            lambda: {"double": double(x), "single": double(x).float().double()}, [x], double.parameters()
        )
    assert {name: each.coarsest for name, each in found.trails.items()} == {"double": 2.0**-53, "single": 2.0**-24}
