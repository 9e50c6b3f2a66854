"""The oracle: exact, undisturbed, and a noise that is neither zero nor generous."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import oracle

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 8)),), (Dimension("batch", 1, 8),), ("y",))


def made(network):
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.eval().requires_grad_(False)


def evaluate(network, *inputs):
    return oracle.evaluate(made(network), INTERFACE, [{"x": each} for each in inputs], seed=0)


def values(shape=(5, 8), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_reference_is_the_network_in_float64():
    x = values()
    (reference,), fallback = evaluate(nn.Linear(8, 3), x)
    network = made(nn.Linear(8, 3))
    exact = x.astype(np.float64) @ network.weight.double().numpy().T + network.bias.double().numpy()
    np.testing.assert_allclose(reference.values["y"], exact, rtol=1e-14)
    assert reference.values["y"].dtype == np.float64
    assert reference.dtypes["y"] == "float32"
    assert fallback is None


def test_the_noise_is_of_the_size_of_float32_rounding():
    (reference,), _ = evaluate(nn.Linear(8, 3), values((200, 8)))
    relative = reference.noise["y"].max() / np.abs(reference.values["y"]).max()
    assert 2**-26 < relative < 2**-19


def test_an_ill_conditioned_network_has_more_noise():
    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return (self.fc(x) + 10_000) - 10_000

    (plain,), _ = evaluate(nn.Linear(8, 3), values())
    (cancelling,), _ = evaluate(Cancelling(), values())
    assert cancelling.noise["y"].max() > 100 * plain.noise["y"].max()


def test_inputs_at_their_bounds_are_not_moved_beyond_them_and_the_others_are_moved():
    class Picky(nn.Module):
        def forward(self, x):
            assert x.abs().max() <= 1
            return x.sum(1)

    bounded = Interface((InputSpec("x", "float32", ("batch", 8), low=-1, high=1),), INTERFACE.dimensions, ("y",))
    at_bounds = np.where(values() > 0, np.float32(1), np.float32(-1))
    inside = np.clip(values(), np.float32(-0.9), np.float32(0.9))
    found, fallback = oracle.evaluate(made(Picky()), bounded, [{"x": at_bounds}, {"x": inside}], seed=0)
    assert fallback is None
    np.testing.assert_array_equal(found[0].values["y"], at_bounds.sum(1))
    assert found[1].noise["y"].max() > 2**-26


def test_the_same_seed_gives_the_same_reference_to_the_bit():
    (first,), _ = evaluate(nn.Linear(8, 3), values())
    (again,), _ = evaluate(nn.Linear(8, 3), values())
    assert first.values["y"].tobytes() == again.values["y"].tobytes()
    assert first.noise["y"].tobytes() == again.noise["y"].tobytes()


def test_cases_do_not_influence_each_other():
    both, _ = evaluate(nn.Linear(8, 3), values(seed=1), values(seed=2))
    (alone,), _ = evaluate(nn.Linear(8, 3), values(seed=2))
    np.testing.assert_array_equal(both[1].values["y"], alone.values["y"])


def test_an_argmax_is_exact_and_its_ties_are_known():
    class Largest(nn.Module):
        def forward(self, x):
            return (x[:, :2] * 3).argmax(1)

    x = values()
    x[0, :2] = [1.0, np.nextafter(np.float32(1), np.float32(2))]  # one ulp apart: any rounding may decide
    (reference,), _ = evaluate(Largest(), x)
    assert reference.values["y"].dtype == np.int64
    assert reference.noise["y"][1:].max() == 0


def test_without_float64_the_rule_is_stated_and_the_noise_is_not_zero():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            if x.dtype == torch.float64:
                raise NotImplementedError("no float64 kernel")
            return self.fc(x)

    (reference,), fallback = evaluate(Single(), values())
    assert fallback == "no float64 kernel"
    assert reference.noise["y"].max() > 0


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_in_the_network_is_no_noise(value):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, torch.tensor(value, dtype=x.dtype))

    (reference,), _ = evaluate(Broken(), values())
    assert np.isfinite(reference.noise["y"]).all()
    assert not np.isfinite(reference.values["y"]).all()


class Chance(nn.Module):
    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.spread * torch.randn(x.shape)


def test_a_network_that_draws_random_numbers_is_refused_and_not_taken_for_noisy():
    case = {"x": np.ones((2, 8), np.float32)}
    with pytest.raises(ArchitectureError, match="draws random numbers when it is called: y came out differently"):
        oracle.evaluate(Chance(1.0), INTERFACE, [case], seed=0)


def test_random_numbers_that_no_output_shows_are_nobodys_business():
    case = {"x": np.ones((2, 8), np.float32)}
    (reference,), _ = oracle.evaluate(Chance(0.0), INTERFACE, [case], seed=0)
    assert reference.noise["y"].max() < 1e-6


def evaluated(network, dtype):
    interface = Interface((InputSpec("x", dtype, ("batch", 8)),), INTERFACE.dimensions, ("y",))
    cases = [{"x": values(seed=seed).astype(dtype)} for seed in range(4)]
    references, fallback = oracle.evaluate(made(network), interface, cases, seed=0)
    assert fallback is None
    return references, oracle.floors(references, "y")


class Cast(nn.Module):
    """A layer, and a cast behind it."""

    def __init__(self, dtype, behind) -> None:
        super().__init__()
        self.layer, self.behind = nn.Linear(8, 3, dtype=dtype), behind

    def forward(self, x):
        return self.behind(self.layer(x))


@pytest.mark.parametrize(
    ("dtype", "behind", "roundoff"),
    [
        ("float64", lambda y: y, 2.0**-53),
        ("float64", lambda y: y.float().double(), 2.0**-24),
        ("float64", lambda y: y.float(), 2.0**-24),
        ("float32", lambda y: y.double(), 2.0**-24),
        ("float16", lambda y: y, 2.0**-11),
    ],
)
def test_the_floor_is_that_of_the_coarsest_precision_on_the_way(dtype, behind, roundoff):
    references, floors = evaluated(Cast(getattr(torch, dtype), behind), dtype)
    scale = max(np.abs(each.values["y"]).max() for each in references)
    assert roundoff * scale / 16 <= max(floor.max() for floor in floors) < 32 * roundoff * scale


def test_float32_in_a_float64_network_is_over_its_floor_a_million_times():
    (reference, *_), (floor, *_) = evaluated(Cast(torch.float64, torch.tanh), "float64")
    error = np.abs(reference.values["y"].astype(np.float32) - reference.values["y"])
    assert (error / floor).max() > 1e6


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x[:, :0],
        lambda x: x.sum(),
        lambda x: x.argmax(),
        lambda x: x > 0,
        torch.fft.rfft,
        lambda x: (x > 0).nonzero(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
        lambda x: x / 0,
    ],
)
def test_outputs_of_every_kind_are_evaluated(network):
    (reference,), _ = evaluate(Cast(torch.float32, network), values())
    assert set(reference.values) == set(reference.noise) == set(reference.responses) == {"y"}


def test_an_index_is_judged_by_what_it_was_chosen_from_although_that_is_no_output():
    (reference,), _ = evaluate(Cast(torch.float32, lambda y: y.round().sort(1)[1]), values((20, 8)))
    (choice,) = reference.choices["y"]
    np.testing.assert_array_equal(choice.cells % 3, reference.values["y"])
    assert choice.values.shape == (20, 3)


class Overflowing(nn.Module):
    """A constant of its code overflows in float64 alone: the float64 mask of a float32 network."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        y = self.layer(x)
        return y + torch.finfo(y.dtype).min if y.dtype == torch.float32 else y / 0.0 * 0.0


def test_a_network_that_is_finite_only_in_its_own_precision_is_its_own_reference():
    (reference,), fallback = evaluate(Overflowing(), values())
    assert fallback == "y is nowhere finite in float64, and finite in the network's own precision"
    assert np.isfinite(reference.values["y"]).all()
    assert np.isfinite(reference.noise["y"]).all()
