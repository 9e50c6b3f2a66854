"""Configs of many small real networks, for what works on many at once: the same ones every time, the quickest first.

    python -m benchmarks.fleet_configs FOLDER [--count 60]

They are networks of the zoo that were released (`benchmarks/zoo/ledger.json`): first torch.nn's layers, which need nothing but torch, then
transformers' model types by their size, which need transformers. Each config lies with its weights in a folder of its own, so that what
belongs to one is seen to be no other's. They are exported with `--trust benchmarks`, from the folder that holds `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.zoo import row

LEDGER = Path(__file__).with_name("zoo") / "ledger.json"
_FAMILIES = ("torch.nn", "transformers")
_LEFT_OUT = frozenset({"transformers/fnet", "transformers/sam3_lite_text_text_model"})
"""Whose outputs leave the budget with two threads, and not with the one of the zoo's sweep: a gate that closes is tried elsewhere."""
_MOST_PARAMETERS = 200_000
"""What is larger takes longer to export than most."""


def names() -> list[str]:
    """Return the names of the zoo's released small networks: torch.nn's before transformers', in each family the smallest first."""
    rows: dict[str, dict[str, Any]] = json.loads(LEDGER.read_text(encoding="utf-8"))["networks"]
    released = {
        name: int(each["parameters"])
        for name, each in rows.items()
        if each["outcome"] == "released" and each["parameters"] <= _MOST_PARAMETERS
    }
    order = {family: index for index, family in enumerate(_FAMILIES)}
    taken = [name for name in released if name.partition("/")[0] in order and name not in _LEFT_OUT]
    return sorted(taken, key=lambda name: (order[name.partition("/")[0]], released[name], name))


def write(folder: Path, count: int) -> list[Path]:
    """Write the configs of `count` networks below a folder, each with its weights; return them. What is there already stays.

    Raises:
        SystemExit: there are not so many, as where transformers is not installed.
    """
    written: list[Path] = []
    for name in names():
        if len(written) == count:
            break
        stem = name.rpartition("/")[2].replace("_", "-").lower()
        config = folder / stem / f"{stem}.yaml"
        if not config.is_file():
            try:
                found = row.find(name)
            except ImportError as error:
                raise SystemExit(f"{name} needs a package: {error} (the extra `zoo` has it)") from error
            if not isinstance(found, row.Network):
                continue
            config.parent.mkdir(parents=True, exist_ok=True)
            unfinished = config.with_suffix(".yml")
            row.write_config(found, unfinished)
            unfinished.rename(config)
        written.append(config)
    if len(written) < count:
        raise SystemExit(f"{count} configs were asked for, and there are {len(written)}")
    return written


def main() -> None:
    """Write them and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    print(*write(options.folder, options.count), sep="\n")


if __name__ == "__main__":
    main()
