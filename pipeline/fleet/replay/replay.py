"""May I upgrade? Golden cases of releases under other versions of what runs them, and who is to blame for what breaks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline.backends.table import backends
from pipeline.benchmark.machine import cores
from pipeline.errors import DefectError, InputError, UnavailableError, WeighbridgeError
from pipeline.fleet.replay import again, installing
from pipeline.fleet.replay.environment import Environment, Maker, environments
from pipeline.fleet.replay.requirements import Candidate, normalised
from pipeline.fleet.replay.trial import Checked, Finding, Limits, Result, Way, check, look, tried
from pipeline.release.verify import ANYBODY
from pipeline.run.plan import Settings as Building
from pipeline.storage.cache import LIMIT_BYTES
from pipeline.worker.event import Event
from pipeline.worker.process import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.release.verify import Origin

TIMEOUT_S = 600.0

Where = tuple["Path", str]
"""A release's folder, and the name of a way to run it."""
Verdict = Literal["holds", "would break", "fails today as well", "mended", "not judged"]
_TODAY, _MAKING = "today", "environment"


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole replay. `out`: the folder below whose `.cache` environments are kept; `jobs`: how many releases at once.

    `configs` are those that releases were built from, whose networks are to be run and exported as well; `trust` says whose code may run for that.
    """

    out: Path
    origin: Origin = ANYBODY
    jobs: int = 1
    timeout_s: float = TIMEOUT_S
    memory_bytes: int | None = None
    report: Callable[[Event], None] = lambda _: None
    configs: tuple[Path, ...] = ()
    trust: tuple[str, ...] = ()


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
        failing = {"would break", "fails today as well"}
        return tuple(each for each in self.rows if each.way.is_required and each.verdict in failing)

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

    def under(
        self, environment: Environment | None, name: str, only: frozenset[Where] | None = None
    ) -> dict[Where, Result]:
        """Return what comes of every way of every release, or of `only` these, in an environment; None is that of today."""
        chosen = [
            (release, ways)
            for release in self.releases
            if (ways := [way for way in release.ways if only is None or (release.path, way.name) in only])
        ]
        runner = LocalRunner(memory_bytes=self.limits.memory_bytes, above=environment.above if environment else ())
        versions = {each.name: each.there for each in environment.changes} if environment else {}
        stage = f"replay {name}"
        self.report(Event(stage, "", "started", f"{len(chosen)} release{'s' * (len(chosen) > 1)}", is_stage=True))
        try:
            names = sorted({way.backend for _, ways in chosen for way in ways} - {again.EXPORT})
            missing = look(names, runner, versions, self.limits).unavailable
            with _pool(self.jobs) as pool:
                parts = [pool.submit(self._all, stage, runner, missing, *each) for each in chosen]
                return {where: result for part in parts for where, result in part.result().items()}
        except DefectError:
            raise
        except WeighbridgeError as error:  # not one process of weighbridge's runs there
            failed = (Finding(error.message),)
            return {(each.path, way.name): Result(way, "breaks", None, failed) for each, ways in chosen for way in ways}
        finally:
            self.report(Event(stage, "", "ended", is_stage=True))

    def _all(
        self, stage: str, runner: LocalRunner, missing: Mapping[str, str | None], release: Checked, ways: Sequence[Way]
    ) -> dict[Where, Result]:
        found = {}
        for way in ways:
            subject = f"{release.label}, {way.name}"
            self.report(Event(stage, subject, "started"))
            result = self._tried(subject, runner, missing, release, way)
            self.report(Event(stage, subject, "ended" if result.outcome == "holds" else "failed"))
            found[release.path, way.name] = result
        return found

    def _tried(
        self, subject: str, runner: LocalRunner, missing: Mapping[str, str | None], release: Checked, way: Way
    ) -> Result:
        if way.backend == again.EXPORT:

            def report(event: Event) -> None:
                if not event.is_stage and event.status != "noted":
                    self.report(replace(event, stage=f"{subject}: {event.stage}"))

            return again.exported(way, runner.above or (), self.limits, report)
        reason = missing[way.backend] if way.backend in backends() else "no distribution here brings this backend"
        cannot = Result(way, "cannot run", None, (Finding(reason),)) if reason else None
        return cannot or tried(release, way, runner, self.limits)


@contextmanager
def _pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads of which those that have not begun never do where the block is left by an error."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def replay(paths: Sequence[Path], candidates: Sequence[Candidate], settings: Settings) -> Replayed:
    """Replay releases as they are here today and under every candidate; a release or a candidate that fails stops no other.

    Raises:
        InputError: no candidate is given, or a config is of none of the releases.
        WeighbridgeError: a config cannot be planned.
        UnavailableError: there is nothing that could install anything.
        InterruptedRunError: the run was interrupted.
    """
    if not candidates:
        raise InputError("nothing is asked for", hint="name what shall change: --with 'onnxruntime==1.32.0'")
    releases, refused = _checked(paths, settings)
    if not releases:
        return Replayed((), refused, ())
    if settings.configs:
        releases = again.described(settings.configs, releases, Building(settings.out, settings.trust))
    limits = Limits(max(1, cores() // settings.jobs), settings.timeout_s, settings.memory_bytes)
    bench = _Bench(releases, limits, settings.jobs, settings.report)
    cache = environments(settings.out, lambda text: settings.report(Event(_MAKING, "", "noted", text)))
    with cache.in_use():
        tool = installing.installer()
        maker = Maker(cache, tool, _saying(settings.report))
        made = {each: _made_or_why_not(each, bench, maker) for each in candidates}
        # What cannot be made anyway should not take as long as what can.
        today = bench.under(None, _TODAY) if any(isinstance(each, Environment) for each in made.values()) else {}
        found = tuple(_tried(each, environment, bench, maker, today) for each, environment in made.items())
    with suppress(InputError):  # another run uses it
        cache.prune(LIMIT_BYTES)
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
    """Return a function that shows what an installer is at, each instead of the last one; an empty text ends it."""
    said: list[str] = []

    def say(text: str) -> None:
        if said:
            report(Event(_MAKING, said.pop(), "ended"))
        if text:
            said.append(text)
            report(Event(_MAKING, text, "started", text))

    return say


def _made_or_why_not(candidate: Candidate, bench: _Bench, maker: Maker) -> Environment | WeighbridgeError:
    try:
        return _made(candidate, bench, maker)
    except UnavailableError as error:
        return error


def _tried(
    candidate: Candidate,
    environment: Environment | WeighbridgeError,
    bench: _Bench,
    maker: Maker,
    today: Mapping[Where, Result],
) -> Tried:
    if isinstance(environment, WeighbridgeError):
        return Tried(candidate, None, environment, ())
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
    stage = f"{_MAKING} with {candidate.label}"
    bench.report(Event(stage, "", "started", is_stage=True))
    try:
        return maker.make(candidate)
    finally:
        maker.say("")
        bench.report(Event(stage, "", "ended", is_stage=True))


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
    named = environment.named or environment.changes
    guilty, remarks = _guilty(broken, environment, bench, maker) if len(named) > 1 else ({}, ())
    together = " and ".join(each.in_words() for each in named)
    if len(named) > 1:
        together = f"one of {together}" if remarks else f"{together}, only together"
    return tuple(
        replace(each, blame=tuple(guilty.get(where, ())) or (together,), remarks=remarks) if where in broken else each
        for each in rows
        for where in [(each.release.path, each.way.name)]
    )


def _guilty(
    broken: frozenset[Where], environment: Environment, bench: _Bench, maker: Maker
) -> tuple[dict[Where, list[str]], tuple[str, ...]]:
    """Return which changes break which ways by themselves, and which could not be tried alone."""
    guilty: dict[Where, list[str]] = {each: [] for each in broken}
    remarks = []
    named = {normalised(each.name): each for each in environment.named}
    for requirement in environment.candidate.requirements:
        if requirement.name not in named:
            continue
        alone = Candidate((requirement,))
        made = _made_or_why_not(alone, bench, maker)
        if isinstance(made, WeighbridgeError):
            remarks.append(f"{alone.label} alone could not be tried: {made.message}")
            continue
        for where, result in bench.under(made, f"with {alone.label} alone", broken).items():
            if result.outcome != "holds":
                guilty[where].append(named[requirement.name].in_words())
    return guilty, tuple(remarks)
