"""Is the best proven artifact of a config as fast as the best that a person gets by hand? The bar is a ratio of 1.03 at most.

    python -m benchmarks.by_hand [CONFIG…] [--seconds 60]

A release with every format is built, and its backends are timed beside onnxruntime, OpenVINO, torch.compile and AOTInductor called with
their default settings as their own documentation shows it: in the same interleaved rounds, as four more backends, which a distribution
that is made for the occasion brings. By hand, the last two compile for the very sizes that are timed. OpenVINO is timed by hand twice: on processors with
bfloat16 its default computes in that, which no parity at float32 would let pass; so the one that counts is told to compute in float32, and the default is shown. What has no artifact (eager,
torch-compile) is no artifact's best. Printed: for each size the best of ours and the best by hand, the ratio, and how much faster than
eager ours is, and by what factor eager differs from itself, which no ratio can be told apart below; at the end the geometric means.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.table import backends
from pipeline.backends.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.interface import Arrays

HERE = "BY_HAND_FOLDER"
_INSTALLED = """\
[weighbridge.backends]
onnxruntime = benchmarks.by_hand:ONNXRUNTIME
openvino = benchmarks.by_hand:OPENVINO
openvino-default = benchmarks.by_hand:OPENVINO_DEFAULT
compile = benchmarks.by_hand:COMPILE
aotinductor = benchmarks.by_hand:AOTINDUCTOR
"""


def _timed_only(bind: Callable[[Arrays], Callable[[], object]]) -> Session:
    """Return a session that is only timed: the files are those that were proven, or are compiled from the network itself."""
    return Session(run=lambda arrays: {"value": bind(arrays)()}, bind=bind, facts={})


def _onnxruntime(source: Source, _: Options) -> Session:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(source.file))

    def bind(arrays: Arrays) -> Callable[[], object]:
        feed = dict(arrays)
        return lambda: session.run(None, feed)

    return _timed_only(bind)


def _openvino(source: Source, settings: Mapping[str, str]) -> Session:
    from pipeline.formats.openvino import library

    compiled = library.load().Core().compile_model(str(source.file), "CPU", dict(settings))

    def bind(arrays: Arrays) -> Callable[[], object]:
        feed = dict(arrays)
        return lambda: compiled(feed)

    return _timed_only(bind)


def _network(source: Source) -> tuple[Any, Callable[[Arrays], list[Any]]]:
    """Return the network in eval mode, and a function from arrays to its arguments in order."""
    from pipeline.formats import forward
    from pipeline.rebuild import calling, cases, model

    module = model.load(source.network, device="cpu").module  # type: ignore[arg-type]  # every source of ours has it
    examples = cases.make(source.interface, cases.example_sizes(source.interface), seed=0, name="by hand").inputs
    prepared = forward.prepare(module, source.interface, examples)

    def arguments(arrays: Arrays) -> list[Any]:
        tensors = calling.tensors_from(arrays)
        return [tensors[name] for name in prepared.names]

    return prepared.module, arguments


def _called(function: Callable[..., Any], given: list[Any]) -> Callable[[], object]:
    import torch

    mode = torch.inference_mode()

    def call() -> object:
        with mode:
            return function(*given)

    return call


def _compile(source: Source, _: Options) -> Session:
    import torch

    network, arguments = _network(source)

    def bind(arrays: Arrays) -> Callable[[], object]:
        # A process of one's own for one size: what was compiled for another does not make this one dynamic.
        return _called(torch.compile(network, dynamic=False), arguments(arrays))

    return _timed_only(bind)


def _aotinductor(source: Source, _: Options) -> Session:
    import torch
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    network, arguments = _network(source)

    def bind(arrays: Arrays) -> Callable[[], object]:
        given = arguments(arrays)
        sizes = "-".join("x".join(map(str, each.shape)) for each in given)
        package = Path(os.environ[HERE], f"{Path(source.network.weights).stem}-{sizes}.pt2")  # type: ignore[union-attr]
        if not package.exists():
            with torch.inference_mode():
                aoti_compile_and_package(torch.export.export(network, tuple(given)), package_path=str(package))
        return _called(aoti_load_package(str(package)), given)

    return _timed_only(bind)


def _record(name: str, format_: str | None, open_: Callable[[Source, Options], Session], *modules: str) -> Backend:
    return Backend(
        name=f"by-hand-{name}",
        summary=f"{name} with its default settings",
        format=format_,
        device="cpu",
        install=name,
        options=Options,
        probe=lambda: None,
        open=open_,
        modules=modules,
    )


ONNXRUNTIME = _record("onnxruntime", "onnx", _onnxruntime, "onnxruntime")
OPENVINO = _record("openvino", "onnx", lambda source, _: _openvino(source, {"INFERENCE_PRECISION_HINT": "f32"}))
OPENVINO_DEFAULT = _record("openvino-default", "onnx", lambda source, _: _openvino(source, {}))
COMPILE = _record("compile", None, _compile, "torch")
AOTINDUCTOR = _record("aotinductor", None, _aotinductor, "torch")
BY_HAND = (ONNXRUNTIME, OPENVINO, OPENVINO_DEFAULT, COMPILE, AOTINDUCTOR)


def install(folder: Path) -> dict[str, str]:
    """Make a distribution in a folder that brings the backends by hand; return variables with which it is found."""
    made = folder / "by_hand-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: by-hand\nVersion: 1\n", "utf-8")
    (made / "entry_points.txt").write_text(_INSTALLED, "utf-8")
    path = os.pathsep.join([str(folder), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, HERE: str(folder)}


def measured(network: str, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Build a network's release with every format, and time its backends beside those by hand; return a row for each size."""
    from benchmarks.backends import extended
    from pipeline.report.progress import progress
    from pipeline.run.benchmark import present
    from pipeline.run.export import export
    from pipeline.run.plan import Settings, plan
    from pipeline.run.stages.timing import measured as timed

    config = extended(network, folder, seconds)
    with progress(network) as show:
        settings = Settings(out=folder / "out", benchmark=False, trust=("benchmarks",), report=show)
        release = export(config, settings).release
        planned = plan(config, settings)
        ours = present(planned.variants, release)
        hand = [
            Variant(
                each.name, each.name, each.format, required=False, file=release / "model.onnx" if each.format else None
            )
            for each in BY_HAND
        ]
        found = timed(planned, [*ours, *hand], replace(settings, benchmark=True))
    return [_row(network, size, {each.name for each in ours if each.artifact}) for size in found.sizes]


