"""Save the weights of a file alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.weights import read, save
from pipeline.worker.job import Context, Request
from pipeline.worker.process import LOCAL

TIMEOUT_S = 600.0


class SaveWeights(Request[None]):
    """Write the state dict of a weights file to a safetensors file."""

    weights: Path
    key: str | None
    max_bytes: int | None
    target: Path

    def run(self, _: Context) -> None:
        """Load it, and write it."""
        checkpoint = read.load(self.weights, key=self.key, max_bytes=self.max_bytes)
        save.save(checkpoint.tensors, self.target)


def save_weights(weights: Path, target: Path, *, key: str | None = None, max_bytes: int | None = None) -> None:
    """Write the state dict in `weights` to `target`, a new safetensors file, whole or not at all.

    Raises InputError for a target that is there or is called something else, and what `read.load` raises.
    """
    require_new(target)
    read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    request = SaveWeights(weights=weights.resolve(), key=key, max_bytes=max_bytes, target=target.resolve())
    with LOCAL.start(f"saving {target.name}", threads=1) as worker:
        worker.call(request, timeout_s=TIMEOUT_S)


def require_new(target: Path) -> None:
    """Raise InputError for a safetensors file to write that is there, is called something else, or has no folder."""
    if target.suffix != ".safetensors":
        raise InputError(f"{target} would be a safetensors file", hint=f"call it {target.stem}.safetensors")
    if target.exists():
        raise InputError(f"{target} is there already", hint="name another file, or remove it")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}", hint="make it, or name another")
