"""Put together what several exports wrote to folders of their own: releases, what they were built from, and what failed.

Each name is merged by itself, under the locks of an export of it. A release is copied into a private directory, its every digest is checked
there, and it is renamed into place; what is there stays as it is. `latest`, run.json, `failed/` and `crashes/` are those of the newest run.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.errors import DigestError, InputError, UnsafeError, WeighbridgeError, in_line
from pipeline.fleet import folders
from pipeline.fleet.folders import Named
from pipeline.fleet.shards import records
from pipeline.fleet.shards.merged import Merged, Summary
from pipeline.release import bundle, standalone
from pipeline.report import log
from pipeline.run import up_to_date
from pipeline.storage.store import (
    atomic_directory,
    atomic_write,
    digest_file,
    json_text,
    list_files,
    lock,
    private_directory,
    publish,
    read_json,
    same_tree,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


_DEEPEST = 3  # folders below one that was given
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def merge(sources: Sequence[Path], out: Path, say: Callable[[str], None]) -> Summary:
    """Put what lies in folders that exports wrote to together in `out`, which may be one of them; `say` that another process is waited for.

    Raises:
        InputError: one of the folders holds nothing of an export.
        WeighbridgeError: `out` cannot be written to.
    """
    roots = list({root.resolve(): root for each in sources for root in _roots(each)}.values())
    others = [each for each in dict.fromkeys(root.resolve() for root in roots) if each != out.resolve()]
    sweep(out)
    found: dict[str, list[Named]] = {}
    for root in roots:
        for each in folders.named(root):
            found.setdefault(each.path.name, [])
            if root.resolve() in others:
                found[each.path.name].append(each)
    merged = tuple(_attempted(name, found[name], out, say) for name in sorted(found))
    left = [*records.gather(others, out, is_given=len(others) < len({root.resolve() for root in roots}))]
    failures = {each.name: each.failure for each in merged if each.failure}
    return Summary(merged, failures | records.failures(left, merged, out), tuple(records.problems(left)))


def _roots(given: Path) -> list[Path]:
    """Return a folder that an export wrote to, or those in a folder of such."""
    try:
        found = list(_roots_below(given, _DEEPEST))
    except OSError as error:
        raise InputError(
            f"{given} cannot be read: {error.strerror}", hint="name a folder that an export wrote to"
        ) from None
    if not found:
        raise InputError(
            f"{given} holds no release, no failed run and no record of a shard",
            hint="name the folder that `weighbridge export --out` wrote to, which holds a folder a name",
        )
    return found


def _roots_below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_root(folder):
        yield folder
        return
    for each in sorted(folder.iterdir()) if depth else ():
        if each.is_dir() and not each.is_symlink() and not each.name.startswith("."):
            yield from _roots_below(each, depth - 1)


def _is_root(folder: Path) -> bool:
    return next(folders.named(folder), None) is not None or any(folder.glob("shard-*-of-*.json"))


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
        if final.is_dir() and same_tree(copy, final):
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
