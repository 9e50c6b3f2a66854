"""The table of all releases below some folders, read from what they state of themselves; nothing is run, and no model is opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.benchmark import recommended
from pipeline.errors import InputError
from pipeline.fleet.folders import Named, latest_of
from pipeline.fleet.league.reading import BenchmarkRead, ManifestRead, ParityRead, RecommendedRead
from pipeline.release import bundle, standalone
from pipeline.report.league import Entry, League, Row, TimedSizes, Timing
from pipeline.report.standings import nodes
from pipeline.report.words import printable, without_folders
from pipeline.storage.store import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.benchmark.machine import Machine
    from pipeline.fleet.league.reading import BackendRead, ExportRead, ModelRead, SizeRead

_DEEPEST = 8  # folders below one that was given
_UNREADABLE = (OSError, ValueError)


@dataclass(frozen=True, slots=True)
class _Found:
    """A release on disk, or the last run of a name that ended without one."""

    path: Path
    name: str
    latest: bool
    failure: str | None = None


def collect(given: Sequence[Path], *, every: bool = False) -> League:
    """Return the newest release of each name below some folders, `every` one if wanted, and the runs that ended without one.

    Raises:
        InputError: a folder is not there, or none of them holds a release.
    """
    found = {each.path.resolve(): each for folder in given for each in _below(folder)}
    wanted = [each for each in found.values() if each.latest or every]
    if not wanted:
        raise InputError(
            f"{', '.join(map(str, given))[:300]} holds no release and no failed run",
            hint="name folders that `weighbridge export --out` wrote to, or that hold such",
        )
    entries = [_entry(each) for each in wanted]
    kinds, places = nodes([machine for _, machine in entries])
    made = [entry.model_copy(update={"node": place}) for (entry, _), place in zip(entries, places, strict=True)]
    made.sort(key=lambda each: (each.name, each.state == "released", not each.latest, each.version))
    return League(schema_version=1, machines=tuple(kinds), entries=tuple(made))


def _below(given: Path) -> Iterator[_Found]:
    folder = given.resolve()
    if not folder.is_dir():
        raise InputError(f"there is no folder {given}", hint="name a folder that holds releases")
    if (folder / standalone.MANIFEST).is_file():
        latest = latest_of(folder.parent)
        yield _Found(folder, folder.parent.name, latest in {None, folder.name})
        return
    yield from _walk(folder, _DEEPEST)


def _walk(folder: Path, depth: int) -> Iterator[_Found]:
    try:
        if named := Named.of(folder):
            yield from _of_a_name(named)
            return
        below = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        inside = [each for each in below if each.is_dir() and not each.is_symlink()]
    except OSError as error:
        yield _Found(folder, folder.name, latest=True, failure=f"{folder.name} cannot be read: {error.strerror}")
        return
    for each in inside if depth else ():
        yield from _walk(each, depth - 1)


def _of_a_name(named: Named) -> Iterator[_Found]:
    """Yield the releases of a name, and its last run if that ended without one."""
    name = named.path.name
    is_told = named.latest in named.versions
    if named.latest and not is_told:
        why = f"{bundle.LATEST} names {named.latest}, which is no release"
        yield _Found(named.path / bundle.LATEST, name, latest=True, failure=why)
    for version in named.versions:
        yield _Found(named.path / version, name, latest=not is_told or version == named.latest)
    if named.has_failed and not (named.latest and not is_told and named.run is None):
        run = named.run
        why = (run.error or f"its last run ended with exit code {run.exit_code}") if run else "its last run failed"
        yield _Found(named.path / bundle.FAILED, name, latest=True, failure=why)


def _entry(found: _Found) -> tuple[Entry, Machine | None]:
    """Return what a release says of itself, and where it was timed; what cannot be read is said."""
    if found.failure is not None:
        return _failed(found, found.failure), None
    blank = Entry(name=found.name, version=found.path.name, state="damaged", latest=found.latest)
    try:
        manifest = ManifestRead.read(found.path / standalone.MANIFEST)
    except _UNREADABLE as error:
        return blank.model_copy(update={"problem": printable(f"it cannot be read: {error}")}), None
    entry = Entry(
        name=manifest.name,
        version=manifest.version,
        state="released",
        latest=found.latest,
        digest=manifest.digest,
        weights=manifest.weights.sha256,
        tools=manifest.tools,
        problem=_missing(found.path, manifest),
    )
    try:
        return _reported(entry, found.path, manifest)
    except _UNREADABLE as error:
        rows = tuple(
            Row(
                artifact=each.artifact or each.format or "",
                backend=name,
                required=False,
                verdict=each.verdict,
                size_bytes=_sizes(manifest).get(each.artifact or each.format or ""),
            )
            for name, each in manifest.backends.items()
        )
        problem = entry.problem or printable(f"its report cannot be read: {error}")
        return entry.model_copy(update={"state": "damaged", "problem": problem, "rows": rows}), None


def _missing(release: Path, manifest: ManifestRead) -> str:
    """Return which file of a release is not there in its size; what else is wrong `weighbridge verify` says."""
    for each in manifest.files:
        try:
            size = (release / each.path).lstat().st_size
        except (OSError, ValueError):
            return printable(f"{each.path} is missing")
        if size != each.size_bytes:
            return printable(f"{each.path} has {size:,} bytes and not {each.size_bytes:,}")
    return ""


def _reported(entry: Entry, release: Path, manifest: ManifestRead) -> tuple[Entry, Machine | None]:
    folder = release / standalone.REPORT
    _check_sums(folder)
    parity = ParityRead.read(folder / "parity.json")
    benchmark = BenchmarkRead.read(folder / "benchmark.json")
    opens = {name: each.artifact or each.format or "" for name, each in manifest.backends.items()}
    made = _Making(manifest, parity, benchmark, _chosen(folder, manifest))
    rows = [made.row(each, opens.get(each.name)) for each in parity.backends]
    update = {
        "state": "damaged" if entry.problem else "released",
        "rows": (*rows, *made.unopened(rows)),
        "sizes": tuple(
            TimedSizes(sizes=each.sizes, reference=each.reference, can_tell=each.can_tell, reason=each.reason)
            for each in benchmark.sizes
        ),
    }
    return entry.model_copy(update=update), benchmark.machine if benchmark.sizes else None


def _check_sums(folder: Path) -> None:
    """Raise OSError, or ValueError for documents of a report that are not what its digests say."""
    if not (folder / standalone.SUMS).is_file():
        raise ValueError(f"{standalone.SUMS} is missing")
    sums = standalone.read_sums(folder / standalone.SUMS)
    for name in ("parity.json", "benchmark.json"):
        if hashlib.sha256(json_text(folder / name)).hexdigest() != sums.get(name):
            raise ValueError(f"{name} is not what its digest says")


def _failed(found: _Found, why: str) -> Entry:
    entry = Entry(
        name=found.name,
        version="",
        state="failed",
        latest=True,
        problem=printable(without_folders(why) or "its last run failed"),
    )
    file = found.path / standalone.REPORT / "parity.json"
    if not file.is_file():
        return entry
    try:
        parity = ParityRead.read(file)
    except _UNREADABLE as error:
        return entry.model_copy(update={"problem": printable(f"{entry.problem}; its report cannot be read: {error}")})
    made = _Making(None, parity, BenchmarkRead(schema_version=1, sizes=(), machine=None), None)
    rows = [made.row(each, None) for each in parity.backends]
    return entry.model_copy(update={"rows": (*rows, *made.unopened(rows))})


def _chosen(folder: Path, manifest: ManifestRead) -> RecommendedRead | None:
    """Return what a report recommends, if that is among what its manifest lists as proven, with the same artifact."""
    try:
        found = RecommendedRead.read(folder / recommended.FILE)
    except _UNREADABLE:
        return None
    listed = manifest.backends.get(found.choice.variant)
    is_proven = listed is not None and listed.verdict == "pass" and found.digest == manifest.digest
    opens = (listed.artifact or listed.format) if listed else None
    return found if is_proven and opens == found.choice.artifact else None


def _sizes(manifest: ManifestRead) -> dict[str, int]:
    """Return the bytes of each artifact."""
    stated = {each.path: each.size_bytes for each in manifest.files}
    return {each.artifact: sum(stated.get(name, 0) for name in set(each.files)) for each in manifest.models}


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes the rows of a release, or of a run that ended without one (`manifest` is None then)."""

    manifest: ManifestRead | None
    parity: ParityRead
    benchmark: BenchmarkRead
    chosen: RecommendedRead | None

    def row(self, found: BackendRead, opens: str | None) -> Row:
        """Return the row of a backend; `opens`: the artifact that the manifest says it was proven with."""
        artifact = opens if opens is not None else self._artifact(found)
        verdict, reason = found.status, without_folders(found.reason or "")
        if self.manifest is not None and found.status == "pass" and opens is None:
            verdict_word = "not released"
            reason = reason or "its outputs are right, and the release does not list it"
        else:
            verdict_word = verdict
        export = next((each for each in self.parity.exports if each.artifact == artifact), None)
        return Row(
            artifact=artifact,
            backend=found.name,
            required=found.required,
            verdict=verdict_word,
            reason=reason,
            factor=found.worst.factor if found.worst else None,
            limit=found.worst.limit if found.worst else None,
            size_bytes=self._size(artifact, export),
            peak_bytes=self._peaks(found.name),
            precision=self._precision(artifact, export),
            accuracy=export.accuracy.verdict if export and export.accuracy else "",
            recommended=self._recommended(found.name),
            timings=tuple(each for size in self.benchmark.sizes if (each := self._timing(size, found.name))),
        )

    def unopened(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Yield rows for the artifacts that no backend opened: those that were refused, above all."""
        opened = {each.artifact for each in rows}
        for each in self.parity.exports:
            if each.status == "refused":
                yield Row(
                    artifact=each.artifact,
                    backend="",
                    required=False,
                    verdict="refused",
                    reason=without_folders(each.reason),
                )
            elif each.artifact not in opened:
                size = self._size(each.artifact, each)
                yield Row(artifact=each.artifact, backend="", required=False, verdict="not run", size_bytes=size)

    def _artifact(self, found: BackendRead) -> str:
        """Return what a backend that is not among what was proven opens: the artifact of its format, if there is one only."""
        known = backends().get(found.backend)
        if known is None or known.format is None:
            return ""
        named = [each.artifact for each in self.parity.exports if each.format == known.format]
        refused = [each.artifact for each in self.parity.exports if each.format is None]
        return named[0] if len(named) == 1 else known.format if known.format in {*named, *refused} else ""

    def _model(self, artifact: str) -> ModelRead | None:
        models = self.manifest.models if self.manifest else ()
        return next((each for each in models if each.artifact == artifact), None)

    def _size(self, artifact: str, export: ExportRead | None) -> int | None:
        if self.manifest and self._model(artifact):
            return _sizes(self.manifest)[artifact]
        return export.size_bytes if export else None

    def _precision(self, artifact: str, export: ExportRead | None) -> str:
        model = self._model(artifact)
        facts = model.facts if model else export.facts if export else {}
        return printable(str(facts.get("precision") or "")) or (recommended.OWN if model or export else "")

    def _arms(self, variant: str) -> list[str]:
        """Return the names under which results of a backend go, its own first."""
        others = [name for name, each in self.benchmark.arms.items() if each.variant == variant and name != variant]
        return [variant, *sorted(others)]

    def _peaks(self, variant: str) -> tuple[int, ...]:
        held = {each.name: each for each in self.benchmark.figures.backends} if self.benchmark.figures else {}
        found = next((held[name] for name in self._arms(variant) if name in held), None)
        return tuple(sorted(max(0, each) for each in found.peak_bytes_by_launch)) if found else ()

    def _timing(self, size: SizeRead, variant: str) -> Timing | None:
        rows = {each.name: each for each in size.rows if each.name != size.control}
        row = next((rows[name] for name in self._arms(variant) if name in rows), None)
        if row is None:
            return None
        return Timing(
            sizes=size.sizes,
            reference=size.reference,
            verdict=row.verdict,
            ratio=row.ratio,
            interval=row.interval,
            median_ms=row.median_ms,
            median_interval_ms=row.median_interval_ms,
            launches=row.launches,
        )

    def _recommended(self, variant: str) -> str:
        if self.chosen is None or self.chosen.choice.variant != variant:
            return ""
        sure = "best" if self.chosen.result == "best" else "taken, not told apart"
        return f"{sure} for {self.chosen.objective}"
