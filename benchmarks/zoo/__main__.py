"""Take networks that others wrote through weighbridge, and keep a ledger of what became of each.

    python -m benchmarks.zoo [--shard 1/2] [--jobs 2] [--only PATTERN] [--again OUTCOME,…] [--brief] [--check] [--page]

Every model type of transformers' base mapping that can be made small, layers of torch.nn and networks of pytorchcv, with seeded
weights, a dynamic batch and, where the network takes one, a dynamic length or image size. Each is exported as a user would export it
(ONNX, no timings), and by hand with plain `torch.onnx.export`, both routes; files are run in onnxruntime on the drawn sizes and others,
and held against the network in float64. A row says what became of it:

- released, and right when it was checked by hand;
- missed: weighbridge did not release what a plain export does right;
- wrong release: the released file is not the network;
- defect of an exporter or runtime: a plain export gives a file that is wrong, or that onnxruntime does not run, at a size that is named;
- refused by torch, by both of its routes; cannot be said in a config; the network itself fails, on its own weights and inputs;
- not tried: no small config runs, or none can be made; crashed or too slow.

Rows are kept as they are made (benchmarks/results/zoo.jsonl): what was interrupted goes on. Rows of other code or tools are made again;
`--again` makes those with some outcomes again, `--only` those whose names match a pattern. `--shard i/n` takes every n-th network and
keeps its rows under a name of its own; `--brief` leaves the slower plain export out where there is a release. All files of rows that lie there count. A whole sweep writes benchmarks/zoo/ledger.json and
docs/zoo.md; `--check` compares with the ledger instead, and ends with 1 where a network fares worse.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.progress import code_digest
from benchmarks.zoo import page
from pipeline.release.tools import tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS, LEDGER = Path("benchmarks/results"), Path("benchmarks/zoo/ledger.json")
ROW_S = 420
ORDER = (
    "released", "refused by torch", "defect of an exporter or runtime", "cannot be said in a config", "the network itself fails",
    "no small config runs", "cannot be made small", "crashed or too slow", "missed", "wrong release",
)  # fmt: skip
"""From best to worst."""


def main() -> int:
    options = _options()
    from benchmarks.zoo import networks  # takes seconds: not for --help

    names = sorted(networks.names(), key=lambda name: zlib.crc32(name.encode()))  # any part of it is a fair sample
    if options.only:
        names = [name for name in names if re.search(options.only, name)]
    index, count = options.shard
    file = RESULTS / (f"zoo-{index}-of-{count}.jsonl" if count > 1 else "zoo.jsonl")
    header = {"tools": tools(), "code": code_digest("zoo")}
    again = {each for each in options.again.split(",") if each}
    kept = {name: row for name, row in _kept(header, older=bool(again)).items() if row["outcome"] not in again}
    waiting = [name for name in names[index - 1 :: count] if name not in kept]
    print(f"{len(names)} networks, {len(waiting)} to try here", file=sys.stderr)
    if not options.page:
        _try(waiting, file, header, options)
    rows = {name: row for name, row in _kept(header, older=bool(again) or options.page).items() if name in names}
    return _ended(rows, names, check=options.check, partly=bool(options.only))


def _options() -> argparse.Namespace:
    def shard(text: str) -> tuple[int, int]:
        index, count = map(int, text.split("/"))
        if not 1 <= index <= count:
            raise argparse.ArgumentTypeError("i/n with 1 <= i <= n")
        return index, count

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", type=shard, default=(1, 1))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="a pattern of names")
    parser.add_argument(
        "--again", default="", help="make rows with these outcomes again, and keep the others whatever code made them"
    )
    parser.add_argument(
        "--brief", action="store_true", help="leave the slower plain export out where there is a release"
    )
    parser.add_argument("--check", action="store_true", help="compare with the ledger instead of writing it")
    parser.add_argument("--page", action="store_true", help="write ledger and page from the rows that are there")
    return parser.parse_args()


def _kept(header: dict[str, Any], *, older: bool) -> dict[str, dict[str, Any]]:
    """Return the rows that are kept, by network, the last of each."""
    found = {}
    for file in sorted(RESULTS.glob("zoo*.jsonl"), key=lambda each: each.stat().st_mtime):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            if older or row["made"] == header:
                found[row.pop("name")] = row
    return found


def _try(names: Sequence[str], file: Path, header: dict[str, Any], options: argparse.Namespace) -> None:
    """Make the rows of networks, each in a process forked from this one, which has loaded what all need."""
    _load()
    file.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    for done, (name, row) in enumerate(_forked(names, options.jobs, brief=options.brief), 1):
        with file.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps({"name": name, **row, "made": header}, ensure_ascii=False) + "\n")
        left_min = (time.monotonic() - began_s) / done * (len(names) - done) / 60
        print(f"{done} of {len(names)}, {left_min:.0f} min left: {name}: {row['outcome']}", file=sys.stderr, flush=True)


def _load() -> None:
    """Load what all networks need, and let exporters build the tables that they keep."""
    import torch
    import transformers

    import benchmarks.zoo.row
    import pipeline.run.stages.table

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    first, example = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)).eval(), torch.zeros(2, 4)
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        for dynamo in (True, False):
            torch.onnx.export(first, (example,), f"{folder}/first.onnx", dynamo=dynamo, verbose=False)
    assert benchmarks.zoo.row  # noqa: S101 - loaded here, used in the children
    assert pipeline.run.stages.table  # noqa: S101


def _forked(names: Sequence[str], jobs: int, *, brief: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    waiting, running = list(names), {}
    with tempfile.TemporaryDirectory(prefix="zoo-rows-") as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[_start(name, _file(folder, name), brief=brief)] = (name, time.monotonic())
            process, status = os.waitpid(-1, os.WNOHANG)
            if process:
                name, _ = running.pop(process)
                yield name, _row(_file(folder, name), status)
            for process, (_, began_s) in running.items():
                if time.monotonic() - began_s > ROW_S:
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)


def _file(folder: str, name: str) -> Path:
    return Path(folder, f"{zlib.crc32(name.encode()):08x}.json")


def _start(name: str, file: Path, *, brief: bool) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        from benchmarks.zoo.row import row

        file.write_text(json.dumps(row(name, brief=brief), default=str), encoding="utf-8")
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent reads it
        file.write_text(
            json.dumps({"outcome": "crashed or too slow", "reason": f"{type(error).__name__}: {error}"[:600]}),
            encoding="utf-8",
        )
        code = 0
    finally:
        os._exit(code)  # nothing of the parent's is ours to clean up


def _row(file: Path, status: int) -> dict[str, Any]:
    if not file.exists():
        return {
            "outcome": "crashed or too slow",
            "reason": f"the process ended with {os.waitstatus_to_exitcode(status)}, or took more than {ROW_S} s",
        }
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


def _ended(rows: dict[str, dict[str, Any]], names: Sequence[str], *, check: bool, partly: bool) -> int:
    counts = Counter(row["outcome"] for row in rows.values())
    for outcome in ORDER:
        print(f"{counts[outcome]:5} {outcome}")
    for name, row in rows.items():
        if row["outcome"] in {"missed", "wrong release"}:
            print(f"{row['outcome']}: {name}: {row['reason']}")
    if check:
        return _compared(rows)
    if len(rows) < len(names):
        print(f"{len(names) - len(rows)} of {len(names)} are still to be tried: next: make sweep-zoo")
    if not partly:
        LEDGER.write_text(page.as_json(rows), encoding="utf-8")
        Path("docs/zoo.md").write_text(page.as_markdown(rows, len(names)), encoding="utf-8")
        print(f"next: git diff {LEDGER} docs/zoo.md")
    return 0


def _compared(rows: dict[str, dict[str, Any]]) -> int:
    """Say which networks fare worse than in the ledger; return 1 if any does."""
    ledger = json.loads(LEDGER.read_text(encoding="utf-8"))["networks"]
    worse = [
        (name, ledger[name]["outcome"], row["outcome"])
        for name, row in rows.items()
        if name in ledger and ORDER.index(row["outcome"]) > ORDER.index(ledger[name]["outcome"])
    ]
    for name, before, now in worse:
        print(f"{name}: {before} before, {now} now: {rows[name]['reason']}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
