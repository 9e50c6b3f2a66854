"""A release with something in it that fails: the whole pipeline, in a process of its own, with a fault put somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil

PLUGIN = Path(__file__).with_name("plugin")
PLACES = ("export", "parity", "benchmark")
SAID = {
    "SIGSEGV": "was ended by SIGSEGV",
    "SIGFPE": "was ended by SIGFPE",
    "SIGABRT": "was ended by SIGABRT",
    "_exit": "exited with status 7",
    "hang": "did not finish",
    "fork and hang": "did not finish",
    "fork and crash": "was ended by SIGSEGV",
    "memory": "ran out of memory",
    "flood": "did not finish",
    "garbage": "with garbage",
    "closed channel": "closed its channel",
}
TIMED = ("hang", "fork and hang", "flood")
MEMORY_BYTES = 2 << 30
MARK = "WEIGHBRIDGE_TEST_RUN"
_CONFIG = """
extends: {simplenet}
exports: [onnx{export}]
backends: [onnxruntime-cpu{backends}]
require: [onnxruntime-cpu{require}]
benchmark: {{reference: onnxruntime-cpu, sizes: [], seconds: 2, threads: 1}}
limits: {{export_seconds: {limit_s}, run_seconds: {limit_s}{memory}}}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status, what it said, how long it took, and which of its processes are still there."""

    code: int
    out: str
    err: str
    seconds: float
    orphans: tuple[int, ...]


def command(*arguments, path=None):
    """Return the command line, and an environment in which the plugin is installed and processes can be found again.

    `path` is a folder of modules beside it.
    """
    inherited = os.environ.get("PYTHONPATH")
    modules = os.pathsep.join(str(each) for each in (PLUGIN, path, inherited) if each)
    environment = os.environ | {"PYTHONPATH": modules, MARK: uuid4().hex, "OMP_NUM_THREADS": "1"}
    return [sys.executable, "-m", "pipeline.commands", *map(str, arguments)], environment


def weighbridge(*arguments, limit_s=600, serving=None, path=None):
    """Run a command to its end, by what `serving` serves if that is given."""
    line, environment = command(*arguments, path=path)
    there = ()
    if serving:
        path = os.pathsep.join([str(PLUGIN), serving.get("PYTHONPATH", "")])
        line, environment = ["weighbridge", *line[3:]], serving | {"PYTHONPATH": path}
        subprocess.run(["weighbridge", "--version"], env=environment, capture_output=True, check=True)
        there = _marked(environment[MARK])  # which goes on serving
    began_s = time.monotonic()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
    seconds = time.monotonic() - began_s
    return Ended(done.returncode, done.stdout, done.stderr, seconds, orphans(environment, there))


def killed(*arguments, after_s):
    """Kill a command -9 after so many seconds; its workers end with it."""
    line, environment = command(*arguments)
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        time.sleep(after_s)
        run.kill()
    assert orphans(environment) == ()


def orphans(environment, there=(), patience_s=2.0):
    """Return the processes that carry a run's mark, were not `there` before it, and do not end by themselves."""
    until = time.monotonic() + patience_s
    while (left := tuple(set(_marked(environment[MARK])) - set(there))) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def _marked(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process.pid)
        except psutil.Error:
            continue
    return tuple(found)


def config(folder, broken, *, required=False, limit_s=600):
    """Write a config of simplenet with a fault in each place of `broken`, each in a backend named after its place."""
    export, backends = "", ""
    for place, fault in broken.items():
        if place == "export":
            export = f", {{format: faulty, fault: {fault}}}"
            backends += ", {name: broken-export, backend: unreached}"
        else:
            options = f"{{fault: {fault}, during: {'run' if place == 'parity' else place}}}"
            backends += f", {{name: broken-{place}, backend: faulty, options: {options}}}"
    path = folder / "faulty.yaml"
    path.write_text(
        _CONFIG.format(
            simplenet=Path("configs/simplenet.yaml").resolve(),
            export=export,
            backends=backends,
            require="".join(f", broken-{place}" for place in broken) if required else "",
            limit_s=limit_s,
            memory=f", memory_bytes: {MEMORY_BYTES}" if "memory" in broken.values() else "",
        )
    )
    return path


def export(folder, out, broken, *, serving=None, **options):
    """Export such a config; timed only if something is to fail there."""
    timing = [] if "benchmark" in broken else ["--no-benchmark"]
    return weighbridge("export", config(folder, broken, **options), "--out", out, *timing, serving=serving)
