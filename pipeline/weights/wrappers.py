"""Find the state dicts in what a training script saved around them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from pipeline.errors import in_line
from pipeline.weights.pickle_records import Object, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TOP = "."
"""The key of a state dict that is a file's top level itself."""

_STATE_NAMES = frozenset({
    "state_dict", "model_state_dict", "model_state", "model_states", "model", "net", "network", "module", "weights",
    "params", "parameters", "backbone", "model_weights", "net_state_dict", "network_state_dict", "weight",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "shadow_params",
})  # fmt: skip
_PARAMETER = re.compile(r"\.|^(weight|bias|running_)|(weight|bias)$")
_TRAINING_WORD = re.compile(r"optims?|optimi[sz]ers?|sched(ule|uler)?s?|loss(es)?|criterions?|rng")
_ARGUMENT_WORD = re.compile(r"hyper|hparams|hyperparam(eter)?s|configs?|cfg|args|metadata")
_TRAINING_NAMES = frozenset({"", "amp", "momentum", "momentum_buffer", "grad", "grads", "gradients"})
_MOMENTS = ("exp_avg", "max_exp_avg", "square_avg")
_MAX_WRAPPERS = 5
_MAX_SEEN_AGAIN = 300_000
_CONTAINER = 20  # a dict or list takes as long to look at as so many of its entries
_LISTED = 12


@dataclass(frozen=True, slots=True)
class State:
    """A state dict in a file: the keys and indices that lead to it, its tensors, and its entries that are no tensors."""

    steps: tuple[str | int, ...]
    tensors: Mapping[str, Any]
    ignored: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What `model.key` calls it."""
        return ".".join(map(str, self.steps)) or TOP

    @property
    def is_likely(self) -> bool:
        """Whether it is a network's by its place or by its tensors' names, and not a table of statistics."""
        return bool(self.steps and self.steps[-1] in _STATE_NAMES) or _are_parameters(self.tensors)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A state dict and what was around it.

    `key` is what `model.key` calls it, `path` the keys that lead to it, `beside` the other entries on the way, `ignored` its
    own entries that are no tensors. `choices` are the state dicts of a file that holds several; where nothing says which,
    there are no tensors.
    `unnamed` maps lists of tensors to their lengths: without names they are no state dict.
    """

    tensors: Mapping[str, Any] = field(default_factory=dict)
    key: str = TOP
    path: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    choices: tuple[State, ...] = ()
    unnamed: Mapping[str, int] = field(default_factory=dict)

    def notes(self) -> tuple[str, ...]:
        """Say in plain sentences what was unwrapped and left out."""
        made = []
        if self.path or self.choices:
            asked = f", as asked, of {len(self.choices)} state dicts" if self.choices else ""
            also = f" (also holds: {in_line(self.beside)})" if self.beside else ""
            made.append(f"unwrapped {self.key!r}{asked}{also}")
        if self.ignored:
            made.append(f"left out entries that are no tensors: {in_line(self.ignored)}")
        return (*made, *self.without_names())

    def without_names(self) -> tuple[str, ...]:
        """Say which lists of tensors are no state dict."""
        return tuple(
            f"{printable(key)} holds {count} tensors without names: no state dict, so it is not taken"
            for key, count in self.unnamed.items()
        )


def unwrap(value: Any, is_tensor: Callable[[Any], bool], key: str | None = None) -> Unwrapped:
    """Return the state dict in `value`, looking through the wrappers that training scripts use.

    `key` picks one, as `State.key` calls it. Of several, none is taken without it, nor with one that is none of theirs.
    Raises TooLargeError for dicts that refer to one another without measure.
    """
    search = _Search(is_tensor)
    states = list(search.states(value, ()))
    if not states:
        return Unwrapped(unnamed=search.unnamed)
    likely = [state for state in states if state.is_likely] or states
    picked = likely if key is None else [state for state in states if state.key == key]
    if len(picked) != 1:
        leading = {state.steps[0] for state in likely if state.steps}
        beside = [str(key)[:80] for key, _ in _entries(value) if key not in leading]
        return Unwrapped(beside=tuple(beside), choices=tuple(likely), unnamed=search.unnamed)
    chosen = picked[0]
    return Unwrapped(
        chosen.tensors,
        chosen.key,
        tuple(str(step)[:80] for step in chosen.steps),
        tuple(_beside(value, chosen.steps)),
        chosen.ignored,
        tuple(likely) if len(likely) > 1 else (),
        search.unnamed,
    )


