"""Preprocessing in front of a network: what arrives becomes what it takes, and nothing else of it changes."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface, Preprocessing
from pipeline.rebuild import calling, cases, preprocess
from tests.rebuild import pictures

MEAN, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIMENSIONS = tuple(Dimension(name, 1, 12) for name in ("batch", "height", "width"))
IMAGE = Preprocessing("float32", ("batch", 3, 8, 8), "NHWC", resized=True, divide_by=255, mean=MEAN, scale=SCALE)
FRAME = InputSpec("image", "uint8", ("batch", "height", "width", 3), 0, 256, "uniform", preprocess=IMAGE)


def face(*inputs, **changes):
    used = {size for each in inputs for size in each.shape}
    return Interface(inputs, tuple(each for each in DIMENSIONS if each.name in used), ("y",), **changes)


def one(name, dtype, shape, given, low=None, high=None):
    values = "uniform" if "int" in dtype else "normal"
    return face(InputSpec(name, dtype, shape, low, high, values, preprocess=given))


def seeded(make, **arguments):
    torch.manual_seed(0)
    return make(**arguments).eval().requires_grad_(False)


def given_to(interface, seed=0):
    """Return inputs at sizes that are all different."""
    return cases.make(interface, cases.example_sizes(interface), seed=seed, name="one").inputs


def resized(values, size):
    """Resize the last two axes bilinearly, pixels taken for areas, by the formula; in float64."""
    for axis, target in zip((-2, -1), size, strict=True):
        source = values.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, None)
        low = np.minimum(np.floor(at).astype(int), source - 1)
        high = np.minimum(low + 1, source - 1)
        part = (at - low).reshape([-1] + [1] * (-1 - axis))
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values


def by_hand(array, given):
    """Return what the network should be given, in float64."""
    values = array.astype(np.float64)
    if given.layout:
        values = np.moveaxis(values, -1, -3)
    if given.resized:
        values = resized(values, given.shape[-2:])
    numbers = [np.asarray(each).reshape([-1] + [1] * (len(given.shape) - 1 - given.channels)) for each in (given.mean, given.scale)]  # fmt: skip
    return (values / given.divide_by - numbers[0]) / numbers[1]


class Given(torch.nn.Module):
    """Returns what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


WAYS = {
    "camera frames": one("x", "uint8", ("batch", "height", "width", 3), IMAGE, 0, 256),
    "one image": one("x", "uint8", ("height", "width", 3), Preprocessing("float32", (3, 8, 5), "HWC", resized=True, divide_by=127.5, mean=(1, 0.9, 1.1), channels=0), 0, 256),
    "fixed sizes, only the layout": one("x", "float32", ("batch", 8, 8, 3), Preprocessing("float32", ("batch", 3, 8, 8), "NHWC")),
    "only a cast": one("x", "uint8", ("batch", 4), Preprocessing("float32", ("batch", 4)), 0, 256),
    "only resized": one("x", "float32", ("batch", 2, "height", "width"), Preprocessing("float32", ("batch", 2, 9, 4), resized=True)),
    "a sound of int16": one("x", "int16", ("batch", "width"), Preprocessing("float32", ("batch", "width"), divide_by=32768), -32768, 32768),
    "a sound of floats": one("x", "float32", ("batch", "width"), Preprocessing("float32", ("batch", "width"), mean=(0.1,), scale=(2.5,))),
    "a table by columns": one("x", "float64", ("batch", 4), Preprocessing("float32", ("batch", 4), mean=(1, 2, 3, 4), scale=(1, -2, 3, 4))),
    "channels of sounds": one("x", "float32", ("batch", 2, "width"), Preprocessing("float32", ("batch", 2, "width"), scale=(3, 4))),
    "a scalar": one("x", "float32", (), Preprocessing("float32", (), mean=(0.5,), scale=(0.25,), channels=-1)),
    "a network in float64": one("x", "float32", ("batch", 4), Preprocessing("float64", ("batch", 4), mean=(0.1,))),
}  # fmt: skip


