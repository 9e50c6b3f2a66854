"""Explicit tolerances must mean what onnx's own test runner means by them."""

from benchmarks.onnx_node_agreement import judge


def test_a_seeded_sample_of_the_onnx_wheels_node_cases_gets_the_same_verdicts():
    excluded, disagreed, compared = judge(sample=24, seed=6)
    assert disagreed == []
    assert compared >= 200
    assert sum(excluded.values()) < 40
