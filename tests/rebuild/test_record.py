"""One line where a network was trained writes a file that says what it gave, and leaves the network as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pipeline
from pipeline.errors import InputError
from pipeline.rebuild import record as recording
from pipeline.rebuild import reference
from pipeline.release.predict import read_arrays
from tests.rebuild.calls import Cached, Switched, X, Y, face, floats
from tests.rebuild.test_calling import tensors

record = pipeline.record
ONE = face([X])


class Net(nn.Module):
    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.temperature = temperature

    def forward(self, x):
        return self.drop(self.norm(self.fc(x))) / self.temperature


@pytest.fixture(params=[".npz", ".safetensors"])
def file(request, tmp_path) -> Path:
    return tmp_path / f"reference{request.param}"


def test_what_went_in_and_came_out_in_eval_mode_is_read_back(file) -> None:
    network = Net().train()
    for _ in range(3):
        network(torch.randn(8, 4))  # running statistics
    x, more = torch.randn(2, 4), torch.randn(3, 4)
    record(file, network, x)
    record(file, network, x=more, append=True)
    assert network.training
    assert network.norm.training
    found = reference.parse(read_arrays(file), ONE, file.name)
    assert [each.case.sizes for each in found.calls] == [{"batch": 2}, {"batch": 3}]
    network.eval()
    for given, call in zip((x, more), found.calls, strict=True):
        assert np.array_equal(call.case.inputs["x"], given.numpy())
        assert np.array_equal(call.outputs["result"], network(given).detach().numpy())
        assert [(name, kind, shape) for name, kind, shape, _ in call.modules] == [
            (name, kind, [len(given), 4])
            for name, kind in (("fc", "Linear"), ("norm", "BatchNorm1d"), ("drop", "Dropout"))
        ]
    assert found.attributes["temperature"] == 1.0
    assert found.place == f"torch {torch.__version__}, cpu, float32, int64"


def test_nested_inputs_and_outputs_go_by_their_paths(file) -> None:
    interface = face(
        [X, *(floats(f"past.{index}.{name}", "batch", 4) for index in (0, 1) for name in ("key", "value"))],
        "y new",
        paths={"y": "0", "new": "1.1.key"},
    )
    given = tensors(interface)
    past = [{name: given[f"past.{index}.{name}"] for name in ("key", "value")} for index in (0, 1)]
    network = Cached()
    record(file, network, given["x"], past)
    (call,) = reference.parse(read_arrays(file), interface, file.name).calls
    assert set(call.case.inputs) == set(given)
    assert np.array_equal(call.outputs["new"], (network(given["x"], past)[1][1]["key"]).detach().numpy())


def test_arguments_that_are_no_tensors_are_noted_as_constants(file) -> None:
    record(file, Switched(), torch.ones(2, 4), y=torch.ones(2, 4), bias=0.5, trigger=True)
    found = reference.parse(read_arrays(file), face([X, Y]), file.name)
    assert found.meta["calls"][0]["constants"] == {"bias": 0.5, "trigger": True}
    told = list(reference.hints(found, face([X, Y], constants={"bias": 0.1}), recording.fingerprint(Switched())))
    assert told == [
        "it was recorded with bias=0.5, and `constants` says 0.1",
        "it was recorded with trigger=True, which `constants` leaves out",
    ]


def test_half_precision_is_recorded_as_numbers_that_hold_it(file) -> None:
    network = nn.Linear(4, 4).to(torch.bfloat16)
    record(file, network, torch.ones(2, 4, dtype=torch.bfloat16))
    found = reference.parse(read_arrays(file), ONE, file.name)
    assert found.calls[0].outputs["result"].dtype == np.float32
    assert found.meta["dtypes"] == ["bfloat16"]


def test_another_network_is_not_appended(file) -> None:
    record(file, Net(), torch.ones(2, 4))
    before = file.read_bytes()
    with pytest.raises(InputError, match="was recorded with other weights"):
        record(file, Net(), torch.ones(2, 4), append=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda folder: record(folder / "reference.pt", Net(), torch.ones(2, 4)), "is no .npz or .safetensors file"),
        (lambda folder: record(folder / "r.npz", nn.Identity(), 3), "returned no tensor"),
    ],
)
def test_what_cannot_be_recorded_is_told_and_leaves_no_file(call, said, tmp_path) -> None:
    with pytest.raises(InputError, match=said):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recording_needs_torch_and_numpy_only(tmp_path) -> None:
    """The training machine has no other package of ours: none is imported."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'pydantic','onnx','onnxruntime','ruamel','omegaconf','rich','typer','scipy','safetensors','fsspec','filelock','cryptography'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import torch\n"
        "from pipeline import record\n"
        f"record({str(tmp_path / 'r.npz')!r}, torch.nn.Linear(4, 4), torch.ones(2, 4))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path.cwd())})
    assert json.loads(bytes(np.load(tmp_path / "r.npz")[recording.META]))["format"] == recording.FORMAT


