"""What of the TensorRT backend needs no GPU: what an engine is handed, and the driver's interface, held against one of memory."""

import shutil
import subprocess

import numpy as np
import pytest

from pipeline.backends.cuda_memory import Buffer, Device
from pipeline.backends.tensorrt import require_fitting
from pipeline.errors import InputError, UnavailableError

DTYPES = {"ids": np.dtype("int64"), "past": np.dtype("float32")}
RANGES = {"ids": ((1, 1), (4, 8)), "past": ((1, 0), (4, 16))}
GOOD = {"ids": np.zeros((4, 8), np.int64), "past": np.zeros((2, 0), np.float32)}


def test_what_was_declared_is_taken():
    require_fitting(GOOD, DTYPES, RANGES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"past": np.zeros((2, 3))}, "takes past as float32, not as float64"),
        ({"ids": np.zeros((2, 3), np.int32)}, "takes ids as int64, not as int32"),
        ({"ids": np.zeros((5, 8), np.int64)}, r"takes ids of \[1, 1\] to \[4, 8\], not of \[5, 8\]"),
        ({"ids": np.zeros((4,), np.int64)}, r"not of \[4\]"),
        ({"other": np.zeros(1)}, "takes ids, past, not ids, other, past"),
    ],
)
def test_what_it_would_read_as_something_else_is_refused(given, words):
    with pytest.raises(InputError, match=words):
        require_fitting({**GOOD, **given}, DTYPES, RANGES)


DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
typedef uint64_t ptr; static long live; static int events;
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)7; return 0; }
int cuCtxSetCurrent(void *c) { return c == (void *)7 ? 0 : 201; }
int cuStreamCreate(void **s, unsigned f) { *s = (void *)0x7f0000000009; return 0; }
int cuMemAlloc_v2(ptr *p, size_t n) { if (n > (1UL << 32)) return 2; *p = (ptr)malloc(n); live++; return 0; }
int cuMemFree_v2(ptr p) { free((void *)p); live--; return 0; }
int cuMemcpyHtoD_v2(ptr d, const void *s, size_t n) { memcpy((void *)d, s, n); return 0; }
int cuMemcpyDtoH_v2(void *d, ptr s, size_t n) { memcpy(d, (void *)s, n); return 0; }
int cuStreamSynchronize(void *s) { return s == (void *)0x7f0000000009 ? 0 : 400; }
int cuEventCreate(void **e, unsigned f) { *e = malloc(8); events++; return 0; }
int cuEventRecord(void *e, void *s) { static long t; *(long *)e = t += 3; return s == (void *)0x7f0000000009 ? 0 : 400; }
int cuEventElapsedTime(float *m, void *a, void *b) { *m = (*(long *)b - *(long *)a) / 1000.0f; return 0; }
int cuEventDestroy_v2(void *e) { free(e); events--; return 0; }
long left(void) { return live * 1000 + events; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A driver of host memory with the signatures that NVIDIA documents: wide addresses, handles, sizes."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    command = [compiler, "-w", "-shared", "-fPIC", "-o", folder / "libcuda.so", folder / "cuda.c"]
    subprocess.run(command, check=True)
    return str(folder / "libcuda.so")


def test_arrays_come_back_from_the_device_as_they_went(library):
    device, buffer = Device(0, library), Buffer()
    before = device._driver.left()
    for array in (np.arange(12, dtype=np.int64).reshape(3, 4), np.zeros((0, 4), np.float32), np.float32([1e-30, 2])):
        device.reserve(buffer, array.nbytes)
        device.upload(buffer, array)
        back = np.empty_like(array)
        device.download(back, buffer)
        np.testing.assert_array_equal(back, array)
    assert buffer.size == 96  # it does not shrink
    assert device._driver.left() == before + 1000


def test_calls_are_timed_by_events_of_the_stream_that_they_run_in(library):
    device, ran = Device(0, library), []
    before = device._driver.left()
    assert device.timed([lambda: ran.append(1)] * 3) == [3000, 3000, 3000]
    assert len(ran) == 3
    assert device._driver.left() == before


def test_a_call_that_fails_is_named_with_its_status(library):
    with pytest.raises(UnavailableError, match="cuDeviceGet failed with error 101"):
        Device(1, library)
    with pytest.raises(UnavailableError, match="cuMemAlloc_v2 failed with error 2"):
        Device(0, library).reserve(Buffer(), 1 << 40)
    with pytest.raises(UnavailableError, match=r"no NVIDIA driver here \(libnone\.so"):
        Device(0, "libnone.so")
