"""Run every hostile file through every command that takes a file, each in a process of its own, and watch what it does.

    python -m tests.sweeps.hostile_commands [RELEASE]

A command passes if it refuses with its documented exit code, starts no process, opens no connection, leaves no marker,
and takes under 2 s of processor time and 200 MB over the interpreter with weighbridge imported. Processes are forked from
one that has imported the command line, so that 2 s are the command's own. With a RELEASE, `predict` gets each file as an
input and `verify` gets it in the place of the model.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipeline.cli
import pipeline.init
import pipeline.release.predict
import pipeline.report.console
import pipeline.report.inspection
import pipeline.stages
from tests.checkpoint.corpus import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SECONDS = 2.0
MAX_BYTES = 200 * 2**20
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "socket.")
NETWORK = "pipeline.architectures.simplenet:SimpleNet"
CONFIG = """
name: hostile
model: {{architecture: {network}, weights: {weights}}}
inputs: {{x: {{dtype: float32, shape: [batch, 10]}}}}
dimensions: {{batch: {{min: 1, max: 4}}}}
outputs: [logits]
exports: [onnx]
backends: [onnxruntime-cpu]
benchmark: {{reference: onnxruntime-cpu}}
"""


def commands(path: Path, release: Path | None) -> Iterator[tuple[list[str], set[int]]]:
    """Yield command lines for a file, with the exit codes that mean a refusal."""
    config = path.with_suffix(".yaml")
    config.write_text(CONFIG.format(network=NETWORK, weights=path.name))
    yield ["inspect", str(path)], {3}
    yield ["check", str(config)], {3}
    yield ["export", str(config), "--out", str(path.parent / "out")], {3}
    yield ["init", str(path), "--architecture", NETWORK, "--output", str(path.with_suffix(".new"))], {3}
    if release is None:
        return
    suffix = (".npy", ".npz", ".safetensors", ".json")[int(path.stem) % 4]
    other = path.with_suffix(suffix)
    shutil.copyfile(path, other)
    yield ["predict", str(release), "--input", f"x={other}"], {2, 3}
    altered = path.parent / f"release-{path.stem}"
    shutil.copytree(release, altered)
    shutil.copyfile(path, altered / "model.onnx")
    yield ["verify", str(altered)], {1}
    shutil.rmtree(altered)


def run(arguments: Sequence[str]) -> tuple[int, float, int, list[str]]:
    """Return exit code, seconds of processor time, peak bytes of memory, and forbidden events."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _be_the_command(arguments, write)
    os.close(write)
    with os.fdopen(read) as events:
        seen = events.read().split()
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, seen


def _be_the_command(arguments: Sequence[str], events: int) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)

    def watch(event: str, _: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            os.write(events, f"{event}\n".encode())

    sys.addaudithook(watch)
    sys.argv = ["weighbridge", *arguments]
    try:
        pipeline.cli.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(99)


def main() -> int:
    """Print a row for each command, and every failure; return 1 if there was one."""
    release = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    failures: list[str] = []
    count, worst_seconds, worst_bytes = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        os.chdir(folder)
        files = hostile(Path(folder), marker)
        baseline = run(["--version"])[2]
        for name, path in files.items():
            for arguments, codes in commands(path, release):
                code, seconds, memory, seen = run(arguments)
                command = arguments[0]
                memory -= baseline
                count[command] += 1
                worst_seconds[command] = max(worst_seconds[command], round(seconds * 1000))
                worst_bytes[command] = max(worst_bytes[command], memory)
                ok = code in codes and not seen and seconds < MAX_SECONDS and memory < MAX_BYTES
                if not ok or marker.exists():
                    failures.append(f"{command}: {name}: exit {code}, {seconds:.2f} s, {memory >> 20} MB, {seen}")
                    marker.unlink(missing_ok=True)
    print(f"{len(files)} hostile files")
    for command in count:
        print(
            f"{command:<8} {count[command]:>4} runs, at most {worst_seconds[command] / 1000:.2f} s "
            f"and {worst_bytes[command] >> 20} MB"
        )
    print(*failures, sep="\n")
    print(f"{len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
