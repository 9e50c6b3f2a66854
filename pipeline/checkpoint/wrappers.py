"""Find the state dict in what a training script saved around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# In the order in which they are preferred: the trained weights before their moving average.
_STATE_NAMES = (
    "state_dict", "model_state_dict", "model_state", "model_states", "model", "net", "network", "module", "weights",
    "params", "parameters", "backbone", "model_weights", "net_state_dict", "network_state_dict", "weight",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "shadow_params",
)  # fmt: skip
_NOT_WEIGHTS = ("optim", "sched", "scaler", "loss", "criterion", "amp", "rng", "callback", "hyper", "config", "args")
_MAX_WRAPPERS = 4


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A state dict and what was around it.

    `path` are the keys that lead to it, `beside` the other entries on the way, `ignored` its own entries that are no
    tensors. `choices` names several state dicts of equal standing; then there are no tensors.
    """

    tensors: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Say in plain sentences what was unwrapped and left out."""
        made = []
        if self.path:
            also = f" (also holds: {_listed(self.beside)})" if self.beside else ""
            made.append(f"unwrapped {'.'.join(self.path)!r}{also}")
        if self.ignored:
            made.append(f"left out entries that are no tensors: {_listed(self.ignored)}")
        return tuple(made)


def unwrap(value: Any, is_tensor: Callable[[Any], bool]) -> Unwrapped | None:
    """Return the state dict in `value`, looking through the wrappers that training scripts use; None if there is none."""
    return _unwrap(value, is_tensor, (), ())


def _unwrap(
    value: Any, is_tensor: Callable[[Any], bool], path: tuple[str, ...], beside: tuple[str, ...]
) -> Unwrapped | None:
    if not isinstance(value, dict) or len(path) > _MAX_WRAPPERS:
        return None
    names = {key: item for key, item in value.items() if isinstance(key, str)}
    tensors = {key: item for key, item in names.items() if is_tensor(item)}
    inner = {} if _is_state(tensors, value) else _inner(names, is_tensor)
    if not inner:
        ignored = tuple(str(key)[:80] for key in value if key not in tensors)
        return Unwrapped(tensors, path, beside, ignored) if tensors else None
    preferred = next((name for name in _STATE_NAMES if name in inner), None)
    if preferred is None and len(inner) > 1:
        return Unwrapped(path=path, choices=tuple(inner))
    chosen = preferred if preferred is not None else next(iter(inner))
    others = tuple(str(key)[:80] for key in value if key != chosen)
    return _unwrap(inner[chosen], is_tensor, (*path, chosen), (*beside, *others))


def _is_state(tensors: Mapping[str, Any], value: Mapping[Any, Any]) -> bool:
    """Tell whether the tensors here are a network's own: all there is, or named like parts of modules."""
    return bool(tensors) and (len(tensors) == len(value) or any("." in key for key in tensors))


def _inner(names: Mapping[str, Any], is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the entries that hold a state dict somewhere inside."""
    candidates = {key: item for key, item in names.items() if isinstance(item, dict) and key not in ("", "_metadata")}
    holding = {key: item for key, item in candidates.items() if _holds_tensors(item, is_tensor)}
    return {
        key: item for key, item in holding.items() if key in _STATE_NAMES or not key.lower().startswith(_NOT_WEIGHTS)
    }


def _holds_tensors(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> bool:
    # Each dict is visited once, however often and wherever it is shared.
    seen: set[int] = set()
    level = [value]
    for _ in range(_MAX_WRAPPERS):
        items = [item for mapping in level for key, item in mapping.items() if isinstance(key, str)]
        if any(map(is_tensor, items)):
            return True
        level = []
        for item in items:
            if isinstance(item, dict) and id(item) not in seen:
                seen.add(id(item))
                level.append(item)
    return False


def _listed(names: tuple[str, ...], limit: int = 8) -> str:
    more = f" … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
