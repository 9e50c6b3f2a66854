"""The league of the zoo: real releases of networks that nobody here wrote, in one table, committed as docs/league.html.

    python -m benchmarks.league_zoo [--count 60] [--minutes 15] [--folder DIR] [--html FILE]

The networks are the smallest of each of the zoo's families that were released, in turn. Each is exported for onnxruntime and OpenVINO, proven, and
timed for a few seconds; ten to a command, until the minutes are over. What has a release is not made again: the next run goes on where this one
stopped; remove the folder to begin anew. Then `weighbridge league` writes the page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from benchmarks.zoo_cost import LEDGER, written

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = [sys.executable, "-m", "pipeline.commands"]
WAYS = {
    "exports": ["onnx", "openvino"],
    "backends": ["onnxruntime-cpu", "openvino-cpu"],
    "require": ["onnxruntime-cpu"],
    "benchmark": {"reference": "onnxruntime-cpu", "seconds": 3},
}
_TOGETHER = 10


def stem(name: str) -> str:
    """Return the name of a network's release."""
    return name.replace("/", "-").replace("_", "-").lower()


def config(name: str, folder: Path) -> Path | None:
    """Write the config of a network, unless it is there; None where it cannot be built here."""
    file = folder / f"{stem(name)}.yaml"
    if not file.is_file():
        try:
            unfinished = written(name, file.with_suffix(".new.yaml"))
        except SystemExit as error:
            print(error, file=sys.stderr)
            return None
        yaml = YAML(typ="safe")
        found = yaml.load(unfinished.read_text(encoding="utf-8")) | WAYS | {"name": file.stem}
        with unfinished.open("w", encoding="utf-8") as target:
            yaml.dump(found, target)
        unfinished.rename(file)
    return file


def names() -> list[str]:
    """Return the networks of the ledger that were released: of each family in turn the smallest that is left."""
    rows: dict[str, dict[str, Any]] = json.loads(LEDGER.read_text(encoding="utf-8"))["networks"]
    families: dict[str, list[str]] = {}
    for name, each in sorted(rows.items(), key=lambda item: (item[1].get("parameters") or 0, item[0])):
        if each["outcome"] == "released":
            families.setdefault(name.partition("/")[0], []).append(name)
    rounds = itertools.zip_longest(*(families[name] for name in sorted(families)))
    return [name for each in rounds for name in each if name is not None]


def export(configs: Sequence[Path], out: Path, seconds: float) -> None:
    """Export configs in one command, which is asked to stop when the time is over."""
    command = [*COMMAND, "export", *map(str, configs), "--trust", "benchmarks", "--out", str(out), "--reuse-timings"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()


def main() -> None:
    """Export, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/league-zoo"))
    parser.add_argument("--html", type=Path, default=Path("docs/league.html"))
    options = parser.parse_args()
    until_s = time.monotonic() + 60 * options.minutes
    configs, out = options.folder / "configs", options.folder / "releases"
    configs.mkdir(parents=True, exist_ok=True)
    left = iter([name for name in names()[: options.count] if not (out / stem(name) / "latest").is_file()])
    while time.monotonic() < until_s and (several := [*itertools.islice(left, _TOGETHER)]):
        files = [file for name in several if (file := config(name, configs))]
        export(files, out, max(1.0, until_s - time.monotonic()))
    for each in out.iterdir():  # one that ran out of time says nothing of its network
        if not each.name.startswith(".") and not any((each / name).exists() for name in ("latest", "failed")):
            shutil.rmtree(each)
    subprocess.run([*COMMAND, "league", str(out), "--html", str(options.html)], check=True)


if __name__ == "__main__":
    main()
