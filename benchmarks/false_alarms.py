"""How often two identical programs are called different on a busy machine: the bar is 5 %.

Two onnxruntime sessions of one model run in processes of their own while every core is loaded in bursts. Three ways to
compare them get the same time: the interleaved launches and rounds of pipeline/benchmark; one session after the other,
judged by a Mann-Whitney test at 5 %; and torch.utils.benchmark.Timer, judged by its own table (Compare with trimmed
figures and colours, an alarm being a slower one that is shown as another figure and not in the colour of the best, which
reaches to 1 %). As only the first knows a margin, the alarms of the others that lie beyond that same margin are counted too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.benchmark import rounds
from pipeline.benchmark.measurements import Plan
from pipeline.benchmark.statistics import analyse
from pipeline.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 256
LAYERS = 6
BATCH = 32
BEST_COLOUR = "\033[92m"


class Session:
    """The parent's side of a process that holds one session and times it."""

    facts: dict[str, Any] = {}  # noqa: RUF012 - nothing is reported, and nothing is ever put in

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **request: Any) -> Any:
        """Send a request and return its answer."""
        assert self._process.stdin is not None  # noqa: S101 - opened as pipes below
        assert self._process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise WorkerError(f"the session's process ended with status {self._process.wait()}")

    def block(self, scenario: str, calls: int) -> list[int]:  # noqa: ARG002 - there is one scenario
        """Time `calls` calls, in ns each."""
        durations: list[int] = self.ask(calls=calls)
        return durations


