"""May I upgrade? Golden cases of releases under other versions of what runs them, and who is to blame for what breaks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from pipeline.benchmark.machine import cores
from pipeline.errors import DefectError, InputError, UnavailableError, UnsafeError, WeighbridgeError
from pipeline.fleet import installing
from pipeline.fleet.environment import ENVIRONMENTS, Environment, Maker
from pipeline.fleet.requirements import Candidate
from pipeline.fleet.trial import Checked, Finding, Limits, Result, Way, check, look, tried
from pipeline.release.verify import ANYBODY
from pipeline.storage.cache import Cache
from pipeline.worker.event import Event
from pipeline.worker.process import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.release.verify import Origin

TIMEOUT_S = 600.0

Verdict = Literal["holds", "would break", "fails today as well", "mended", "not judged"]
_TODAY = "today"


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole replay. `out`: the folder below whose `.cache` environments are kept; `jobs`: how many releases at once."""

    out: Path
    origin: Origin = ANYBODY
    jobs: int = 1
    timeout_s: float = TIMEOUT_S
    memory_bytes: int | None = None
    report: Callable[[Event], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one way to run one release, today and under a candidate.

    `blame` says which of the changed distributions break it by themselves; empty where nothing breaks. `remarks` are what could not be tried.
    """

    release: Checked
    way: Way
    today: Result
    then: Result
    verdict: Verdict
    blame: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate: its environment, or why there is none, and what came of every way to run every release."""

    candidate: Candidate
    environment: Environment | None
    error: WeighbridgeError | None
    rows: tuple[Row, ...]

    @property
    def broken(self) -> tuple[Row, ...]:
        """Return the required ways that do not hold under it."""
        return tuple(each for each in self.rows if each.way.is_required and each.then.outcome == "breaks") + tuple(
            each
            for each in self.rows
            if each.way.is_required and each.then.outcome == "cannot run" and each.verdict == "would break"
        )

    @property
    def unjudged(self) -> tuple[Row, ...]:
        """Return the required ways of which nothing is known, because they can run here neither today nor then."""
        return tuple(each for each in self.rows if each.way.is_required and each.verdict == "not judged")

    @property
    def exit_code(self) -> int:
        """Return 1 if a required way breaks, 4 if that is not known, 0 if none does."""
        if self.broken:
            return 1
        return 4 if self.error or self.unjudged or not self.rows else 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A release of which nothing was opened, and why."""

    path: Path
    error: WeighbridgeError


@dataclass(frozen=True, slots=True)
class Replayed:
    """All candidates on all releases."""

    releases: tuple[Checked, ...]
    refused: tuple[Refused, ...]
    candidates: tuple[Tried, ...]
    installer: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 if a required backend would break or a release is not what was released, else the first other code that is not 0."""
        codes = [each.error.exit_code for each in self.refused] + [each.exit_code for each in self.candidates]
        return 1 if 1 in codes else next((each for each in codes if each), 0)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where releases are tried: results under an environment are looked up once."""

    releases: tuple[Checked, ...]
    limits: Limits
    jobs: int
    report: Callable[[Event], None]

    def under(self, environment: Environment | None, name: str, only: frozenset[tuple[Path, str]] | None = None) -> dict[tuple[Path, str], Result]:
        """Return what comes of every way of every release, or of `only` these, in an environment; None is that of today."""
        above = environment.above if environment else ()
        runner = LocalRunner(memory_bytes=self.limits.memory_bytes, above=above)
        stage = f"replay {name}"
        chosen = [
            (release, [way for way in release.ways if only is None or (release.path, way.name) in only])
            for release in self.releases
        ]
        chosen = [each for each in chosen if each[1]]
        names = sorted({way.backend for _, ways in chosen for way in ways})
        self.report(Event(stage, "", "started", f"{len(chosen)} releases", is_stage=True))
        versions = {each.name: each.there for each in environment.changes} if environment else {}
        try:
            seen = look(names, runner, versions, self.limits).unavailable
        except DefectError:
            raise
        except WeighbridgeError as error:
            failed = (Finding(error.message),)
            return {(release.path, way.name): Result(way, "breaks", None, failed) for release, ways in chosen for way in ways}

        def one(release: Checked, ways: Sequence[Way]) -> list[tuple[tuple[Path, str], Result]]:
            found = []
            for way in ways:
                subject = f"{release.label}, {way.name}"
                self.report(Event(stage, subject, "started"))
                reason = seen[way.backend]
                result = (
                    Result(way, "cannot run", None, (Finding(reason),)) if reason else tried(release, way, runner, self.limits)
                )
                self.report(Event(stage, subject, "ended" if result.outcome == "holds" else "failed"))
                found.append(((release.path, way.name), result))
            return found

        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                results = dict(chain.from_iterable(pool.map(one, *zip(*chosen, strict=True)))) if chosen else {}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.report(Event(stage, "", "ended", is_stage=True))
        return results


def replay(paths: Sequence[Path], candidates: Sequence[Candidate], settings: Settings) -> Replayed:
    """Replay releases as they are here today and under every candidate; a release or a candidate that fails stops no other.

    Raises:
        InputError: no candidate is given, or none of the releases is one.
        UnavailableError: there is nothing that could install anything.
        InterruptedRunError: the run was interrupted.
    """
    if not candidates:
        raise InputError("nothing is asked for", hint="name what shall change: --with 'onnxruntime==1.32.0'")
    releases, refused = _checked(paths, settings)
    if not releases:
        return Replayed((), refused, ())
    limits = Limits(max(1, cores() // settings.jobs), settings.timeout_s, settings.memory_bytes)
    bench = _Bench(releases, limits, settings.jobs, settings.report)
    cache = Cache(settings.out / ENVIRONMENTS, lambda text: settings.report(Event("environment", "", "noted", text)))
    with cache.in_use():
        today = bench.under(None, _TODAY)
        tool = installing.installer()
        maker = Maker(cache, tool, _saying(settings.report))
        found = tuple(_tried(each, bench, maker, today) for each in dict.fromkeys(candidates))
    return Replayed(releases, refused, found, tool.name)


def _checked(paths: Sequence[Path], settings: Settings) -> tuple[tuple[Checked, ...], tuple[Refused, ...]]:
    good: dict[Path, Checked] = {}
    refused = []
    for path in paths:
        settings.report(Event("check releases", str(path), "started"))
        try:
            found = check(path, settings.origin)
            good.setdefault(found.path.resolve(), found)
        except WeighbridgeError as error:
            refused.append(Refused(path, error))
        settings.report(Event("check releases", str(path), "ended"))
    return tuple(good.values()), tuple(refused)


def _saying(report: Callable[[Event], None]) -> Callable[[str], None]:
    """Return a function that shows what an installer is at, each instead of the last one."""
    said: list[str] = []

    def say(text: str) -> None:
        if said:
            report(Event("environment", said.pop(), "ended"))
        said.append(text)
        report(Event("environment", text, "started", text))

    return say


def _tried(candidate: Candidate, bench: _Bench, maker: Maker, today: Mapping[tuple[Path, str], Result]) -> Tried:
    try:
        environment = _made(candidate, bench, maker)
    except (UnavailableError, UnsafeError, InputError) as error:
        return Tried(candidate, None, error, ())
    then = bench.under(environment, f"with {candidate.label}") if environment.changes else today
    rows = []
    for release in bench.releases:
        for way in release.ways:
            where = (release.path, way.name)
            rows.append(Row(release, way, today[where], then[where], verdict(today[where], then[where])))
        for way, reason in release.withheld:
            kept = Result(way, "cannot run", None, (Finding(reason),))
            rows.append(Row(release, way, kept, kept, "not judged"))
    return Tried(candidate, environment, None, _blamed(rows, environment, bench, maker))


def _made(candidate: Candidate, bench: _Bench, maker: Maker) -> Environment:
    bench.report(Event(f"make environment {candidate.label}", "", "started", is_stage=True))
    environment = maker.make(candidate)
    bench.report(Event(f"make environment {candidate.label}", "", "ended", is_stage=True))
    return environment


def verdict(today: Result, then: Result) -> Verdict:
    """Return what a candidate makes of a way to run a release."""
    if then.outcome == "holds":
        return "mended" if today.outcome == "breaks" else "holds"
    if today.outcome == "breaks":
        return "fails today as well"
    if then.outcome == "cannot run" and today.outcome == "cannot run":
        return "not judged"
    return "would break"


def _blamed(rows: Sequence[Row], environment: Environment, bench: _Bench, maker: Maker) -> tuple[Row, ...]:
    """Return the rows with whom to blame: each changed distribution that was asked for is tried alone where there are several."""
    broken = frozenset((each.release.path, each.way.name) for each in rows if each.verdict == "would break")
    if not broken:
        return tuple(rows)
    if len(environment.named) < 2:
        whole = tuple(each.in_words() for each in environment.named or environment.changes)
        return tuple(replace(each, blame=whole) if each.verdict == "would break" else each for each in rows)
    guilty: dict[tuple[Path, str], list[str]] = {each: [] for each in broken}
    remarks = []
    for requirement in environment.candidate.requirements:
        changed = next((each for each in environment.named if _is(each.name, requirement.name)), None)
        if changed is None:
            continue
        alone = Candidate((requirement,))
        try:
            found = bench.under(_made(alone, bench, maker), f"with {alone.label} alone", broken)
        except UnavailableError as error:
            remarks.append(f"{alone.label} alone could not be tried: {error.message}")
            continue
        for where, result in found.items():
            if result.outcome != "holds":
                guilty[where].append(changed.in_words())
    together = " and ".join(each.in_words() for each in environment.named)
    return tuple(
        replace(
            each,
            blame=tuple(guilty[each.release.path, each.way.name]) or (f"{together}, only together" if not remarks else f"one of {together}",),
            remarks=tuple(remarks),
        )
        if each.verdict == "would break"
        else each
        for each in rows
    )


def _is(name: str, normal: str) -> bool:
    from pipeline.fleet.requirements import normalised

    return normalised(name) == normal
