"""Export many configs on three nodes of Ray's, real processes on this machine, and end nodes, drivers and workers with SIGKILL meanwhile.

    python -m tests.sweeps.ray_fleet [--work DIR] [--local DIR] [same] [gate] [nodes] [drivers] [workers]

`same`: 60 networks of the zoo on the cluster against one machine (`--local`: what was exported here before), every byte outside `report/`.
`gate`: one config's gate is closed, one config is wrong; the others are what they are without them. `nodes`, `drivers`, `workers`: ten nodes, five
drivers and twenty workers are ended at moments that nobody chose; all results are there and right, none that was finished is built again, and
no process is left. Needs the extras `ray` and `zoo` (make sweep-ray).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks import fleet_configs
from pipeline.release import bundle

SEED = 20
NODES, FEW, MANY = 3, 4, 60
END_S = 30.0
MARK = "WEIGHBRIDGE_NODE_DIR"


@contextmanager
def cluster(work):
    """Yield a cluster of three nodes, each with a folder of its own, and a function that adds a node."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    count = iter(range(1000))

    def add():
        os.environ[MARK] = str(work / f"node-{next(count)}")  # what a node starts inherits it
        return made.add_node(
            num_cpus=2, memory=4 << 30, object_store_memory=200 << 20, resources={"weighbridge_node": 1}
        )

    made.add_node(num_cpus=0)  # the head holds the cluster itself, and is left alone
    try:
        yield made, [add() for _ in range(NODES)], add
    finally:
        made.shutdown()


def driver(configs, out, address):
    """Start an export on the cluster; its events are lines of JSON, and so is what it says at the end, each in a file."""
    command = [sys.executable, "-m", "pipeline.commands", "export", *map(str, configs), "--trust", "benchmarks"]
    command += ["--no-benchmark", "--out", str(out), "--on", f"ray://{address}", "--log-json", "--json"]
    # Not a pipe: nobody reads while something is ended, and what is said of many configs fills one.
    with out.with_suffix(".json").open("wb") as said, out.with_suffix(".log").open("ab") as told:
        return subprocess.Popen(command, stdout=said, stderr=told)


def said(process, out):
    """Wait for a driver's end, and return what it said."""
    process.wait()
    return out.with_suffix(".json").read_text("utf-8")


def events(out):
    """Return what drivers that wrote to `out` told, in order."""
    lines = out.with_suffix(".log").read_text("utf-8").splitlines() if out.with_suffix(".log").exists() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def ours(work):
    """Return the processes that nodes of this sweep have started for an export: children and their workers."""
    found = []
    for each in psutil.process_iter(["pid", "cmdline"]):
        with suppress(psutil.Error):
            if "pipeline." in " ".join(each.cmdline()) and each.environ().get(MARK, "").startswith(f"{work}/"):
                found.append(each)
    return found


def workers_of_ray(work):
    """Return the workers of Ray's that run a task now."""
    found = []
    for each in psutil.process_iter(["pid", "cmdline"]):
        with suppress(psutil.Error):
            if "weighbridge" in " ".join(each.cmdline()) and each.cmdline()[0].startswith("ray::"):
                found.append(each)
    return [each for each in found if each.environ().get(MARK, "").startswith(f"{work}/")]


def require_no_orphan(work, what):
    """Raise unless all processes of exports end within a moment."""
    until_s = time.monotonic() + END_S
    while (left := ours(work)) and time.monotonic() < until_s:
        time.sleep(0.2)
    if left:
        raise SystemExit(f"{what}: left behind: {[' '.join(each.cmdline())[:120] for each in left]}")


def outcome(out, config):
    """Return the digests of a config's release, every file outside its report; of one that failed its exit code, and what was said."""
    if not (out / config.stem / "latest").is_file():
        log = json.loads((out / config.stem / "run.json").read_bytes())
        return log["exit_code"], log["error"].replace(str(out), "")
    release = out / config.stem / (out / config.stem / "latest").read_text().strip()
    return {release.name: bundle.file_digests(release)}


def require_same(local, out, configs):
    """Raise unless two folders hold the same releases."""
    differing = [each.stem for each in configs if outcome(local, each) != outcome(out, each)]
    if differing:
        raise SystemExit(f"other bytes: {differing}")


def require_built_once(out):
    """Raise if a config's task began after its release had been written; return how often tasks began."""
    began, ended = {}, set()
    for each in events(out):
        if each["stage"] == "ray" and each["status"] == "started":
            if each["run"] in ended:
                raise SystemExit(f"{each['run']} was built again after it was finished")
            began[each["run"]] = began.get(each["run"], 0) + 1
        if each["stage"] == "ray" and each["status"] == "ended":
            ended.add(each["run"])
    return sum(began.values())


def finished(process, out, configs):
    """Wait for a driver that nobody ends; raise unless it exported everything."""
    words = said(process, out)
    if process.returncode:
        tail = out.with_suffix(".log").read_text("utf-8")[-1500:]
        raise SystemExit(f"exit {process.returncode}: {words[-1500:]}\n{tail}")
    return [each.stem for each in configs]


