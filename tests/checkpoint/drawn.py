"""Misfits drawn at random over the shipped networks: any number of them, from any seed, none chosen by hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import ArchitectureError
from tests.checkpoint.misfits import (
    BertEncoder,
    EfficientNetLite,
    Misfit,
    PNet,
    ResNet,
    SileroVAD,
    SimpleNet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "backbone.", "student.", "teacher.", "ema_model.", "module.model.",
    "model.backbone.", "_orig_mod.module.", "generator.", "core.net.",
)  # fmt: skip
WORDS = (
    "head", "classifier", "stem", "trunk", "proj", "dense", "block", "features.0", "features.7", "stage", "tower", "main",
    "output_layer", "first", "decoder.final", "norm_a", "layer_x", "branch.a", "body", "cell",
)  # fmt: skip
EXTRAS = (
    "criterion", "ema.decay", "aux_head", "loss_fn.centers", "optimizer_state", "projector.0", "discriminator.fc", "logit_scale",
)  # fmt: skip
MAKERS: tuple[Callable[..., nn.Module], ...] = (SimpleNet, BertEncoder, ResNet, EfficientNetLite, PNet, SileroVAD)
PAIRS = (
    ("argument", "argument"), ("argument", "rename"), ("argument", "prefix"), ("argument", "extra"), ("rename", "prefix"),
    ("rename", "extra"), ("prefix", "extra"), ("argument", "copy"), ("prefix", "copy"),
)  # fmt: skip


def draw(seed: int, count: int) -> list[Misfit]:
    """Return `count` distinct misfits, every third with two causes."""
    source = random.Random(seed)
    made: dict[str, Misfit] = {}
    while len(made) < count:
        causes = (
            source.choice(PAIRS)
            if len(made) % 3 == 2
            else (source.choice(("argument", "argument", "rename", "extra", "copy")),)
        )
        case = _draw(source, causes)
        if case is not None and case.causes == len(causes):
            made.setdefault(f"{case.name} {case.configured}", case)
    return list(made.values())


def draw_unfit(seed: int, count: int) -> list[tuple[str, Misfit, dict[str, torch.Tensor]]]:
    """Return files that no change of a config makes fit, each with what was done to it and the network that it is of."""
    source = random.Random(seed)
    made: list[tuple[str, Misfit, dict[str, torch.Tensor]]] = []
    while len(made) < count:
        name, spoil = source.choice(list(SPOILS.items()))
        make = BertEncoder if name == "fused query, key and value" else source.choice(MAKERS)
        case = _draw(source, ("argument",) if make in MAKERS[:4] and source.random() < 0.5 else (), make)
        if case is not None:
            made.append((name, case, spoil(source, case.file())))
    return made


def _transposed(source: random.Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    uneven = [name for name, each in state.items() if each.ndim >= 2 and each.shape[0] != each.shape[1]]
    turned = set(source.sample(uneven, source.randint(1, len(uneven))))
    return {name: each.transpose(0, 1) if name in turned else each for name, each in state.items()}


def _fused(_: random.Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = (".self.query.", ".self.key.", ".self.value.")
    kept = {name: each for name, each in state.items() if not any(part in name for part in parts)}
    fused = {
        name.replace(parts[0], ".self.qkv."): torch.cat([each] * 3) for name, each in state.items() if parts[0] in name
    }
    return kept | fused


def _half(source: random.Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = list(state)
    start = source.choice((0, len(names) // 2))
    return {name: state[name] for name in names[start : start + len(names) // 2]}


def _normalised(source: random.Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    chosen = source.choice([name for name, each in state.items() if name.endswith("weight") and each.ndim >= 2])
    return {name: each for name, each in state.items() if name != chosen} | {
        f"{chosen}_g": torch.empty(state[chosen].shape[0], 1, device="meta"),
        f"{chosen}_v": state[chosen],
    }


def _one_missing(source: random.Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lost = source.choice([name for name in state if not name.endswith("num_batches_tracked")])
    return {name: each for name, each in state.items() if name != lost}


SPOILS = {
    "transposed": _transposed,
    "fused query, key and value": _fused,
    "half missing": _half,
    "weight normalisation": _normalised,
    "one tensor missing": _one_missing,
}


def _draw(
    source: random.Random, causes: tuple[str, ...], make: Callable[..., nn.Module] | None = None
) -> Misfit | None:
    make = make or source.choice(MAKERS[:4] if "argument" in causes else MAKERS)
    configured = _values(source, make)
    real = dict(configured)
    for _ in range(causes.count("argument")):
        unchanged = [name for name, value in real.items() if value == configured[name]]
        name = source.choice(
            [each for each in unchanged if each not in {"heads", "groups", "width_per_group"}] or unchanged
        )
        real[name] = _values(source, make)[name]
    try:
        names = _names(make, real)
    except ArchitectureError:
        return None  # no such network
    rename = _rename(source, names) if "rename" in causes else {}
    prefix = source.choice(PREFIXES) if "prefix" in causes else ""
    extra = tuple(source.sample(EXTRAS, source.randint(1, 2))) if "extra" in causes else ()
    copied = source.choice((*_modules(names), "")) if "copy" in causes else None
    return Misfit(make, configured, real, rename, prefix, extra, copied)


def _names(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> list[str]:
    with torch.device("meta"):
        return list(make(**arguments).state_dict())


def _values(source: random.Random, make: Callable[..., nn.Module]) -> dict[str, Any]:
    """Return arguments that somebody may have chosen."""
    if make is SimpleNet:
        return {name: source.randint(1, 900) for name in ("input_size", "hidden_size", "output_size")}
    if make is BertEncoder:
        return {
            "vocab_size": source.randint(50, 3000),
            "hidden_size": 4 * source.randint(4, 64),
            "layers": source.randint(1, 14),
            "heads": 4,
            "intermediate_size": source.randint(30, 600),
            "max_positions": source.choice((32, 64, 77, 128, 130, 256, 512, 514)),
            "type_vocab_size": source.randint(1, 4),
        }
    if make is ResNet:
        depth = source.choice((18, 34, 50, 101, 152))
        wide = depth >= 50 and source.random() < 0.3
        return {
            "depth": depth,
            "num_classes": source.choice((1, 2, 10, 37, 100, 365, 1000, source.randint(3, 2000))),
            "groups": 1,
            "width_per_group": 128 if wide else 64,
        }
    if make is EfficientNetLite:
        return {
            "variant": source.randint(0, 4),
            "num_classes": source.choice((1, 10, 120, 1000, source.randint(3, 2000))),
        }
    return {}


def _rename(source: random.Random, names: list[str]) -> dict[str, str]:
    """Return ours → theirs for one to three modules, none inside another."""
    modules = _modules(names)
    chosen: list[str] = []
    for module in source.sample(modules, len(modules)):
        if len(chosen) < source.randint(1, 3) and not any(_related(module, other) for other in chosen):
            chosen.append(module)
    words = source.sample(WORDS, len(chosen))
    taken = {name.partition(".")[0] for name in names}
    return {
        ours: f"my_{word}" if word.partition(".")[0] in taken else word
        for ours, word in zip(chosen, words, strict=True)
    }


def _modules(names: list[str]) -> list[str]:
    """Return the modules of the two outer levels."""
    depths = ((name, depth) for name in names for depth in (1, 2) if name.count(".") >= depth)
    return sorted({".".join(name.split(".")[:depth]) for name, depth in depths})


def _related(first: str, second: str) -> bool:
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")
