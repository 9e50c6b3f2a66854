"""Run every hostile file through every command that takes a file, each in a process of its own, and watch what it does.

    python -m tests.sweeps.hostile_commands [RELEASE] [--part ours|evasions|abuses|injected|openvino|sharded|limits]...

A command passes if it refuses with its documented exit code, starts no process, opens no connection, leaves no marker,
and takes under 2 s of processor time and 200 MB over the interpreter with weighbridge imported. Processes are forked from
one that has imported the command line, so that 2 s are the command's own. The time on the clock is shown as well, and
decides nothing: the machine may be busy.

With a RELEASE, `predict` gets each file as an input, and each file takes the place of the release's models and golden cases:
once as it is, so that a digest tells (exit code 1), and once with every digest made to agree, as a forger would (3).
Indices of sharded checkpoints and files beyond our limits are no part of a release.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pipeline.commands.app
import pipeline.release.predict
import pipeline.report.console
import pipeline.report.inspection
import pipeline.run.benchmark
import pipeline.run.check
import pipeline.run.init
import pipeline.run.parity
import pipeline.run.report
import pipeline.run.stages
import pipeline.run.verify
from tests.formats.torchscript import programs
from tests.release.forgery import forge
from tests.weights import abuses, evasions, injected, ir
from tests.weights.corpus import ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_SECONDS = 2.0
MAX_BYTES = 200 * 2**20
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "socket.")
SIMPLENET = Path(__file__).parents[2] / "configs" / "simplenet.yaml"
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


REFUSED, DAMAGED = 3, 1
CANDIDATES = (".pth", ".onnx", ".torchscript", ".pt")
PLACES = ("model.onnx", "model.torchscript", "golden.safetensors")


def _written(folder: Path, contents: Mapping[str, bytes], prefix: str) -> dict[str, Path]:
    made = {name: folder / f"{prefix}-{index:03}.pth" for index, name in enumerate(contents)}
    for name, path in made.items():
        path.write_bytes(contents[name])
    return made


def _injected(folder: Path, marker: Path) -> dict[str, Path]:
    return {
        **_written(folder, dict(injected.files(marker)), "injected"),
        **dict(injected.models(folder, marker)),
    }


def _openvino(folder: Path, _marker: Path) -> dict[str, Path]:
    """Return those whose .xml alone is hostile: what lies outside a .bin needs one beside it (tests/weights/test_openvino.py)."""
    contents = {name: make() for name, (make, _) in ir.HOSTILE.items() if "constant" not in name}
    return _written(folder, {name: each.encode() for name, each in contents.items()}, "openvino")


def _beyond(folder: Path, _marker: Path) -> dict[str, Path]:
    made = {write.__name__: folder / f"{write.__name__}.pth" for write in evasions.LIMITS}
    for write in evasions.LIMITS:
        write(made[write.__name__])
    return made


PARTS: dict[str, Callable[[Path, Path], dict[str, Path]]] = {
    "ours": ours,
    "evasions": lambda folder, marker: _written(folder, evasions.files(marker), "evasion"),
    "abuses": lambda folder, marker: _written(folder, abuses.files(marker), "abuse"),
    "injected": _injected,
    "openvino": _openvino,
    "sharded": lambda folder, marker: dict(evasions.sharded(folder, marker)),
    "limits": _beyond,
}
NOT_IN_RELEASES = ("sharded", "limits")


@dataclass(frozen=True)
class Ran:
    """What a command did: exit code, seconds of processor and on the clock, peak bytes of memory, forbidden events."""

    code: int
    seconds: float
    wall_s: float
    memory: int
    seen: tuple[str, ...]


def on_files(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Yield a row's name, a command line for a file, and the exit code that means a refusal."""
    config = path.with_suffix(".yaml")
    config.write_text(CONFIG.format(network=NETWORK, weights=path.name))
    yield "inspect", ["inspect", str(path)], REFUSED
    yield "check", ["check", str(config)], REFUSED
    yield "export", ["export", str(config), "--out", str(path.parent / "out")], REFUSED
    new = path.with_suffix(".new")
    yield "init", ["init", str(path), "--architecture", NETWORK, "--output", str(new)], REFUSED
    for suffix in CANDIDATES:
        other = path.with_suffix(suffix)
        if other != path:
            shutil.copyfile(path, other)
        options = ["--candidate", str(other), "--trust-candidate", "--out", str(path.parent / "out")]
        yield f"parity --candidate {suffix}", ["parity", str(SIMPLENET), *options], REFUSED


def on_releases(path: Path, release: Path, inputs: Path) -> Iterator[tuple[str, list[str], int]]:
    """Yield the same for commands that take a release."""
    for suffix in (".npy", ".npz", ".safetensors", ".json"):
        other = path.with_suffix(suffix)
        shutil.copyfile(path, other)
        yield f"predict --input {suffix}", ["predict", str(release), "--input", f"x={other}"], REFUSED
    for place in PLACES:
        copy = path.parent / "release"
        shutil.copytree(release, copy)
        shutil.copyfile(path, copy / place)
        yield f"verify, {place} replaced", ["verify", str(copy)], DAMAGED
        yield f"predict, {place} replaced", ["predict", str(copy), "--input", str(inputs)], DAMAGED
        forge(copy)
        yield from on_forged(copy, place, inputs)
        shutil.rmtree(copy)


