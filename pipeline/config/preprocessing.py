"""What may be wrong with the preprocessing of an input: sizes, channels and numbers that do not fit one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.inputs import DTYPES
from pipeline.config.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.config.inputs import InputConfig, PreprocessConfig

_RANKS = {"NHWC": (4, "[batch, channels, height, width]"), "HWC": (3, "[channels, height, width]")}
_SMALLEST = 2.0**-126
"""Of float32, the smallest number that can be divided by without losing digits."""


def check(name: str, each: InputConfig) -> Iterator[Problem]:
    """Yield what is wrong with the preprocessing of an input, at the key that is to be changed."""
    if each.preprocess is None:
        return
    path = ("inputs", name, "preprocess")
    if "." in name:
        yield Problem(
            path,
            f"{name!r} lies inside a list or mapping, and only an input by itself is preprocessed: give the network a method that "
            "takes it so, and name that under model.call",
            at_key=True,
        )
    elif "float" not in each.dtype:
        yield Problem(
            path, f"gives floats, and the network takes {each.dtype}: leave it out, or correct dtype", at_key=True
        )
    else:
        found = [*_layout(each, each.preprocess), *_resize(each, each.preprocess)]
        found += [] if found else [*_numbers(each, each.preprocess), *_range(each, each.preprocess)]
        yield from (Problem((*path, key), message) for key, message in found)
        if not found and _is_idle(each, each.preprocess):
            yield Problem(
                path, "changes nothing: say what arrives (dtype, layout, resize), or leave it out", at_key=True
            )


def _layout(each: InputConfig, given: PreprocessConfig) -> Iterator[tuple[str, str]]:
    rank, shape = _RANKS[given.layout] if given.layout else (len(each.shape), "")
    if len(each.shape) != rank:
        yield (
            "layout",
            f"{given.layout} arrives where the network takes {shape}, and `shape` is {_list(each.shape)}: leave it out",
        )


def _resize(each: InputConfig, given: PreprocessConfig) -> Iterator[tuple[str, str]]:
    if given.resize is None:
        return
    target = each.shape[-2:]
    dynamic = " and ".join(size for size in target if isinstance(size, str))
    if len(each.shape) not in {3, 4} or (len(each.shape) == 3 and isinstance(each.shape[0], str)):
        shapes = "[batch, channels, height, width] or [channels, height, width]"
        yield "resize", f"is of images, {shapes}, and `shape` is {_list(each.shape)}: leave it out"
    elif dynamic:
        message = f"goes to the height and width in `shape`, and {dynamic} there may vary: write numbers there"
        yield "resize", f"{message}, or leave resize out"
    elif given.resize == target:
        message = f"says what arrives, and the network takes {target[0]} × {target[1]} already: give the sizes of what"
        yield "resize", f"{message} arrives, as in resize: [height, width] with both in dimensions; or leave it out"


def _numbers(each: InputConfig, given: PreprocessConfig) -> Iterator[tuple[str, str]]:
    if any(abs(number) < _SMALLEST for number in _listed(given.scale)):
        yield "scale", "is what is divided by, and 0 cannot be: give the standard deviation that was trained with"
    channels = each.shape[each.channel_axis] if each.shape else 1
    for key, value in (("mean", given.mean), ("scale", given.scale)):
        if not isinstance(value, list) or len(value) == channels:
            continue
        if isinstance(channels, str):
            yield key, f"has {len(value)} numbers, and the number of channels, {channels}, may vary: give one number"
        else:
            message = f"has {len(value)} numbers, and there are {channels} channels in `shape`, {_list(each.shape)}"
            yield key, f"{message}: give one number, or {channels}"


def _range(each: InputConfig, given: PreprocessConfig) -> Iterator[tuple[str, str]]:
    """Yield where numbers of values in 0 to 1, as torchvision has them, would be taken from values in 0 to 255."""
    limits, written = DTYPES[each.arriving_dtype], given.model_fields_set
    stated = {key: getattr(given, key) for key in ("mean", "scale") if key in written}
    if limits is None or not stated or "divide_by" in written:
        return
    if all(abs(number) <= 1 for value in stated.values() for number in _listed(value)):
        least, divisor = (0, limits[1]) if limits[0] == 0 else (-1, limits[1] + 1)
        message = f"is of values from {least} to 1, and {each.arriving_dtype} arrives: add divide_by: {divisor}, which"
        yield next(iter(stated)), f"{message} comes first; or divide_by: 1 if it is meant so"


def _is_idle(each: InputConfig, given: PreprocessConfig) -> bool:
    numbers = (given.divide_by, *_listed(given.scale))
    is_same = each.arriving_dtype == each.dtype and given.layout is None and given.resize is None
    return is_same and set(numbers) == {1} and set(_listed(given.mean)) == {0}


def _listed(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _list(shape: list[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
