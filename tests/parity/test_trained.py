"""The rebuilt network must give what was recorded of the trained one, before anything is exported; what differs is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline import record
from pipeline.errors import GateError
from pipeline.parity import jobs, oracle, trained
from pipeline.parity.budget import Rule
from pipeline.parity.prove import Conditions
from pipeline.rebuild import record as recording
from pipeline.rebuild import reference, why
from pipeline.rebuild.network import Network
from pipeline.release.predict import read_arrays
from tests.rebuild.calls import X, Y, face

ONE, TWO = face([X]), face([X, Y])
NETWORK = Network("none:None", {}, "", (), {})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.act, self.sign = nn.GELU(), 1.0

    def forward(self, x, y=None):
        out = self.norm(self.second(self.act(self.first(x))))
        return out if y is None else out - y * self.sign


def made(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    network = Net().train()
    for _ in range(4):
        network(torch.randn(16, 4) * 2 + 1)
    return network.eval().requires_grad_(False)


def evaluation(network: nn.Module, interface, recorded):
    """What the oracle gives of the rebuilt network on the recorded cases."""
    inputs = [case.inputs for case in recorded.cases]
    with torch.no_grad():
        plain = [
            {"result": network(**{name: torch.from_numpy(each) for name, each in case.items()}).numpy()}
            for case in inputs
        ]
    facts = {"notes": (), "contradictions": (), "sha256": "", "parameters": 0, "bytes": 0, "binding": (), "shapes": {}}
    found = jobs.Rehearsed(**facts, plain=tuple(plain), fingerprint=recording.fingerprint(network))
    references, fallback = oracle.evaluate(network, interface, inputs, seed=0)
    return jobs.Evaluation(network=found, references=tuple(references), fallback=fallback)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    file = tmp_path_factory.mktemp("trained") / "reference.npz"
    torch.manual_seed(5)
    for append in (False, True):
        record(file, made(), torch.randn(3, 4), append=append)
    return reference.parse(read_arrays(file), ONE, file.name)


def judged(network: nn.Module, recorded, *, rule: Rule = Rule(), interface=ONE):  # noqa: B008 - frozen
    conditions = Conditions(interface, NETWORK, threads=1, timeout_s=60)
    return trained.judge(
        recorded, evaluation(network, interface, recorded), conditions, {"result": rule}, explicit=rule.explicit
    )


def test_the_recorded_network_passes_within_the_noise_floor(recorded) -> None:
    found = judged(made(), recorded)
    assert found.passed
    assert len(found.findings) == 4  # two calls, in float64 and in float32
    assert all(each.factor <= 2 for each in found.findings)


def exchanged(network: Net) -> Net:
    network.first.weight.data, network.second.weight.data = network.second.weight.data, network.first.weight.data
    return network


def changed(network: Net, **attributes) -> Net:
    for name, value in attributes.items():
        module, _, last = name.rpartition("__")
        setattr(network.get_submodule(module.replace("__", ".")), last, value)
    return network


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: exchanged(made()), "first.weight holds the values that second.weight was recorded with"),
        (lambda: made(seed=1), "weights of another epoch"),
        (lambda: changed(made(), act=nn.ReLU()), ""),
        (lambda: changed(made(), act=nn.GELU("tanh")), "act.approximate is 'tanh', and was 'none'"),
        (lambda: changed(made(), norm__eps=1e-3), "norm.eps is 0.001, and was 1e-05"),
        (lambda: changed(made(), norm__eps=1.0001e-5), "norm.eps"),
        (lambda: made().train(), ""),
    ],
    ids=["exchanged", "another epoch", "another activation", "tanh GELU", "epsilon", "an epsilon that no output shows", "training mode"],
)  # fmt: skip
def test_a_wrong_rebuild_does_not_pass(recorded, wrong, told) -> None:
    found = judged(wrong(), recorded)
    assert not found.passed
    assert any(told in each for each in (*found.differences, told))
    if told:
        assert any(told in each for each in found.differences)


def test_tolerances_of_the_user_decide_alone(recorded) -> None:
    wrong = changed(made(), norm__eps=1.0001e-5)
    found = judged(wrong, recorded, rule=Rule(atol=1e-3, rtol=0.0))
    assert found.passed
    assert found.differences
    assert not judged(exchanged(made()), recorded, rule=Rule(atol=1e-3, rtol=0.0)).passed


def test_the_gate_says_what_differs_where_it_was_recorded_and_what_to_do(recorded, monkeypatch) -> None:
    conditions = Conditions(ONE, NETWORK, threads=1, timeout_s=60)
    wrong, rules = exchanged(made()), {"result": Rule()}
    found = evaluation(wrong, ONE, recorded)
    told_apart = why.Explanation(("the first module that differs is first",), None)
    monkeypatch.setattr(trained, "_explained", lambda *_: told_apart)
    with pytest.raises(GateError) as caught:
        trained.require(
            trained.judge(recorded, found, conditions, rules, explicit=False), recorded, found, conditions, rules
        )
    assert caught.value.exit_code == 1
    told = caught.value.message.splitlines()
    assert told[0].startswith("the rebuilt network is not the one that was recorded in reference.npz (torch ")
    assert "× the noise floor (limit 16)" in told[1]
    assert "the first module that differs is first" in caught.value.message
    assert "nothing was exported" in str(caught.value.hint)


def test_a_recording_of_another_device_is_told_how_to_state_a_tolerance(recorded) -> None:
    elsewhere = replace(recorded, meta={**recorded.meta, "device": "NVIDIA H100", "tf32": True})
    wrong = changed(made(), norm__eps=1e-3)
    found = judged(wrong, elsewhere)
    assert not found.passed
    failed = [each for each in found.findings if not each.passed]
    assert "reference: {file: reference.npz, atol: " in trained._way_out(elsewhere, failed)


# Why


def explained(network: nn.Module, recorded, interface=ONE, **attributes):
    """Return what the search says of a network; it is given as it is, instead of being rebuilt."""
    calls = [why.Call(call, {}) for call in recorded.calls]
    search = why._Search.__new__(why._Search)
    search.__dict__.update(
        network=NETWORK, interface=interface, calls=calls, module=network, located=None, make=None,
        attributes=attributes, suspects=set(), deadline=float("inf"),
    )  # fmt: skip
    return search


def test_the_first_module_that_differs_is_named(recorded) -> None:
    network = made()
    network.second.bias.data += 0.1
    (told,) = explained(network, recorded).first_module()
    assert told.startswith("the first module that differs is second (Linear): ")


def test_training_mode_and_exchanged_tensors_are_found_by_trying(recorded) -> None:
    batch = made().train()
    inputs = recorded.cases[0].inputs["x"]
    with torch.no_grad():
        output = batch(torch.from_numpy(inputs)).numpy()
    call = replace(recorded.calls[0], outputs={"result": output}, modules=())
    assert "training mode" in str(explained(made(), replace(recorded, calls=(call,)))._training())
    assert explained(made(), recorded)._training() is None
    said = explained(exchanged(made()), recorded)._tensors()
    assert said is not None
    assert "exchange first.weight and second.weight" in said
    network = made()
    network.first, network.second = network.second, network.first
    assert "{first: second, second: first}" in str(explained(network, recorded)._tensors())


def test_exchanged_inputs_are_found_by_trying(tmp_path) -> None:
    torch.manual_seed(3)
    given = {"x": torch.randn(2, 4), "y": torch.randn(2, 4)}
    file = tmp_path / "two.npz"
    record(file, made(), **given)
    found = reference.parse(read_arrays(file), TWO, file.name)
    (call,) = found.calls
    turned = replace(call.case, inputs={"x": call.case.inputs["y"], "y": call.case.inputs["x"]})
    exchanged_inputs = replace(found, calls=(replace(call, case=turned),))
    said = explained(made(), exchanged_inputs, TWO)._inputs()
    assert (
        said
        == "exchange inputs of the config: it agrees if x takes what was recorded as y, y takes what was recorded as x"
    )
    assert explained(made(), found, TWO)._inputs() is None
