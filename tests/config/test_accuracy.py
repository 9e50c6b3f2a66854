"""The accuracy of a gate: its path starts at the config, what contradicts is named, and a config without it resolves as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.models import resolved
from tests.config.test_config import SHORTEST, _in_folder, problems, read  # noqa: F401 - the fixture applies here too


def gate(accuracy: str) -> str:
    return SHORTEST + f"gates: {{onnx: {{accuracy: {accuracy}}}}}\n"


def test_its_path_starts_at_the_config_and_a_release_records_the_name_alone() -> None:
    found = read(gate("{samples: data/evaluation.npz, sqnr_db: 30}"))
    accuracy = found.gates["onnx"].accuracy
    assert accuracy is not None
    assert accuracy.samples == str(Path.cwd() / "data" / "evaluation.npz")
    assert (accuracy.share, accuracy.confidence, accuracy.outputs) == (0.9, 0.95, [])
    assert resolved(found)["gates"]["onnx"]["accuracy"]["samples"] == "evaluation.npz"


def test_a_config_without_it_resolves_as_before() -> None:
    assert resolved(read(SHORTEST))["gates"] == {}
    found = resolved(read(SHORTEST + "gates: {onnx: {limit: 4}}\n"))
    assert found["gates"] == {"onnx": {"limit": 4.0, "atol": None, "rtol": None, "outputs": {}}}


def test_a_gate_may_hold_accuracy_alone_and_has_no_budget_then() -> None:
    assert not read(gate("{samples: x.npz, sqnr_db: 30}")).gates["onnx"].has_budget
    assert read(SHORTEST + "gates: {onnx: {limit: 4}}\n").gates["onnx"].has_budget


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ("{sqnr_db: 30}", "accuracy.samples: is missing"),
        ("{samples: x.txt, sqnr_db: 30}", "accuracy.samples: expected a .npz or .safetensors file"),
        ("{samples: x.npz}", "accuracy: expected sqnr_db, top1_agreement, or metric with margin"),
        ("{samples: x.npz, sqnr_db: 30, share: 1.5}", "accuracy.share: "),
        ("{samples: x.npz, top1_agreement: 0.9, share: 0.5}", "accuracy.share: goes with sqnr_db, which is missing"),
        ("{samples: x.npz, sqnr_db: 30, range: [0, 1]}", "accuracy.range: goes with metric, which is missing"),
        ("{samples: x.npz, metric: 'a:b'}", "accuracy.metric: goes with margin, which is missing"),
        ("{samples: x.npz, sqnr_db: 30, margin: 0.1}", "accuracy.margin: goes with metric, which is missing"),
        ("{samples: x.npz, metric: top1, margin: 0.1}", "accuracy.metric: expected package.module:function"),
        ("{samples: x.npz, metric: 'a:b', margin: 0.1, range: [1, 0]}", "accuracy.range: 0 is not above 1"),
        ("{samples: x.npz, metric: 'a:b', margin: 1}", "accuracy.margin: 1 is no less than the metric's whole range, which is 1"),
        ("{samples: x.npz, sqnr_db: 30, outputs: [z]}", "accuracy.outputs.0: 'z' is not in outputs (valid: 'y')"),
        ("{samples: x.npz, sqnr_dB: 30}", "accuracy.sqnr_dB: unknown key (nearest valid: 'sqnr_db')"),
    ],
)  # fmt: skip
def test_what_contradicts_is_named_where_it_stands(accuracy: str, said: str) -> None:
    assert [line for line in problems(gate(accuracy)) if said in line], problems(gate(accuracy))
