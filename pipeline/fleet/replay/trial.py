"""One release under one environment: its files, on every backend that they were proven on, against its golden cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.backends.probe import installed_versions
from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.errors import DefectError, DigestError, InputError, UnavailableError, WeighbridgeError, command
from pipeline.release import bundle, opening, standalone
from pipeline.release import verify as verifying
from pipeline.release.manifest import Manifest
from pipeline.worker.job import Context, Model, Request
from pipeline.worker.session import Run, opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from pipeline.interface import Array, Arrays, Interface
    from pipeline.rebuild.network import Network
    from pipeline.release.standalone import Golden, GoldenCase
    from pipeline.release.verify import Origin
    from pipeline.run.plan import Plan, Settings
    from pipeline.worker.process import LocalRunner

Outcome = Literal["holds", "breaks", "cannot run"]

_LOOK_S = 300.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was released. `factor`: the error in multiples of what is allowed; None where it is no such number."""

    reason: str
    case: str | None = None
    output: str | None = None
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A config, planned here, and the settings that it is run with."""

    path: Path
    planned: Plan
    settings: Settings


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a release that was proven: a backend with its options, on one of the files.

    `source`: the config that the release was built from, where it is the network itself that runs, or its export; `file` is the config then.
    """

    name: str
    backend: str
    format: str
    file: str
    options: Mapping[str, JsonValue]
    is_required: bool
    source: Described | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one way. `factor`: the largest error in multiples of what is allowed; None where nothing could be compared."""

    way: Way
    outcome: Outcome
    factor: float | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def reason(self) -> str:
        """Return the first thing that is wrong, empty where nothing is."""
        return self.findings[0].reason if self.findings else ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A release whose files are what was released, and the ways to run it that were proven."""

    path: Path
    name: str
    version: str
    ways: tuple[Way, ...]
    withheld: tuple[tuple[Way, str], ...] = ()
    """Ways that are not tried anywhere, and why: their files would run code of nobody knows whom."""

    @property
    def label(self) -> str:
        """Return what it is called in tables."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many threads a process may use, and how long one call of it may take, and the memory that it may have (None: any)."""

    threads: int
    timeout_s: float
    memory_bytes: int | None = None


class Looked(Model):
    """What a process finds: why each backend cannot run in it (None if it can), and the versions of distributions."""

    unavailable: dict[str, str | None]
    versions: dict[str, str]


class Look(Request[Looked]):
    """Ask whether backends can run where the worker is, and which versions are there."""

    backends: tuple[str, ...]
    distributions: tuple[str, ...]

    def run(self, _: Context) -> Looked:
        """Probe them; opens nothing."""
        known = backends()
        found = {
            name: known[name].probe() if name in known else "no distribution brings this backend"
            for name in self.backends
        }
        return Looked(unavailable=found, versions=installed_versions(self.distributions))


def check(path: Path, origin: Origin) -> Checked:
    """Hold a release's digests and origin against what they must be, and return the ways to run it; runs nothing.

    Raises:
        InputError: there is no release, or nothing in it that could be run.
        DigestError: it is not what was released, or by whom.
        UnsafeError: its files may not be opened.
    """
    release = bundle.find(path)
    problems = verifying.check(release) or verifying.check_origin(release, origin)
    if problems:
        told = "; ".join(problems[:3])
        raise DigestError(f"{release} is not what was released: {told}", hint="fetch the release again")
    manifest = Manifest.model_validate_json((release / standalone.MANIFEST).read_bytes())
    ways, withheld = [], []
    for each in _ways(manifest):
        known = backends().get(each.backend)
        if known and known.format != each.format:  # what may be opened was asked of it as a file of its own format
            told = f"{each.name} runs {known.format or 'the network itself'}, and {each.file} is {each.format}"
            raise DigestError(f"{release / standalone.MANIFEST}: {told}", hint="fetch the release again")
        if origin.key is None and opening.is_native(each.format):
            withheld.append((each, f"its file is {opening.native_as(each.format)}, which runs only with --key"))
        else:
            ways.append(each)
    if not ways and not withheld:
        raise InputError(
            f"{release} holds no file that was proven on a backend, so that there is nothing to replay",
            hint=f"its network can be tried with its config: {command('verify', release, '--against', 'CONFIG')}",
        )
    return Checked(release, manifest.name, manifest.version, tuple(ways), tuple(withheld))


def _ways(manifest: Manifest) -> Iterator[Way]:
    """Yield what a manifest says was proven; what runs the network itself needs more than a release holds."""
    files = {each.name or each.format: each for each in manifest.models}
    required = set(manifest.config.get("require") or manifest.backends)
    for name, proven in sorted(manifest.backends.items()):
        file = files.get(proven.artifact or proven.format or "")
        if file is not None:
            yield Way(name, proven.backend, file.format, file.path, proven.options, name in required)


