"""Misfits drawn at random over the shipped networks and a dozen small ones: any number of them, from any seed, none
chosen by hand."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import ArchitectureError
from tests.rebuild.doctor.misfits import (
    BertEncoder,
    EfficientNetLite,
    Misfit,
    PNet,
    ResNet,
    SileroVAD,
    SimpleNet,
    state_of,
)
from tests.rebuild.doctor.schemes import SCHEMES, Scheme
from tests.rebuild.doctor.zoo import ZOO

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
WRAPPERS = ("module.", "_orig_mod.")
MAKERS: tuple[Callable[..., nn.Module], ...] = (SimpleNet, BertEncoder, ResNet, EfficientNetLite, PNet, SileroVAD)
EVERY = (*MAKERS, *ZOO)
NEUTRAL = (
    ("a", "b", "c", "d"), ("first", "second", "third", "fourth"), ("alpha", "beta", "gamma", "delta"), ("x", "y", "z", "w"),
    ("foo", "bar", "baz", "qux"), ("red", "green", "blue", "white"), ("left_one", "right_one", "top_one", "last_one"),
    ("p0", "q1", "r2", "s3"), ("module_a", "module_b", "module_c", "module_d"), ("layer_x", "layer_y", "layer_z", "layer_w"),
    ("main", "other", "third", "rest"), ("f4c1", "9be0", "77ad", "0d3e"),
)  # fmt: skip
"""Names that say nothing of what they name, in sets."""
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
        case = _draw(source, causes, source.choice(EVERY))
        if case is not None and case.causes == len(causes):
            made.setdefault(f"{case.name} {case.configured}", case)
    return list(made.values())


def is_told(case: Misfit) -> bool:
    """Whether names or structure tell the place of each tensor of a case that `draw` made. It renames to neutral words, so
    that they do not:

    - where two modules of the network hold the same names with the same shapes (with another argument, the same ranks), and
      all that is in both was renamed, at their level or below it,
    - where the whole network is there twice, each under a prefix.
    """
    if case.copied == "" and case.prefix and case.prefix not in WRAPPERS:
        return False
    resized = any(case.configured[name] != value for name, value in case.real.items())
    held = [
        tuple(sorted((rest, len(shape) if resized else shape) for rest, shape in case.below(module).items()))
        for module in _renamed_modules(case)
    ]
    return len(set(held)) == len(held)


def _renamed_modules(case: Misfit) -> list[str]:
    """Return the modules all of whose tensors were renamed, none of them inside a renamed one."""
    above = {ours.rsplit(".", count)[0] for ours in case.rename for count in range(ours.count(".") + 1)}
    return [
        module
        for module in above
        if all(any(f"{module}.{rest}".startswith(f"{ours}.") for ours in case.rename) for rest in case.below(module))
    ]


@dataclass(frozen=True)
class Named:
    """A misfit whose file has the names of a scheme."""

    scheme: Scheme
    case: Misfit


def draw_named(seed: int, count: int) -> list[Named]:
    """Return files with the names of other libraries, in all layers of a stack; a third with another argument or a prefix."""
    source = random.Random(seed)
    made: dict[str, Named] = {}
    while len(made) < count:
        scheme = source.choice(SCHEMES)
        fixed = dict(scheme.arguments)
        real = {**_values(source, scheme.make), **fixed}
        configured = dict(real)
        further = source.choice(("argument", "prefix", "", "", "", ""))
        free = [name for name in real if name not in fixed and name in ZOO.get(scheme.make, {})]
        if further == "argument" and free:
            name = source.choice(free)
            configured[name] = source.choice(ZOO[scheme.make][name])
        names = _names(scheme.make, real)
        prefix = source.choice(PREFIXES[:2]) if further == "prefix" else ""
        rename = _written_out(scheme.rename, names)
        case = Misfit(scheme.make, configured, real, rename, prefix, sorted=source.random() < 0.7)
        made.setdefault(f"{scheme.make} {scheme.name} {configured} {real} {prefix} {case.sorted}", Named(scheme, case))
    return list(made.values())


def draw_twins(seed: int, count: int) -> list[Misfit]:
    """Return files in which modules that hold the same have neutral names, in all layers of a stack: nothing tells which is which."""
    source = random.Random(seed)
    made: dict[str, Misfit] = {}
    while len(made) < count:
        make = source.choice(EVERY)
        try:
            arguments = _values(source, make)
            names = _names(make, arguments)
        except ArchitectureError:
            continue
        groups = _alike(Misfit(make, arguments, arguments), names)
        if not groups:
            continue
        group = source.choice(groups)
        twins = source.sample(group, source.randint(2, min(4, len(group))))
        words = list(source.choice(NEUTRAL)[: len(twins)])
        source.shuffle(words)
        if _letters(*words) & _letters(*twins):
            continue  # names in part say what they name
        parents = {ours: ours.rpartition(".")[0] for ours in twins}
        pattern = {ours: f"{parents[ours]}.{word}".removeprefix(".") for ours, word in zip(twins, words, strict=True)}
        if source.random() < 0.7:
            pattern = {_starred(parents[ours], ours): _starred(parents[ours], new) for ours, new in pattern.items()}
        case = Misfit(make, arguments, arguments, _written_out(pattern, names), sorted=source.random() < 0.7)
        if len(set(case.homes)) == len(case.state) and _is_open_everywhere(case):
            made.setdefault(f"{case.name} {arguments}", case)
    return list(made.values())


def _alike(case: Misfit, names: list[str]) -> list[list[str]]:
    """Return modules in groups that hold the same names and shapes, none of which says by itself which one it is."""
    groups: dict[object, list[str]] = defaultdict(list)
    for module in sorted(
        {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    ):
        parent = re.sub(r"\d+", "*", module.rpartition(".")[0])
        groups[parent, tuple(sorted(case.below(module).items()))].append(module)
    return [
        group
        for modules in groups.values()
        if len(group := [each for each in modules if each.rpartition(".")[0] == modules[0].rpartition(".")[0]]) > 1
    ]


def _letters(*names: str) -> set[str]:
    return {word for name in names for word in re.findall(r"[a-z]+", name.rpartition(".")[2])}


def _is_open_everywhere(case: Misfit) -> bool:
    """Whether no layer has only one of the twins, or has them with other shapes: that would tell them in all layers."""
    layers: dict[str, list[object]] = defaultdict(list)
    for ours in case.rename:
        layers[ours.rpartition(".")[0]].append(tuple(sorted(case.below(ours).items())))
    return all(len(held) > 1 and len(set(held)) == 1 for held in layers.values())


def _starred(parent: str, module: str) -> str:
    """Put `*` for the numbers by themselves in the name of what a module is in."""
    above = ".".join("*" if part.isdecimal() else part for part in parent.split("."))
    return f"{above}{module[len(parent) :]}"


def _written_out(pattern: Mapping[str, str], names: list[str]) -> dict[str, str]:
    """Return the renames that a pattern with `*` stands for, for all modules that there are."""
    found: dict[str, str] = {}
    for ours, theirs in pattern.items():
        expression = re.compile(re.escape(ours).replace(r"\*", r"(\d+)") + r"(?=\.|$)")
        for match in filter(None, map(expression.match, names)):
            numbers = iter(match.groups())
            found[match.group()] = re.sub(r"\*", lambda _, numbers=numbers: next(numbers), theirs)
    return found


def draw_unfit(seed: int, count: int) -> list[tuple[str, Misfit, dict[str, torch.Tensor]]]:
    """Return files that no change of a config makes fit, each with what was done to it and the network that it is of."""
    source = random.Random(seed)
    made: list[tuple[str, Misfit, dict[str, torch.Tensor]]] = []
    while len(made) < count:
        name, spoil = source.choice(list(SPOILS.items()))
        # The first half of a stack of layers may be the whole of a smaller network.
        makers = {"fused query, key and value": (BertEncoder,), "half missing": MAKERS}.get(name, EVERY)
        make = source.choice(makers)
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


def _draw(source: random.Random, causes: tuple[str, ...], make: Callable[..., nn.Module]) -> Misfit | None:
    if "argument" in causes and make in (PNet, SileroVAD):
        return None  # they take none
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
    return Misfit(make, configured, real, rename, prefix, extra, copied, source.random() < 0.5)


def _names(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> list[str]:
    return list(state_of(make, tuple(arguments.items())))


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
    return {name: source.choice(values) for name, values in ZOO.get(make, {}).items()}


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
