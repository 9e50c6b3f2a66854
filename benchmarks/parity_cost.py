"""What parity of MiniLM over all cases costs, in multiples of the forward passes it cannot do without.

    python benchmarks/parity_cost.py [--config configs/minilm.yaml] [--runs 3]

Forward passes: each case once in float64 and three times in float32 (as it is and twice one ulp away, the noise floor), on one
thread and with the oracle's instruction set, as the oracle makes them; and once on each backend that can run here, with the
run's threads. They are timed alone: everything imported, loaded and opened before, one call after the other, each made once and
without a warm-up, as parity makes it. Not in it: starting processes, importing torch, loading weights, moving weights by an ulp.

Parity: the wall time of `evaluate_oracle` and `hold`, which is all that a run does after the files are exported: start every
worker, load, evaluate the oracle, run every backend, compare, and audit every file. Both alternate in one run; the bar is 3.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pipeline.parity import caller, oracle, prove
from pipeline.run.plan import Settings, plan
from pipeline.run.stages.exporting import EXPORT
from pipeline.run.stages.network import evaluate_oracle, truth_of
from pipeline.run.stages.proving import prove_all
from pipeline.run.stages.results import Exported
from pipeline.run.stages.sampling import SAMPLE, sample
from pipeline.run.stages.state import State, run

BAR = 3.0


def passes(config: Path, file: Path | None, backend: str, threads: int) -> float:
    """Return the seconds of one part of the forward passes, timed in a process of their own."""
    own = oracle.ENVIRONMENT if backend == "oracle" else {}
    command = [sys.executable, __file__, "--config", str(config), "--passes", backend, "--file", str(file or "")]
    environment = os.environ | own | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def timed_passes(config: Path, file: Path | None, backend: str) -> float:
    """Make the passes in this process, with everything ready before the clock starts."""
    from pipeline.backends.backend import Source
    from pipeline.backends.table import backends
    from pipeline.rebuild import calling, model

    planned = plan(config, Settings(out=Path()))
    feeds = [dict(case.inputs) for case in sample(planned).cases]
    interface = planned.interface
    if backend != "oracle":
        chosen = backends()[backend]
        network = None if file else planned.network
        source = Source(interface, file, network)
        session = chosen.open(source, chosen.options())
        start = time.perf_counter()
        for feed in feeds:
            session.run(feed)
        return time.perf_counter() - start
    import torch

    module = model.load(planned.network).module
    binding = calling.bind(module, interface)
    seconds = 0.0
    for double, times in ((False, 1 + caller.PERTURBATIONS), (True, 1)):
        module = module.double() if double else module
        tensors = [calling.tensors_from(feed, double=double) for feed in feeds]
        with torch.inference_mode():
            start = time.perf_counter()
            for _ in range(times):
                for given in tensors:
                    calling.invoke(module, binding, given)
            seconds += time.perf_counter() - start
    return seconds


def parity(exported: State, folder: Path) -> float:
    """Return the seconds of everything that follows the export, with nothing kept from before."""
    folder.mkdir()
    state = replace(exported, work=folder)
    start = time.perf_counter()
    held = prove_all(state.adding(truth_of(state, evaluate_oracle(state))))
    seconds = time.perf_counter() - start
    prove.gate(held.proofs)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/minilm.yaml"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--passes", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.passes:
        print(json.dumps(timed_passes(options.config, Path(options.file) if options.file else None, options.passes)))
        return
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        settings = Settings(out=out, rebuild=True)
        state = run(State(plan(options.config, settings), settings, out), [SAMPLE, EXPORT])
        files = {each.name: each.files[0] for each in state.need(Exported).artifacts}
        variants = [each for each in state.plan.variants if not each.unavailable]
        for index in range(options.runs):
            parts = {"oracle": passes(options.config, None, "oracle", 1)} | {
                each.name: passes(options.config, files.get(each.artifact or ""), each.backend, settings.threads)
                for each in variants
            }
            took, needed = parity(state, out / f"run-{index}"), sum(parts.values())
            ratios.append(took / needed)
            shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
            print(f"parity {took:.2f} s, forward passes {needed:.2f} s ({shown}), ratio {ratios[-1]:.2f}", flush=True)
    median = statistics.median(ratios)
    print(f"ratio: median {median:.2f}, {min(ratios):.2f} to {max(ratios):.2f}; bar {BAR:g}")
    if median > BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