def look(names: Sequence[str], runner: LocalRunner, versions: Mapping[str, str], limits: Limits) -> Looked:
    """Ask a process of an environment what can run there, and whether it is the one that was asked for.

    Raises:
        DefectError: it has other versions than `versions`.
        WeighbridgeError: no process of weighbridge's can run there.
    """
    with runner.start("a process of this environment", threads=limits.threads, fresh=True) as worker:
        found = worker.call(Look(backends=tuple(names), distributions=tuple(versions)), timeout_s=_LOOK_S)
    wrong = [
        f"{name} {found.versions.get(name)}" for name, there in versions.items() if found.versions.get(name) != there
    ]
    if wrong:
        raise DefectError(f"a process found {', '.join(wrong)} where {dict(versions)} was installed")
    return found


def tried(release: Checked, way: Way, runner: LocalRunner, limits: Limits) -> Result:
    """Run a way's golden cases in an environment and hold them against the budgets of the release.

    Whatever a runtime does is a finding, a crash of its process included.

    Raises:
        InterruptedRunError: the run was interrupted.
    """
    opens = _opening(release, way)
    golden = opens.golden
    factor = 0.0
    findings: list[Finding] = []
    try:
        with opened(
            runner,
            opens.variant,
            opens.interface,
            opens.network,
            threads=limits.threads,
            timeout_s=limits.timeout_s,
            fresh=True,
        ) as (worker, _):
            for case in golden.cases:
                outputs = worker.call(Run(inputs=dict(case.inputs)), timeout_s=limits.timeout_s)
                largest, found = judged(golden, case, outputs)
                factor, findings = max(factor, largest), [*findings, *found]
    except UnavailableError as error:
        return Result(way, "cannot run", None, (Finding(error.message),))
    except WeighbridgeError as error:
        return Result(way, "breaks", None, (Finding(error.message),))
    findings.sort(key=lambda each: -(each.factor or 0.0))
    return Result(way, "breaks" if findings else "holds", factor, tuple(findings))


@dataclass(frozen=True, slots=True)
class _Opening:
    """What is opened for a way, and what its outputs are held against."""

    variant: Variant
    interface: Interface
    network: Network | None
    golden: Golden


def _opening(release: Checked, way: Way) -> _Opening:
    if way.source is not None:
        planned = way.source.planned
        variant = Variant(way.name, way.backend, None, required=way.is_required)
        golden = standalone.read_golden(release.path / standalone.GOLDEN)
        return _Opening(variant, planned.interface, planned.network, golden)
    manifest = standalone.read_manifest(release.path)
    file = release.path / way.file
    variant = Variant(way.name, way.backend, way.format, required=way.is_required, file=file, options=way.options)
    golden = standalone.golden_of(release.path, manifest, way.file)
    return _Opening(variant, bundle.interface_from(manifest), None, golden)


def judged(golden: Golden, case: GoldenCase, outputs: Arrays) -> tuple[float, list[Finding]]:
    """Return the largest error of a case in multiples of what is allowed, and what the verifier of releases has to say of it.

    The factor is infinite where something must be exact and is not, and for what is no number where one must be.
    """
    if set(outputs) != set(case.outputs):
        return np.inf, [Finding(problem, case.name) for problem in standalone.judge(golden, case, outputs)]
    largest = 0.0
    findings: list[Finding] = []
    for name, expected in case.outputs.items():
        got = np.asarray(outputs[name])
        factor = excess(golden, case, name, got)
        alone = replace(case, outputs={name: expected})
        problems = standalone.judge(golden, alone, {name: got})
        told = (problem.removeprefix(f"{case.name}: {name} ") for problem in problems)
        findings += [Finding(problem, case.name, name, factor) for problem in told]
        largest = max(largest, factor)
    return largest, findings


def excess(golden: Golden, case: GoldenCase, name: str, got: Array) -> float:
    """Return the largest error of an output in multiples of what is allowed there: limit × floor, or atol + rtol × |expected|."""
    expected = case.outputs[name]
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf
    is_same = got == expected
    if expected.dtype.kind == "f":
        is_same |= np.isnan(got) & np.isnan(expected)
    if is_same.all():
        return 0.0
    allowed = standalone.allowance(expected, case.floors.get(name), golden, name)
    if allowed is None:
        return np.inf
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        share = np.where(is_same, 0.0, error / allowed)
    return float(np.where(np.isnan(share), np.inf, share).max())
