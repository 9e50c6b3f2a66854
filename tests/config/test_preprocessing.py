"""What a config says of preprocessing, and what is said about it when it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.config import Config, load, resolved
from pipeline.errors import ConfigError
from pipeline.run.plan import interface
from tests.config.test_config import VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
name: net
model: {{architecture: "pipeline.architectures.simplenet:SimpleNet", weights: net.pth}}
inputs: {inputs}
dimensions: {{batch: {{max: 4}}, height: {{max: 90}}, width: {{max: 90}}}}
outputs: [y]
exports: [onnx]
backends: [eager, onnxruntime-cpu]
"""
IMAGE = "dtype: float32, shape: [batch, 3, 224, 200]"


def read(tmp_path: Path, inputs: str, *overrides: str) -> Config:
    path = tmp_path / "net.yaml"
    path.write_text(TEXT.format(inputs=inputs))
    return load(path, overrides=overrides, vocabulary=VOCABULARY)


def preprocessed(tmp_path: Path, preprocess: str, spec: str = IMAGE, *overrides: str) -> Config:
    # The other input takes the sizes that are not the matter here.
    other = "other: {dtype: float32, shape: [batch, height, width]}"
    return read(tmp_path, f"{{image: {{{spec}, preprocess: {{{preprocess}}}}}, {other}}}", *overrides)


def test_what_goes_in_is_what_arrives(tmp_path) -> None:
    numbers = "divide_by: 255, mean: [0.485, 0.456, 0.406], scale: 0.25"
    config = preprocessed(tmp_path, f"dtype: uint8, layout: NHWC, resize: [height, 99], {numbers}")
    spec = interface(config).inputs[0]
    assert (spec.dtype, spec.shape, spec.low, spec.high, spec.values) == (
        "uint8", ("batch", "height", 99, 3), 0, 256, "uniform",
    )  # fmt: skip
    assert spec.preprocess is not None
    assert (spec.preprocess.dtype, spec.preprocess.shape) == ("float32", ("batch", 3, 224, 200))
    assert (spec.preprocess.mean, spec.preprocess.scale) == ((0.485, 0.456, 0.406), (0.25,))
    assert interface(config).inputs[1].preprocess is None


@pytest.mark.parametrize(
    ("spec", "preprocess", "channels"),
    [
        ("dtype: float32, shape: [batch, 3, 8, 8]", "mean: [1, 2, 3]", 1),
        ("dtype: float32, shape: [batch, 3, height]", "mean: [1, 2, 3]", 1),
        ("dtype: float32, shape: [3, height, 8]", "mean: [1, 2, 3]", 0),
        ("dtype: float32, shape: [3, 8, 9]", "layout: HWC, mean: 1", 0),
        ("dtype: float32, shape: [batch, 3]", "mean: [1, 2, 3]", 1),
        ("dtype: float32, shape: [3]", "mean: [1, 2, 3]", 0),
    ],
)
def test_channels_are_where_the_network_has_them(spec, preprocess, channels, tmp_path) -> None:
    found = interface(preprocessed(tmp_path, preprocess, spec)).inputs[0].preprocess
    assert found is not None
    assert found.channels == channels


def test_bounds_are_of_what_arrives(tmp_path) -> None:
    spec = "dtype: float32, shape: [batch, 80], low: -100, high: 100"
    found = interface(preprocessed(tmp_path, "dtype: int16, divide_by: 32768", spec)).inputs[0]
    assert (found.low, found.high) == (-100, 100)


def test_a_config_without_it_is_recorded_as_before_it_was_known(tmp_path) -> None:
    config = read(tmp_path, "{x: {dtype: float32, shape: [batch, height, width]}}")
    assert "preprocess" not in resolved(config)["inputs"]["x"]


def test_numbers_can_be_overridden(tmp_path) -> None:
    overrides = ("inputs.image.preprocess.mean=0.5", "inputs.image.preprocess.divide_by=255")
    config = preprocessed(tmp_path, "dtype: uint8, divide_by: 1", IMAGE, *overrides)
    given = config.inputs["image"].preprocess
    assert given is not None
    assert (given.mean, given.divide_by) == (0.5, 255)


