"""What a package says of itself is read from its bytes and held against this machine before anything of it is loaded."""

import ctypes
import sys

import numpy as np
import pytest

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import InputError, UnavailableError, UnsafeError, WeightsError
from pipeline.formats.aotinductor import package
from pipeline.formats.aotinductor.export import examples_for, narrower, widened
from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats, of_kind
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from pipeline.weights import headers
from pipeline.weights.kinds import Kind
from tests.formats.aotinductor import packages

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 10)),), (Dimension("batch", 1, 64),), ("y",))
CPU = backends()["aotinductor-cpu"]


def test_a_package_is_told_from_an_exported_program(tmp_path):
    assert headers.read(packages.package(tmp_path / "model.pt2")).kind is Kind.AOTINDUCTOR
    assert of_kind(Kind.AOTINDUCTOR) is formats()["aotinductor"]
    both = packages.package(tmp_path / "both.pt2", more={"models/model.json": b"{}"})
    assert headers.read(both).kind is Kind.AOTINDUCTOR


@pytest.mark.parametrize(
    ("metadata", "device", "said"),
    [
        ({"AOTI_CPU_ISA": "AVX512 AMX_TILE"}, "cpu", r"with AVX512 AMX_TILE; this one lacks amx_tile, avx512_f"),
        ({"AOTI_CPU_ISA": "AVX2"}, "cpu", r"with AVX2; this one lacks avx2"),
        ({package.CAPABILITIES: "sse2 avx10_2"}, "cpu", r"this one lacks avx10_2"),
        ({"AOTI_MACHINE": "riscv64"}, "cpu", r"compiled for riscv64, this one is"),
        ({"AOTI_DEVICE_KEY": "cuda"}, "cpu", r"compiled for cuda, and is asked to run on cpu"),
        ({}, "cuda", r"compiled for cpu, and is asked to run on cuda"),
    ],
)
def test_a_package_for_another_processor_is_refused_and_both_are_named(tmp_path, metadata, device, said):
    found = package.read(packages.package(tmp_path / "model.pt2", metadata))
    with pytest.raises(UnavailableError, match=said) as refused:
        package.require_runs_here(found, device, {"sse2"}, "model.pt2")
    assert refused.value.hint


def test_a_package_for_this_processor_is_not_refused(tmp_path):
    metadata = {"AOTI_CPU_ISA": "AVX512 AVX512_VNNI", package.CAPABILITIES: "sse2"}
    found = package.read(packages.package(tmp_path / "model.pt2", metadata))
    package.require_runs_here(found, "cpu", {"sse2", "avx512_f", "avx512_vnni"}, "model.pt2")


def test_this_processor_has_what_it_says(tmp_path):
    own = " ".join(package.capabilities())
    assert own
    found = package.read(packages.package(tmp_path / "model.pt2", {package.CAPABILITIES: own}))
    package.require_runs_here(found, "cpu", package.capabilities(), "model.pt2")


def test_code_for_another_processor_is_not_loaded(tmp_path):
    marker = tmp_path / "loaded"
    library = packages.hostile_library(tmp_path, marker)
    path = packages.package(tmp_path / "model.pt2", {"AOTI_CPU_ISA": "AVX99"}, library)
    with pytest.raises(UnavailableError, match="lacks avx99"):
        CPU.open(Source(INTERFACE, path), CPU.options())
    assert not marker.exists()
    ctypes.CDLL(str(tmp_path / "hostile.so"))
    assert marker.exists()  # it would have told


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("../../outside.so", UnsafeError),
        ("data/aotinductor/model/deeper/weighbridge.wrapper.json", UnsafeError),
        ("data/aotinductor/model/run.sh", UnsafeError),
        ("data/weights/weight_0", UnsafeError),
        ("data/aotinductor/other/second.wrapper.so", InputError),
    ],
)
def test_whatever_is_no_part_of_one_model_is_refused(tmp_path, entry, error):
    path = packages.package(tmp_path / "model.pt2", more={entry: b"x"})
    with pytest.raises(error):
        formats()["aotinductor"].require_safe(path, ())


def test_a_package_of_ours_is_none_of_these(tmp_path):
    formats()["aotinductor"].require_safe(packages.package(tmp_path / "model.pt2"), ())


def test_a_package_that_was_cut_off_is_damaged(tmp_path):
    path = packages.package(tmp_path / "model.pt2")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WeightsError):
        package.read(path)


def test_what_a_package_says_is_read_without_torch(tmp_path):
    import subprocess

    path = packages.package(tmp_path / "model.pt2", {package.INPUTS: '["b", "a"]'})
    said = (
        "import sys; from pathlib import Path; from pipeline.formats.aotinductor import package; "
        f"print(package.read(Path({str(path)!r})).inputs, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert ran.stdout == "('b', 'a') False\n"


# What Inductor takes of the declared sizes

CHECK = """
static void check_input_0(
    AtenTensorHandle* input_handles
) {{
    if (arg4_1_size[0] < 2) {{
        throw std::runtime_error(std::move(ss).str());
    }}
    {batch}
    if (10 != arg4_1_size[1]) {{
        throw std::runtime_error(std::move(ss).str());
    }}
}}
"""


@pytest.mark.parametrize(
    ("batch", "problems"),
    [
        ("if (arg4_1_size[0] > 64) {", []),
        ("if (arg4_1_size[0] > 65) {", []),
        ("", []),
        ("if (arg4_1_size[0] > 15) {", ["batch: declared 1 to 64, compiled for up to 15"]),
        ("if (20L != arg4_1_size[0]) {", ["batch: declared 1 to 64, compiled for 20 only"]),
    ],
)
def test_a_range_that_was_narrowed_in_compiled_code_is_told(batch, problems):
    assert narrower(CHECK.format(batch=batch), INTERFACE, ("x",)) == problems


def test_examples_are_enlarged_beyond_what_inductor_takes_for_granted(tmp_path):
    interface = Interface(
        (InputSpec("x", "float32", ("batch", 19, "time")), InputSpec("few", "float32", ("channels",))),
        (Dimension("batch", 1, 64), Dimension("time", 8, 800, 8), Dimension("channels", 1, 4)),
        ("y",),
    )
    given = cases.make(interface, cases.example_sizes(interface), seed=0, name="e").inputs
    origin = FromNetwork(None, interface, given, tmp_path / "model.pt2", {})
    shapes = {name: array.shape for name, array in examples_for(origin, interface).items()}
    assert shapes == {"x": (18, 19, 24), "few": (4,)}


def test_examples_that_are_large_stay_as_they_are(tmp_path):
    given = {"x": np.zeros((40, 10), np.float32)}
    assert examples_for(FromNetwork(None, INTERFACE, given, tmp_path / "model.pt2", {}), INTERFACE) is given


def test_sizes_are_compiled_for_more_than_is_declared_where_that_is_little():
    declared = (
        Dimension("batch", 1, 16),
        Dimension("time", 8, 24, 8),
        Dimension("one", 4, 4),
        Dimension("wide", 1, 64),
    )
    interface = Interface((InputSpec("x", "float32", ("batch", "time", "one", "wide")),), declared, ("y",))
    found = {each.name: (each.min, each.max) for each in widened(interface).dimensions}
    assert found == {"batch": (1, 36), "time": (8, 40), "one": (4, 4), "wide": (1, 64)}
