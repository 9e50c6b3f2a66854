"""How often each process of an export reads the weights file: once to digest it, and then mapped, is the bar.

    python benchmarks/weight_reads.py [--size 0.5]

A stack of linear layers is exported to TorchScript and ONNX with strace watching (read, pread64, mmap). What is mapped is read as far as
it is used; how far that is strace does not tell. Ends with 1 if more than one process reads the file, or one reads it more than once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from memory import LAYERS, config

_CALL = re.compile(r"(\d+) +(read|pread64|mmap)\((.*)\) += (\S+)")


def watched(path: Path, out: Path, log: Path) -> dict[str, dict[str, int]]:
    """Export a config under strace; return by process how many bytes of the weights it read, and how many it mapped."""
    command = [sys.executable, "-m", "pipeline.commands", "export", path.name, "--trust", "memory_network"]
    command += ["--out", str(out), "--no-benchmark"]
    trace = ["strace", "-f", "-y", "-s", "0", "-e", "trace=read,pread64,mmap", "-o", str(log)]
    subprocess.run([*trace, *command], cwd=path.parent, check=True, stdout=subprocess.DEVNULL)
    threads = defaultdict(lambda: defaultdict(int))
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _CALL.match(line)
        if found is None or "/weights.safetensors>" not in found[3] or found[4].startswith("-1"):
            continue
        is_map = found[2] == "mmap"
        amount = int(found[3].split(",")[1]) if is_map else int(found[4])
        threads[found[1]]["mapped" if is_map else "read"] += amount
    return threads


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=0.512, help="of the weights, in GB")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed")
    width = round((options.size * 1e9 / 4 / LAYERS) ** 0.5 / 8) * 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = config(folder, width)
        size_bytes = (folder / "weights.safetensors").stat().st_size
        found = watched(path, folder / "out", folder / "strace.log")
    print("| process or thread | read, × the file | mappings of it |\n|---|---|---|")
    for index, each in enumerate(found.values()):
        print(f"| {index} | {each['read'] / size_bytes:.2f} | {each['mapped'] / size_bytes:.0f} |")
    raise SystemExit(sum(each["read"] for each in found.values()) > 1.01 * size_bytes)


if __name__ == "__main__":
    main()
