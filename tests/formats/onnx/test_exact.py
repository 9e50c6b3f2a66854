"""What a file says, exactly: held against onnxruntime product by product, and against sums that are cut off by hand."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from pipeline.errors import ExportError
from pipeline.formats.format import ProductSearch
from pipeline.formats.onnx import pieces, products
from pipeline.formats.onnx.exact import Exact, copy_of, read
from pipeline.parity import budget
from tests.formats.onnx import small

ZERO = np.array(3, np.uint8)
WAYS = {
    "int8": {"precision": "int8"},
    "int8, signed activations": {"precision": "int8", "activations": "int8"},
    "int8, unsigned weights": {"precision": "int8", "weights": "uint8"},
    "int8, one scale a tensor": {"precision": "int8", "per_channel": False},
    "int8, 7 bits": {"precision": "int8", "reduce_range": True},
    "int8, everything": {"precision": "int8", "operators": ("Conv", "Gemm", "MatMul", "Relu", "Add")},
    "int8 by entropy": {"precision": "int8", "calibration_method": "entropy"},
    "int8-dynamic": {"precision": "int8-dynamic"},
    "int8-dynamic, unsigned weights": {"precision": "int8-dynamic", "weights": "uint8", "per_channel": False},
    "int8-weights": {"precision": "int8-weights", "block_size": 16},
    "int4-weights": {"precision": "int4-weights", "block_size": 16},
}
FITS = [*((way, "products") for way in WAYS), *((way, "convolutions") for way in WAYS if way.startswith("int8,"))]


def judged(file, interface, **options):
    inputs = small.samples(interface, rows=5, seed=9)
    return pieces.judge(ProductSearch(file, inputs, options, None, budget.floors, 16.0))


def ran(file, inputs):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.mark.parametrize(("way", "network"), FITS)
def test_every_product_of_whole_numbers_is_what_onnxruntime_computes(way, network, tmp_path):
    written, interface = small.reduced(network, tmp_path, **WAYS[way])
    found = judged(written.files[0], interface)
    assert len(found) == (2 if network == "products" else 4)
    # A processor without VNNI may be off here: then that is what is predicted, to the last digit that is printed.
    for each in found:
        cut = each.saturating_factor > 16 and each.factor > 16
        assert each.factor <= 16 or each.sqnr_db == pytest.approx(each.saturating_sqnr_db, abs=1e-3), each
        assert cut or each.sqnr_db > 110


@pytest.mark.parametrize("precision", ["float16", "float16-weights", "bfloat16-weights"])
def test_a_file_of_16_bits_is_what_onnxruntime_computes(precision, tmp_path):
    written, interface = small.reduced("products", tmp_path, precision=precision)
    inputs = small.samples(interface, rows=5, seed=9)
    exact = read(written.files[0])(inputs)["y"]
    assert exact.dtype == np.float64
    limit = 3e-3 if precision == "float16" else 2e-6
    np.testing.assert_allclose(ran(written.files[0], inputs), exact, rtol=limit, atol=limit)


def test_floating_numbers_are_in_float64_between():
    made, interface = small.products()
    inputs = small.samples(interface)
    weights = {name: each.astype(np.float64) for name, each in small.state(made).items()}
    hidden = np.maximum(inputs["x"].astype(np.float64) @ weights["first.weight"].T + weights["first.bias"], 0)
    np.testing.assert_allclose(Exact(made)(inputs)["y"], hidden @ weights["second.weight"], rtol=1e-13)
    assert Exact(made)(inputs, "written")["y"].dtype == np.float32


def test_two_neighbouring_products_are_cut_off_at_16_bits_and_others_are_not():
    a = np.array([[255, 255, 255, 1, 0, 255]], np.uint8)
    b = np.array([[127, 127, 127, 127, -128, -128]], np.int8).T
    exact = (a.astype(int) @ b.astype(int)).item()
    cut = 32767 + (255 * 127 + 127) + (255 * -128)
    assert products.matmul(a, None, b, None, saturating=False).item() == exact
    assert products.matmul(a, None, b, None, saturating=True).item() == cut
    assert (
        products.matmul(
            a, None, (b.astype(int) + 128).astype(np.uint8), np.array(128, np.uint8), saturating=True
        ).item()
        == exact
    )


@pytest.mark.parametrize("length", [7, 8])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_zero_points_are_taken_out_of_what_is_cut_off(length, activations):
    """Sums of a·b alone are cut; -z·b is exact. By hand, in whole numbers; signed activations are moved by 128 first."""
    rng = np.random.default_rng(2)
    low, high = (0, 256) if activations == "uint8" else (-128, 128)
    a = rng.integers(low, high, (3, length)).astype(activations)
    b, zero = rng.integers(-127, 128, (length, 4)).astype(np.int8), np.array(11, activations)
    shift = 0 if activations == "uint8" else 128
    wide = np.pad(a.astype(int) + shift, ((0, 0), (0, length % 2)))
    tall = np.pad(b.astype(int), ((0, length % 2), (0, 0)))
    pairs = sum(
        np.clip(wide[:, k, None] * tall[k] + wide[:, k + 1, None] * tall[k + 1], -32768, 32767)
        for k in range(0, wide.shape[1], 2)
    )
    want = pairs - (int(zero) + shift) * b.astype(int).sum(0)
    np.testing.assert_array_equal(products.matmul(a, zero, b, None, saturating=True), want)


def test_a_convolution_of_one_place_is_cut_off_like_the_product_it_is():
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (2, 10, 4, 5)).astype(np.uint8), rng.integers(-127, 128, (6, 10, 1, 1)).astype(np.int8)
    found = products.convolution(x, ZERO, w, None, {}, saturating=True)
    rows = x.transpose(0, 2, 3, 1).reshape(-1, 10)
    want = products.matmul(rows, ZERO, w.reshape(6, 10).T, None, saturating=True)
    np.testing.assert_array_equal(found, want.reshape(2, 4, 5, 6).transpose(0, 3, 1, 2))
    assert (found != products.convolution(x, ZERO, w, None, {}, saturating=False)).any()


def test_a_convolution_in_one_dimension_is_cut_off_like_one_of_a_single_row():
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 256, (2, 6, 13)).astype(np.uint8), rng.integers(-127, 128, (5, 6, 3)).astype(np.int8)
    one = {"strides": [2], "pads": [2, 1], "dilations": [2]}
    two = {"strides": [1, 2], "pads": [0, 2, 0, 1], "dilations": [1, 2]}
    found = products.convolution(x, ZERO, w, None, one, saturating=True)
    want = products.convolution(x[:, :, None], ZERO, w[:, :, None], None, two, saturating=True)[:, :, 0]
    np.testing.assert_array_equal(found, want)
    assert (found != products.convolution(x, ZERO, w, None, one, saturating=False)).any()


def test_what_is_around_a_convolution_holds_the_zero_point():
    x, w = np.full((1, 2, 3, 3), 7, np.uint8), np.ones((1, 2, 3, 3), np.int8)
    found = products.convolution(x, np.array(7, np.uint8), w, None, {"pads": [1, 1, 1, 1]}, saturating=True)
    assert not found.any()


def test_numbers_between_two_steps_fall_on_either_when_they_are_moved():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
    ]
    made = small.model(nodes, {"x": ["n"]}, {"y": ["n"]}, {"scale": np.float32(1)})
    inputs = {"x": np.array([0.5, 1.5, 2.25, 100.0], np.float32)}
    seen = {tuple(Exact(made)(inputs, "moved", seed)["y"]) for seed in range(2)}
    assert {each[0] for each in seen} == {0.0, 1.0}
    assert {each[1] for each in seen} == {1.0, 2.0}
    assert {each[2:] for each in seen} == {(2.0, 100.0)}


def test_an_operator_that_nothing_here_computes_is_named(tmp_path):
    made = small.model(
        [helper.make_node("Strange", ["x"], ["y"], "odd", domain="else.where")], {"x": ["n"]}, {"y": ["n"]}, {}
    )
    made.opset_import.append(helper.make_opsetid("else.where", 1))
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="Strange"):
        read(tmp_path / "m.onnx")({"x": np.ones(3, np.float32)})


def test_a_runtime_that_cuts_sums_off_is_told_from_one_that_is_right_and_what_helps_was_tried(tmp_path, monkeypatch):
    """A product as a processor without VNNI adds it, in place of onnxruntime's: the real one is not to be had on every machine."""
    written, interface = small.reduced("products", tmp_path, precision="int8")
    real = pieces._ran

    def cut_off(alone, inputs, wanted, *, precise=False):
        if precise:
            return real(alone, inputs, wanted)
        how = Exact(products.with_products(copy_of(alone)))
        return next(iter(how(inputs, "saturating").values())).astype(np.float32)

    monkeypatch.setattr(pieces, "_ran", cut_off)
    wrong = [each for each in judged(written.files[0], interface) if each.factor > 16]
    assert wrong
    for each in wrong:
        assert each.sqnr_db == pytest.approx(each.saturating_sqnr_db, abs=1e-6)
        assert each.helped == (pieces.PRECISE, pieces.UNSIGNED)
