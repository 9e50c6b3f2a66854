"""Numbers of a file's operators, held against those of the exported program as a multiset a family of operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.formats.ledger import Problem
from pipeline.formats.literals import family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.formats.known import Known
    from pipeline.formats.ledger import Audit
    from pipeline.formats.program import Step

# The arguments that matter, of operators whose every use the program must match.
_NUMBERS = ("eps", "stride", "padding", "dilation", "groups", "kernel_size", "approximate", "negative_slope", "alpha")
_FAMILIES = frozenset(
    {"conv", "conv_transpose", "layer_norm", "batch_norm", "group_norm", "instance_norm", "gelu", "leaky_relu", "elu"}
    | {"max_pool", "avg_pool", "rms_norm"}
)


# Those whose numbers outputs may hide.
_HIDDEN = frozenset(
    {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "gelu", "leaky_relu", "elu"}
)
OPEN = "?"  # as `pipeline.formats.program` writes what is not fixed

Use: TypeAlias = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True, slots=True)
class Uses:
    """The operators of a file with their numbers: all of them, those that every call runs, and families that stand in a block."""

    every: Sequence[Use]
    outer: frozenset[Use]
    inner: frozenset[str]


def check(known: Known, uses: Uses, found: Audit) -> None:
    """Hold the numbers of operators against the program's, as a multiset a family.

    A script may have an operator once in a loop, or in each of two branches, and a trace one fused operator instead of several. Where
    the two have not the same number of a family, only numbers that the other has nowhere are held against it.
    """
    found.attributes += sum(len(numbers) for _, numbers in uses.every)
    wanted = [each for step in known.live if (each := _of_step(step))]
    modules = dict(reversed(wanted))
    for name in dict.fromkeys(each for each, _ in uses.every):
        theirs = Counter(use for use in uses.every if use[0] == name)
        ours = Counter(use for use, _ in wanted if use[0] == name)
        extra, lacking = theirs - ours, ours - theirs
        if any(_is_open(use) for use in (*theirs, *ours)):
            continue
        if name in uses.inner or theirs.total() != ours.total():
            lacking = Counter({use: count for use, count in lacking.items() if use not in theirs})
            extra = Counter({use: count for use, count in extra.items() if use not in ours})
            if name not in _HIDDEN:
                lacking.clear()
        for use in extra:
            instead = max(lacking, key=lambda each: len({*each[1]} & {*use[1]}), default=None)
            if instead is None or use not in uses.outer:
                found.leave(_shown(use), (), 0, "attribute", name)
            else:
                words = f"is what the network has where the file has {_shown(use)}"
                found.problems.append(Problem(_shown(instead), words, module=modules[instead]))


def _is_open(use: Use) -> bool:
    """Whether a number of a use is computed when it runs."""
    return any(OPEN in (value if isinstance(value, tuple) else (value,)) for _, value in use[1])


def _of_step(step: Step) -> tuple[Use, str] | None:
    name = family(step.operator, step.arguments)
    use = use_of(name, step.arguments)
    return (use, step.module) if use else None


def use_of(name: str, arguments: Mapping[str, Any]) -> Use | None:
    """Return a family's use with the numbers that matter, by the operator's own argument names; None for other operators."""
    if name not in _FAMILIES:
        return None
    numbers = [(key, _plain(arguments[key])) for key in _NUMBERS if key in arguments]
    filled = dict(numbers)
    if filled.get("stride") in {(), 0} and "kernel_size" in filled:
        filled["stride"] = filled["kernel_size"]  # what a pool without a stride uses
    return name, tuple(filled.items())


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        listed = tuple(_plain(each) for each in value)
        return listed[:1] if len(set(listed)) == 1 else listed
    if isinstance(value, bool) or value is None:
        return int(value or 0)
    return float(f"{value:.6e}") if isinstance(value, float) else value


def _shown(signature: Use) -> str:
    name, numbers = signature
    return (
        f"{name}({', '.join(f'{key}={list(value) if isinstance(value, tuple) else value}' for key, value in numbers)})"
    )