@pytest.mark.parametrize("interface", WAYS.values(), ids=WAYS)
def test_what_arrives_becomes_what_the_formula_says(interface) -> None:
    module, given = Given(), interface.inputs[0].preprocess
    preprocess.fold(module, interface)
    array = given_to(interface)["x"]
    wanted, single = by_hand(array, given), module(torch.from_numpy(array))
    assert str(single.dtype) == f"torch.{given.dtype}"
    assert single.is_contiguous()
    np.testing.assert_allclose(single.numpy(), wanted, rtol=1e-4, atol=1e-5 * max(1.0, abs(wanted).max()))
    scripted = torch.jit.script(module)
    assert torch.equal(scripted(torch.from_numpy(array)), single)


def test_the_oracle_computes_preprocessing_in_float64() -> None:
    interface = WAYS["camera frames"]
    module = Given()
    preprocess.fold(module, interface)
    module.double()
    array = given_to(interface)["x"]
    numbers = {each: tuple(map(float, np.float32(getattr(IMAGE, each)))) for each in ("mean", "scale")}
    found = module(torch.from_numpy(array)).numpy()
    np.testing.assert_allclose(found, by_hand(array, replace(IMAGE, **numbers)), rtol=1e-12, atol=1e-12)


def test_half_precision_is_what_the_network_is_given_and_not_what_is_computed_in() -> None:
    given = Preprocessing("bfloat16", ("batch", 4), divide_by=255, mean=(0.485,), scale=(0.229,))
    interface = one("x", "uint8", ("batch", 4), given, 0, 256)
    module = Given()
    preprocess.fold(module, interface)
    array = given_to(interface)["x"]
    found = module(torch.from_numpy(array))
    assert torch.equal(found, torch.from_numpy(by_hand(array, given)).float().bfloat16())
    assert module.double()(torch.from_numpy(array)).dtype == torch.float64


def test_it_gives_what_preprocessing_by_hand_in_forward_gives() -> None:
    module, interface = seeded(pictures.Picture), face(FRAME)
    image = torch.from_numpy(given_to(interface)["image"])
    wanted = pictures.Deployed(seeded(pictures.Picture))(image)
    preprocess.fold(module, interface)
    assert torch.equal(module(image), wanted)


def test_names_of_modules_and_the_state_dict_and_the_signature_stay_what_they_are() -> None:
    module, plain = seeded(pictures.Picture), seeded(pictures.Picture)
    preprocess.fold(module, face(FRAME))
    assert list(module.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in module.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(dict(module.named_buffers())) == [f"preprocess_image_{each}" for each in ("divide_by", "mean", "scale")]
    assert inspect.signature(module.forward).parameters == inspect.signature(plain.forward).parameters
    assert isinstance(module, pictures.Picture)


def test_one_of_two_inputs_of_another_method_is_preprocessed_and_constants_are_passed_on() -> None:
    table = InputSpec("table", "float32", ("batch", 2))
    interface = face(FRAME, table, method="encode", constants={"twice": True})
    module, plain = seeded(pictures.Both), seeded(pictures.Both)
    preprocess.fold(module, interface)
    arrays = given_to(interface)
    tensors = calling.tensors_from(arrays)
    found = calling.call(module, calling.bind(module, interface), interface, tensors)["y"]
    image = torch.from_numpy(by_hand(arrays["image"], IMAGE)).float()
    assert torch.allclose(found, plain.encode(tensors["table"], image, twice=True), atol=1e-5)
    assert torch.equal(module.encode(tensors["table"], tensors["image"]), found / 2)


def test_inputs_with_names_of_the_configs_own_go_by_position() -> None:
    given = Preprocessing("float32", ("batch", 4), mean=(1.0,))
    interface = one("columns", "float32", ("batch", 4), given)
    module, plain = seeded(pictures.Table), seeded(pictures.Table)
    preprocess.fold(module, interface)
    rows = torch.ones(2, 4) * 3
    assert torch.equal(module(rows), plain(rows - 1))
    assert torch.equal(module(rows, more=torch.ones(3)), plain(rows - 1, more=torch.ones(3)))


def test_an_input_among_keywords_is_preprocessed() -> None:
    given = Preprocessing("float32", ("batch", 4), mean=(1.0,))
    rows = InputSpec("rows", "float32", ("batch", 4), preprocess=given)
    module, plain = seeded(pictures.Keywords), seeded(pictures.Keywords)
    preprocess.fold(module, face(InputSpec("first", "float32", ("batch", 4)), rows))
    first, given_rows = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.equal(module(first, rows=given_rows), plain(first, rows=given_rows - 1))


def test_a_network_that_runs_all_it_holds_runs_nothing_more() -> None:
    given = Preprocessing("float32", ("batch", 3, 4, 4), divide_by=255)
    module, plain = seeded(pictures.Steps), seeded(pictures.Steps)
    preprocess.fold(module, one("x", "uint8", ("batch", 3, 4, 4), given, 0, 256))
    image = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(module(image), plain(image / 255))


def test_a_forward_that_stands_in_the_instance_is_still_what_is_called() -> None:
    module = seeded(pictures.Sound)
    module.forward = lambda samples: samples * 3  # type: ignore[method-assign]
    given = Preprocessing("float32", ("batch", "width"), divide_by=2)
    preprocess.fold(module, one("samples", "float32", ("batch", "width"), given))
    assert torch.equal(module(torch.ones(1, 2)), torch.full((1, 2), 1.5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pictures.Hooked, "Hooked has forward pre-hooks, which would see what arrives"),
        (pictures.Recursive, r"Recursive\.forward calls itself, and what it gives itself would be preprocessed again"),
    ],
)
def test_a_network_that_would_be_given_something_else_is_refused(make, said) -> None:
    given = Preprocessing("float32", ("batch", 4), mean=(1.0,))
    with pytest.raises(ArchitectureError, match=said):
        preprocess.fold(seeded(make), one("rows", "float32", ("batch", 4), given))