def relations(states: Sequence[State]) -> list[str]:
    """Say of each state dict whether it is like an earlier one: an average of it, or another network."""
    seen: dict[frozenset[tuple[str, tuple[int, ...]]], tuple[State, str]] = {}
    made = []
    for index, state in enumerate(states):
        prefix, shapes = _bare(state)
        first, first_prefix = seen.setdefault(frozenset(shapes.items()), (state, prefix))
        if first is not state:
            name = printable(first.key)
            further = prefix.removesuffix(first_prefix) or first_prefix.removesuffix(prefix)
            behind = f", but for the prefix {further!r}" if further else ""
            made.append(
                f"the same names and shapes as {name}{behind}: an average of it, or the same network at another time"
            )
        else:
            made.append(f"other names or shapes than {printable(states[0].key)}: another network" if index else "")
    return made


def listed(states: Sequence[State]) -> str:
    """Return a line for each state dict: its key, how many tensors it has, and whether it is like another."""
    shown = states[:_LISTED]
    width = max(len(printable(state.key)) for state in shown)
    lines = [
        f"  {printable(state.key):<{width}}  {len(state.tensors)} tensors{f', {relation}' if relation else ''}"
        for state, relation in zip(shown, relations(shown), strict=True)
    ]
    return "\n".join(lines + ([f"  … and {len(states) - _LISTED} more"] if len(states) > _LISTED else []))


def printable(text: str) -> str:
    """Return a text that a file chose in one line, with its control characters written out."""
    return repr(text[:200])[1:-1]


class _Search:
    """Looks for state dicts in nested dicts and lists, and counts what it looks at again: they may be shared without end."""

    def __init__(self, is_tensor: Callable[[Any], bool]) -> None:
        self.is_tensor = is_tensor
        self.unnamed: dict[str, int] = {}
        self.seen: set[int] = set()
        self.seen_again = 0

    def states(self, value: Any, steps: tuple[str | int, ...]) -> Iterator[State]:
        if not isinstance(value, dict | list | tuple | Object):
            return
        self.count(value)
        value = _table(value)
        inner = [
            state
            for step, item in (_entries(value) if len(steps) < _MAX_WRAPPERS else ())
            if isinstance(item, dict | list | tuple | Object)
            and not is_training_state(step, item)
            and not _has_word(str(step), _ARGUMENT_WORD)
            for state in self.states(item, (*steps, step))
        ]
        if isinstance(value, dict):
            tensors = {key: item for key, item in value.items() if isinstance(key, str) and self.is_tensor(item)}
            is_whole = len(tensors) == len(value) or _are_parameters(tensors)
            if tensors and (is_whole or not any(state.is_likely for state in inner)):
                yield State(steps, tensors, tuple(str(key)[:80] for key in value if key not in tensors))
        elif not isinstance(value, Object) and (count := sum(map(self.is_tensor, value))):
            self.unnamed[".".join(map(str, steps)) or TOP] = count
        yield from inner

    def count(self, value: Any) -> None:
        if id(value) in self.seen:
            self.seen_again += len(value.pairs if isinstance(value, Object) else value) + _CONTAINER
        self.seen.add(id(value))
        if self.seen_again > _MAX_SEEN_AGAIN:
            raise TooLargeError("its entries refer to one another again and again")


def _entries(value: Any) -> Iterator[tuple[str | int, Any]]:
    value = _table(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list | tuple) else ())
    yield from ((step, item) for step, item in pairs if isinstance(step, str | int))


def _table(value: Any) -> Any:
    """Return the keys and values of an object that has some: a record of a subclass of dict."""
    return value.table() if isinstance(value, Object) and value.pairs else value


def is_training_state(step: str | int, item: Any) -> bool:
    """Tell whether an entry is an optimizer's, a scheduler's or the like, by its name or by what it holds."""
    if isinstance(item, dict) and "param_groups" in item:
        return True
    if not isinstance(step, str):
        return False
    is_named_so = step in _TRAINING_NAMES or step.endswith("_extra_state") or step.startswith(_MOMENTS)
    return is_named_so or _has_word(step, _TRAINING_WORD)


@lru_cache(maxsize=1024)
def _has_word(name: str, wanted: re.Pattern[str]) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name[:200]).lower())
    return any(wanted.fullmatch(word) for word in words)


def _are_parameters(tensors: Mapping[str, Any]) -> bool:
    return any(_PARAMETER.search(name) for name in tensors)


def _beside(value: Any, steps: Sequence[str | int]) -> Iterator[str]:
    """Yield the other entries at each level on the way to a state dict."""
    for step in steps:
        yield from (str(key)[:80] for key, _ in _entries(value) if key != step)
        value = _table(value)[step]


def _bare(state: State) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Return the prefix that all names share, and the shapes by what is left of their names.

    A counter of updates, which torch's AveragedModel keeps beside the weights, is no part of the network.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.tensors.items() if "." in name or tensor.shape}
    columns = zip(*(name.split(".")[:-1] for name in shapes), strict=False)
    shared = takewhile(lambda column: len(set(column)) == 1, columns)
    prefix = "".join(f"{column[0]}." for column in shared)
    return prefix, {name.removeprefix(prefix): shape for name, shape in shapes.items()}
