"""Whether a second, independent run of `weighbridge tune` contradicts the first, on the six shipped configs.

A run recommends one way to run a release, and names those that it cannot tell from it. Two runs contradict each other where what the one
recommends was put out by the other: its interval lay beyond the leader's. The bar: at most 1 of 20 pairs. Each pair is kept as soon as it
is finished, so that a run that was interrupted goes on; resnet18, which ships without weights, gets seeded ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import shipped

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHBRIDGE = (str(Path(sys.executable).with_name("weighbridge")),)
BAR_OF_20 = 19


@dataclass(frozen=True)
class Pair:
    """Two runs on one config: what each recommends, what it cannot tell from that, whether it was called the best; `load`: of the machine."""

    config: str
    seconds: float
    chosen: tuple[str, str]
    tied: tuple[tuple[str, ...], tuple[str, ...]]
    result: tuple[str, str]
    contradicted: str
    load: float


def tuned(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Run `weighbridge tune` anew on a shipped config; return what it recommends, as recommended.json states it."""
    own = [word for each in shipped.own_weights(name, folder) for word in ("--set", each)]
    command = [*WEIGHBRIDGE, "tune", f"configs/{name}.yaml", "--out", str(folder), "--again", "--json"]
    ended = subprocess.run([*command, "--seconds", str(seconds), *own], capture_output=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{name}: {ended.stderr.decode()[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout)["recommended"]
    return found


def contradiction(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Return what the second says against the first one's choice; "" where it does not, or could not race it."""
    for each in second["candidates"]:
        if each["name"] == first["chosen"] and each["left"] is not None:
            return f"{each['name']}: {each['left']}"
    return ""


def pair(name: str, folder: Path, seconds: float) -> Pair:
    """Return what two runs say, one after the other."""
    one, other = (tuned(name, folder, seconds) for _ in range(2))
    against = contradiction(one, other) or contradiction(other, one)
    return Pair(
        name,
        seconds,
        (one["chosen"], other["chosen"]),
        (tuple(one["tied"]), tuple(other["tied"])),
        (one["result"], other["result"]),
        against,
        round(os.getloadavg()[2], 2),
    )


def show(pairs: Sequence[dict[str, Any]]) -> None:
    """Print a line a config, and the sum."""
    for name in sorted({each["config"] for each in pairs}):
        own = [each for each in pairs if each["config"] == name]
        results = [each for pair in own for each in pair["result"]]
        against = [each["contradicted"] for each in own if each["contradicted"]]
        print(
            f"{name}: {len(own)} pairs, {results.count('best')} of {len(results)} runs name the best, contradicted: {against or 'none'}"
        )
    bad = sum(bool(each["contradicted"]) for each in pairs)
    print(f"{len(pairs) - bad} of {len(pairs)} pairs are not contradicted; the bar is {BAR_OF_20} of 20")


def main() -> None:
    """Run what is missing of the pairs, and print them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4, help="of each config")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--folder", type=Path, default=Path("artifacts/tune-twice"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "pairs.jsonl"
    pairs = [json.loads(line) for line in kept.read_text("utf-8").splitlines()] if kept.is_file() else []
    for round_ in range(options.pairs):
        for name in shipped.NAMES:
            if sum(each["config"] == name for each in pairs) > round_:
                continue
            began = time.monotonic()
            pairs.append(asdict(pair(name, options.folder, options.seconds)))
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(pairs[-1]) + "\n")
            print(f"{name}: {pairs[-1]['chosen']} in {time.monotonic() - began:.0f} s", flush=True)
    show(pairs)


if __name__ == "__main__":
    main()
