"""Put together what several exports wrote to folders of their own: releases, what they were built from, and what failed.

Each name is merged by itself, under the locks of an export of it. A release is copied into a private directory, its every digest is checked
there, and it is renamed into place; what is there stays as it is. `latest`, run.json, `failed/` and `crashes/` are those of the newest run.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.errors import DigestError, InputError, UnsafeError, WeighbridgeError, in_line
from pipeline.fleet import folders, shard
from pipeline.fleet.folders import Named, Run
from pipeline.release import bundle, standalone
from pipeline.report import log
from pipeline.run import up_to_date
from pipeline.storage.store import (
    atomic_directory,
    atomic_write,
    canonical_json,
    digest_file,
    json_text,
    list_files,
    lock,
    private_directory,
    publish,
    read_json,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from pipeline.fleet.shard import Record

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Merged:
    """What became of one name: the versions that were copied, the newest, what is to be known, and why its last run failed, if it did."""

    name: str
    copied: list[str] = field(default_factory=list)
    latest: str | None = None
    notes: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    failure: str | None = None
    error: WeighbridgeError | None = None

    def in_words(self) -> str:
        """Say in a line what was done."""
        done = [f"copied {in_line(self.copied)}"] if self.copied else []
        done += [f"wrote {in_line(self.written)}"] if self.written else []
        latest = f"latest is {self.latest}" if self.latest else "there is no release"
        return f"{self.name}: {'; '.join(done) or 'nothing to do'}; {latest}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a merge came to, by name; `failures` of configs by their place, and shards that are missing or do not belong together."""

    names: tuple[Merged, ...]
    failures: dict[str, str]
    shards: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """Return 0 where all is well, the highest of what could not be merged, 1 for what failed where it was exported."""
        errors = [each.error.exit_code for each in self.names if each.error]
        return max(errors, default=1 if self.failures or self.shards else 0)

    def in_words(self) -> str:
        """Say in a line what it came to."""
        copied = sum(len(each.copied) for each in self.names)
        wrong = sum(each.error is not None for each in self.names)
        said = (
            f"{len(self.names)} names, {copied} releases copied, {len(self.failures)} failed where they were exported"
        )
        return (
            said
            + (f", not merged: {wrong}" if wrong else "")
            + (", and the shards are no whole" if self.shards else "")
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as JSON values."""
        return {
            "exit_code": self.exit_code,
            "names": [
                {
                    "name": each.name,
                    "copied": [*each.copied],
                    "written": [*each.written],
                    "latest": each.latest,
                    "notes": [*each.notes],
                    "failure": each.failure,
                    "error": {"message": each.error.message, "hint": each.error.hint} if each.error else None,
                }
                for each in self.names
            ],
            "failures": {**self.failures},
            "shards": [*self.shards],
        }


def merge(sources: Sequence[Path], out: Path, say: Callable[[str], None]) -> Summary:
    """Put what lies in folders that exports wrote to together in `out`, which may be one of them; `say` that another process is waited for.

    Raises:
        InputError: one of the folders holds nothing of an export.
        WeighbridgeError: `out` cannot be written to.
    """
    roots = [root for each in sources for root in _roots(each)]
    others = [each for each in dict.fromkeys(root.resolve() for root in roots) if each != out.resolve()]
    sweep(out)
    found: dict[str, list[Named]] = {}
    for root in roots:
        for each in folders.named(root):
            found.setdefault(each.path.name, [])
            if root.resolve() in others:
                found[each.path.name].append(each)
    merged = tuple(_attempted(name, found[name], out, say) for name in sorted(found))
    records = [*_merged_records(others, out, is_given=len(others) < len({root.resolve() for root in roots}))]
    failures = {each.name: each.failure for each in merged if each.failure}
    return Summary(merged, failures | _failures(records, merged, out), tuple(_shards(records)))


def _roots(given: Path) -> list[Path]:
    """Return a folder that an export wrote to, or those in a folder of such."""
    try:
        found = [each for each in (given, *sorted(given.iterdir())) if each.is_dir() and _is_root(each)]
    except OSError as error:
        raise InputError(
            f"{given} cannot be read: {error.strerror}", hint="name a folder that an export wrote to"
        ) from None
    if given in found:
        return [given]
    if not found:
        raise InputError(
            f"{given} holds no release, no failed run and no record of a shard",
            hint="name the folder that `weighbridge export --out` wrote to, which holds a folder a name",
        )
    return found


def _is_root(folder: Path) -> bool:
    return not folder.name.startswith(".") and (
        next(folders.named(folder), None) is not None or any(folder.glob("shard-*-of-*.json"))
    )


def _attempted(name: str, given: Sequence[Named], out: Path, say: Callable[[str], None]) -> Merged:
    """Merge a name; what is wrong with it stops no other."""
    merged = Merged(name)
    try:
        with ExitStack() as held:
            for each, of in ((".run.lock", "exports"), (".lock", "writes a release of")) if given else ():
                message = f"waiting for another process that {of} {name} to {out}"
                held.enter_context(lock(out / name / each, message, say))
            if given:
                sweep(out / name)
            _merge(merged, given, out / name)
    except WeighbridgeError as error:
        merged.error = error
    except OSError as error:
        merged.error = InputError(f"{name} cannot be read: {error}", hint="check the permissions of that file")
    return merged


def _merge(merged: Merged, given: Sequence[Named], final: Path) -> None:
    here = Named.of(final) or Named(final, None, None, ())
    everywhere = [here, *given]
    newest = max(everywhere, key=_began)  # the first of equals: what is there
    for version in sorted({version for each in given for version in each.versions}):
        _release(
            merged,
            version,
            sorted((each for each in everywhere if version in each.versions), key=lambda each: each is not here),
            final,
        )
    if newest is not here and newest.run:
        for name in (bundle.FAILED, bundle.CRASHES):
            _beside(merged, newest.path / name, final / name)
        _write(merged, final / log.RUN, json_text(newest.path / log.RUN))
    leading = max(everywhere, key=_released)
    if leading is not here:
        _built_from(merged, leading, final)
        if leading.latest and (final / leading.latest).is_dir():
            _write(merged, final / bundle.LATEST, f"{leading.latest}\n".encode())
    merged.latest = folders.latest_of(final)
    run = newest.run
    if run and run.exit_code:
        merged.failure = run.error or f"it ended with exit code {run.exit_code}"


def _began(each: Named) -> datetime:
    return each.run.began if each.run else _NEVER


def _released(each: Named) -> tuple[bool, bool, datetime]:
    """Order folders by how new what their `latest` names is: when it was built or found up to date, if their last run tells."""
    is_whole = each.latest in each.versions
    is_told = bool(is_whole and each.run and each.run.exit_code == 0 and each.run.release == each.latest)
    return is_whole, is_told, _began(each) if is_told else _NEVER


def _release(merged: Merged, version: str, holders: Sequence[Named], final: Path) -> None:
    """Bring one version into place, from the first that holds it.

    Raises:
        InputError: the same version was built twice, with different bytes.
        DigestError: a file of it is not what is recorded.
    """
    first, *others = [each.path / version for each in holders]
    for other in others:
        if differing := _differing(first, other):
            raise InputError(
                f"{merged.name} {version} was built twice, and the two differ in {in_line(differing)}: {first} and {other}",
                hint="set release.version to another one in one of their configs (or leave it out), or remove one of the two",
            )
        if _differing(first / standalone.REPORT, other / standalone.REPORT):
            merged.notes.append(
                f"{version}: reports differ, as timings do: that of {first} is kept, not that of {other}"
            )
    is_damaged = False
    if first.parent == final:
        if not others or _sizes(first) == _sizes(others[0]) or not standalone.check_files(first):
            return
        merged.notes.append(f"{version}: what was there is damaged, and was replaced")
        first, is_damaged = others[0], True
    with private_directory(final) as work:
        copy = work / version
        _copy(first, copy)
        problems = standalone.check_files(copy) or standalone.check_manifest(copy)
        stated = {} if problems else standalone.read_manifest(copy)
        if not problems and (stated.get("name"), stated.get("version")) != (merged.name, version):
            problems = [f"{standalone.MANIFEST}: it is {stated.get('name')!s:.80} {stated.get('version')!s:.80}"]
        if problems:
            raise DigestError(
                f"{first} is not as it was built: {in_line(problems, 3)}", hint="fetch it again from where it was built"
            )
        publish(copy, final / version, replace=is_damaged)
    merged.copied.append(version)


def _differing(one: Path, other: Path) -> list[str]:
    """Return the files in which two folders differ, by the digests that they state."""
    stated = []
    for each in (one, other):
        try:
            stated.append(standalone.read_sums(each / standalone.SUMS))
        except (standalone.DamagedError, OSError) as error:
            raise DigestError(
                f"{each} states no digests: {error}", hint="fetch it again from where it was built"
            ) from None
    first, second = stated
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _sizes(release: Path) -> dict[str, int]:
    """Return the size of each file of a release outside its report."""
    names = [name for name in list_files(release) if not name.startswith(f"{standalone.REPORT}/")]
    return {name: (release / name).lstat().st_size for name in names}


def _copy(source: Path, target: Path) -> None:
    """Copy a folder of plain files.

    Raises:
        UnsafeError: it holds a link or a special file.
    """
    try:
        standalone.list_files(source)
    except standalone.DamagedError as error:
        raise UnsafeError(f"{source} is not copied: {error}", hint="fetch it again from where it was built") from None
    shutil.copytree(source, target, symlinks=True)


def _beside(merged: Merged, source: Path, final: Path) -> None:
    """Bring the report of a failed run, or what repeats a crash, into the place of an older one."""
    if not source.is_dir() or source.is_symlink():
        return
    with private_directory(final.parent) as work:
        copy = work / source.name
        _copy(source, copy)
        _check_report(source, copy / standalone.REPORT)
        if final.is_dir() and _same(copy, final):
            return
        with atomic_directory(final, replace=True) as whole:
            for each in copy.iterdir():
                each.rename(whole / each.name)
    merged.written.append(source.name)


def _check_report(source: Path, report: Path) -> None:
    if not (report / standalone.SUMS).is_file():
        return
    try:
        sums = standalone.read_sums(report / standalone.SUMS)
    except standalone.DamagedError as error:
        raise DigestError(f"the report in {source} is damaged: {error}", hint="fetch it again") from None
    wrong = [name for name, each in sums.items() if not (report / name).is_file() or digest_file(report / name) != each]
    if wrong:
        raise DigestError(f"the report in {source} is damaged: {in_line(wrong)}", hint="fetch it again")


def _same(one: Path, other: Path) -> bool:
    names = list_files(one)
    return names == list_files(other) and all(digest_file(one / each) == digest_file(other / each) for each in names)


def _built_from(merged: Merged, leading: Named, final: Path) -> None:
    """Take over what the newest release was built from, so that an export finds it up to date."""
    file = leading.path / up_to_date.RECORD
    try:
        if read_json(file)["version"] == leading.latest:
            _write(merged, final / up_to_date.RECORD, json_text(file))
            return
        why = f"{file.name} is of another version"
    except OSError:
        why = f"there is no {file} (files with a dot in front are often left out where folders are packed)"
    except (ValueError, KeyError, TypeError) as error:
        why = f"{file} cannot be read ({error!s:.200})"
    merged.notes.append(f"{leading.latest}: {why}, so an export will build it again")


def _write(merged: Merged, file: Path, content: bytes) -> None:
    """Write a file, unless it holds that already."""
    if not (file.is_file() and not file.is_symlink() and file.read_bytes() == content):
        atomic_write(file, content)
        merged.written.append(file.name)


# Shards


def _merged_records(sources: Sequence[Path], out: Path, *, is_given: bool) -> Iterator[Record]:
    """Yield the records of shards that the sources have, and those in `out`: all if it is one of them, else of as many shards. Keep the newest."""
    found: dict[str, Record] = {}
    for root in [*sources, out]:
        for file in sorted(root.glob("shard-*-of-*.json")):
            try:
                record = shard.Record.read(file)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{file} is no record of a shard: {error!s:.200}", hint="remove it, or fetch it again"
                ) from None
            name = shard.file_name(record.index, record.count)
            is_wanted = root != out or is_given or any(each.count == record.count for each in found.values())
            if is_wanted and (name not in found or record.at > found[name].at):
                found[name] = record
    for name, record in sorted(found.items()):
        content = canonical_json(record.to_json())
        if not (out / name).is_file() or (out / name).read_bytes() != content:
            atomic_write(out / name, content)
        yield record


def _failures(records: Sequence[Record], merged: Sequence[Merged], out: Path) -> dict[str, str]:
    """Return the configs that failed in a shard, unless a later run of their name went well."""
    known = {each.name for each in merged if each.failure}
    found = {}
    for record in records:
        for each in record.runs:
            later = Run.of(out / each.name) if each.name and folders.RELEASE_NAME.fullmatch(each.name) else None
            is_mended = later is not None and later.exit_code == 0 and later.started_at > record.at
            if each.exit_code and each.name not in known and not is_mended:
                found[each.config] = each.error or f"it ended with exit code {each.exit_code}"
    return found


def _shards(records: Sequence[Record]) -> Iterator[str]:
    """Yield what is wrong with the shards: one that is missing, that was stopped, or that split something else."""
    for count in sorted({each.count for each in records}):
        here = [each for each in records if each.count == count]
        if missing := sorted(set(range(1, count + 1)) - {each.index for each in here}):
            yield f"of {count} shards there is no {in_line(list(map(str, missing)))}"
        for each in here:
            if not each.ended:
                yield f"shard {each.index} of {count} did not come to its end"
            if each.split != here[0].split:
                others = [
                    name
                    for name in each.split.keys() | here[0].split.keys()
                    if each.split.get(name) != here[0].split.get(name)
                ]
                yield (
                    f"shards {here[0].index} and {each.index} of {count} did not split the same configs in the same way: "
                    f"they differ on {in_line(sorted(others))}"
                )