def same(work, local, address, configs):
    began_s = time.monotonic()
    finished(driver(configs, work / "same", address), work / "same", configs)
    require_same(local, work / "same", configs)
    require_no_orphan(work, "same")
    print(
        f"same: {len(configs)} configs on {NODES} nodes in {time.monotonic() - began_s:.0f} s, every byte as on one machine",
        flush=True,
    )


def told(run, out):
    """Return the exit code and the message of a run, without the folder that it wrote to."""
    return run["exit_code"], run.get("error", {}).get("message", "").replace(f"/{out}/", "/") or None


def gate(work, local, address, configs):
    closed, wrong = work / "closed.yaml", work / "wrong.yaml"
    closed.write_text(f"extends: {configs[0]}\nname: closed\nparity: {{limit: 0.0001}}\n")
    wrong.write_text(f"extends: {configs[0]}\nname: wrong\nexports: [onxx]\n")
    here = [
        sys.executable,
        "-m",
        "pipeline.commands",
        "export",
        str(closed),
        str(wrong),
        "--trust",
        "benchmarks",
        "--json",
    ]
    alone = subprocess.run(
        [*here, "--no-benchmark", "--out", str(work / "gate-here")], capture_output=True, check=False
    )
    expected = {Path(each["config"]).stem: told(each, "gate-here") for each in json.loads(alone.stdout)["runs"]}
    process = driver([closed, *configs, wrong], work / "gate", address)
    runs = json.loads(said(process, work / "gate"))["runs"]
    found = {Path(each["config"]).stem: told(each, "gate") for each in runs}
    if found != expected | {each.stem: (0, None) for each in configs}:
        raise SystemExit(f"gate: {found}, and on one machine {expected}")
    require_same(local, work / "gate", configs)
    print(f"gate: one gate closed and one config wrong, and {len(configs)} others as without them", flush=True)


def running(out, after):
    """Wait until a task runs that was told of after so many events."""
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s and not any(each["stage"] not in {"ray", ""} for each in events(out)[after:]):
        time.sleep(0.2)


def nodes(work, local, made, alive, add, configs, count=10):
    chance, killed, rounds = random.Random(SEED), 0, 0
    while killed < count:
        out = work / f"nodes-{rounds}"
        rounds += 1
        process = driver(configs, out, made.address)
        running(out, 0)
        while process.poll() is None and killed < count:
            time.sleep(chance.uniform(4, 14))
            if process.poll() is not None:
                break
            victim = chance.choice(alive)
            alive.remove(victim)
            made.remove_node(victim, allow_graceful=False)
            alive.append(add())
            killed += 1
        finished(process, out, configs)
        require_same(local, out, configs)
        print(f"nodes: {killed} ended, {require_built_once(out)} tasks for {len(configs)} configs", flush=True)
    require_no_orphan(work, "nodes")


def drivers(work, local, address, configs, count=5):
    chance, out = random.Random(SEED + 1), work / "drivers"
    for _ in range(count):
        process = driver(configs, out, address)
        running(out, len(events(out)))
        time.sleep(chance.uniform(0, 10))
        process.send_signal(signal.SIGKILL)
        process.wait()
        require_no_orphan(work, "drivers")
    finished(driver(configs, out, address), out, configs)
    require_same(local, out, configs)
    print(
        f"drivers: {count} ended, {require_built_once(out)} tasks for {len(configs)} configs, none for one that was finished",
        flush=True,
    )


def workers(work, local, address, configs, count=20):
    chance, killed, rounds = random.Random(SEED + 2), 0, 0
    while killed < count:
        out = work / f"workers-{rounds}"
        rounds += 1
        process = driver(configs, out, address)
        while process.poll() is None and killed < count:
            time.sleep(chance.uniform(4, 14))
            if victims := workers_of_ray(work):
                with suppress(psutil.Error):
                    chance.choice(victims).kill()
                    killed += 1
        finished(process, out, configs)
        require_same(local, out, configs)
        print(f"workers: {killed} ended, {require_built_once(out)} tasks for {len(configs)} configs", flush=True)
    require_no_orphan(work, "workers")


PARTS = ("gate", "nodes", "drivers", "workers", "same")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--work", type=Path, default=Path("artifacts/ray-fleet"))
    parser.add_argument("--local", type=Path)
    parser.add_argument("--configs", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    count = MANY if "same" in options.parts else 2 + FEW
    configs = fleet_configs.write(options.configs or work / "configs", count)
    few = configs[2 : 2 + FEW]  # they take longer than the first two
    local = options.local or work / "local"
    if options.local is None:
        command = [sys.executable, "-m", "pipeline.commands", "export", *map(str, configs), "--trust", "benchmarks"]
        subprocess.run(
            [*command, "--no-benchmark", "--jobs", "2", "--out", str(local)], check=True, stdout=subprocess.DEVNULL
        )
    with cluster(work) as (made, alive, add):
        for part in options.parts:
            if part == "nodes":
                nodes(work, local, made, alive, add, few)
            else:
                wanted = configs if part == "same" else few
                {"same": same, "gate": gate, "drivers": drivers, "workers": workers}[part](
                    work, local, made.address, wanted
                )
    require_no_orphan(work, "the end")


if __name__ == "__main__":
    main()
