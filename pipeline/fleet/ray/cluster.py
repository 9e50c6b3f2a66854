"""A cluster of Ray's: found or started here, quietly, and what its nodes have."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.backends.table import backends
from pipeline.errors import InputError, UnavailableError
from pipeline.run.plan import AT_ONCE, worker_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.run.plan import Plan

NODE = "weighbridge_node"
"""The resource that each node has one of: builds take a small part of it, a timing all."""
START = f"""ray start … --resources='{{"{NODE}": 1}}'"""
_SMALL_SHARE = 0.001
_CPUS = 2.0
"""How many cores a build keeps busy: benchmarks/export_cost.py has processor and wall time."""
_CLIENT_PORT = "10001"
_CONNECT_S, _HEALTHY_S, _ANSWER_S = 5.0, 30.0, 2.0
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # how often a cluster that has just answered is tried, at half a minute each
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive: its id, its address, and how much of each resource it has in all."""

    id: str
    address: str
    resources: dict[str, float]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a build takes of a node: cores, memory in bytes, GPUs, and its share of the node."""

    cpus: float
    memory_bytes: int
    gpus: int
    share: float | None

    def resources(self) -> dict[str, float]:
        """Return them under Ray's names."""
        custom = {} if self.share is None else {NODE: self.share}
        return {"CPU": self.cpus, "memory": float(self.memory_bytes), "GPU": float(self.gpus), **custom}

    def fits(self, node: Node) -> bool:
        """Whether a node that does nothing else has as much."""
        return all(node.resources.get(name, 0.0) >= each for name, each in self.resources().items())


def address_of(on: str) -> str | None:
    """Return the address in `ray://ADDRESS`; None for `ray`: the cluster of RAY_ADDRESS, or one started here.

    Raises:
        InputError: it names no engine that there is.
    """
    scheme, separator, rest = on.partition("://")
    if scheme != "ray" or (separator and not rest):
        raise InputError(f"--on {on}: there is no engine of that name", hint="give --on ray, or --on ray://HOST:PORT")
    if rest.rpartition(":")[2] == _CLIENT_PORT:
        raise InputError(
            f"--on {on}: port {_CLIENT_PORT} is that of Ray's client, which sends no results while a task runs",
            hint="give the port of the cluster itself (6379 unless told) from one of its nodes, or: ray job submit -- weighbridge export …",
        )
    return rest or os.environ.get("RAY_ADDRESS") or None


def require_engine(on: str) -> None:
    """Raise InputError for what names no engine, UnavailableError where Ray is not installed."""
    address_of(on)
    if find_spec("ray") is None:
        raise UnavailableError(f"--on {on} needs Ray, which is not installed", hint="pip install 'weighbridge[ray]'")


@contextmanager
def connected(on: str) -> Iterator[None]:
    """Be connected to a cluster while the block runs; one that is started here ends with it.

    Raises:
        UnavailableError: there is no cluster, it cannot be joined from here, or it is of another version.
    """
    address = address_of(on)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if address is not None:
        _require_listening(address)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "resources": {NODE: 1}, "include_dashboard": False}
    )
    try:
        ray.init(**own, log_to_driver=False, logging_level="FATAL", namespace="weighbridge")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unconnected(on, str(error)) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def answers() -> bool:
    """Return whether the cluster's head is there: calls of Ray's that need it would wait for a minute, and then end this process."""
    import ray

    try:
        _reach(str(ray.get_runtime_context().gcs_address), _ANSWER_S)
    except OSError:
        return False
    return True


def nodes() -> list[Node]:
    """Return the nodes that are alive."""
    import ray

    return [
        Node(each["NodeID"], each["NodeManagerAddress"], dict(each["Resources"]))
        for each in ray.nodes()
        if each["Alive"]
    ]


def needs(planned: Plan, there: Sequence[Node], jobs: int | None, *, benchmark: bool) -> Needs:
    """Return what a build of a config takes, by our own estimate of its memory; `jobs`: how many at once on a node.

    Raises:
        UnavailableError: no node has it.
    """
    on_gpu = [each.name for each in planned.variants if each.required and backends()[each.backend].device != "cpu"]
    gpus = int(bool(on_gpu))
    stating = [each for each in there if NODE in each.resources]
    if benchmark and not stating:
        raise UnavailableError(
            f"no node states {NODE}, without which a timing would not run alone",
            hint=f"start every node with {START}, or leave the timings out: --no-benchmark",
        )
    usable = stating if benchmark else there
    if gpus and not any(each.resources.get("GPU") for each in usable):
        raise UnavailableError(
            f"required backend {on_gpu[0]} runs on a GPU, and no node has one",
            hint=f"add a node with a GPU, or take it out of `require` ({planned.config.place('require')})",
        )
    process_bytes = worker_bytes(planned)
    most_bytes = max(
        (each.resources.get("memory", 0.0) for each in usable if not gpus or each.resources.get("GPU")), default=0.0
    )
    processes = min(AT_ONCE, int(most_bytes // process_bytes))
    if not processes:
        raise UnavailableError(
            f"{planned.config.name} needs {process_bytes / 1e9:.1f} GB of memory, and the largest node has {most_bytes / 1e9:.1f} GB",
            hint="add a node with more memory",
        )
    cores = max(each.resources.get("CPU", 0.0) for each in usable)
    share = 1 / jobs if jobs else _SMALL_SHARE
    cpus = min(_CPUS, cores / jobs if jobs else cores)
    is_shared = benchmark or len(stating) == len(there)
    return Needs(round(cpus, 2), processes * process_bytes, gpus, round(share, 4) if is_shared else None)


def _reach(address: str, seconds: float) -> None:
    """Raise OSError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), seconds).close()


def _require_listening(address: str) -> None:
    """Raise UnavailableError where no cluster listens: Ray itself would try for many minutes."""
    if address in {"auto", "local"}:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--on ray://{address}: not of the form HOST:PORT", hint="as in --on ray://10.0.0.5:6379")
    hint = f"start one there: ray start --head --port {port}, or give --on ray alone to start one here"
    try:
        _reach(address, _CONNECT_S)
    except OSError as error:
        raise UnavailableError(f"there is no cluster at {address}: {error.strerror or error}", hint=hint) from None
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        said = subprocess.run(asked, capture_output=True, timeout=_HEALTHY_S, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"what listens at {address} does not answer as a cluster does", hint=hint) from None
    if b"AuthenticationError" in said.stderr:
        raise UnavailableError(
            f"the cluster at {address} wants a token, and was given none, or another one",
            hint="copy ~/.ray/auth_token of its head here (or its content into RAY_AUTH_TOKEN), and set RAY_AUTH_MODE=token here and on every node",
        )
    if said.returncode:
        raise UnavailableError(f"what listens at {address} is no cluster, or one of another version", hint=hint)


def _unconnected(on: str, said: str) -> UnavailableError:
    lines = [each.strip() for each in said.splitlines() if each.strip()] or ["it gives no reason"]
    if "ersion mismatch" in said:
        return UnavailableError(
            f"--on {on}: the cluster is of other versions: {' '.join(lines)[:300]}",
            hint=f"install the same Python, Ray and weighbridge ({__version__}) here and on every node",
        )
    return UnavailableError(
        f"--on {on}: cannot join the cluster: {lines[0][:300]}",
        hint="run this on a node of the cluster (ray start --address HOST:PORT makes this machine one), or: ray job submit -- weighbridge export …",
    )