WRONG = {
    "other channels": ("mean: [0.4, 0.5]", IMAGE, ".mean: has 2 numbers, and there are 3 channels in `shape`, [batch, 3, 224, 200]: give one number, or 3"),
    "channels that vary": ("mean: [1, 2]", "dtype: float32, shape: [batch, height]", ".mean: has 2 numbers, and the number of channels, height, may vary"),
    "a target that varies": ("resize: [8, 8]", "dtype: float32, shape: [batch, 3, height, 9]", ".resize: goes to the height and width in `shape`, and height there may vary"),
    "taken for the target": ("resize: [224, 200]", IMAGE, ".resize: says what arrives, and the network takes 224 × 200 already"),
    "no image": ("resize: [height, width]", "dtype: float32, shape: [batch, 10]", ".resize: is of images, [batch, channels, height, width]"),
    "rows of no image": ("resize: [height, width]", "dtype: float32, shape: [batch, 10, 10]", ".resize: is of images, "),
    "one size": ("resize: [224]", IMAGE, ".resize: expected [height, width] of what arrives, given a list"),
    "an unknown size": ("resize: [heigth, width]", IMAGE, ".resize.0: 'heigth' is not in dimensions (nearest valid: 'height')"),
    "a scale of 0": ("scale: [1, 0, 2]", IMAGE, ".scale: is what is divided by, and 0 cannot be"),
    "a scale that vanishes": ("scale: 1.0e-40", IMAGE, ".scale: is what is divided by, and 0 cannot be"),
    "to divide by 0": ("divide_by: 0", IMAGE, ".divide_by: should be greater than 0"),
    "another rank": ("layout: NHWC", "dtype: float32, shape: [batch, 3, 8]", ".layout: NHWC arrives where the network takes [batch, channels, height, width], and `shape` is [batch, 3, 8]"),
    "another rank of one image": ("layout: HWC", IMAGE, ".layout: HWC arrives where the network takes [channels, height, width]"),
    "whole numbers": ("scale: 2", "dtype: int64, shape: [batch], low: 0, high: 9", ": gives floats, and the network takes int64"),
    "0 to 1 of 0 to 255": ("dtype: uint8, mean: [0.4, 0.4, 0.4], scale: [0.2, 0.2, 0.2]", IMAGE, ".mean: is of values from 0 to 1, and uint8 arrives: add divide_by: 255, which comes first; or divide_by: 1"),
    "-1 to 1 of a sound": ("dtype: int16, scale: 0.5", "dtype: float32, shape: [batch, 9], low: 0, high: 9", ".scale: is of values from -1 to 1, and int16 arrives: add divide_by: 32768"),
    "no range": ("dtype: int16, divide_by: 32768", "dtype: float32, shape: [batch, 9]", "image.dtype: int16 inputs need low and high, as in {low: -32768, high: 32768}"),
    "nothing": ("dtype: float32, mean: 0", IMAGE, ": changes nothing: say what arrives"),
    "an unknown key": ("std: 3, mean: 1", IMAGE, ".std: unknown key (valid: 'divide_by', 'dtype', 'layout', 'mean', 'resize', 'scale')"),
    "no number": ("mean: [a]", IMAGE, ".mean: expected a number, or a list of one for each channel"),
    "no numbers": ("mean: []", IMAGE, ".mean: expected a number, or a list of one for each channel"),
    "as the network takes it": ("layout: NCHW", IMAGE, ".layout: the text 'NCHW' is not valid (nearest valid: 'NHWC')"),
}  # fmt: skip


@pytest.mark.parametrize(("preprocess", "spec", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_one_error_at_its_place(preprocess, spec, said, tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        preprocessed(tmp_path, preprocess, spec)
    (line,) = caught.value.message.splitlines()
    assert ":3:" in line
    assert f"inputs.image.preprocess{said}" in line or f"inputs.{said}" in line


def test_numbers_of_0_to_1_are_taken_where_it_is_written_that_they_are_meant(tmp_path) -> None:
    assert preprocessed(tmp_path, "dtype: uint8, mean: 0.5, divide_by: 1").inputs["image"].preprocess is not None


def test_an_input_inside_a_list_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"inputs\.images\.0\.preprocess: 'images\.0' lies inside a list or mapping"):
        read(
            tmp_path, f"{{images: [{{{IMAGE}, preprocess: {{mean: 1}}}}, {{dtype: float32, shape: [height, width]}}]}}"
        )
