"""The lines of code that record the outputs of a network where it was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.config import load
from pipeline.rebuild import calling
from pipeline.run.plan import vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def lines(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the lines that record a network's outputs, `python`, and the one that names the file, `config`."""
    config = load(path, overrides=overrides, vocabulary=vocabulary()) if path else None
    roots = calling.roots_of(config.inputs) if config else ["x"]
    constants = [f"{name}={value!r}" for name, value in config.constants.items()] if config else []
    method = [f"method={config.model.call!r}"] if config and config.model.call != "forward" else []
    given = ", ".join([*(f"{name}={name}" for name in roots), *constants, *method])
    taken = {name: each for name, each in config.inputs.items() if each.preprocess} if config else {}
    return {
        "python": [
            "from pipeline import record",
            *(
                f"# {name} as the network takes it, {each.dtype} [{', '.join(map(str, each.shape))}]: preprocessed"
                for name, each in taken.items()
            ),
            f'record("reference.npz", model, {given})',
            f'record("reference.npz", model, {given}, append=True)  # and again, with another input',
        ],
        "config": "reference: reference.npz",
    }
