"""What goes into a network of transformers: by the names of its forward's parameters, with sizes that its config states, the widest first."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Declared: TypeAlias = "tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]"
"""The `inputs` and `dimensions` of a config."""

Spec: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

_FIXED_LENGTHS = (16, 32, 64)
_LONGEST = 512
_SPARE = 2
"""Positions that a network may keep for itself, as RoBERTa does."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """How far sizes are declared to go, at most: `longest` tokens, a `side` of images, `samples` of sound; `tokens` bounds the vocabulary; `any_image`: images of any size first, though a config states one."""

    batch: int
    longest: int
    side: int
    samples: int
    tokens: int | None = None
    any_image: bool = False


AS_STATED = Ranges(batch=8, longest=_LONGEST, side=512, samples=16_000)
"""As far as a config states, where that is not too far to be tried."""


def declarations(model: Any, ranges: Ranges = AS_STATED) -> Iterator[Declared]:
    """Yield what may be declared for a network, the best first: more inputs before fewer, dynamic sizes before fixed ones."""
    for names in _choices(model):
        specs = {name: _specs(name, model, ranges) for name in names}
        if not all(specs.values()):
            continue
        seen = set()
        for chosen in product(*specs.values()):
            inputs, dimensions = {}, {"batch": {"min": 1, "max": ranges.batch}}
            for name, (spec, sizes) in zip(specs, chosen, strict=True):
                inputs[name] = spec
                dimensions |= {each: size for each, size in sizes.items() if each not in dimensions}
            inputs = _fixed_where_told(inputs, dimensions)
            dimensions = {name: size for name, size in dimensions.items() if isinstance(size, dict)}
            if repr((inputs, dimensions)) not in seen:
                seen.add(repr((inputs, dimensions)))
                yield inputs, dimensions


def steps(model: Any, past: Mapping[str, Sequence[int]], ranges: Ranges = AS_STATED) -> Iterator[Declared]:
    """Yield what may be declared for a step of a decoder: at most as many tokens before as new ones, and together what it states.

    `past` is what it goes on from: names, and shapes of one row and one token.
    """
    longest, *others = [each if isinstance(each, int) else each["max"] for each in _lengths(model.config, ranges)]
    lengths = sorted({longest, *(each for each in others if each < longest)}, reverse=True)
    for ids, sizes in _ids(model.config, ranges, "sequence", lengths):
        total = sizes["sequence"]
        before = total // 2
        dimensions = {
            "batch": {"min": 1, "max": ranges.batch},
            "sequence": {"min": 1, "max": total - before},
            "past": {"min": 0, "max": before},
            "total": {"min": 1, "max": total, "formula": "past + sequence"},
        }
        tensors = {name: ["batch", *middle, "past", width] for name, (_, *middle, _, width) in past.items()}
        mask = {"attention_mask": {"dtype": "int64", "values": "mask", "shape": ["batch", "total"]}}
        kept = {name: {"dtype": "float32", "shape": shape} for name, shape in tensors.items()}
        yield {"input_ids": ids, **mask, **kept}, dimensions


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
    with_types = (
        (*with_mask, "token_type_ids") if _has_types(model, there) and "attention_mask" in with_mask else with_mask
    )
    for own in dict.fromkeys((with_types, with_mask, base)):
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


def _has_types(model: Any, there: set[str]) -> bool:
    """Tell whether a network knows a first and a second text, as a tokenizer of pairs tells them."""
    return "token_type_ids" in there and (getattr(model.config, "type_vocab_size", None) or 0) > 1


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


def _specs(name: str, model: Any, ranges: Ranges) -> list[Spec]:
    """Return how an input may be declared; nothing for one that is not known."""
    make = _KNOWN.get(name)
    return list(make(model.config, ranges)) if make else []


def _lengths(config: Any, ranges: Ranges, *names: str) -> list[Any]:
    """Return sizes of a sequence to try: up to what the config states as its longest, without what it may keep for itself, or less."""
    stated = _of(
        config, *names, "max_position_embeddings", "n_positions", "max_target_positions", "seq_length", "max_seq_len"
    )
    longest = min(stated, ranges.longest) if isinstance(stated, int) and stated > _SPARE else ranges.longest
    return [
        *({"min": 1, "max": each} for each in dict.fromkeys((longest, longest - _SPARE)) if each > 1),
        {"min": 2, "max": longest},
        {"min": 8, "max": max(32, longest // 8 * 8), "multiple_of": 8},
        {"min": 16, "max": max(64, longest // 16 * 16), "multiple_of": 16},
        *_FIXED_LENGTHS,
    ]


def _ids(config: Any, ranges: Ranges, size: str, sizes: Sequence[Any]) -> list[Spec]:
    """Return tokens: all that there are, or without the first and last ones, which mean something to some networks."""
    stated = int(_of(config, "vocab_size", "text_vocab_size", "src_vocab_size") or 100)
    vocabulary = min(stated, ranges.tokens or stated)
    inner = (5, max(6, vocabulary - 8))
    bounds = (inner,) if ranges.tokens else ((0, vocabulary), inner)
    return [
        ({"dtype": "int64", "low": low, "high": high, "shape": ["batch", size]}, {size: each})
        for low, high in bounds
        for each in sizes
    ]


def _floats(shape: Sequence[Any], size: str, sizes: Sequence[Any]) -> list[Spec]:
    return [({"dtype": "float32", "shape": ["batch", *shape]}, {size: each}) for each in sizes]


def _sound(config: Any, ranges: Ranges) -> list[Spec]:
    channels = _of(config, "audio_channels")
    most = ranges.samples
    samples = (
        {"min": 1600, "max": most},
        {"min": 1920, "max": max(5760, most // 1920 * 1920), "multiple_of": 1920},
        {"min": 3200, "max": max(9600, most // 3200 * 3200), "multiple_of": 3200},
        4800,
        16000,
    )
    flat = _floats(["samples"], "samples", samples)
    deep = _floats([channels or 1, "samples"], "samples", samples)
    mels, longest = _of(config, "num_mel_bins") or 80, _of(config, "max_length") or 64
    return [*(deep + flat if channels else flat + deep), *_floats(["frames", mels], "frames", (longest, 64))]


def _features(config: Any, _: Ranges) -> list[Spec]:
    names = "num_mel_bins", "feature_size", "feature_projection_input_dim", "input_feat_per_channel", "input_dim"
    mels = _of(config, *names) or 80
    longest = 2 * (_of(config, "max_source_positions", "max_position_embeddings") or 64)
    frames = [{"min": 16, "max": 64}, {"min": 16, "max": 64, "multiple_of": 16}, 64, 128, longest]
    return _floats([mels, "frames"], "frames", frames) + _floats(["frames", mels], "frames", frames)


def _series(config: Any, _: Ranges) -> list[Spec]:
    length, channels = _of(config, "context_length") or 16, _of(config, "num_input_channels", "input_size") or 1
    return [({"dtype": "float32", "shape": ["batch", length, *more]}, {}) for more in ([channels], [])]


def _codes(config: Any, ranges: Ranges) -> list[Spec]:
    books = _of(config, "num_quantizers", "num_codebooks") or 1
    spec = {"dtype": "int64", "low": 0, "high": 32, "shape": ["batch", books, "length"]}
    return [(spec, {"length": size}) for size in _lengths(config, ranges)]


def _images(config: Any, ranges: Ranges) -> list[Spec]:
    stated = _of(config, "image_size", "img_size", "input_image_size")
    height, width = (stated if isinstance(stated, list | tuple) else (stated or 64,) * 2)[:2]
    channels = _of(config, "num_channels", "in_channels", "in_chans", "num_input_channels") or 3
    frames = _of(config, "num_frames", "frames") or 4
    found = []
    side_of_32 = {"min": 32, "max": max(96, min(height, ranges.side) // 32 * 32), "multiple_of": 32}
    side_of_64 = {"min": 64, "max": max(192, min(height, ranges.side) // 64 * 64), "multiple_of": 64}
    dynamic = (side_of_32, side_of_64)
    # What prepares images gives them the size that is stated, and a network of one size is exported in a tenth of the time.
    for side in (*dynamic, None) if ranges.any_image or stated is None else (None, *dynamic):
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


def _hidden(config: Any, ranges: Ranges) -> list[Spec]:
    width = _of(config, "hidden_size", "d_model") or 32
    return _floats(["length", width], "length", _lengths(config, ranges))


def _spectrogram(config: Any, ranges: Ranges) -> list[Spec]:
    mels = _of(config, "num_mel_channels", "model_in_dim", "num_mel_bins") or 80
    return _floats(["length", mels], "length", _lengths(config, ranges))


def _targets(config: Any, ranges: Ranges) -> list[Spec]:
    return _ids(config, ranges, "target", [*_lengths(config, ranges, "max_target_positions")[:3], 8])


def _tokens(config: Any, ranges: Ranges) -> list[Spec]:
    return _ids(config, ranges, "length", _lengths(config, ranges))


def _whole(shape: Sequence[Any], **spec: Any) -> Callable[[Any, Ranges], list[Spec]]:
    return lambda *_: [({"dtype": "int64", "shape": ["batch", *shape], **spec}, {})]


_KNOWN: Mapping[str, Callable[[Any, Ranges], Sequence[Spec]]] = {
    "input_ids": _tokens,
    "inputs": _tokens,
    "decoder_input_ids": _targets,
    "attention_mask": _whole(["length"], values="mask"),
    "token_type_ids": _whole(["length"], low=0, high=2),
    "bbox": _whole(["length", 4], values="zeros"),
    "pixel_values": _images,
    "pixel_values_videos": _images,
    "input_values": _sound,
    "input_features": _features,
    "past_values": _series,
    "inputs_embeds": _hidden,
    "query_embeds": _hidden,
    "visual_feats": lambda config, _: [({"dtype": "float32", "shape": ["batch", 5, config.visual_feat_dim]}, {})],
    "visual_pos": lambda config, _: [
        ({"dtype": "float32", "shape": ["batch", 5, config.visual_pos_dim], "low": 0, "high": 1}, {})
    ],
    "spectrogram": _spectrogram,
    "audio_codes": _codes,
}
"""How an input may be declared, by its name: its spec, and the sizes that its dimensions may have."""
