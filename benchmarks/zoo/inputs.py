"""What goes into a network of transformers: by the names of its forward's parameters, with sizes that its config states, the widest first."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

Declared = tuple[dict[str, dict[str, Any]], dict[str, dict[str, int]]]
"""The `inputs` and `dimensions` of a config."""

Spec = tuple[dict[str, Any], dict[str, Any]]

BATCH = {"min": 1, "max": 4}
_LENGTHS = (
    {"min": 1, "max": 24},
    {"min": 2, "max": 24},
    {"min": 8, "max": 32, "multiple_of": 8},
    {"min": 16, "max": 64, "multiple_of": 16},
    16,
    32,
    64,
)
_SIDES = ({"min": 32, "max": 96, "multiple_of": 32}, {"min": 64, "max": 192, "multiple_of": 64}, None)
_SAMPLES = (
    {"min": 1600, "max": 4000},
    {"min": 1920, "max": 5760, "multiple_of": 1920},
    {"min": 3200, "max": 9600, "multiple_of": 3200},
    4800,
    16000,
)
_FRAMES = ({"min": 16, "max": 64}, {"min": 16, "max": 64, "multiple_of": 16}, 64, 128, None)


def declarations(model: Any) -> Iterator[Declared]:
    """Yield what may be declared for a network, the best first: more inputs before fewer, dynamic sizes before fixed ones."""
    for names in _choices(model):
        specs = {name: _specs(name, model) for name in names}
        if not all(specs.values()):
            continue
        seen = set()
        for chosen in product(*specs.values()):
            inputs, dimensions = {}, {"batch": BATCH}
            for name, (spec, sizes) in zip(specs, chosen, strict=True):
                inputs[name] = spec
                dimensions |= {each: size for each, size in sizes.items() if each not in dimensions}
            inputs = _fixed_where_told(inputs, dimensions)
            dimensions = {name: size for name, size in dimensions.items() if isinstance(size, dict)}
            if repr((inputs, dimensions)) not in seen:
                seen.add(repr((inputs, dimensions)))
                yield inputs, dimensions


def _choices(model: Any) -> list[tuple[str, ...]]:
    """Return sets of inputs to try: the main one, what a forward requires, and what usually comes with it."""
    parameters = inspect.signature(model.forward).parameters
    required = [
        name
        for name, each in parameters.items()
        if each.default is each.empty
        and each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}
    ]
    main = model.main_input_name if model.main_input_name in parameters else next(iter(parameters), "input_ids")
    there = set(parameters)
    found = []
    base = tuple(dict.fromkeys([main, *required]))
    with_mask = (
        (*base, "attention_mask")
        if "attention_mask" in there and ("input_ids" in base) and "attention_mask" not in base
        else base
    )
    for own in dict.fromkeys((with_mask, base)):
        decoded = (
            (*own, "decoder_input_ids") if "decoder_input_ids" in there and "decoder_input_ids" not in own else own
        )
        for more in (
            (),
            ("bbox",),
            ("pixel_values",),
            ("input_ids",),
            ("input_ids", "pixel_values"),
            ("visual_feats", "visual_pos"),
            ("input_features",),
            ("decoder_input_values",),
        ):
            if set(more) <= there:
                found += [
                    (*each, *(name for name in more if name not in each)) for each in dict.fromkeys((decoded, own))
                ]
    return list(dict.fromkeys(found))


def _of(config: Any, *names: str) -> Any:
    """Return the first of some fields that a config, or a part of it, has."""
    parts = [
        config,
        *(each for each in vars(config).values() if hasattr(each, "to_dict") and hasattr(each, "model_type")),
    ]
    for name in names:
        for part in parts:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return None


def _specs(name: str, model: Any) -> list[Spec]:
    """Return how an input may be declared; nothing for one that is not known."""
    make = _KNOWN.get(name)
    return list(make(model.config)) if make else []


def _ids(config: Any, size: str, sizes: Sequence[Any]) -> list[Spec]:
    vocabulary = _of(config, "vocab_size", "text_vocab_size", "src_vocab_size") or 100
    high = max(6, min(int(vocabulary), 128) - 8)
    return [({"dtype": "int64", "low": 5, "high": high, "shape": ["batch", size]}, {size: each}) for each in sizes]


def _floats(shape: Sequence[Any], size: str, sizes: Sequence[Any]) -> list[Spec]:
    return [({"dtype": "float32", "shape": ["batch", *shape]}, {size: each}) for each in sizes]


def _sound(config: Any) -> list[Spec]:
    channels = _of(config, "audio_channels")
    flat = _floats(["samples"], "samples", _SAMPLES)
    deep = _floats([channels or 1, "samples"], "samples", _SAMPLES)
    mels, longest = _of(config, "num_mel_bins") or 80, _of(config, "max_length") or 64
    return [*(deep + flat if channels else flat + deep), *_floats(["frames", mels], "frames", (longest, 64))]


def _features(config: Any) -> list[Spec]:
    names = "num_mel_bins", "feature_size", "feature_projection_input_dim", "input_feat_per_channel", "input_dim"
    mels = _of(config, *names) or 80
    longest = 2 * (_of(config, "max_source_positions", "max_position_embeddings") or 64)
    frames = [size or longest for size in _FRAMES]
    return _floats([mels, "frames"], "frames", frames) + _floats(["frames", mels], "frames", frames)


def _series(config: Any) -> list[Spec]:
    length, channels = _of(config, "context_length") or 16, _of(config, "num_input_channels", "input_size") or 1
    return [({"dtype": "float32", "shape": ["batch", length, *more]}, {}) for more in ([channels], [])]


def _codes(config: Any) -> list[Spec]:
    books = _of(config, "num_quantizers", "num_codebooks") or 1
    spec = {"dtype": "int64", "low": 0, "high": 32, "shape": ["batch", books, "length"]}
    return [(spec, {"length": size}) for size in _LENGTHS]


def _images(config: Any) -> list[Spec]:
    stated = _of(config, "image_size", "img_size", "input_image_size") or 64
    height, width = (stated if isinstance(stated, list | tuple) else (stated, stated))[:2]
    channels = _of(config, "num_channels", "in_channels", "in_chans", "num_input_channels") or 3
    frames = _of(config, "num_frames", "frames") or 4
    found = []
    for side in _SIDES:
        sizes = {"height": side, "width": side} if side else {"height": height, "width": width}
        found.append(({"dtype": "float32", "shape": ["batch", channels, "height", "width"]}, sizes))
    fixed = {"height": height, "width": width}
    found.append(({"dtype": "float32", "shape": ["batch", frames, channels, "height", "width"]}, fixed))
    found.append(({"dtype": "float32", "shape": ["batch", channels, frames, "height", "width"]}, fixed))
    return found


def _fixed_where_told(inputs: Mapping[str, dict[str, Any]], dimensions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Write a size that may not change into the shapes."""
    fixed = {name: size for name, size in dimensions.items() if isinstance(size, int)}
    return {name: {**spec, "shape": [fixed.get(each, each) for each in spec["shape"]]} for name, spec in inputs.items()}