def on_forged(copy: Path, place: str, inputs: Path) -> Iterator[tuple[str, list[str], int]]:
    """Yield the same for a release whose digests agree with what was put into it."""
    yield f"verify, {place} forged", ["verify", str(copy)], REFUSED
    yield f"predict, {place} forged", ["predict", str(copy), "--input", str(inputs)], REFUSED
    yield f"benchmark, {place} forged", ["benchmark", str(copy)], REFUSED
    zipped = copy.parent / "release.zip"
    yield f"package, {place} forged", ["package", str(copy), "--as", "zip", "--out", str(zipped)], REFUSED


def hostile_programs(marker: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield TorchScript archives that would do something when they are loaded or run."""
    plain = programs.saved(programs.AddOne(), folder / "plain.pt")
    made = folder / "program.pt"
    for name, rewrite in {**programs.hostile_code(marker), **programs.other_code()}.items():
        code = rewrite(programs.code_of(plain)).encode()
        yield name, programs.rewritten(plain, made, {programs.CODE: code})
    for name, entries in programs.hostile_entries(marker).items():
        yield name, programs.rewritten(plain, made, entries)
    restores = programs.saved(programs.Restores(str(marker)), made)
    marker.unlink(missing_ok=True)
    yield "restores itself", restores


def run(arguments: Sequence[str]) -> Ran:
    """Run a command in a forked process and wait for it."""
    read, write = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _be_the_command(arguments, write)
    os.close(write)
    with os.fdopen(read) as events:
        seen = events.read().split()
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - start
    return Ran(code, usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024, tuple(seen))


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
        pipeline.commands.app.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(99)


class Tally:
    """Rows of what was run, and every failure."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker
        self.baseline = run(["--version"]).memory
        self.rows: dict[str, list[Ran]] = defaultdict(list)
        self.failures: list[str] = []

    def add(self, row: str, what: str, arguments: Sequence[str], code: int) -> None:
        """Run a command and judge it."""
        ran = run(arguments)
        self.rows[row].append(ran)
        memory = ran.memory - self.baseline
        ok = ran.code == code and not ran.seen and ran.seconds < MAX_SECONDS and memory < MAX_BYTES
        if not ok or self.marker.exists():
            self.failures.append(
                f"{row}: {what}: exit {ran.code}, {ran.seconds:.2f} s, {memory >> 20} MB, {ran.seen}"
                f"{', marker' if self.marker.exists() else ''}"
            )
            self.marker.unlink(missing_ok=True)

    def show(self) -> None:
        """Print a line for each row, and the failures."""
        for row, ran in self.rows.items():
            print(
                f"{row:<36} {len(ran):>4} runs, at most {max(each.seconds for each in ran):.2f} s of processor time, "
                f"{max(each.wall_s for each in ran):.2f} s on the clock, "
                f"{max(each.memory - self.baseline for each in ran) >> 20} MB"
            )
        print(*self.failures, sep="\n")
        print(f"{sum(map(len, self.rows.values()))} runs, {len(self.failures)} failures")


def main() -> int:
    """Run everything; return 1 if there was a failure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("release", nargs="?", type=lambda text: Path(text).resolve())
    parser.add_argument("--part", action="append", choices=PARTS, help="all of them unless told")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        marker = folder / "marker"
        os.chdir(folder)
        parts = {part: PARTS[part](folder, marker) for part in options.part or PARTS}
        print(*(f"{len(files)} hostile files: {part}" for part, files in parts.items()), sep="\n", flush=True)
        tally = Tally(marker)
        for what, path in (each for files in parts.values() for each in files.items()):
            for row, arguments, code in on_files(path):
                tally.add(row, what, arguments, code)
        if options.release:
            kept = {part: files for part, files in parts.items() if part not in NOT_IN_RELEASES}
            _run_releases(
                {what: path for files in kept.values() for what, path in files.items()}, options.release, tally
            )
    tally.show()
    return bool(tally.failures)


def _run_releases(files: Mapping[str, Path], release: Path, tally: Tally) -> None:
    folder = tally.marker.parent
    inputs = folder / "inputs.npy"
    np.save(inputs, np.zeros((1, 10), np.float32))
    for what, path in files.items():
        for row, arguments, code in on_releases(path, release, inputs):
            tally.add(row, what, arguments, code)
    for what, program in hostile_programs(tally.marker, folder):
        copy = folder / "programs"
        shutil.copytree(release, copy)
        forge(copy, {PLACES[1]: program.read_bytes()})
        for row, arguments, code in on_forged(copy, "hostile program", inputs):
            tally.add(row, what, arguments, code)
        tally.add("predict, hostile program chosen", what, _by_torchscript(copy, inputs), REFUSED)
        shutil.rmtree(copy)


def _by_torchscript(release: Path, inputs: Path) -> list[str]:
    return ["predict", str(release), "--input", str(inputs), "--backend", "torchscript"]


if __name__ == "__main__":
    sys.exit(main())
