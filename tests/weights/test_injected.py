"""What fickling puts into harmless files makes every one of them hostile."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import UnsafeError
from pipeline.weights import inspect, read
from tests.weights import injected

pytest.importorskip("fickling", reason="fickling is not installed: make installs it with the extra dev")
NAMES = tuple(injected.injections(Path("marker")))


@pytest.mark.parametrize("kind", injected.HARMLESS)
def test_a_file_is_harmless_before_and_unsafe_after_every_injection(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    path.write_bytes(injected.HARMLESS[kind](lambda made: made))
    assert inspect.description_of(path).kind
    for name, inject in injected.injections(marker).items():
        path.write_bytes(injected.HARMLESS[kind](inject))
        for refuse in (inspect.description_of, read.require_state_dict):
            with pytest.raises(UnsafeError):
                refuse(path)
        assert not marker.exists(), name


@pytest.mark.parametrize("name", NAMES[:-1])  # the last one is nobody's weapon, and refused all the same
def test_the_injections_would_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(injected.injections(marker)[name](injected.PLAIN))  # noqa: S301 - shows that it is real
    assert marker.exists()


def test_models_that_were_taken_over_are_refused(tmp_path: Path) -> None:
    for name, path in injected.models(tmp_path, tmp_path / "marker"):
        with pytest.raises(UnsafeError):
            inspect.description_of(path)
        assert not (tmp_path / "marker").exists(), name
