"""NVML through NVIDIA's binding, against a driver library of our own that answers as the reference describes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline.benchmark import gpu

DRIVER = r"""
#include <string.h>
typedef struct { int index; } *device;
static struct { int index; } devices[2] = {{0}, {1}};
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = &devices[index]; return index < 2 ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    *handle = &devices[1]; return strcmp(uuid, "GPU-second") ? 6 : 0;
}
int nvmlDeviceGetName(device at, char *name, unsigned length) { strncpy(name, at->index ? "Second" : "First", length); return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "550.54", length); return 0; }
int nvmlDeviceGetTotalEnergyConsumption(device at, unsigned long long *mj) {
    static unsigned long long used = 1000; used += 500; *mj = used; return ENERGY;
}
int nvmlDeviceGetPowerUsage(device at, unsigned *mw) { *mw = 70500; return 0; }
int nvmlDeviceGetClockInfo(device at, unsigned type, unsigned *mhz) { *mhz = type == 1 ? 1200 + at->index : 2600; return 0; }
int nvmlDeviceGetMaxClockInfo(device at, unsigned type, unsigned *mhz) { *mhz = 1980; return 0; }
int nvmlDeviceGetTemperature(device at, unsigned sensor, unsigned *degrees) { *degrees = 61; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(device at, unsigned long long *bits) { *bits = 0x01 | 0x04 | 0x40; return 0; }
"""
PROGRAM = """
import json
from dataclasses import asdict
from pipeline.benchmark import gpu, machine
meter, state = gpu.meter(), gpu.state()
used = None
if meter:
    first = meter()
    used = meter() - first
print(json.dumps([machine.here().gpus, used, state and asdict(state)]))
"""


@pytest.fixture
def ask(tmp_path):
    """Build a driver whose GPUs count energy or not, and return what the room says of the machine it is on."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to build the driver library with")

    def ask(*, counts_energy=True, **environment):
        source = tmp_path / "driver.c"
        source.write_text(DRIVER)
        flag = f"-DENERGY={0 if counts_energy else 3}"  # 3: NVML_ERROR_NOT_SUPPORTED
        command = [compiler, "-shared", "-fPIC", "-w", flag, "-o", str(tmp_path / "libnvidia-ml.so.1"), str(source)]
        subprocess.run(command, check=True)
        variables = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", **environment}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def test_clocks_energy_and_what_throttles_are_told_and_an_idle_bit_is_no_throttling(ask):
    described, joules, state = ask()
    assert described == "First, Second, driver 550.54"
    assert joules == pytest.approx(0.5)
    assert state == {
        "sm_mhz": 1200, "max_sm_mhz": 1980, "memory_mhz": 2600, "temperature_c": 61, "power_w": 70.5,
        "throttled_by": ["power cap", "thermal, by hardware"],
    }  # fmt: skip


def test_the_gpu_is_the_one_that_cuda_was_told_to_show(ask):
    assert ask(CUDA_VISIBLE_DEVICES="1")[2]["sm_mhz"] == 1201
    assert ask(CUDA_VISIBLE_DEVICES="GPU-second")[2]["sm_mhz"] == 1201
    assert ask(CUDA_VISIBLE_DEVICES="GPU-unknown")[2] is None


def test_a_gpu_that_counts_no_energy_has_no_meter(ask):
    described, joules, state = ask(counts_energy=False)
    assert joules is None
    assert state["power_w"] == 70.5
    assert described


def test_without_a_driver_there_is_nothing_to_tell():
    if shutil.which("nvidia-smi"):
        pytest.skip("a driver is here")
    assert (gpu.names(), gpu.meter(), gpu.state()) == (None, None, None)
