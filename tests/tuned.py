"""What `weighbridge tune` writes into a release's report, by itself, so that each of its system calls can be failed or killed."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.benchmark.machine import processor
from pipeline.benchmark.recommended import FILE, Candidate, Choice, Limits, Recommended
from pipeline.errors import WeighbridgeError
from pipeline.release import standalone
from pipeline.release.verify import check
from pipeline.run.tune import write
from tests import strace, tiny
from tests.forking import forked

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "it was found anew"


def recommendation(release, why="it was found first"):
    """Return a recommendation for a release, as a race might have ended."""
    manifest = standalone.read_manifest(release)
    variant, listed = next((name, each) for name, each in manifest["backends"].items() if each["format"])
    artifact = listed.get("artifact") or listed["format"]
    choice = Choice(variant=variant, backend=listed["backend"], artifact=artifact, options=dict(listed["options"]))
    row = Candidate(
        name=variant, choice=choice, precision="own", factor=0.5, file_bytes=9, median_ms=1.0, p99=None, peak_bytes=1,
        ratio=1.0, interval=None, launches=3, left=None,
    )  # fmt: skip
    return Recommended(
        schema_version=1, digest=manifest["digest"], processor=processor(), cores=2, objective="latency", sizes={},
        callers="one", limits=Limits(), margin=0.03, result="best", choice=choice, chosen=variant, tied=(variant,), why=why,
        candidates=(row,), launches=3, confirmations=4, seconds=1.0, budget_s=2.0, more_s=None, tools={}, notes=(),
    )  # fmt: skip


def work(release, why=OTHER):
    """Write a recommendation; return the exit code, with an error's message on stderr."""
    try:
        write(release, recommendation(release, why))
    except WeighbridgeError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


@dataclass(frozen=True)
class Scene:
    """A release with a recommendation, and the calls that change the disk when another takes its place."""

    before: Path
    old: dict[str, str]
    new: dict[str, str]
    points: tuple[strace.Point, ...]

    def restored(self, out):
        """Make `out` the folder as it is before; return the release in it."""
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.before, out)
        return self.release(out)

    def release(self, out):
        """Return the release in a folder."""
        return out / tiny.NAME / tiny.latest_of(out)

    def require_old_or_new(self, out):
        """Fail unless the release is whole, and its report the old one or the new one."""
        release = self.release(out)
        assert check(release) == []
        assert digests(release) in (self.old, self.new)
        Recommended.read(release / standalone.REPORT / FILE)

    def require_next_run_succeeds(self, out):
        """Fail unless the next run writes the new one, and leaves nothing lying about."""
        again = forked(lambda: work(self.release(out)))
        assert again.code == 0, again.err
        assert digests(self.release(out)) == self.new
        assert tiny.temporaries(out) == []


def digests(release):
    """Return the digests of a report's files."""
    report = release / standalone.REPORT
    return {name: hashlib.sha256((report / name).read_bytes()).hexdigest() for name in standalone.list_files(report)}


def scene(folder, release):
    """Return the scene of a real release in a folder `…/NAME/VERSION`."""
    before, out = folder / "before", folder / "out"
    (before / tiny.NAME).mkdir(parents=True)
    shutil.copytree(release, before / tiny.NAME / release.name)
    (before / tiny.NAME / "latest").write_text(f"{release.name}\n")
    assert work(before / tiny.NAME / release.name, "it was found first") == 0
    shutil.rmtree(before / tiny.NAME / ".lock", ignore_errors=True)
    made = Scene(before, digests(before / tiny.NAME / release.name), {}, ())
    there = made.restored(out)
    traced = strace.run(lambda: work(there))
    assert traced.code == 0, traced.err
    return replace(made, new=digests(there), points=strace.below(traced.points, out))


def survive_a_kill(scene, point, out):
    """Kill the writing at one of its calls, and hold what is left, and the next run, against the claim."""
    there = scene.restored(out)
    killed = strace.run(lambda: work(there), f"{point.call}:signal=KILL:when={point.nth}")
    assert killed.code == -9, f"exit {killed.code}: {killed.err}"
    scene.require_old_or_new(out)
    scene.require_next_run_succeeds(out)


def survive_a_fault(scene, fault, out, said):
    """Let one call of the writing, or it and all that follow, fail; hold the run, what is left and the next run to the claim."""
    point, error, lasts = fault
    there = scene.restored(out)
    inject = f"{point.call}:error={error}:when={point.nth}{'+' if lasts else ''}"
    failed = strace.run(lambda: work(there), inject)
    scene.require_old_or_new(out)
    assert tiny.temporaries(out) == []
    if failed.code:
        assert failed.code == 4, f"exit {failed.code}: {failed.err}"
        assert failed.err.startswith("error: cannot write"), failed.err
        assert said[error] in failed.err
        assert len(failed.err.splitlines()) == 1
    else:
        assert digests(there) == scene.new
    scene.require_next_run_succeeds(out)


def require_whole(out, expected):
    """Fail unless the releases in a folder are those expected, and a report that has a recommendation has a whole one."""
    assert tiny.versions(out) == expected
    for version in expected:
        release = out / tiny.NAME / version
        assert check(release) == []
        if (file := release / standalone.REPORT / FILE).exists():
            assert Recommended.read(file).digest == standalone.read_manifest(release)["digest"]
