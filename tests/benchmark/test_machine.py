from __future__ import annotations

import dataclasses
import getpass
import json
import platform
from pathlib import Path

import pytest

from pipeline.benchmark import machine
from pipeline.benchmark.machine import Machine, Pressure

CPUINFO = """\
processor	: {index}
model name	: Example CPU 3000
cpu MHz		: 2596.134
physical id	: 0
siblings	: 4
core id		: {core}
cpu cores	: 2
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_a_machine_is_described_from_proc_and_sys(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "\n".join(CPUINFO.format(index=index, core=index // 2) for index in range(4)),
            "proc/meminfo": "MemTotal:       24684084 kB\nMemFree:        1 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3700000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        },
    )
    found = machine.here(root)
    assert found.cpu_model == "Example CPU 3000"
    assert found.physical_cores == 2
    assert found.memory_bytes == 24684084 * 1024
    assert (found.frequency_mhz, found.max_frequency_mhz, found.governor) == (2400.0, 3700.0, "performance")


def test_a_frequency_is_taken_from_cpuinfo_where_sys_has_none(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": CPUINFO.format(index=0, core=0)})
    assert machine.here(root).frequency_mhz == 2596.134


def test_limits_of_cgroups_version_2_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/box/memory.max": "1073741824\n",
        },
    )
    found = machine.here(root)
    assert (found.quota_cores, found.memory_limit_bytes) == (1.5, 1 << 30)


def test_limits_of_cgroups_version_1_are_read_too(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/elsewhere\n1:name=systemd:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2147483648\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    found = machine.here(root)
    assert (found.quota_cores, found.memory_limit_bytes) == (0.5, 1 << 31)


def test_unlimited_cgroups_have_no_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    found = machine.here(root)
    assert (found.quota_cores, found.memory_limit_bytes) == (None, None)


def test_a_machine_without_proc_and_sys_is_described_as_far_as_python_knows(tmp_path: Path) -> None:
    found = machine.here(tmp_path)
    assert found.python == f"{platform.python_implementation()} {platform.python_version()}"
    assert found.logical_cores is not None
    unknown = (found.physical_cores, found.memory_bytes, found.governor, found.quota_cores, found.frequency_mhz)
    assert unknown == (None,) * 5


def test_a_description_names_versions_but_no_host_user_or_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    document = dataclasses.asdict(machine.here())
    words = json.dumps(document)
    assert document["packages"]["numpy"]
    assert document["thread_variables"]["OMP_NUM_THREADS"] == "2"
    assert platform.node() not in words.replace(document["kernel"], "")
    assert str(Path.home()) not in words or str(Path.home()) == "/"
    assert f'"{getpass.getuser()}"' not in words
    assert str(Path.cwd()) not in words


def test_a_machine_is_comparable_with_itself_whatever_its_software_and_present_frequency() -> None:
    found = machine.here()
    other = dataclasses.replace(found, packages={"torch": "9"}, frequency_mhz=1.0, kernel="9", python="CPython 9")
    assert machine.comparable(found, other) == []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"cpu_model": "another"}, "CPU: Example CPU 3000 and another"),
        ({"usable_cores": 1}, "cores the process may use: 4 and 1"),
        ({"governor": "powersave"}, "frequency governor: unknown and powersave"),
        ({"quota_cores": 1.5}, "CPU quota [cores]: unknown and 1.5"),
        ({"thread_variables": {"OMP_NUM_THREADS": "1"}}, "thread variables: none and OMP_NUM_THREADS=1"),
        ({"gpus": "Fast, driver 1"}, "GPUs and their driver: unknown and Fast, driver 1"),
    ],
)
def test_what_decides_latencies_makes_machines_incomparable(change: dict[str, object], difference: str) -> None:
    one = Machine(
        cpu_model="Example CPU 3000",
        architecture="x86_64",
        physical_cores=2,
        logical_cores=4,
        usable_cores=4,
        frequency_mhz=None,
        max_frequency_mhz=None,
        governor=None,
        quota_cores=None,
        memory_bytes=None,
        memory_limit_bytes=None,
        system="Linux",
        kernel="6.1",
        python="CPython 3.11.7",
        packages={},
        thread_variables={},
        gpus=None,
    )
    assert machine.comparable(one, dataclasses.replace(one, **change)) == [difference]  # type: ignore[arg-type]


def test_pressure_is_read_from_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    root = write(
        tmp_path,
        {
            "proc/stat": "cpu  100 200 300 4000 50 6 7 800 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n",
            "proc/pressure/cpu": "some avg10=1.50 avg60=0.05 avg300=0.06 total=4337491\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            "proc/loadavg": "0.75 0.50 0.25 1/89 4727\n",
        },
    )
    found = machine.pressure(root)
    assert (found.cpu_s, found.steal_s) == (54.63, 8.0)
    assert (found.cpu_stalled_s, found.cpu_some_avg10, found.load_1m) == (4.337491, 1.5, 0.75)


def test_pressure_is_unknown_where_proc_is_absent(tmp_path: Path) -> None:
    found = machine.pressure(tmp_path)
    assert dataclasses.astuple(found)[1:] == (None,) * 5
    shares = machine.pressure_during(found, dataclasses.replace(found, at_s=found.at_s + 1))
    assert (shares.steal_share, shares.cpu_stalled_share, shares.seconds) == (None, None, 1.0)


def test_pressure_during_a_run_is_the_difference() -> None:
    before = Pressure(at_s=10, cpu_s=100, steal_s=5, cpu_stalled_s=1, cpu_some_avg10=0, load_1m=0.5)
    after = Pressure(at_s=30, cpu_s=140, steal_s=9, cpu_stalled_s=6, cpu_some_avg10=20, load_1m=2)
    assert dataclasses.asdict(machine.pressure_during(before, after)) == {
        "seconds": 20,
        "steal_share": 0.1,
        "cpu_stalled_share": 0.25,
        "cpu_some_avg10_before": 0,
        "cpu_some_avg10_after": 20,
        "load_1m_before": 0.5,
        "load_1m_after": 2,
    }
