"""What a run was measured on, and how much others disturbed it; names no host, user or path.

Everything is read from files that may be absent (containers, other systems): what cannot be known is None.
Sources: proc(5), Linux's Documentation/accounting/psi.rst, admin-guide/cgroup-v2.rst and pm/cpufreq.rst.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.backends.probe import ONNXRUNTIMES, installed_versions
from pipeline.benchmark import gpu
from pipeline.storage.store import key

PACKAGES = ("torch", "onnx", *ONNXRUNTIMES, "numpy")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY")

# Different values of these make latencies incomparable; software may differ, since that is what is often compared.
_DECISIVE = {
    "cpu_model": "CPU",
    "architecture": "architecture",
    "physical_cores": "physical cores",
    "logical_cores": "logical cores",
    "usable_cores": "cores the process may use",
    "max_frequency_mhz": "highest frequency [MHz]",
    "governor": "frequency governor",
    "quota_cores": "CPU quota [cores]",
    "system": "operating system",
    "thread_variables": "thread variables",
    "gpus": "GPUs and their driver",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as far as it decides latencies. `quota_cores` and `memory_limit_bytes` are those of the cgroup."""

    cpu_model: str | None
    architecture: str
    physical_cores: int | None
    logical_cores: int | None
    usable_cores: int | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    governor: str | None
    quota_cores: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    system: str
    kernel: str
    python: str
    packages: Mapping[str, str]
    thread_variables: Mapping[str, str]
    gpus: str | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """Counters and loads at one moment. `cpu_stalled_s`: while some task waited for a CPU; times are since boot."""

    at_s: float
    cpu_s: float | None
    steal_s: float | None
    cpu_stalled_s: float | None
    cpu_some_avg10: float | None
    load_1m: float | None


@dataclass(frozen=True, slots=True)
class Contention:
    """What happened between two moments; shares are between 0 and 1, or None if unknown.

    `steal_share` is of all CPU time (taken by the hypervisor), `cpu_stalled_share` of the time that passed: the
    benchmark's own workers wait for a CPU too while they start, so it is never quite 0.
    """

    seconds: float
    steal_share: float | None
    cpu_stalled_share: float | None
    cpu_some_avg10_before: float | None
    cpu_some_avg10_after: float | None
    load_1m_before: float | None
    load_1m_after: float | None


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def processor() -> str:
    """Return the processor's model and a digest of its instruction sets: they decide how sums are ordered."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", first, re.MULTILINE))
    return f"{facts.get('model name', platform.machine())}, {key(facts.get('flags', facts.get('Features', '')))[:12]}"


def here(root: Path = Path("/")) -> Machine:
    """Describe this machine; `root` holds its proc and sys."""
    cpuinfo = _read(root / "proc/cpuinfo")
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    current = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    quota_cores, memory_limit_bytes = _limits(root)
    return Machine(
        cpu_model=model[1].strip() if model else platform.processor() or None,
        architecture=platform.machine(),
        physical_cores=_physical_cores(cpuinfo),
        logical_cores=os.cpu_count(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        frequency_mhz=_megahertz(cpufreq / "scaling_cur_freq") or (float(current[1]) if current else None),
        max_frequency_mhz=_megahertz(cpufreq / "cpuinfo_max_freq"),
        governor=_read(cpufreq / "scaling_governor").strip() or None,
        quota_cores=quota_cores,
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        memory_limit_bytes=memory_limit_bytes,
        system=platform.system(),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=installed_versions(PACKAGES),
        thread_variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        gpus=gpu.names(),
    )


def available_bytes(root: Path = Path("/")) -> float:
    """Return the memory that processes started now may use: what is free or can be freed, within the cgroup's limit."""
    free = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    _, limit_bytes = _limits(root)
    return min(int(free[1]) * 1024 if free else math.inf, limit_bytes or math.inf)


def pressure(root: Path = Path("/")) -> Pressure:
    """Read how contended the machine is now; take one before a run and one after."""
    times = re.match(r"cpu +(\d[\d ]*)", _read(root / "proc/stat"))
    ticks = [int(each) for each in times[1].split()] if times else []
    per_s = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    some = re.search(r"^some avg10=([\d.]+).* total=(\d+)$", _read(root / "proc/pressure/cpu"), re.MULTILINE)
    load = _read(root / "proc/loadavg").split()
    return Pressure(
        at_s=time.monotonic(),
        cpu_s=sum(ticks[:8]) / per_s if len(ticks) >= 8 else None,  # guest time is in user time already
        steal_s=ticks[7] / per_s if len(ticks) >= 8 else None,
        cpu_stalled_s=int(some[2]) / 1e6 if some else None,
        cpu_some_avg10=float(some[1]) if some else None,
        load_1m=float(load[0]) if load else None,
    )


def pressure_during(before: Pressure, after: Pressure) -> Contention:
    """Return what happened between two moments."""
    return Contention(
        seconds=after.at_s - before.at_s,
        steal_share=_share(before.steal_s, after.steal_s, before.cpu_s, after.cpu_s),
        cpu_stalled_share=_share(before.cpu_stalled_s, after.cpu_stalled_s, before.at_s, after.at_s),
        cpu_some_avg10_before=before.cpu_some_avg10,
        cpu_some_avg10_after=after.cpu_some_avg10,
        load_1m_before=before.load_1m,
        load_1m_after=after.load_1m,
    )


def comparable(one: Machine, other: Machine) -> list[str]:
    """Return the differences for which latencies of two machines must not be compared; none, if they may be."""
    return [
        f"{title}: {_shown(getattr(one, name))} and {_shown(getattr(other, name))}"
        for name, title in _DECISIVE.items()
        if getattr(one, name) != getattr(other, name)
    ]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _megahertz(file: Path) -> float | None:
    text = _read(file).strip()
    return int(text) / 1e3 if text.isdigit() else None


def _physical_cores(cpuinfo: str) -> int | None:
    """Count the distinct pairs of socket and core; None where /proc/cpuinfo does not tell them."""
    pairs = re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE | re.DOTALL)
    return len(set(pairs)) or None


def _limits(root: Path) -> tuple[float | None, int | None]:
    """Return the tightest CPU quota [cores] and memory limit [bytes] on the way from our cgroup to the root of its tree."""
    quotas, memories = [], []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in _upwards(root / "sys/fs/cgroup" / controllers, path):
            quotas += _quota(folder)
            memories += _numbers(_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes"))
    # Version 1 writes "no limit" as the largest multiple of a page in 63 bits.
    memories = [each for each in memories if each < 1 << 62]
    return min(quotas, default=None), min(memories, default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    inner = mount / path.strip("/")
    return [inner, *(each for each in inner.parents if each == mount or mount in each.parents)]


def _quota(folder: Path) -> list[float]:
    text = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    numbers = _numbers(text)
    return [numbers[0] / numbers[1]] if len(numbers) == 2 else []


def _numbers(text: str) -> list[int]:
    """Return the whole numbers in a file whose "max" and "-1" mean no limit."""
    return [int(word) for word in text.split() if word.isdigit()]


def _share(before: float | None, after: float | None, start: float | None, end: float | None) -> float | None:
    if before is None or after is None or start is None or end is None or end <= start:
        return None
    return max(after - before, 0.0) / (end - start)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={each}" for name, each in sorted(value.items())) or "none"
    return "unknown" if value is None else str(value)
