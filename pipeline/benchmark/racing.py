"""A race from its first launch to its result. Whoever runs it says how a launch is made; by what rules, race.py says."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline.benchmark import race
from pipeline.benchmark.race import ALPHA, SAME, Gap, Heat
from pipeline.benchmark.statistics import MIN_LAUNCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Phase = Literal["race", "confirmation"]
Result = Literal["best", "not told apart", "no candidate", "not shown"]

LEAST_CONFIRMING, MOST_CONFIRMING = 4, 10
CONFIRMING_SHARE = 0.4
MOST_RIVALS = 3
"""With more that are left, all of the time goes to the race."""


class Launcher(Protocol):
    """Whoever makes a launch."""

    def __call__(self, phase: Phase, index: int, names: tuple[str, ...], leader: str) -> Heat:
        """Time these in fresh processes, the leader twice, in the `index`-th launch of a phase."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a race may take, which difference counts, and which limits a candidate has to keep."""

    seconds: float
    margin: float = 0.03
    p99_ms: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """When a candidate left and why; `is_slower`: for being behind the leader; `failed`: for a crash; else for a limit."""

    launch: int
    why: str
    is_slower: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How much more a candidate has than the one that led, ÷ that, with a 95 % interval of its own; and how it left, if it did."""

    name: str
    ratio: float | None
    interval: tuple[float, float] | None
    launches: int
    left: Left | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a race came to.

    `chosen`: the one to take, None where none keeps the limits; `tied`: those that cannot be told apart, `chosen` among them.
    `more_s`: how much longer might tell them apart; None where nothing is left to be told.
    """

    result: Result
    chosen: str | None
    tied: tuple[str, ...]
    why: str
    leader: str
    standings: tuple[Standing, ...]
    launches: int
    confirmations: int
    seconds: float
    more_s: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a race stands: `left_s` is what it may still take."""

    phase: Phase
    launch: int
    racing: int
    candidates: int
    left_s: float
    done: float


def run(
    names: Sequence[str],
    launch: Launcher,
    rules: Rules,
    sizes: Mapping[str, int],
    tell: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Race candidates until one is left, none needs to be told apart, or the time is up; confirm the winner in new launches.

    At least three launches are made, and four of a confirmation, whatever the time. `sizes`: bytes of each one's files. Of those that
    cannot be told apart, and whose estimates are within the margin of the best one's, the one with the least memory is taken, then
    with the smallest files, then the first of `names`.
    """
    return _Race(tuple(names), launch, rules, sizes, tell).run()