@contextlib.contextmanager
def session(model: Path, threads: int, slowed: float = 0.0) -> Iterator[Session]:
    """Start a process with a session; `slowed` is the share that it adds to every call."""
    command = [sys.executable, __file__, "--serve", str(model), "--threads", str(threads), "--slowed", str(slowed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        worker = Session(process)
        try:
            worker.block("", 1)
            yield worker
        finally:
            process.kill()


def serve(model: Path, threads: int, slowed: float) -> None:
    """Answer requests on stdin: the durations of some calls, or the measurement of a Timer."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).normal(size=(BATCH, WIDTH)).astype(np.float32)}
    clock = time.perf_counter_ns
    for line in sys.stdin:
        request = json.loads(line)
        if "timer_s" in request:
            from torch.utils.benchmark import Timer

            timer = Timer("session.run(None, feed)", globals={"session": opened, "feed": feed}, num_threads=threads)
            measured = timer.blocked_autorange(min_run_time=request["timer_s"])
            answer: Any = {"number_per_run": measured.number_per_run, "raw_times": measured.raw_times}
        else:
            answer = []
            for _ in range(request["calls"]):
                start = clock()
                opened.run(None, feed)
                stop = clock()
                until = stop + (stop - start) * slowed
                while stop < until:
                    stop = clock()
                answer.append(stop - start)
        print(json.dumps(answer), flush=True)


def load(seed: int) -> None:
    """Keep a core busy in bursts: idle for 0.3 s on average, busy for 0.05 to 2 s, mostly shortly."""
    rng = random.Random(seed)
    while True:
        time.sleep(rng.expovariate(1 / 0.3))
        until = time.monotonic() + min(0.05 * rng.paretovariate(1.2), 2.0)
        while time.monotonic() < until:
            pass


@contextlib.contextmanager
def loaded(seed: int) -> Iterator[None]:
    """Load every usable core."""
    with contextlib.ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            process = subprocess.Popen([sys.executable, __file__, "--load", str(seed + core)])
            os.sched_setaffinity(process.pid, {core})
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def write_model(file: Path) -> None:
    """Write a perceptron of a few layers, some tenths of a millisecond long."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(LAYERS):
        weight = rng.normal(size=(WIDTH, WIDTH), scale=WIDTH**-0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = f"t{layer}"
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [last]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "perceptron", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of comparing said, and by which factor it saw the two differ."""

    said: str
    ratio: float | None

    @property
    def alarm(self) -> bool:
        """Whether two identical programs were called different."""
        return self.said in {"faster", "slower", "different"}

    def beyond(self, margin: float) -> bool:
        """Whether the factor leaves the margin."""
        return self.ratio is not None and abs(math.log(self.ratio)) > math.log1p(margin)


def interleaved(model: Path, threads: int, seconds: float, margin: float, seed: int) -> Outcome:
    arms = [rounds.Arm(name, lambda: session(model, threads)) for name in ("one", "other")]
    samples = rounds.run(
        arms,
        reference="one",
        scenarios=["model"],
        plan=Plan(seconds=seconds),
        clock=time.monotonic,
        rng=random.Random(seed),
        progress=lambda _: None,
    )["model"]
    (row,) = (row for row in analyse(samples, margin=margin).rows if row.name == "other")
    return Outcome(row.verdict, row.ratio)


def sequential(model: Path, threads: int, seconds: float) -> Outcome:
    from scipy.stats import mannwhitneyu

    with session(model, threads) as one, session(model, threads) as other:
        samples = []
        for worker in (one, other):
            until, durations = time.monotonic() + seconds / 2, list[int]()
            while time.monotonic() < until:
                durations += worker.block("", 50)
            samples.append(durations)
    said = "different" if mannwhitneyu(*samples).pvalue < 0.05 else "same"
    return Outcome(said, statistics.median(samples[1]) / statistics.median(samples[0]))


def by_timer(model: Path, threads: int, seconds: float) -> Outcome:
    from torch.utils.benchmark import Compare, Measurement
    from torch.utils.benchmark.utils.common import TaskSpec

    measured = []
    with session(model, threads) as one, session(model, threads) as other:
        for name, worker in (("one", one), ("other", other)):
            spec = TaskSpec("session.run", "", label="model", sub_label=name, description="time")
            measured.append(Measurement(**worker.ask(timer_s=seconds / 2), task_spec=spec))
    shown, coloured = Compare(measured), Compare(measured)
    for table in (shown, coloured):
        table.trim_significant_figures()
    coloured.colorize()
    figures = {line.split()[-1] for line in str(shown).splitlines() if line.split()[:1] in (["one"], ["other"])}
    best = str(coloured).count(BEST_COLOUR)
    said = "different" if len(figures) > 1 and best < 2 else "same"
    return Outcome(said, measured[1].median / measured[0].median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--peers", type=int, default=100, help="comparisons that the other two ways make as well")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each way to make one comparison")
    parser.add_argument("--margin", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slowed", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads, options.slowed)
    elif options.load is not None:
        load(options.load)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    found: dict[str, list[Outcome]] = {
        "interleaved rounds": [],
        "sequential, Mann-Whitney": [],
        "torch Timer, Compare": [],
    }
    with tempfile.TemporaryDirectory() as folder, loaded(options.seed):
        model = Path(folder) / "model.onnx"
        write_model(model)
        for index in range(options.comparisons):
            ours = interleaved(model, options.threads, options.seconds, options.margin, options.seed + index)
            found["interleaved rounds"].append(ours)
            if index < options.peers:
                found["sequential, Mann-Whitney"].append(sequential(model, options.threads, options.seconds))
                found["torch Timer, Compare"].append(by_timer(model, options.threads, options.seconds))
            print(index + 1, *(each[-1].said for each in found.values()), sep="  ", file=sys.stderr, flush=True)
    for name, outcomes in found.items():
        if not outcomes:
            continue
        alarms = [each for each in outcomes if each.alarm]
        beyond = sum(each.beyond(options.margin) for each in alarms)
        print(
            f"{name:<25} {len(alarms):>4} false alarms in {len(outcomes)} ({len(alarms) / len(outcomes):.0%}), "
            f"{beyond} of them beyond {options.margin:.0%}; {sum(each.said == 'undecided' for each in outcomes)} undecided"
        )


if __name__ == "__main__":
    main()
