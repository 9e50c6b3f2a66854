"""What outputs should be, in which cases a defect would show, and what every run of a proof needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.errors import GateError
from pipeline.parity import hearing, oracle, telling
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.interface import Case, Interface
    from pipeline.parity.budget import Floats, Rule
    from pipeline.parity.oracle import Reference
    from pipeline.parity.rows import Rows
    from pipeline.rebuild.network import Network
    from pipeline.worker.event import Event
    from pipeline.worker.runner import Runner


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every run of a proof needs: the network with its interface, a backend's threads, how long to wait, where it runs."""

    interface: Interface
    network: Network
    threads: int
    timeout_s: float
    report: Callable[[Event], None] = lambda _: None
    runner: Runner = LOCAL
    at_once: int = 2


@dataclass(frozen=True, slots=True)
class Truth:
    """What the outputs should be: for each case its reference and floors, and each output's rule.

    `gates` are the rules of artifacts that have their own, `rows` whether rows of a batch depend on one another. `own`: what
    artifacts of a precision of their own should give, by name (see `pipeline.parity.reduced`).
    """

    cases: tuple[Case, ...]
    references: tuple[Reference, ...]
    floors: tuple[Mapping[str, Floats], ...]
    rules: Mapping[str, Rule]
    fallback: str | None
    gates: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)
    rows: Rows | None = None
    own: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)

    def of(self, artifact: str | None) -> Truth:
        """Return it with the rules that an artifact is held to, and with what that should give by its own word, where it has one."""
        rules = self.gates.get(artifact or "", self.rules)
        own = self.own.get(artifact or "")
        if own is None:
            return replace(self, rules=rules)
        return replace(self, rules=rules, references=own, floors=floors_of(own))


def truth(
    cases: Sequence[Case],
    references: Sequence[Reference],
    fallback: str | None,
    rules: Mapping[str, Rule],
    gates: Mapping[str, Mapping[str, Rule]] | None = None,
) -> Truth:
    """Build the truth from what the oracle gives for the cases (see `oracle.evaluate`)."""
    return Truth(tuple(cases), tuple(references), floors_of(references), rules, fallback, gates or {})


def floors_of(references: Sequence[Reference]) -> tuple[dict[str, Floats], ...]:
    """Return for each case the floors of those outputs that have one."""
    by_output = {name: oracle.floors(references, name) for name in references[0].values}
    return tuple(
        {name: each[index] for name, each in by_output.items() if each is not None} for index in range(len(references))
    )


def silent(known: Truth) -> dict[str, str]:
    """Return the outputs of which no case says anything, and what they are instead, in words."""
    names = [name for name in known.rules if name in known.references[0].responses and not known.rules[name].constant]
    found = {}
    for name in names:
        if oracle.is_settled(known.references, name):
            continue
        if not any(each.tells(name) for each in known.references):
            found[name] = telling.in_words([each.values[name] for each in known.references])
        elif _is_deaf(known, name):
            found[name] = telling.DEAF
    return found


def _is_deaf(known: Truth, name: str) -> bool:
    """Whether a floating output is the same whatever the inputs, although their values reach it, and hides weights on the way."""
    if not all(name in each.fed for each in known.references) or not all(name in each for each in known.floors):
        return False
    values, floors = [each.values[name] for each in known.references], [each[name] for each in known.floors]
    return hearing.is_same(values, floors)


def silent_cases(known: Truth) -> str | None:
    """Say in a line which cases say nothing; None if each says something, or none can."""
    names = [name for name in known.references[0].responses if not oracle.is_settled(known.references, name)]
    found = {
        case.name: telling.in_words([each.values[name] for name in names])
        for case, each in zip(known.cases, known.references, strict=True)
        if names and not any(each.tells(name) for name in names)
    }
    if not found:
        return None
    alike = {said: [f"'{name}'" for name, each in found.items() if each == said] for said in found.values()}
    listed = ", ".join(f"{', '.join(names)} ({said})" for said, names in alike.items())
    return f"{len(found)} of {len(known.cases)} cases say nothing: {listed}"


def require_telling(known: Truth) -> None:
    """Raise GateError for an output of which no case says anything: a pass there proves nothing."""
    if not (found := silent(known)):
        return
    told = [
        f"output '{name}' is {said}: nothing that lies between was seen at work"
        if said == telling.DEAF
        else f"output '{name}' stays within its budget in all {len(known.cases)} cases when every weight is moved by 2 % ({said})"
        for name, said in found.items()
    ]
    name = next(iter(found))
    ways = (
        "give inputs that it responds to: real ones as `samples:`, or the scale, low and high of inputs; if it is meant to be so, "
        f"say it: parity: {{outputs: {{{name}: {{constant: true}}}}}}"
    )
    message = "\n  ".join(["nothing was proven, because no case could show a defect:", *told])
    raise GateError(message, hint=ways, about="silent")
