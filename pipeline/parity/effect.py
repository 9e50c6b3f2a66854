"""An experiment: whether outputs of the network show it when some of its tensors hold other values.

The network is run in float64, where a difference is one of the values alone. It shows if outputs move further than what parity would
forgive: many times as far as float32 is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.parity.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface

_TIMES_NOISE = 250.0  # parity's limit is 16, of a floor that pools noise of other cases and of moved weights
_UNIT_ROUNDOFF = 2.0**-24


class Effect:
    """A network that is tried with other values; it is loaded when the first is tried, by `load`, and kept in float64."""

    def __init__(self, load: Callable[[], nn.Module], interface: Interface, examples: Arrays) -> None:
        self._load, self._interface, self._examples = load, interface, examples
        self._run: Callable[[], Mapping[str, torch.Tensor]] | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._plain: Mapping[str, torch.Tensor] = {}
        self._limits: dict[str, float] = {}
        self._reason: str | None = None

    def __call__(self, values: Mapping[str, Any]) -> bool | None:
        """Return whether outputs show it when the tensors of these names hold these values; None if it cannot be tried."""
        import torch

        if self._run is None and self._reason is None:
            self._prepare()
        if self._run is None or not values.keys() <= self._tensors.keys():
            return None
        before = {name: self._tensors[name].detach().clone() for name in values}
        try:
            with torch.no_grad():
                for name, value in values.items():
                    self._tensors[name].copy_(torch.from_numpy(np.array(value, np.float64)).reshape(before[name].shape))
                moved = self._run()
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return None
        finally:
            with torch.no_grad():
                for name, tensor in before.items():
                    self._tensors[name].copy_(tensor)
        return any(_distance(moved[name], plain) > self._limits[name] for name, plain in self._plain.items())

    def _prepare(self) -> None:
        """Load the network, and measure how far float32 is off."""
        try:
            module = self._load()
            run = Caller(module, self._interface)
            single = run(self._examples).outputs
            module.double()
            self._plain = run(self._examples, double=True).outputs
        except Exception as error:  # noqa: BLE001 - whatever a network raises in float64: then nothing is tried
            self._reason = str(error) or type(error).__name__
            return
        for name, exact in self._plain.items():
            scale = float(exact.abs().nan_to_num(0, 0, 0).max()) if exact.numel() else 0.0
            noise = _distance(single[name], exact)
            self._limits[name] = _TIMES_NOISE * max(noise, _UNIT_ROUNDOFF * scale)
        self._tensors = {**dict(module.named_buffers()), **module.state_dict(keep_vars=True)}
        self._run = lambda: run(self._examples, double=True).outputs


def _distance(value: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference; infinity where only one of the two is finite."""
    import torch

    if value.shape != other.shape:
        return float("inf")
    if not value.numel():
        return 0.0
    wide = torch.complex128 if value.is_complex() else torch.float64
    value, other = value.to(wide), other.to(wide)
    same = (value == other) | (value.isnan() & other.isnan())
    difference = torch.where(same, 0.0, (value - other).abs())
    return float(difference.nan_to_num(nan=float("inf")).max())
