"""A session of onnxruntime with whichever execution provider: opened there or refused, watched, timed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends import placement
from pipeline.backends.backend import Session, Source
from pipeline.errors import InputError, UnavailableError
from pipeline.formats.onnx.session import LEVELS, session_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.interface import Arrays

LADDER = tuple((f"onnxruntime, optimisation {level}", {"graph_optimization_level": level}) for level in LEVELS)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a session is asked for.

    `provider` gets the nodes it takes, `behind` (names with options) those it leaves, and the CPU provider the rest. `options` are
    what makes the results, `here` what follows from this machine and run, as a number of threads. `threads`:
    those of an operator on the CPU provider; None for the run's. `device_id`: the NVIDIA GPU whose memory holds inputs and
    outputs; None for the host's. `takes_part` says that the provider takes what it knows and the CPU provider computes the rest by
    design; without it a node that computes on the CPU is a fault. `install` is what to do where the provider is not to be had.
    `environment`: variables that its libraries read when they are loaded, or at work. `entries`: of the session's own config.
    `memory_arena`: whether the CPU provider keeps memory between calls.
    """

    provider: str
    install: str
    options: Mapping[str, str] = field(default_factory=dict)
    here: Mapping[str, str] = field(default_factory=dict)
    behind: tuple[tuple[str, Mapping[str, str]], ...] = ()
    threads: int | None = None
    device_id: int | None = None
    takes_part: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)
    memory_arena: bool = True

    @property
    def all_options(self) -> dict[str, str]:
        """What the provider is told."""
        return {**self.options, **self.here}

    @property
    def providers(self) -> list[Any]:
        """All of them, as onnxruntime takes them: the CPU provider last."""
        named = [(self.provider, self.all_options), *((name, dict(options)) for name, options in self.behind)]
        return named if self.provider == placement.CPU else [*named, placement.CPU]


def open_on(source: Source, level: str, asked: Asked) -> Session:
    """Open a file with the provider that is asked for.

    Raises:
        UnavailableError: onnxruntime would have run it on another one without a word.
    """
    os.environ.update(asked.environment)
    session = _session(source, level, asked)
    got = session.facts["providers"]
    if asked.provider not in got:
        raise UnavailableError(
            f"asked onnxruntime for {asked.provider}, got {', '.join(got)}: it fell back to the CPU silently",
            hint=asked.install,
        )
    return replace(
        session, facts={**session.facts, **({"provider_options": asked.all_options} if asked.all_options else {})}
    )


def _session(source: Source, level: str, asked: Asked) -> Session:
    import onnxruntime as ort

    if source.file is None:
        raise InputError("onnxruntime runs an exported file, and none was exported", hint="add `onnx` to `exports`")
    options = session_options(level, asked.threads or int(os.environ.get("OMP_NUM_THREADS", "0")), source.custom_ops)
    options.enable_cpu_mem_arena = asked.memory_arena
    if source.profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(source.profile / "profile")
    # Workers take turns: threads that spin after a call would slow whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in asked.entries.items():
        options.add_session_config_entry(name, value)
    session = ort.InferenceSession(str(source.file), options, providers=asked.providers)
    # All the file has, not what the config expects: a missing or an extra output is for the comparison to judge.
    names = [each.name for each in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    def bind(arrays: Arrays) -> Callable[[], object]:
        feed = dict(arrays)
        return lambda: session.run(names, feed)

    facts = {
        "providers": session.get_providers(),
        "onnxruntime": ort.__version__,
        "threads": options.intra_op_num_threads,
        "graph_optimization_level": level,
    }

    def placed() -> placement.Placement:
        assert source.profile  # noqa: S101 - only a watched session has it
        ran = placement.read(Path(session.end_profiling()).read_bytes())
        watched = asked.provider != placement.CPU and any(each.provider == placement.CPU for each in ran)
        kept = _kept_on_cpu(source, level, asked) if watched and not asked.takes_part else set()
        return placement.summary(ran, kept, asked.provider, takes_part=asked.takes_part)

    def bind_on_gpu(arrays: Arrays) -> Callable[[int], list[int]]:
        return bind_on_device(session, arrays, "cuda", asked.device_id or 0)[1]

    on_gpu = None if asked.device_id is None else bind_on_gpu
    return Session(run, bind, facts, placed if source.profile else None, on_gpu)


def bind_on_device(session: Any, arrays: Arrays, device: str, device_id: int) -> tuple[Any, Callable[[int], list[int]]]:
    """Keep the inputs and outputs of an onnxruntime session on a device; return the binding, and a function that times calls.

    onnxruntime shows no events of the device: a call is timed by the host's clock, until the device has done its work.
    Source: https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html
    """
    import time

    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, device_id))
    for each in session.get_outputs():
        binding.bind_output(each.name, device, device_id)

    def call_ns() -> int:
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter_ns() - start

    return binding, lambda count: [call_ns() for _ in range(count)]


def _kept_on_cpu(source: Source, level: str, asked: Asked) -> set[str]:
    """Return the nodes that belong on the CPU in the graph that runs: the optimised one, which only onnxruntime can tell.

    What a provider compiled can be written to no file: the graph is then the one that those behind it would run, in which the
    nodes that it left have the same names.
    """
    import onnx
    import onnxruntime as ort

    assert source.profile  # noqa: S101 - there is a profile to judge
    optimised = source.profile / "optimised.onnx"
    options = session_options(level, 1, source.custom_ops)
    options.optimized_model_filepath = str(optimised)
    # One protobuf message holds at most 2 GiB, and of the weights only the shapes are wanted.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    providers = asked.providers[1:] if asked.behind else asked.providers
    ort.InferenceSession(str(source.file), options, providers=providers)
    return placement.kept_on_cpu(onnx.load(str(optimised), load_external_data=False).graph)
