"""What a proven release costs over a bare export on ten networks of others in one command, a network: the bar is 3 s at the median.

    python -m benchmarks.zoo_cost [--count 10] [--jobs 1]

The networks are the first of the zoo's ledger that were released and that a bare export takes, in the order in which the zoo is swept, which
has nothing to do with what they are. Each is exported by `benchmarks/bare_export.py` in a process of its own, then all by one `weighbridge export
--no-benchmark --rebuild`. A network's own time is what run.json has; the whole command's, divided, is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import zlib
from pathlib import Path

from benchmarks.export_cost import BARE, Cost, cost
from benchmarks.zoo import row

LEDGER = Path("benchmarks/zoo/ledger.json")


def chosen() -> list[str]:
    """Return the names of the networks that were released, in the order of the sweep."""
    rows = json.loads(LEDGER.read_text(encoding="utf-8"))["networks"]
    names = [name for name, each in rows.items() if each["outcome"] == "released"]
    return sorted(names, key=lambda name: zlib.crc32(name.encode()))


def written(name: str, config: Path) -> Path:
    """Write a config for a network; return it."""
    found = row.find(name)
    if not isinstance(found, row.Network):
        raise SystemExit(f"{name}: {found[1]}")
    row.write_config(found, config)
    return config


def attempted(config: Path, folder: Path) -> Cost | None:
    """Return what a bare export costs; None where it fails."""
    try:
        return cost([sys.executable, str(BARE), str(config), str(folder)], folder)
    except SystemExit:
        return None


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken: list[tuple[str, Path, Cost]] = []
        for network in chosen():
            config = written(network, folder / f"net-{len(taken)}.yaml")
            alone = attempted(config, folder)
            print(f"{network}: {f'{alone.wall_s:.1f} s' if alone else 'no bare export succeeds'}", file=sys.stderr)
            if alone:
                taken.append((network, config, alone))
            if len(taken) == options.count:
                break
        names, configs, bare = zip(*taken, strict=True)
        ours = [sys.executable, "-m", "pipeline.commands", "export", *map(str, configs), "--no-benchmark", "--rebuild"]
        ours += ["--trust", "benchmarks", "--jobs", str(options.jobs), "--out", str(folder / "out")]
        whole = cost(ours, folder, allowed=(0, 1))  # a closed gate takes its time too, and is told below
        logs = [json.loads((folder / "out" / each.stem / "run.json").read_bytes()) for each in configs]
    print("| network | bare wall s | weighbridge wall s | beyond it | |\n|---|---|---|---|---|")
    beyond = [log["elapsed_s"] - each.wall_s for log, each in zip(logs, bare, strict=True)]
    for network, each, log, more in zip(names, bare, logs, beyond, strict=True):
        ended = (
            "released"
            if log["exit_code"] == 0
            else f"exit {log['exit_code']}: {log['error'].splitlines()[-1].strip()[:120]}"
        )
        print(f"| {network} | {each.wall_s:.1f} | {log['elapsed_s']:.1f} | {more:+.1f} | {ended} |")
    print(f"\nbeyond the bare export, median: {statistics.median(beyond):+.1f} s")
    for kind in ("wall_s", "processor_s"):
        alone = sum(getattr(each, kind) for each in bare)
        print(f"{kind}: {alone:.1f} bare, one after the other; {getattr(whole, kind):.1f} in one command")


if __name__ == "__main__":
    main()
