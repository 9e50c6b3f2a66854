"""What a worker can be asked to do. Everything here runs in the child process."""

from __future__ import annotations

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pipeline.interface import Case, Interface
from pipeline.rebuild.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.backends.backend import Session
    from pipeline.backends.placement import Placement
    from pipeline.rebuild.model import Loaded
    from pipeline.rebuild.rehearsal import Rehearsal

_MEMORY = {"resident": "VmRSS", "peak": "VmHWM"}
_CALLS_ON_DEVICE = 5


class Jobs:
    """The jobs by name, and the session that `open` leaves for `run`, `bind` and `block`."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inputs: dict[str, dict[str, Any]] = {}
        self._calls: dict[str, Callable[[], object]] = {}
        self._rehearsed: tuple[Loaded, Interface, list[Case], Rehearsal] | None = None
        self._jobs: dict[str, Callable[..., Any]] = {
            "alternatives": alternatives,
            "rehearse": self._rehearse,
            "reference": self._reference,
            "export": export,
            "open": self._open,
            "run": self._run,
            "placement": self._placement,
            "bind": self._bind,
            "block": self._block,
            "on_device": self._on_device,
            "together": self._together,
            "memory": memory,
        }

    def run(self, job: str, arguments: dict[str, Any]) -> Any:
        """Do one job and return its answer. Rooms above bring their own, as "package.module:function"."""
        if ":" in job:
            module, _, function = job.partition(":")
            return getattr(import_module(module), function)(**arguments)
        return self._jobs[job](**arguments)

    def _rehearse(
        self, network: dict[str, Any], interface: dict[str, Any], cases: list[dict[str, Any]], recorded: int = 0
    ) -> dict[str, Any]:
        """Build the network, load its weights and run it on every case; return what was noted, its size, and its binding.

        The last `recorded` cases are those of a recording: also their outputs are returned, and what identifies the network.
        """
        from pipeline.rebuild import calling, model, record, rehearsal

        loaded, declared = model.load(_network(network)), _interface(interface)
        given = [Case(each["name"], each["sizes"], each["inputs"]) for each in cases]
        found = rehearsal.rehearse(loaded.module, declared, given)
        self._rehearsed = (loaded, declared, given, found)
        facts = {**_facts(loaded), "binding": list(found.binding)}
        if not recorded:
            return facts
        plain = [{name: calling.array_from(each) for name, each in call.items()} for call in found.outputs[-recorded:]]
        return {**facts, "plain": plain, "fingerprint": record.fingerprint(loaded.module)}

    def _reference(self, seed: int, last: int = 0) -> dict[str, Any]:
        """Return the oracle's reference for each case that was rehearsed, or the last few, and why float64 was not possible."""
        from pipeline.parity import oracle

        assert self._rehearsed is not None  # noqa: S101 - `rehearse` comes first
        loaded, interface, cases, found = self._rehearsed
        self._rehearsed = None  # the oracle changes the network
        inputs, plain = [case.inputs for case in cases[-last:]], found.outputs[-last:]
        references, fallback = oracle.evaluate(loaded.module, interface, inputs, seed=seed, plain=plain)
        return {"references": [asdict(each) for each in references], "fallback": fallback}

    def _open(self, backend: str, source: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Open a model with a backend; return the session's facts, how long importing and loading took, and the memory before."""
        from pipeline.backends.backend import Source
        from pipeline.backends.table import backends

        chosen = backends()[backend]
        network = source["network"] and _network(source["network"])
        opened = Source(
            interface=_interface(source["interface"]),
            file=source["file"] and Path(source["file"]),
            network=network or None,
            profile=source["profile"] and Path(source["profile"]),
            custom_ops=source["custom_ops"] and Path(source["custom_ops"]),
        )
        baseline_bytes = memory()["resident_bytes"]
        start = time.perf_counter_ns()
        for module in chosen.modules:
            import_module(module)
        imported = time.perf_counter_ns()
        self._session = chosen.open(opened, chosen.options.model_validate(options))
        return {
            **self._session.facts,
            "import_ms": (imported - start) / 1e6,
            "load_ms": (time.perf_counter_ns() - imported) / 1e6,
            "baseline_bytes": baseline_bytes,
        }

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        assert self._session is not None  # noqa: S101 - `open` comes first
        return self._session.run(inputs)

    def _placement(self) -> Placement | None:
        """Return where the calls made so far ran; None if the backend cannot tell. Nothing is recorded after this."""
        assert self._session is not None  # noqa: S101 - `open` comes first
        return self._session.placement() if self._session.placement else None

    def _bind(self, scenario: str, inputs: dict[str, Any]) -> None:
        """Fix the inputs of a timed call. It is not made yet: the first call is a figure, taken when nobody else runs."""
        assert self._session is not None  # noqa: S101 - `open` comes first
        self._inputs[scenario], self._calls[scenario] = inputs, self._session.bind(inputs)

    def _block(self, scenario: str, calls: int, longest_s: float) -> list[int]:
        """Time up to `calls` calls one by one, ending early after `longest_s`; return their durations in nanoseconds."""
        call, clock = self._calls[scenario], time.perf_counter_ns
        durations = []
        end = clock() + int(longest_s * 1e9)
        for _ in range(calls):
            start = clock()
            call()
            stop = clock()
            durations.append(stop - start)
            if stop > end:
                break
        return durations

    def _on_device(self, scenario: str, seconds: float) -> list[int] | None:
        """Time calls for about `seconds` in the device's own memory, in nanoseconds; None if the session is on the host."""
        assert self._session is not None  # noqa: S101 - `open` comes first
        if self._session.bind_on_device is None:
            return None
        calls = self._session.bind_on_device(self._inputs[scenario])
        calls(_CALLS_ON_DEVICE)  # allocates
        end = time.perf_counter_ns() + int(seconds * 1e9)
        durations = calls(_CALLS_ON_DEVICE)
        while time.perf_counter_ns() < end:
            durations += calls(_CALLS_ON_DEVICE)
        return durations

    def _together(self, scenario: str, callers: int, seconds: float) -> dict[str, Any]:
        """Call from `callers` threads at once for about `seconds`; return the calls that were made and the time they took."""
        assert self._session is not None  # noqa: S101 - `open` comes first
        clock = time.perf_counter_ns
        bound = [self._session.bind(self._inputs[scenario]) for _ in range(callers)]
        start = clock()
        end = start + int(seconds * 1e9)

        def work(call: Callable[[], object]) -> int:
            calls = 0
            while calls == 0 or clock() < end:
                call()
                calls += 1
            return calls

        with ThreadPoolExecutor(callers) as pool:
            calls = sum(pool.map(work, bound))
        return {"calls": calls, "seconds": (clock() - start) / 1e9}


def alternatives(network: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each `rename` and `ignore` with which a network's file fits, as far as names and structure leave it open."""
    from pipeline.rebuild import model

    return [{"rename": dict(each.rename), "ignore": each.ignore} for each in model.alternatives(_network(network))]


def export(  # noqa: PLR0913, PLR0917 - what a request holds
    network: dict[str, Any],
    interface: dict[str, Any],
    examples: dict[str, Any],
    format: str,  # noqa: A002 - the name the config uses
    options: dict[str, Any],
    target: str,
    identity: dict[str, str],
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the network, or the artifact `source`, in one format to `target`, with `identity` in the file; return what was written."""
    from pipeline.errors import ExportError
    from pipeline.formats.artifact import Artifact, Written
    from pipeline.formats.format import FromArtifact, FromNetwork
    from pipeline.formats.table import formats
    from pipeline.rebuild import model

    # Exporters make millions of small objects that live until the end: looking through them for cycles takes a sixth of
    # the time, and the process ends with this job.
    gc.disable()
    chosen, declared = formats()[format], _interface(interface)
    chosen_options = chosen.options.model_validate(options)
    if source is not None:
        if chosen.derive is None:
            raise ExportError(f"{format} is made from the network, not from another artifact", hint="leave out `from`")
        held = Written(tuple(map(Path, source["files"])), source["facts"])
        artifact = Artifact(source["name"], source["format"], held)
        written = chosen.derive(FromArtifact(artifact, declared, Path(target), identity), chosen_options)
    else:
        if chosen.export is None:
            raise ExportError(f"{format} is made from another artifact", hint="say which with `from`")
        loaded = model.load(_network(network))
        written = chosen.export(FromNetwork(loaded.module, declared, examples, Path(target), identity), chosen_options)
    return {
        "files": [str(file) for file in written.files],
        "facts": dict(written.facts),
        "notes": list(written.notes),
        "explanations": dict(written.explanations),
        "program": dict(written.program),
    }


def memory() -> dict[str, int]:
    """Return this process's resident memory now and at its peak.

    Linux's getrusage is of no use: a child starts with the peak of the process that started it. Source: proc_pid_status(5).
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return {f"{name}_bytes": int(lines[key].split()[0]) * 1024 for name, key in _MEMORY.items()}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return dict.fromkeys(("resident_bytes", "peak_bytes"), peak)


def _facts(loaded: Loaded) -> dict[str, Any]:
    """Return what was noted while a network was loaded, and its size."""
    state = loaded.module.state_dict().values()
    return {
        "notes": list(loaded.notes),
        "contradictions": list(loaded.contradictions),
        "sha256": loaded.weights_sha256,
        "parameters": sum(tensor.numel() for tensor in state),
        "bytes": sum(tensor.nbytes for tensor in state),
    }


def _network(fields: dict[str, Any]) -> Network:
    return TypeAdapter(Network).validate_python(fields)


def _interface(fields: dict[str, Any]) -> Interface:
    return TypeAdapter(Interface).validate_python(fields)
