"""The golden file is the same for the same cases, read by others, and refused in any other form."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from benchmarks import golden_cases
from pipeline.errors import GateError
from pipeline.interface import Case
from pipeline.parity.budget import Rule
from pipeline.parity.oracle import Reference
from pipeline.parity.truth import Truth
from pipeline.release import compose
from pipeline.release.golden import budget_bytes, golden_bytes, safetensors_bytes, select, size_bytes
from pipeline.release.standalone import (
    DTYPES,
    DamagedError,
    Golden,
    GoldenCase,
    judge,
    read_golden,
    read_safetensors,
)


def _read(tmp_path, content):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    return read_safetensors(path)


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_and_shape_is_read_by_the_safetensors_package_and_back(tmp_path, dtype, shape):
    arrays = {"b": np.asarray(np.arange(math.prod(shape)).reshape(shape) % 2, dtype), "a/ü": np.ones(1, np.int8)}
    content = safetensors_bytes(arrays, {"limit": "16"})
    assert int.from_bytes(content[:8], "little") % 8 == 0
    theirs = safetensors.numpy.load(content)
    ours, metadata = _read(tmp_path, content)
    theirs_read_by_us, _ = _read(tmp_path, safetensors.numpy.save(arrays))
    assert metadata == {"limit": "16"}
    for name, array in arrays.items():
        for other in (theirs[name], ours[name], theirs_read_by_us[name]):
            assert other.dtype == array.dtype
            np.testing.assert_array_equal(other, array)


_ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__"),
    st_numpy.arrays(st.sampled_from([*DTYPES.values()]), st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=3)),
    max_size=4,
)


@settings(max_examples=50)
@given(_ARRAYS)
def test_arrays_survive_and_their_order_does_not_matter(tmp_path_factory, arrays):
    content = safetensors_bytes(arrays, {})
    assert content == safetensors_bytes(dict(reversed(arrays.items())), {})
    found, _ = _read(tmp_path_factory.mktemp("arrays"), content)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()
        assert found[name].shape == array.shape


def _with_header(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 16,
        (100).to_bytes(8, "little") + b"{}",
        _with_header(b"[]"),
        _with_header(b"{"),
        _with_header(b"[" * 100_000),
        _with_header(b'{"a":1,"a":1}'),
        _with_header({}),
        _with_header({"a": _entry(0, 8)}, b"\0" * 7),
        _with_header({"a": _entry(0, 8)}, b"\0" * 9),
        _with_header({"a": _entry(0, 4)}),
        _with_header({"a": _entry(4, 12)}, b"\0" * 12),
        _with_header({"a": _entry(0, 8), "b": _entry(0, 8)}),
        _with_header({"a": _entry(0, 8), "b": _entry(4, 12)}, b"\0" * 12),
        _with_header({"a": _entry(0, 8, [-2, -1])}),
        _with_header({"a": _entry(0, 8, [2**62, 8])}),
        _with_header({"a": _entry(0, 8, [2.0])}),
        _with_header({"a": _entry(0, 8, [True, 2])}),
        _with_header({"a": _entry(0, 8, dtype="BF16")}),
        _with_header({"a": _entry(0, 8, dtype=["F32"])}),
        _with_header({"a": {"dtype": "F32", "shape": [2]}}),
        _with_header({"a": 1}),
        _with_header({"a": _entry(0, 8), "__metadata__": {"limit": 16}}),
    ],
)
def test_a_tensor_file_in_which_not_every_byte_is_accounted_for_is_refused(tmp_path, content):
    with pytest.raises(DamagedError):
        _read(tmp_path, content)


def test_golden_cases_survive(tmp_path, golden):
    tolerant = replace(golden, tolerances={"logits": {"atol": 1e-5, "rtol": 0.001}})
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_bytes(tolerant))
    found = read_golden(path)
    assert (found.limit, found.tolerances) == (16, tolerant.tolerances)
    for case, expected in zip(found.cases, golden.cases, strict=True):
        assert case.name == expected.name
        for kind in ("inputs", "outputs", "floors"):
            got, wanted = getattr(case, kind), getattr(expected, kind)
            assert got.keys() == wanted.keys()
            assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)


def _case(**fields):
    base = GoldenCase("case", {}, {"y": np.ones(2, np.float32)}, {"y": np.ones(1)})
    return replace(base, **fields)


@pytest.mark.parametrize(
    "cases",
    [
        (),
        (_case(), _case()),
        (_case(name="a/b"),),
        (_case(name=""),),
        (_case(floors={}),),
        (_case(floors={"y": np.ones(3)}),),
        (_case(floors={"y": np.array([np.nan])}),),
        (_case(floors={"y": np.ones(1, np.float32)}),),
    ],
)
def test_golden_cases_that_could_not_be_judged_are_not_written(cases):
    with pytest.raises(ValueError, match=r".+"):
        golden_bytes(Golden(cases, 16, {}))


def test_selection_keeps_the_given_order_fits_and_spreads_from_small_to_large():
    cases = [GoldenCase(str(size), {"x": np.zeros(size, np.int8)}, {}, {}) for size in (300, 10, 20, 5000, 30, 40)]
    assert [case.name for case in select(cases, max_bytes=100)] == ["10", "20", "30", "40"]
    assert [case.name for case in select(cases, max_bytes=10_000, max_cases=3)] == ["10", "5000", "30"]
    assert [case.name for case in select(cases, max_bytes=1)] == ["10"]
    assert sum(map(size_bytes, select(cases, max_bytes=400))) == 400


def test_the_budget_is_five_percent_or_a_megabyte():
    assert budget_bytes(1000) == 1_000_000
    assert budget_bytes(100_000_000) == 5_000_000


# Judging

_EXPECTED = np.array([1.0, np.nan, np.inf, -2.0], np.float32)
_JUDGED = Golden(
    (GoldenCase("case", {}, {"y": _EXPECTED, "n": np.array([1, 2])}, {"y": np.full(1, 0.001)}),), limit=2, tolerances={}
)


def _problems(golden=_JUDGED, **changes):
    outputs = {"y": _EXPECTED.copy(), "n": np.array([1, 2])} | changes
    return judge(golden, golden.cases[0], outputs)


def test_outputs_within_limit_times_floor_pass_with_nan_and_infinity_where_the_oracle_has_them():
    assert _problems() == []
    assert _problems(y=np.array([1.0019, np.nan, np.inf, -2.0019], np.float32)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"y": np.array([1.0021, np.nan, np.inf, -2], np.float32)},
        {"y": np.array([1, 0, np.inf, -2], np.float32)},
        {"y": np.array([np.nan, np.nan, np.inf, -2], np.float32)},
        {"y": np.array([1, np.nan, -np.inf, -2], np.float32)},
        {"y": np.array([1, np.nan, 3e38, -2], np.float32)},
        {"y": np.array([np.inf, np.nan, np.inf, -2], np.float32)},
        {"y": _EXPECTED.astype(np.float64)},
        {"y": _EXPECTED[None]},
        {"n": np.array([1, 3])},
        {"n": np.array([1, 2], np.int32)},
        {"more": np.zeros(1)},
    ],
)
def test_every_other_output_fails(changes):
    assert len(_problems(**changes)) == 1


def test_a_missing_output_fails():
    assert judge(_JUDGED, _JUDGED.cases[0], {"y": _EXPECTED})


def test_explicit_tolerances_take_the_place_of_the_floor():
    tolerant = replace(_JUDGED, tolerances={"y": {"atol": 0.1, "rtol": 0.1}})
    assert _problems(tolerant, y=np.array([1.19, np.nan, np.inf, -2.29], np.float32)) == []
    assert _problems(tolerant, y=np.array([1.21, np.nan, np.inf, -2], np.float32))


@pytest.fixture(scope="module")
def facenet(tmp_path_factory):
    return golden_cases.prepare("facenet-pnet", tmp_path_factory.mktemp("facenet"))


@pytest.mark.slow
def test_every_kind_of_defect_that_a_case_of_parity_catches_is_caught_by_the_golden_ones(facenet):
    """`make sweep-golden` does this for every shipped model."""
    assert len(facenet.golden.cases) < len(facenet.truth.cases)
    assert sum(map(size_bytes, facenet.golden.cases)) <= 1_000_000
    summary = golden_cases.summarise(golden_cases.judged(facenet, per_kind=1, seed=0))
    assert summary["kinds_caught"] >= 12
    assert summary["kinds_missed"] == []


def test_golden_cases_that_allow_anything_are_found_to_miss_defects(facenet):
    blind = replace(facenet, golden=replace(facenet.golden, limit=1e12))
    assert golden_cases.summarise(golden_cases.judged(blind, per_kind=1, seed=0))["kinds_missed"]


def test_a_network_that_no_case_holds_to_anything_gets_no_release():
    reference = Reference({"y": np.ones(2)}, {"y": np.array([np.inf, 0.0])}, {"y": "float32"})
    case = Case("odd", {}, {"x": np.ones(2, np.float32)})
    known = Truth((case,), (reference,), ({"y": np.ones(2)},), {"y": Rule()}, None)
    with pytest.raises(GateError, match="could not prove itself: in every case y holds NaN or infinity") as caught:
        compose.golden_of(known)
    assert "leave y out of `outputs`" in (caught.value.hint or "")
