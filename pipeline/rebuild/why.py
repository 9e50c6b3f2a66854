"""Why a rebuilt network gives something else than was recorded: the first module that differs, and what would agree.

Everything said here was tried: the network was called with inputs exchanged, in training mode, with switches of its method
and arguments of its constructor changed, with tensors of one shape exchanged, until the recorded outputs came out.
"""

from __future__ import annotations

import itertools
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - read when requests are validated

from pipeline.errors import WeighbridgeError
from pipeline.rebuild import calling, model, trust
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.record import watched
from pipeline.rebuild.reference import Recorded  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Interface
    from pipeline.rebuild.network import Network

SECONDS = 25.0
_ROUNDING = 3e-5
_LEAST_ROUNDING, _MOST_ROUNDING = 3e-6, 3e-4
_MOST_PAIRS = 400
_EPSILONS = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)
_WORDS = (
    "relu", "gelu", "silu", "swish", "tanh", "sigmoid", "elu", "leaky_relu", "selu", "mish", "softplus", "hardswish", "quick_gelu",
    "gelu_new", "gelu_pytorch_tanh", "zeros", "reflect", "replicate", "circular", "nearest", "bilinear", "linear", "bicubic",
    "mean", "max", "sum", "cls", "first", "last", "none", "pre", "post", "batch", "layer", "instance", "group", "same", "valid",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call, and by output what it may be off by."""

    recorded: Recorded
    allowed: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found, as sentences, and what to change, having tried it; None if nothing was found."""

    told: tuple[str, ...]
    fix: str | None


def explain(
    network: Network, interface: Interface, calls: Sequence[Call], attributes: Mapping[str, Any]
) -> Explanation:
    """Return what differs between a network and the calls that were recorded of it.

    `attributes` are the plain ones of the recorded network: many have the name of the argument that they keep.
    """
    search = _Search(network, interface, calls, attributes)
    told = search.first_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = next(filter(None, (attempt() for attempt in search.attempts)), None)
    return Explanation(tuple(told), found)


class _Search:
    """Tries one change after another until the recorded outputs come out, or time is up."""

    def __init__(
        self,
        network: Network,
        interface: Interface,
        calls: Sequence[Call],
        attributes: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.interface = interface
        self.calls = calls
        self.module = model.load(network).module
        self.located = trust.locate(network.architecture, network.trust)
        self.make = model.constructor(self.located, network)
        self.deadline = time.monotonic() + SECONDS
        self.attributes = attributes
        self.attempts: Sequence[Callable[[], str | None]] = (
            self._recorded_arguments,
            self._inputs,
            self._training,
            self._switches,
            self._arguments,
            self._tensors,
        )
        self.suspects: set[str] = set()

    def first_module(self) -> list[str]:
        """Say which module is the first to return something else than was recorded, if modules were recorded."""
        call = self.calls[0]
        if not call.recorded.modules:
            return []
        tolerance = min(_MOST_ROUNDING, max(_LEAST_ROUNDING, self._relative_error(call) / 10))
        binding = calling.bind(self.module, self.interface)
        positional, keywords = binding.arguments(calling.tensors_from(call.recorded.case.inputs))
        try:
            _, ours = watched(self.module, self.interface.method, positional, keywords)
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            return [f"with its modules watched the network fails: {type(error).__name__}: {error}"]
        names = [each[0] for each in ours]
        for place, (name, kind, shape, sample) in enumerate(call.recorded.modules):
            if place >= len(ours) or names[place] != name:
                there = names[place] if place < len(ours) else "nothing"
                return [f"the modules run in another order: {name} ({kind}) was recorded where {there} runs now"]
            mine = ours[place]
            if list(mine[2]) != list(shape):
                return [
                    f"the first module that differs is {name} ({mine[1]}): it returns {mine[2]}, and {shape} was recorded"
                ]
            scale = _largest(sample)
            away = np.abs(mine[3] - sample)
            if away.size and not np.nanmax(away, initial=0.0) <= tolerance * scale:
                worst = int(np.nanargmax(away))
                self.suspects = {name}
                return [
                    f"the first module that differs is {name} ({mine[1]}): {mine[3].flat[worst]:.6g} instead of {sample.flat[worst]:.6g}"
                ]
        return [
            f"no recorded module is off by more than {tolerance:.1g} of its largest value: the difference arises outside of them"
        ]

    def _relative_error(self, call: Call) -> float:
        """Return the largest error of an output, as a share of its largest recorded value."""
        given = self._outputs(self.module, self.interface, call, {}) or {}
        found = [0.0]
        for name, wanted in call.recorded.outputs.items():
            if name in given and given[name].shape == wanted.shape and wanted.dtype.kind == "f" and wanted.size:
                scale = _largest(wanted)
                away = np.nanmax(np.abs(given[name].astype(np.float64) - wanted), initial=0.0)
                found.append(float(away / scale) if scale else 0.0)
        return max(found)

    # What may be different

    def _recorded_arguments(self) -> str | None:
        """Build the network with arguments as the recorded one kept them."""
        now = model.all_arguments(self.located, self.network)
        changed = {
            name: self.attributes[name]
            for name in now
            if name in self.attributes and self.attributes[name] != now[name]
        }
        module = self._rebuilt({**self.network.arguments, **changed}) if changed else None
        if module is None or not self._agrees(module, self.interface):
            return None
        told = ", ".join(f"model.arguments.{name} to {value!r}" for name, value in changed.items())
        return f"set {told}, as it was recorded (tried: it agrees)"

    def _inputs(self) -> str | None:
        """Exchange inputs of one shape and dtype."""
        kinds: dict[tuple[Any, ...], list[str]] = {}
        for spec in self.interface.inputs:
            kinds.setdefault((spec.dtype, spec.shape), []).append(spec.name)
        for names in kinds.values():
            for order in itertools.islice(itertools.permutations(names), 1, 24):
                swapped = dict(zip(names, order, strict=True))
                if self._agrees(self.module, self.interface, swapped):
                    pairs = ", ".join(
                        f"{name} takes what was recorded as {other}" for name, other in swapped.items() if name != other
                    )
                    return f"exchange inputs of the config: it agrees if {pairs}"
        return None

    def _training(self) -> str | None:
        """Let layers use the statistics of the batch, as in training."""
        norms = [each for each in self.module.modules() if getattr(each, "track_running_stats", False)]
        if not norms:
            return None
        state = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        for each in norms:
            each.train()
        agrees = self._agrees(self.module, self.interface)
        self.module.eval()
        self.module.load_state_dict(state)
        return (
            "it was recorded in training mode (BatchNorm used the statistics of the batch): call eval() and record again"
            if agrees
            else None
        )

    def _switches(self) -> str | None:
        """Turn the method's own switches on and off."""
        from pipeline.rebuild.remedies import switches

        for name, value in switches(self.module, self.interface):
            changed = replace(self.interface, constants={**self.interface.constants, name: value})
            if self._has_time() and self._agrees(self.module, changed):
                return f"set constants: {{{name}: {str(value).lower()}}} (tried: it agrees)"
        return None

    def _arguments(self) -> str | None:
        """Build the network with other arguments that take the same weights."""
        for name, value in self._other_arguments():
            if not self._has_time():
                return None
            module = self._rebuilt({**self.network.arguments, name: value})
            if module is not None and self._agrees(module, self.interface):
                return f"set model.arguments.{name} to {value!r} (tried: it agrees)"
        return None

    def _rebuilt(self, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Return the network built with other arguments and the same weights, None if it does not take them."""

        def build() -> nn.Module:
            module = self.make(**arguments)
            module.load_state_dict(self.module.state_dict(), strict=True)
            return module.eval()

        return attempt(build)

    def _other_arguments(self) -> Iterator[tuple[str, Any]]:
        ratios = self._ratios()
        for name, value in model.all_arguments(self.located, self.network).items():
            if isinstance(value, bool):
                yield name, not value
            elif isinstance(value, int):
                near = (value * 2, value // 2, value + 1, value - 1, 1, 2, 4, 8, 16)
                yield from ((name, other) for other in dict.fromkeys(near) if other > 0 and other != value)
            elif isinstance(value, float):
                scaled = [float(f"{value * ratio:.6g}") for ratio in ratios] + [
                    float(f"{value / ratio:.6g}") for ratio in ratios
                ]
                others = (*scaled, *_EPSILONS, 1.0, 0.0, value * 2, value / 2)
                yield from ((name, other) for other in dict.fromkeys(others) if other != value)
            elif isinstance(value, str):
                yield from ((name, other) for other in _WORDS if other != value)

    def _ratios(self) -> list[float]:
        """Return what recorded outputs are of ours, where that is the same for all elements."""
        found = []
        given = self._outputs(self.module, self.interface, self.calls[0], {})
        for name, wanted in self.calls[0].recorded.outputs.items():
            ours = given.get(name) if given else None
            if ours is None or wanted.dtype.kind != "f" or ours.shape != wanted.shape:
                continue
            usable = np.isfinite(wanted) & np.isfinite(ours) & (np.abs(ours) > np.abs(ours).max(initial=0.0) * 1e-3)
            ratios = wanted[usable].astype(np.float64) / ours[usable]
            if ratios.size and np.ptp(ratios) <= 1e-3 * abs(np.median(ratios)) and np.median(ratios):
                found.append(float(np.median(ratios)))
        return found

    def _tensors(self) -> str | None:
        """Exchange two tensors of one shape, first those near where the difference begins; then modules with all they hold."""
        state = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        below: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            module, _, last = name.rpartition(".")
            below.setdefault(module, {})[last] = tensor
        alone = {name: {"": tensor} for name, tensor in state.items() if tensor.numel() > 1}
        several = {module: held for module, held in below.items() if len(held) > 1}
        if pair := self._exchanged_pair(alone):
            return (
                f"exchange {' and '.join(pair)}, with model.rename or where the weights were saved (tried: it agrees)"
            )
        if pair := self._exchanged_pair(several):
            one, other = pair
            return f"set model.rename to {{{one}: {other}, {other}: {one}}} (tried: it agrees)"
        return None

    def _exchanged_pair(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[str, str] | None:
        """Return two groups of tensors that have the same names, shapes and dtypes and with which, exchanged, it agrees."""
        forms = {
            name: {last: (tensor.shape, tensor.dtype) for last, tensor in held.items()} for name, held in groups.items()
        }
        pairs = [(one, other) for one, other in itertools.combinations(groups, 2) if forms[one] == forms[other]]
        pairs.sort(
            key=lambda pair: not any(f"{name}.".startswith(f"{each}.") for name in pair for each in self.suspects)
        )
        for one, other in pairs[:_MOST_PAIRS]:
            if not self._has_time():
                return None
            with ExitStack() as stack:
                for last, tensor in groups[one].items():
                    stack.enter_context(_exchanged(tensor, groups[other][last]))
                agrees = self._agrees(self.module, self.interface)
            if agrees:
                return one, other
        return None

    # Calls

    def _has_time(self) -> bool:
        return time.monotonic() < self.deadline

    def _agrees(self, module: nn.Module, interface: Interface, swapped: Mapping[str, str] | None = None) -> bool:
        """Tell whether all recorded outputs come out, as nearly as another network could not give them."""
        for call in self.calls:
            given = self._outputs(module, interface, call, swapped or {})
            if given is None or not all(
                _is_near(given[name], wanted, call.allowed.get(name, 0.0))
                for name, wanted in call.recorded.outputs.items()
            ):
                return False
        return True

    def _outputs(
        self, module: nn.Module, interface: Interface, call: Call, swapped: Mapping[str, str]
    ) -> dict[str, Any] | None:
        import torch

        inputs = call.recorded.case.inputs
        arrays = {name: inputs[swapped.get(name, name)] for name in inputs}
        try:
            with torch.inference_mode():
                tensors = {name: each.clone() for name, each in calling.tensors_from(arrays).items()}
                found = calling.call(module, calling.bind(module, interface), interface, tensors)
        except (WeighbridgeError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            return None
        return {name: calling.array_from(tensor) for name, tensor in found.items()}


def _largest(array: Any) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _is_near(ours: Any, wanted: Any, allowed: Any) -> bool:
    """Tell whether an output is what was recorded: exactly if it is no float, else within what rounding does."""
    if ours.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(ours, wanted))
    error = np.abs(ours.astype(np.float64) - wanted)
    is_within = error <= np.maximum(2 * allowed, _ROUNDING * _largest(wanted))
    return bool((is_within | (np.isnan(ours) & np.isnan(wanted)) | (ours == wanted)).all())


@contextmanager
def _exchanged(one: torch.Tensor, other: torch.Tensor) -> Iterator[None]:
    one.data, other.data = other.data, one.data
    try:
        yield
    finally:
        one.data, other.data = other.data, one.data