@dataclass
class _Race:
    names: tuple[str, ...]
    launch: Launcher
    rules: Rules
    sizes: Mapping[str, int]
    tell: Callable[[Progress], None]
    heats: list[Heat] = field(default_factory=list)
    again: list[Heat] = field(default_factory=list)
    left: dict[str, Left] = field(default_factory=dict)

    # --- what is known -------------------------------------------------------------------------------------------------

    @property
    def racing(self) -> list[str]:
        return [name for name in self.names if name not in self.left]

    @property
    def seconds(self) -> float:
        return math.fsum(heat.seconds for heat in (*self.heats, *self.again))

    def calls_ns(self, name: str) -> list[int]:
        return [call for heat in (*self.heats, *self.again) for call in heat.calls_ns.get(name, ())]

    def peaks(self, name: str) -> list[int]:
        return [heat.peak_bytes[name] for heat in (*self.heats, *self.again) if name in heat.peak_bytes]

    def kept(self, name: str, tail: float) -> race.Kept:
        """Whether a candidate keeps the limit of its 99th percentile."""
        return "yes" if self.rules.p99_ms is None else race.keeps(self.calls_ns(name), self.rules.p99_ms, tail)

    def tail(self) -> float:
        return ALPHA / len(self.names)

    def ranked(self) -> list[str]:
        """Those in the race, the best first; of those that are known to keep the limits before the others."""
        order = race.ranked(self.heats, self.racing)
        return sorted(order, key=lambda name: self.kept(name, self.tail()) != "yes")

    # --- the race ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        while self.racing and not self._is_over():
            leader = self.ranked()[0] if self.heats else self.names[0]
            self._make("race", leader, tuple(self.racing), self.heats)
            self._put_out()
        if not self.racing:
            return self._without("no candidate")
        ranked = self.ranked()
        leader, others = ranked[0], ranked[1:]
        if self.kept(leader, self.tail()) != "yes":
            return self._without("not shown")
        if race.are_same(self.heats, self.racing, leader, self.rules.margin) and others:
            return self._tied(leader, self.racing, f"they differ by less than {self.rules.margin:.3g}", decided=True)
        rivals = others or self._runner_up(leader)
        if len(rivals) > MOST_RIVALS:
            return self._tied(leader, self.racing, "the time was up before they could be told apart")
        return self._confirmed(leader, rivals) if rivals else self._alone(leader)

    def _make(self, phase: Phase, leader: str, names: tuple[str, ...], into: list[Heat]) -> None:
        left_s = max(self.rules.seconds - self.seconds, 0.0)
        done = min(self.seconds / self.rules.seconds, 1.0)
        self.tell(Progress(phase, len(into) + 1, len(names), len(self.names), left_s, done))
        heat = self.launch(phase, len(into), names, leader)
        into.append(heat)
        for name, why in heat.failures.items():
            self.left.setdefault(name, Left(len(self.heats), f"dropped out: {why}", failed=True))

    def _put_out(self) -> None:
        look = len(self.heats) - MIN_LAUNCHES + 1
        if look < 1:
            return
        for name in self.racing:
            if broken := self._breaks(name, look):
                self.left[name] = Left(len(self.heats), broken)
        ranked = self.ranked()
        # Whoever may still turn out to break a limit puts nobody out.
        if not ranked or self.kept(ranked[0], self.tail()) != "yes":
            return
        alpha = race.level(ALPHA, len(self.names), look)
        for name, each in race.beaten(self.heats, ranked, ranked[0], alpha, self.rules.margin).items():
            why = f"at least {math.expm1(each.surely(alpha)):.2%} behind {ranked[0]}, and {math.expm1(each.mean):.2%} by its estimate"
            self.left[name] = Left(len(self.heats), why, is_slower=True)

    def _breaks(self, name: str, look: int) -> str | None:
        """Say which limit a candidate is known to break."""
        most, limit = max(self.peaks(name), default=0), self.rules.memory_bytes
        if limit is not None and most > limit:
            return f"takes {most:,} bytes of memory at its peak, and memory_bytes is {limit:,}"
        tail = race.level(ALPHA, len(self.names) + 1, look)
        if self.rules.p99_ms is not None and self.kept(name, tail) == "no":
            low, _ = race.p99_bounds_ms(self.calls_ns(name), tail)
            return f"its p99 is above {low:.3g} ms, and p99_ms is {self.rules.p99_ms:g}"
        return None

    def _is_over(self) -> bool:
        """Whether nothing is left that another launch may tell, or no time for one."""
        if len(self.heats) < MIN_LAUNCHES:
            return False
        racing = self.racing
        waits = any(self.kept(name, self.tail()) == "not shown" for name in racing)
        leader = self.ranked()[0]
        if not waits and (len(racing) == 1 or race.are_same(self.heats, racing, leader, self.rules.margin)):
            return True
        share = 1.0 if len(racing) > MOST_RIVALS + 1 else 1 - CONFIRMING_SHARE
        return self.seconds + self._next_s(len(racing)) > share * self.rules.seconds

    def _next_s(self, candidates: int) -> float:
        """Return what a launch of so many takes, by the last one."""
        last = self.heats[-1]
        return last.seconds * (candidates + 1) / (len(last.values) + 1)

    def _affordable(self, rivals: Sequence[str]) -> int:
        """Return how many launches of the leader and its rivals the budget has left."""
        each_s = self._next_s(len(rivals) + 1)
        return int((self.rules.seconds - self.seconds) / each_s) if each_s > 0 else MOST_CONFIRMING

    def _runner_up(self, leader: str) -> list[str]:
        """Return the closest of those that were put out for being slower."""
        slower = [name for name, each in self.left.items() if each.is_slower]
        return sorted(slower, key=lambda name: race.gap(self.heats, name, leader).mean)[:1]

    # --- the result ----------------------------------------------------------------------------------------------------

    def _confirmed(self, leader: str, rivals: Sequence[str]) -> Outcome:
        """Measure the leader against its rivals in new launches, and let these alone decide."""
        seen = [race.gap(self.heats, name, leader) for name in rivals]
        most = max(min(self._affordable(rivals), MOST_CONFIRMING), LEAST_CONFIRMING)
        for _ in range(race.confirming(seen, LEAST_CONFIRMING, most)):
            self._make("confirmation", leader, (leader, *rivals), self.again)
        alpha, margin = ALPHA / len(rivals), self.rules.margin
        won = race.beaten(self.again, rivals, leader, alpha, margin)
        failed = {name for name in (leader, *rivals) if name in self.left and not self.left[name].is_slower}
        equal = [name for name in rivals if name not in won and name not in failed]
        if leader in failed:
            return self._tied(equal[0] if equal else rivals[0], equal or rivals, f"{leader} {self.left[leader].why}")
        if not equal:
            closest = min(rivals, key=lambda name: won[name].mean if name in won else math.inf)
            return self._best(leader, closest, won)
        against = [name for name in equal if race.gap(self.again, name, leader).high(alpha) < 0]
        why = f"{len(self.again)} new launches " + (
            f"contradict the race: {', '.join(against)} was better in them"
            if against
            else "do not tell them apart surely enough"
        )
        return self._tied(leader, [leader, *equal], why)

    def _best(self, leader: str, closest: str, won: Mapping[str, Gap]) -> Outcome:
        if closest not in won:
            return self._alone(leader)
        behind = won[closest]
        why = (
            f"in {len(self.again)} new launches {closest}, the closest, was {math.expm1(behind.mean):.1%} behind it, "
            f"and at least {math.expm1(behind.surely(ALPHA / len(won))):.1%}"
        )
        return self._outcome("best", leader, leader, (leader,), why)

    def _alone(self, leader: str) -> Outcome:
        return self._outcome("best", leader, leader, (leader,), "no other one keeps the limits and lasts")

    def _tied(self, leader: str, tied: Sequence[str], why: str, *, decided: bool = False) -> Outcome:
        order = race.ranked(self.heats, [name for name in self.names if name in tied])
        within = [name for name in order if self.kept(name, self.tail()) == "yes"]
        if not within:
            return self._without("not shown")
        memory = {name: statistics.median(peaks) for name in within if (peaks := self.peaks(name))}
        edge, heats = math.log1p(self.rules.margin), (*self.heats, *self.again)
        near = [name for name in within if race.gap(heats, name, leader).mean <= edge] or within
        chosen = race.least_used(near, memory, self.sizes, self.names, self.rules.margin)
        more_s = None if decided else self.seconds
        return self._outcome("not told apart", chosen, leader, tuple(within), why, more_s)

    def _without(self, result: Result) -> Outcome:
        """Return that none can be recommended, by the one that came closest."""
        order = self.ranked() if self.racing else list(self.names)
        more_s = self.seconds if result == "not shown" else None
        closest = order[0]
        why = self.left[closest].why if closest in self.left else self._unshown(closest)
        return self._outcome(result, None, closest, (), f"{closest}: {why}", more_s)

    def _unshown(self, name: str) -> str:
        calls = self.calls_ns(name)
        low, high = race.p99_bounds_ms(calls, self.tail())
        shown = ["unknown" if each is None else f"{each:.3g} ms" for each in (low, high)]
        return f"by {len(calls):,} calls its p99 lies between {shown[0]} and {shown[1]}, and p99_ms is {self.rules.p99_ms:g}"

    def _outcome(
        self,
        result: Result,
        chosen: str | None,
        leader: str,
        tied: tuple[str, ...],
        why: str,
        more_s: float | None = None,
    ) -> Outcome:
        standings = tuple(self._standing(name, leader) for name in self.names)
        return Outcome(
            result, chosen, tied, why, leader, standings, len(self.heats), len(self.again), self.seconds, more_s
        )

    def _standing(self, name: str, leader: str) -> Standing:
        seen = race.gap((*self.heats, *self.again), name, leader)
        interval = None
        if len(seen.logs) >= MIN_LAUNCHES:
            interval = (math.exp(seen.low(SAME / 2)), math.exp(seen.high(SAME / 2)))
        launches = sum(name in heat.values for heat in (*self.heats, *self.again))
        ratio = math.exp(seen.mean) if seen.logs else None
        return Standing(name, ratio, interval, launches, self.left.get(name))