def _row(network: str, size: Any, artifacts: set[str]) -> dict[str, Any]:
    medians_ms: Mapping[str, float] = {each.name: each.median_ms for each in size.rows if each.median_ms}
    proven = {name: each for name, each in medians_ms.items() if name in artifacts}
    hand = {
        name: each for name, each in medians_ms.items() if name.startswith("by-hand") and name != OPENVINO_DEFAULT.name
    }
    best, theirs = min(proven, key=proven.__getitem__), min(hand, key=hand.__getitem__)
    again = medians_ms["eager (A/A)"]
    return {
        "network": network,
        "sizes": ", ".join(f"{name}={value}" for name, value in size.sizes.items()),
        "ours": best,
        "theirs": theirs,
        "ratio": proven[best] / hand[theirs],
        "over_eager": medians_ms["eager"] / proven[best],
        "alike": max(again / medians_ms["eager"], medians_ms["eager"] / again),
        "all": medians_ms,
    }


def main() -> None:
    """Measure in a process that finds the backends by hand, and print a table."""
    from benchmarks.backends import SHIPPED

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=SHIPPED)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    if BY_HAND[0].name not in backends():
        with tempfile.TemporaryDirectory() as folder:
            variables = os.environ | install(Path(folder))
            sys.exit(subprocess.run([sys.executable, "-m", "benchmarks.by_hand", *sys.argv[1:]], env=variables, check=False).returncode)  # fmt: skip
    rows = []
    print(
        "| network | size | best of ours | best by hand | ratio | eager ÷ ours | eager against itself |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            for each in measured(network, options.seconds, Path(folder)):
                rows.append(each)
                ours, theirs = f"{each['ours']} {each['all'][each['ours']]:.3g} ms", f"{each['theirs']} {each['all'][each['theirs']]:.3g} ms"  # fmt: skip
                print(f"| {network} | {each['sizes']} | {ours} | {theirs} | {each['ratio']:.2f} | {each['over_eager']:.2f} | {each['alike']:.2f} |", flush=True)  # fmt: skip
                print(each["all"], file=sys.stderr)
    for what, key in (("ours ÷ by hand", "ratio"), ("eager ÷ ours", "over_eager")):
        by_network = {
            name: [math.log(each[key]) for each in rows if each["network"] == name]
            for name in dict.fromkeys(each["network"] for each in rows)
        }
        means = {name: math.exp(sum(each) / len(each)) for name, each in by_network.items()}
        overall = math.exp(sum(map(math.log, means.values())) / len(means))
        print(
            f"\n{what}: "
            + ", ".join(f"{name} {each:.2f}" for name, each in means.items())
            + f"; geometric mean {overall:.2f}"
        )


if __name__ == "__main__":
    main()