_KNOWN: Mapping[str, Callable[[Any], Sequence[Spec]]] = {
    "input_ids": lambda config: _ids(config, "length", _LENGTHS),
    "inputs": lambda config: _ids(config, "length", _LENGTHS),
    "decoder_input_ids": lambda config: _ids(config, "target", (*_LENGTHS[:2], 8)),
    "attention_mask": lambda _: [({"dtype": "int64", "shape": ["batch", "length"], "values": "mask"}, {})],
    "bbox": lambda _: [({"dtype": "int64", "shape": ["batch", "length", 4], "values": "zeros"}, {})],
    "pixel_values": _images,
    "pixel_values_videos": _images,
    "input_values": _sound,
    "input_features": _features,
    "past_values": _series,
    "inputs_embeds": lambda config: _floats(
        ["length", _of(config, "hidden_size", "d_model") or 32], "length", _LENGTHS
    ),
    "query_embeds": lambda config: _floats(["length", config.hidden_size], "length", _LENGTHS),
    "visual_feats": lambda config: [({"dtype": "float32", "shape": ["batch", 5, config.visual_feat_dim]}, {})],
    "visual_pos": lambda config: [
        ({"dtype": "float32", "shape": ["batch", 5, config.visual_pos_dim], "low": 0, "high": 1}, {})
    ],
    "spectrogram": lambda config: _floats(
        ["length", _of(config, "num_mel_channels", "model_in_dim", "num_mel_bins") or 80], "length", _LENGTHS
    ),
    "audio_codes": _codes,
}
"""How an input may be declared, by its name: its spec, and the sizes that its dimensions may have."""
