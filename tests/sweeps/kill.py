"""Kill an export at every system call that changes the disk: all of a tiny release's, and some of a real one's.

    python -m tests.sweeps.kill [--real COUNT] [--races COUNT] [--part export|tune]

Afterwards the old release or a whole new one is there, never a part, and the next run gives the bytes of an undisturbed one. So for what `weighbridge tune` writes into a release, and for a
real race at random moments: the report has the old recommendation or the new one, and the next run goes on.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from pipeline.benchmark import machine
from tests import faults, strace, tiny, tuned
from tests.sweeps.tally import tally
from tests.test_interruption import SEED, survive_a_kill


def tiny_release(folder: Path, *, has_old: bool) -> int:
    folder.mkdir()
    scene = tiny.scene(folder, has_old=has_old)
    print(", ".join(f"{count} {call}" for call, count in Counter(each.call for each in scene.points).most_common()))
    claim = f"kill, tiny release, {'next' if has_old else 'first'} version"
    return tally(claim, scene.points, lambda point: survive_a_kill(scene, point, folder / "out"))


def real_release(folder: Path, count: int) -> int:
    before, out = folder / "before", folder / "out"
    export = partial(faults.weighbridge, "export", "configs/simplenet.yaml", "--no-benchmark", "--out")
    assert export(before, "--set", "parity.seed=1").code == 0
    old = tiny.versions(before)
    shutil.copytree(before, out)
    # strace counts by thread: what is injected at the nth call of a name comes where the first thread makes its nth.
    first: dict[tuple[str, int], strace.Point] = {}
    for point in _traced(out)[1]:
        first.setdefault((point.call, point.nth), point)
    points = strace.below(tuple(first.values()), out)
    new = {version: digests for version, digests in tiny.versions(out).items() if version not in old}
    assert len(new) == 1
    scene = tiny.Scene(before, old, new, points)
    print(f"{len(points)} such calls of a real export, its workers' included", flush=True)
    killed = Counter[str]()

    def check(point: strace.Point) -> None:
        scene.restored(out)
        code, _, left = _traced(out, f"{point.call}:signal=KILL:when={point.nth}")
        assert left == ()
        assert code in {-9, 4}, code
        who = "the run itself" if code == -9 else "a worker"
        killed[who] += 1
        print(f"  {point.call} {point.nth}: killed {who}", flush=True)
        tiny.require_old_or_new(scene, out)
        again = export(out)
        assert again.code == 0, again.err
        assert tiny.versions(out) == old | new
        assert tiny.temporaries(out) == []

    # As many of the rare calls as of the frequent ones, so that the renames are among them.
    by_call = {call: [each for each in points if each.call == call] for call in {each.call for each in points}}
    rng = random.Random(SEED)
    chosen = [rng.choice(by_call[sorted(by_call)[index % len(by_call)]]) for index in range(count)]
    failures = tally("kill, real exporters", chosen, check)
    print(f"killed: {dict(killed)}")
    return failures


def _traced(out: Path, inject: str | None = None) -> tuple[int, tuple[strace.Point, ...], tuple[int, ...]]:
    """Export for real under strace; return the exit code, the calls, and the processes that are left."""
    line, environment = faults.command("export", "configs/simplenet.yaml", "--no-benchmark", "--out", out)
    log = out.parent / "log"
    tracing = ["strace", "-f", "-y", "-s", "8", "-o", str(log), "-e", f"trace={','.join(strace.MUTATING)}"]
    tracing += ["-e", f"inject={inject}"] if inject else []
    done = subprocess.run([*tracing, *line], env=environment, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, strace.points_of(log.read_text(errors="replace")), faults.orphans(environment)


def recommendation(folder: Path) -> int:
    """Kill at every call with which `weighbridge tune` writes its answer into a release."""
    folder.mkdir()
    ended = faults.weighbridge("export", "configs/simplenet.yaml", "--no-benchmark", "--out", folder / "made")
    assert ended.code == 0, ended.err
    made = folder / "made" / tiny.NAME
    scene = tuned.scene(folder, made / (made / "latest").read_text().strip())
    return tally(
        "kill, a recommendation", scene.points, lambda point: tuned.survive_a_kill(scene, point, folder / "out")
    )


def races(folder: Path, count: int) -> int:
    """Kill a real `weighbridge tune` at random moments: whole afterwards, and the next one goes on to the end."""
    folder.mkdir()
    out = folder / "out"
    line = ("tune", "configs/simplenet.yaml", "--seconds", 2, "--out", out)
    first = faults.weighbridge(*line)
    assert first.code == 0, first.err
    expected = tiny.versions(out)
    rng = random.Random(SEED)

    def check(moment_s: float) -> None:
        faults.killed(*line, "--again", after_s=moment_s)
        tuned.require_whole(out, expected)
        again = faults.weighbridge(*line)
        assert again.code == 0, again.err
        tuned.require_whole(out, expected)
        assert tiny.temporaries(out) == []
        print(f"  tune, killed after {moment_s:.1f} s: goes on", flush=True)

    return tally("kill, a race", [rng.uniform(0, first.seconds) for _ in range(count)], check)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--real", type=int, default=24)
    parser.add_argument("--races", type=int, default=12)
    parser.add_argument("--part", choices=("export", "tune"))
    chosen = parser.parse_args()
    count = chosen.real
    print(machine.here())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if chosen.part != "export":
            failures = recommendation(folder / "recommendation") + races(folder / "races", chosen.races)
            if chosen.part:
                return int(failures > 0)
        else:
            failures = 0
        failures += sum(tiny_release(folder / f"tiny-{has_old}", has_old=has_old) for has_old in (False, True))
        (folder / "real").mkdir()
        failures += real_release(folder / "real", count) if count else 0
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
