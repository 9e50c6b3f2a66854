"""Build the shipped configs under different conditions and compare every byte outside report/.

    python scripts/sweep_reproducible.py [--full] [--work DIR] [CONFIG…]

Conditions: two directories, three hash seeds, two time zones, one and two threads. By default six builds a config cover
every pair of them; `--full` takes all 24. Every build starts from an empty folder and reads no cache. Also looks for
absolute paths, the host's and the user's name in every byte. resnet18, which ships without weights, gets seeded ones.
With `--work`, what each build came to is kept there, and a later run of the same sources and tools goes on from it.
Exits 1 if anything differs or is found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.release import bundle
from pipeline.release.tools import tools
from pipeline.storage.store import digest_file, key

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
NAMES = ("simplenet", "silero-vad", "facenet-pnet", "minilm", "efficientnet-lite0", "resnet18")
DIRECTORIES = ("one", "another place/with a long name")
SEEDS = ("0", "7", "4294967295")
ZONES = ("UTC", "Asia/Kolkata")
THREADS = (1, 2)
Condition = tuple[str, str, str, int]
# Every pair of values of two conditions occurs in one of these.
PAIRS = (
    (DIRECTORIES[0], SEEDS[0], ZONES[0], 1),
    (DIRECTORIES[1], SEEDS[0], ZONES[1], 2),
    (DIRECTORIES[0], SEEDS[1], ZONES[1], 2),
    (DIRECTORIES[1], SEEDS[1], ZONES[0], 1),
    (DIRECTORIES[0], SEEDS[2], ZONES[0], 2),
    (DIRECTORIES[1], SEEDS[2], ZONES[1], 1),
)
USER = "weigher-of-things"
ABSOLUTE = re.compile(rb"(?<![\w:/.])/(?:home|root|tmp|usr|opt|var|mnt|srv|work|Users|private)/[\w.+-]+")
SHEBANG = b"#!/usr/bin/env python3"
PROGRAM = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv.pop(1))])
from pipeline.commands.app import main
main()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=NAMES)
    parser.add_argument("--full", action="store_true", help="all 24 combinations instead of every pair")
    parser.add_argument("--work", type=Path, help="a folder to build in and to keep results in")
    asked = parser.parse_args()
    wanted = list(itertools.product(DIRECTORIES, SEEDS, ZONES, THREADS)) if asked.full else list(PAIRS)
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work.absolute() if asked.work else Path(temporary)
        for directory in DIRECTORIES:
            shutil.rmtree(work / directory, ignore_errors=True)
            prepare(work / directory, asked.configs)
        known = Records(work / "records.jsonl", sources(work / DIRECTORIES[0]))
        failed = sum(not is_reproducible(work, name, wanted, known) for name in asked.configs)
    return 1 if failed else 0


class Records:
    """What builds of the same sources came to, a line of JSON each: their digests, and the traces found in them."""

    def __init__(self, path: Path, built_from: str) -> None:
        self.path, self.built_from = path, built_from
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [each for each in map(json.loads, lines) if each["sources"] == built_from]
        self.by_build = {(each["config"], *each["condition"]): each for each in found}

    def add(self, config: str, condition: Condition, release: Path, found: list[str]) -> None:
        """Keep what a build came to, in memory and on disk."""
        record = {
            "config": config, "condition": condition, "sources": self.built_from,
            "digests": bundle.file_digests(release), "traces": found,
        }  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.by_build[config, *condition] = record


def sources(tree: Path) -> str:
    """Return a digest of everything a build depends on but its condition."""
    files = {str(path.relative_to(tree)): digest_file(path) for path in sorted(tree.rglob("*")) if path.is_file()}
    return key({"files": files, "tools": tools()})


def prepare(tree: Path, names: Sequence[str]) -> None:
    """Copy into `tree` what building these configs takes."""
    for name in ("pipeline", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    if set(names) != {"simplenet"}:  # whose weights lie beside its config
        shutil.copytree(ROOT / "artifacts" / "weights", tree / "artifacts" / "weights")
    if "resnet18" in names:
        import torch

        from pipeline.architectures.resnet import ResNet

        torch.manual_seed(0)
        torch.save(ResNet(depth=18, num_classes=1000).state_dict(), tree / "artifacts" / "weights" / "resnet18.pth")


def is_reproducible(work: Path, name: str, wanted: list[Condition], known: Records) -> bool:
    began_s = time.monotonic()
    for condition in wanted:
        if (name, *condition) not in known.by_build:
            release = build(work, name, *condition)
            known.add(name, condition, release, traces(release, work))
    records = [known.by_build[name, *condition] for condition in wanted]
    first = records[0]["digests"]
    problems = [
        f"{each['condition']}: {file}"
        for each in records
        for file in sorted(first.keys() | each["digests"].keys())
        if first.get(file) != each["digests"].get(file)
    ]
    problems += [f"{each['condition']}: {trace}" for each in records for trace in each["traces"]]
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    verdict = f"{len(problems)} differences or traces" if problems else "identical, no traces"
    print(
        f"{name}: {len(wanted)} builds of {len(first)} files: {verdict} ({time.monotonic() - began_s:.0f} s)",
        flush=True,
    )
    return not problems


def build(work: Path, name: str, directory: str, seed: str, zone: str, threads: int) -> Path:
    """Export a config in `work/directory` under a condition, from an empty output folder; return the release."""
    tree = work / directory
    shutil.rmtree(tree / "out", ignore_errors=True)
    environment = {
        "PYTHONPATH": str(tree), "PYTHONHASHSEED": seed, "TZ": zone, "OMP_NUM_THREADS": str(threads),
        "USER": USER, "LOGNAME": USER, "HOME": str(tree / USER), "TMPDIR": str(work),
    }  # fmt: skip
    arguments = [str(threads), "export", f"configs/{name}.yaml", "--out", "out", "--no-benchmark", "--rebuild"]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=tree, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: the export failed:\n{done.stderr}")
    return bundle.find(tree / "out" / name)


def traces(release: Path, work: Path) -> list[str]:
    """Return what the files outside report/ hold of the machine that built them."""
    forbidden = [each.encode() for each in (USER, socket.gethostname(), str(work), str(ROOT), str(Path.home()))]
    found = []
    for name in bundle.file_digests(release):
        content = (release / name).read_bytes().replace(SHEBANG, b"")
        found += [f"{name} holds {each.decode()}" for each in forbidden if holds(content, each)]
        found += [f"{name} holds the path {each.decode()}" for each in set(ABSOLUTE.findall(content))]
    return found


def holds(content: bytes, name: bytes) -> bool:
    """Say whether a name occurs; a short one, which weights hold by chance, only counts as a word of a text."""
    if len(name) > 5:
        return name in content
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return re.search(rb"\b%s\b" % re.escape(name), content) is not None


if __name__ == "__main__":
    sys.exit(main())
