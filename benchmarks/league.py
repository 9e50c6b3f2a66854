"""How long the table of three hundred releases takes: the bar is 2 s.

    python benchmarks/league.py [--count 300]

The releases are copies of a real one, exported and timed before, each under a name of its own. What is timed are whole commands, in wall and in processor
time: the table on stdout, as JSON, as a page, and against an older one.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "pipeline.commands"]


def taken(*arguments: object, output: Path | None = None) -> str:
    """Run a command; return what it took, in words."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*COMMAND, *map(str, arguments)], check=True, capture_output=True)
    wall_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    if output:
        output.write_bytes(done.stdout)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{wall_s:.2f} s, of a processor {used_s:.2f} s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken("export", "configs/simplenet.yaml", "--out", folder / "one", "--set", "benchmark.seconds=4")
        for index in range(options.count):
            shutil.copytree(folder / "one" / "simplenet", folder / "many" / f"net-{index:03}")
        many, old = folder / "many", folder / "old.json"
        print("the table:", taken("league", many))
        print("as JSON:", taken("league", many, "--json", output=old))
        print("the page:", taken("league", many, "--html", folder / "page.html"), end=", ")
        print(f"{(folder / 'page.html').stat().st_size / 1e3:.0f} kB")
        print("against an older one:", taken("league", many, "--against", old))


if __name__ == "__main__":
    main()
