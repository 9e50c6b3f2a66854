"""How long a second machine takes where a shared cache has everything: 60 configs, without building one; the bar is 0.5 s a config.

    python -m benchmarks.shared_cache [--count 60] [--keep FOLDER]

The first machine exports the configs of `benchmarks/fleet_configs.py` with an empty shared cache, without timing them; one whose gate closes is left out. The second has the
configs in another folder, an empty cache of its own, and a key that it trusts. What a command takes beyond its start is what all configs take less what one takes.
The same objects are then served by S3 (moto's server, in a process of its own on the same processors). At last: what of that is reading, of the same cache locally.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import fleet_configs
from pipeline.release import bundle, signing
from pipeline.storage import objects
from tests import s3

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BAR_S = 0.5


def exported(configs: Sequence[Path], out: Path, *options: object, check: bool = True) -> float:
    """Export configs in one command; return its wall time in seconds. Without `check` gates may close."""
    command = [sys.executable, "-m", "pipeline.commands", "export", *map(str, configs), "--out", str(out)]
    command += ["--no-benchmark", "--trust", "benchmarks", "--json", *map(str, options)]
    began_s = time.perf_counter()
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def built(out: Path) -> list[str]:
    """Return the steps of a folder's runs that were made there, of all that a cache could have."""
    steps = [
        (file.parent.name, each)
        for file in sorted(out.glob("*/run.json"))
        for each in json.loads(file.read_text())["steps"]
        if each["stage"] in {"export", "parity"} and each["step"] != file.parent.name
    ]
    return [f"{name}: {each['step']}" for name, each in steps if each["status"] != "reused"]


def compared(first: Path, second: Path) -> int:
    """Return how many releases there are twice; raise SystemExit where a byte outside report/ differs."""
    releases = [path.parent / path.read_text().strip() for path in sorted(first.glob(f"*/{bundle.LATEST}"))]
    for each in releases:
        if bundle.file_digests(each) != bundle.file_digests(second / each.relative_to(first)):
            raise SystemExit(f"{each} differs")
    return len(releases)


@contextmanager
def on_s3(folder: Path) -> Iterator[str]:
    """Serve the objects of a folder by S3; yield the URL."""
    with s3.serving() as environment:
        os.environ.update(environment)
        place = objects.opened(f"s3://{s3.BUCKET}", to_write=True)
        for each in ("actions", "blobs"):
            for path in sorted((folder / each).rglob("*")):
                if path.is_file():
                    place.replace(path.relative_to(folder).as_posix(), path)
        yield place.url


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="where the first machine's folders stay, for another run")
    options = parser.parse_args()
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "key.pem").exists():
            signing.generate(folder / "key")
        configs = fleet_configs.write(folder / "configs", options.count)
        url, trusted = f"file://{folder}/shared", folder / "key.pub.pem"
        first_s = exported(configs, folder / "first", "--cache", url, "--cache-key", folder / "key.pem", check=False)
        configs = [each for each in configs if (folder / "first" / each.stem / bundle.LATEST).exists()]
        elsewhere = folder / "elsewhere"
        if not elsewhere.exists():
            shutil.copytree(folder / "configs", elsewhere)
        moved = [elsewhere / each.relative_to(folder / "configs") for each in configs]
        rows = [("the first machine, which builds", first_s, first_s / len(configs))]
        missed = False
        with on_s3(folder / "shared") as remote:
            for what, place in (("file://", url), ("s3://", remote)):
                out, alone = folder / f"second-{place[:2]}", folder / f"one-{place[:2]}"
                for each in (out, alone):
                    shutil.rmtree(each, ignore_errors=True)
                one_s = exported(moved[:1], alone, "--cache", place, "--cache-trust", trusted)
                all_s = exported(moved, out, "--cache", place, "--cache-trust", trusted)
                if made := built(out):
                    raise SystemExit(f"built on the second machine: {made}")
                count = compared(folder / "first", out)
                each_s = (all_s - one_s) / max(1, len(configs) - 1)
                rows.append(
                    (f"the second machine, {what}: {count} releases, none built, the same bytes", all_s, each_s)
                )
                missed |= each_s > BAR_S
            for each in out.glob("*/"):  # the same with everything in the cache of the machine itself
                if each.name != ".cache":
                    shutil.rmtree(each)
            again_s = exported(moved, out, "--cache", place, "--cache-trust", trusted)
            rows.append(
                ("the second machine again, without its releases: from its own cache", again_s, again_s / len(configs))
            )
    print("| what | s | s a config |\n|---|---|---|")
    for what, took_s, each_s in rows:
        print(f"| {what} | {took_s:.1f} | {each_s:.2f} |")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
