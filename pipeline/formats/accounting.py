"""The audit of a file: where every constant and every number in it comes from.

Some defects never show in outputs: a changed weight behind a dead unit, an epsilon far below the variance. They show in
the file. Every constant is a tensor of the state dict, bit for bit, or with its axes in another order; or follows from some by a
known rule (see `pipeline.formats.derived`); or is a literal that the exported program states. A constant that nearly equals what
belongs there is a defect whatever the outputs say.

What outputs would show is theirs to judge: an optimiser may compute from weights what no rule here knows. Before a file is accused of a
difference, the network is tried with it; one that outputs show is told as a *suspect*, for the case that they leave their budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats import literals, near
from pipeline.formats.derived import UNIT_ROUNDOFF
from pipeline.formats.known import Known, Match, is_floating, is_plain
from pipeline.formats.ledger import Audit, Constant, Problem
from pipeline.formats.program import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.formats.ledger import Uses

_LITERAL_ELEMENTS = 64
_MOVED = 0.02  # of each element, up or down at random
DROPS_OUT = "is dropout in training mode: it sets elements to 0 at random"
BATCH_STATISTICS = (
    "is batch norm in training mode: it uses batch statistics, so that a row's output depends on the others"
)
IN_EFFECT = "in effect"
"""What a tensor is that is not in the file as it is, while outputs would show it if it were not in it at all."""
# What a graph states without a step that does: neutral elements, and what masks are filled with.
_USUAL = frozenset({0.0, 1.0, -1.0, float("inf"), float("-inf"), float(np.finfo(np.float32).min)})
_WHOLE = frozenset({0, 1, -1, 2**63 - 1, -(2**63), 2**31 - 1, -(2**31)})


def known_of(
    state: Mapping[str, Any],
    program: Mapping[str, Any] | None,
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None,
) -> tuple[dict[str, Step], Known]:
    """Return the steps of a program (see `pipeline.formats.program.as_values`; none of None) and what constants are held against."""
    steps = {each["name"]: Step(**each) for each in program["steps"]} if program else {}
    return steps, Known(state, program, steps, effect)


def audit_tensors(tensors: Mapping[str, Any], known: Known) -> Audit:
    """Account for named tensors of an archive (TorchScript's parameters, buffers and constants)."""
    found = Audit(constants=len(tensors), elements=sum(int(each.size) for each in tensors.values()))
    constants = [Constant(name, value) for name, value in tensors.items()]
    used = {key for constant in constants for key in account(constant, None, known, found)}
    if known.steps:
        check_use(known, used, constants, found)
    return found


def account(constant: Constant, graph: Uses | None, known: Known, found: Audit) -> set[str]:
    """Account for one constant; return the state dict's tensors that it uses."""
    keys = _account(constant, graph, known, found)
    found.holds[constant.name] = tuple(sorted(keys))
    return keys


def _account(constant: Constant, graph: Uses | None, known: Known, found: Audit) -> set[str]:
    users = graph.steps_of(constant, known.steps) if graph and is_plain(constant.value) else []
    step = users[0] if len(users) == 1 else None
    if matches := _equal(constant, known):
        found.count(matches[0][1], constant)
        _check_place(constant, matches, step, graph, known, found)
        return {key for key, _ in matches}
    if match := _explained(constant, users, graph, known):
        found.count(match.how, constant)
        return set(match.keys)
    if not is_plain(constant.value):
        _leave(constant, graph, found)
    elif number := _misstated(constant, step, graph, known):
        found.problems.append(number)
    elif nearly := near.nearest(constant, step, known):
        _accuse(nearly.problem, nearly.as_if, known, found)
        if nearly.problem in found.suspects:
            _leave(constant, graph, found)
        return set(nearly.keys)
    else:
        _leave(constant, graph, found)
    return set()


def _equal(constant: Constant, known: Known) -> list[tuple[str, str]]:
    # A whole number alone equals many by chance; only its name makes it one of the state dict's.
    alone = not is_floating(constant.value) and not constant.value.ndim and constant.name not in known.state
    return [] if alone or not constant.value.size or not is_plain(constant.value) else known.equal(constant.value)


def _explained(constant: Constant, users: Sequence[Step], graph: Uses | None, known: Known) -> Match | None:
    """Return how a constant that is no tensor of the state dict as it is follows from some, or from the program; None if it does not."""
    value, is_named = constant.value, constant.name in known.state
    if not value.size or value.dtype.kind in "OSU":  # texts
        return Match("literal")
    if not is_plain(value):  # numbers of less than a byte
        return None
    if not is_named and _is_literal(constant, users, graph, known):
        return Match("literal")
    if (exact := known.follows(value)) is not None and (not is_named or constant.name in exact.keys):
        return Match(exact.rule, exact.keys)
    ways = {"cast": known.cast, "transposed": known.reordered, "part": known.part}
    # By its name it claims to be that one as it is.
    found = ((how, way(value)) for how, way in ways.items() if how == "cast" or not is_named)
    return next((Match(how, (key,)) for how, key in found if key is not None), None)


def _leave(constant: Constant, graph: Uses | None, found: Audit) -> None:
    value = constant.value
    used_by = graph.used_by(constant) if graph else ""
    found.leave(constant.name, value.shape, int(value.size), value.dtype.name, used_by)


def _accuse(problem: Problem, as_if: Mapping[str, Any] | None, known: Known, found: Audit) -> None:
    """Tell of a difference: as a problem, or as a suspect if outputs show what the network is with it (`as_if`)."""
    shown = known.effect(as_if) if as_if and known.effect else None
    (found.suspects if shown else found.problems).append(problem)


def _check_place(
    constant: Constant,
    matches: Sequence[tuple[str, str]],
    step: Step | None,
    graph: Uses | None,
    known: Known,
    found: Audit,
) -> None:
    """Tell it when a tensor of the state dict, whole as it is, stands where another belongs, or the wrong way round."""
    if wrong := _misplaced(constant, matches, step, graph, known):
        problem, key, value = wrong
        tensor = known.state[key]
        fits = value.size == tensor.size
        _accuse(problem, {key: value.reshape(tensor.shape)} if fits else None, known, found)


def _misplaced(
    constant: Constant, matches: Sequence[tuple[str, str]], step: Step | None, graph: Uses | None, known: Known
) -> tuple[Problem, str, Any] | None:
    """Return what is wrong, which tensor belongs there, and what the file has in its place."""
    keys = {key for key, _ in matches}
    name, value, module = constant.name, constant.value, step.module if step else ""
    if name in known.state and name not in keys:
        if known.holds_what_follows(name, value):
            return None  # an optimiser keeps the name of what it folded something into
        return Problem(name, "holds another tensor of the state dict", min(keys), module=module), name, value
    expected = {key for key in _read_by(step, known) if known.state[key].size == value.size} if step else set()
    if step and expected and not any(known.same_content(key) & keys for key in expected):
        belongs = min(expected)
        return Problem(name, f"stands where {belongs} belongs", min(keys), module=module), belongs, value
    wanted = graph.orientation(constant, step) if graph else None
    if wanted and wanted not in {how for _, how in matches} and not _is_same_either_way(value):
        key = min(keys)
        words = f"is {matches[0][1]}, where it should be {wanted}"
        return Problem(name, words, key, module=module), key, known.state[key].T
    return None


def _read_by(step: Step, known: Known) -> set[str]:
    return {key for key in step.parameters.values() if key in known.state}


def _is_literal(constant: Constant, users: Sequence[Step], graph: Uses | None, known: Known) -> bool:
    """Whether the program states every number of a small constant, or it only computes sizes, or it is 0, 1 or a mask's throughout."""
    value = constant.value
    if value.dtype.kind == "b" and value.size <= _LITERAL_ELEMENTS:
        return True
    if _is_uniform(value):
        return True
    if value.size > _LITERAL_ELEMENTS or not (is_floating(value) or value.dtype.kind in "iu"):
        return False
    if value.dtype.kind in "iu" and graph and graph.only_sizes(constant):
        return True
    numbers = value.reshape(-1).tolist()
    if value.dtype.kind in "iu":
        # Axes, starts and sizes: every case would fail at once on a wrong one, so that here it is enough that they are small.
        return all(abs(number) < _LITERAL_ELEMENTS or _allowed_whole(number, users, known) for number in numbers)
    # Where nothing says which step a number belongs to, any may have stated it.
    stated = [literals.numbers(step)[1] for step in users] or [known.numbers[1] | _USUAL]
    return all(_stated(float(number), real, value.dtype) for number in numbers for real in stated)


def _is_uniform(value: Any) -> bool:
    """Whether a tensor of several elements is 0, 1, or what masks are filled with, throughout."""
    if value.size < 2 or value.dtype.kind == "c":
        return False
    first = value.reshape(-1)[0]
    return float(first) in _USUAL and bool((value == first).all())


def _allowed_whole(number: int, users: Sequence[Step], known: Known) -> bool:
    stated = [literals.numbers(step)[0] for step in users] or [known.numbers[0]]
    return number in _WHOLE or all(number in each for each in stated)


def _stated(number: float, real: set[float], dtype: Any) -> bool:
    with np.errstate(over="ignore"):
        held = {float(dtype.type(each)) for each in real}
    return number in held or any(
        abs(number - each) <= 4 * UNIT_ROUNDOFF * abs(each) for each in held if np.isfinite(each)
    )


def _misstated(constant: Constant, step: Step | None, graph: Uses | None, known: Known) -> Problem | None:
    """Say it when a number alone is not the one that the arithmetic it belongs to states: outputs may hide an epsilon."""
    if graph is None or constant.value.size != 1 or not is_floating(constant.value):
        return None
    number, dtype = float(constant.value.reshape(-1)[0]), constant.value.dtype
    if step is not None and (stated := literals.of_arithmetic(step)) and graph.stands_alone_in_arithmetic(constant):
        if not _stated(number, stated, dtype):
            words = f"is {number:.9g}, and the network says {', '.join(f'{each:.9g}' for each in sorted(stated)[:3])}"
            return Problem(constant.name, f"{words} ({step.operator})", module=step.module)
    elif step is None and known.steps and graph.keeps_a_root_from_zero(constant):
        return Problem(constant.name, f"is {number:.9g} under a square root, and no operator of the network says so")
    return None


def uses_batch_statistics(steps: Mapping[str, Step]) -> bool:
    """Whether the network itself normalises by the batch's own statistics, even in eval mode (track_running_stats=False)."""
    return any(
        "batch_norm" in step.operator and step.arguments.get("training", False) is True for step in steps.values()
    )


def check_use(known: Known, used: set[str], constants: Sequence[Constant], found: Audit) -> None:
    """Every tensor that the program reads must be in the file, unless it has no effect, or one that outputs would show.

    An optimiser may have computed something from it, or left out what changes nothing.
    """
    contained = {other for key in used if key in known.state for other in known.same_content(key)} | used
    needed = {key for step in known.live for key in _read_by(step, known)}
    may_hold = any(each["dtype"].startswith("float") and each["elements"] > 1 for each in found.unaccounted)
    for key in sorted(needed - contained):
        tensor = known.state[key]
        if not is_floating(tensor) or not tensor.any():
            continue
        if _changes_nothing(key, known, constants):
            why = "changes nothing"
        elif any(known.holds_what_follows(key, each.value) for each in constants):
            why = "folded"  # into what is another tensor as well: a weight norm that is 1
        elif may_hold:
            why = "may be in what is not accounted for"
        elif known.effect and _would_be_missed(key, known):
            why = IN_EFFECT
        else:
            where = known.readers[key][0]
            words = f"is used by the network ({where.operator}) and is not in the file, which outputs need not show"
            found.problems.append(Problem(key, words, key, module=where.module))
            continue
        found.absent[why] = found.absent.get(why, 0) + 1


def _changes_nothing(key: str, known: Known, constants: Sequence[Constant]) -> bool:
    """Whether a tensor, and all that is computed from it alone, is only ever a factor of 1 or 0, or a term of 0.

    A number of it that is something else may stand in the file as that number.
    """
    alone = {float(each.value.reshape(-1)[0]) for each in constants if each.value.size == 1 and is_floating(each.value)}
    readers = [step for step in known.readers[key] if not known.is_folded(step)]
    operands = [(step, name, value) for step in readers for name, value in known.operands(step, key)]
    return bool(operands) and all(
        _is_neutral(step.operator, name, value)
        or (value.size == 1 and _stated(float(value.reshape(-1)[0]), alone, np.dtype(np.float32)))
        for step, name, value in operands
    )


def _is_neutral(operator: str, argument: str, value: Any) -> bool:
    is_one, is_zero = bool((value == 1).all()), not value.any()
    match operator.removesuffix("_"):
        case "aten.mul":
            return is_one or is_zero
        case "aten.div":
            return is_one and argument == "other"
        case "aten.add":
            return is_zero
        case "aten.sub":
            return is_zero and argument == "other"
    return False


def _would_be_missed(key: str, known: Known) -> bool:
    """Whether outputs show it when a tensor is a little different, or when it is not there: as a term (0) and as a factor (1)."""
    assert known.effect is not None  # noqa: S101 - asked before
    tensor = known.state[key]
    sides = np.random.default_rng(0).uniform(-_MOVED, _MOVED, tensor.shape)
    if known.effect({key: tensor.astype(np.float64) * (1 + sides)}):
        return True
    return all(known.effect({key: np.full(tensor.shape, float(number))}) for number in (0, 1))


def _is_same_either_way(value: Any) -> bool:
    """Whether a matrix and its transpose have the same bytes: one row, one column, a symmetric or a constant one."""
    return bool(value.ndim == 2 and np.array_equal(value.reshape(-1), value.T.reshape(-1)))