def test_a_buffer_of_the_networks_own_keeps_its_name() -> None:
    module = seeded(pictures.Table)
    module.register_buffer("preprocess_rows_mean", torch.ones(1))
    given = Preprocessing("float32", ("batch", 4), mean=(5.0,))
    preprocess.fold(module, one("rows", "float32", ("batch", 4), given))
    assert module.preprocess_rows_mean.item() == 1
    assert torch.equal(module(torch.full((1, 4), 5.0)), module.fc(torch.zeros(1, 4)))


def test_two_networks_in_one_process_have_each_their_own_source() -> None:
    interfaces = [WAYS["a sound of floats"], WAYS["only resized"]]
    modules = [Given(), Given()]
    for module, interface in zip(modules, interfaces, strict=True):
        preprocess.fold(module, interface)
    for module, interface in zip(modules, interfaces, strict=True):
        x = torch.from_numpy(given_to(interface)["x"])
        assert torch.equal(torch.jit.script(module)(x), module(x))


def test_the_networks_own_interface_has_no_dimensions_that_only_what_arrives_has() -> None:
    found = face(FRAME).of_network()
    assert found.inputs == (InputSpec("image", "float32", ("batch", 3, 8, 8)),)
    assert [each.name for each in found.dimensions] == ["batch"]
    related = Interface(
        (replace(FRAME, shape=("rows", "height", "width", 3), preprocess=replace(IMAGE, shape=("rows", 3, 8, 8))),),
        (*DIMENSIONS, Dimension("rows", 2, 24, formula="batch * 2")),
        ("y",),
    )
    assert [each.name for each in related.of_network().dimensions] == ["batch", "rows"]
    plain = face(InputSpec("x", "float32", ("batch", 4)))
    assert plain.of_network() is plain


def test_it_is_said_in_words_in_the_order_in_which_it_is_done() -> None:
    assert IMAGE.in_words() == (
        "channels first, resized to 8 × 8, / 255, − [0.485, 0.456, 0.406], / [0.229, 0.224, 0.225] → float32 [batch, 3, 8, 8]"
    )
    many = Preprocessing("float32", ("batch", 9), mean=tuple(map(float, range(9))), scale=(0.5,))
    assert many.in_words() == "− [0, 1, 2, 3, …], / 0.5 → float32 [batch, 9]"
    assert Preprocessing("float32", (4,)).in_words() == "cast → float32 [4]"