# Files that are read


def arrays(**more):
    return {"x": np.ones((2, 4), np.float32), "result": np.zeros((2, 4), np.float32), **more}


def test_a_file_made_by_hand_goes_by_the_names_of_the_config() -> None:
    found = reference.parse(arrays(), ONE, "mine.npz")
    assert (len(found.calls), found.place, dict(found.meta)) == (1, "made by hand", {})
    assert set(found.calls[0].outputs) == {"result"}


def test_names_of_its_own_in_the_config_go_in_order() -> None:
    found = reference.parse(
        {"0/input/input": np.ones((2, 4), np.float32), "0/output": np.zeros((2, 4), np.float32)}, ONE, "r.npz"
    )
    assert list(found.calls[0].case.inputs) == ["x"]
    assert list(found.calls[0].outputs) == ["result"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "input 'x' was not recorded; recorded: none"),
        ({"x": np.ones((2, 4), np.float32)}, "output 'result' was not recorded"),
        (arrays(x=np.ones((2, 5), np.float32)), "r.npz, call 0: 'x' has size 5 where 4 is 4"),
        (arrays(x=np.ones((2, 4), np.int64)), "'x' is int64"),
        (arrays(x=np.ones((9, 4), np.float32)), "batch is 9, and the config allows 1 to 8"),
        (arrays(x=np.full((2, 4), 0.1)), "'x' is float64"),
        ({"0/input/x": np.ones((2, 4), np.float32), "y": np.ones(3)}, "holds 'y', which is neither"),
        ({"meta": np.zeros(3, np.uint8), **arrays()}, "what it says of itself cannot be read"),
        ({"meta": np.frombuffer(b"[]", np.uint8), **arrays()}, "its format is None"),
        ({"meta": np.frombuffer(b'{"format": "other"}', np.uint8), **arrays()}, "its format is 'other'"),
        ({"0/input/a": np.ones((2, 4), np.float32), "0/input/b": np.ones((2, 4), np.float32), "0/output": np.ones(2)}, "input 'x' was not recorded"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_the_config_is_an_input_error(given, said) -> None:
    with pytest.raises(InputError) as caught:
        reference.parse(given, ONE, "r.npz")
    assert said in caught.value.message


def test_inputs_of_lower_precision_are_widened_where_that_is_exact() -> None:
    found = reference.parse(arrays(x=np.full((2, 4), 0.5, np.float16)), ONE, "r.npz")
    assert found.calls[0].case.inputs["x"].dtype == np.float32


# What the file says of the network


def fingerprints(network: nn.Module):
    found = recording.fingerprint(network)
    return {"state": found["state"], "settings": found["settings"], "dtypes": found["dtypes"]}


def test_exchanged_tensors_other_weights_and_settings_are_named() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    meta = fingerprints(network)
    assert list(reference.differences(meta, fingerprints(network))) == []
    first, last = network[0].weight.data, network[2].weight.data
    network[0].weight.data, network[2].weight.data = last, first
    assert list(reference.differences(meta, fingerprints(network))) == [
        "0.weight holds the values that 2.weight was recorded with",
        "2.weight holds the values that 0.weight was recorded with",
    ]
    network[0].weight.data, network[2].weight.data = first, last * 1.001
    network[1].eps = 1e-12
    assert list(reference.differences(meta, fingerprints(network))) == [
        "1 of 6 tensors have other values than were recorded (2.weight)",
        "1.eps is 1e-12, and was 1e-05 where it was recorded",
    ]


def test_an_epoch_later_is_told_from_one_wrong_tensor() -> None:
    torch.manual_seed(0)
    meta = fingerprints(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    (told,) = reference.differences(meta, fingerprints(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))))
    assert "4 of 4 tensors have other values than were recorded" in told
    assert "weights of another epoch" in told


def test_wrappers_of_the_training_code_and_dropout_are_no_difference() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
    meta = fingerprints(nn.DataParallel(network))
    network[1].p = 0.3
    assert list(reference.differences(meta, fingerprints(network))) == []
