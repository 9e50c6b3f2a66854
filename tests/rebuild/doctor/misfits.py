"""Generated misfits over the shipped networks: what a file holds, what the config says, and where each tensor belongs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch

from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.efficientnet import EfficientNetLite
from pipeline.architectures.facenet import PNet
from pipeline.architectures.resnet import ResNet
from pipeline.architectures.silero_vad import SileroVAD
from pipeline.architectures.simplenet import SimpleNet
from pipeline.rebuild.doctor.diagnosis import diagnose
from pipeline.rebuild.doctor.difference import Layout, layout_of
from pipeline.rebuild.doctor.prefixes import align_with_exceptions
from pipeline.rebuild.shapes import shapes_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from pipeline.rebuild.doctor.misfit import Misfit as Told

SIMPLE = {"input_size": 10, "hidden_size": 20, "output_size": 2}
BERT = {
    "vocab_size": 300, "hidden_size": 48, "layers": 3, "heads": 4, "intermediate_size": 96, "max_positions": 64,
    "type_vocab_size": 2,
}  # fmt: skip
RESNET = {"depth": 18, "num_classes": 1000, "groups": 1, "width_per_group": 64}
LITE = {"variant": 0, "num_classes": 1000}


@cache
def state_of(make: Callable[..., nn.Module], arguments: tuple[tuple[str, Any], ...]) -> Mapping[str, torch.Tensor]:
    """Return a network's state dict, without data."""
    with shapes_only():
        return make(**dict(arguments)).state_dict()


@dataclass(frozen=True)
class Misfit:
    """`real` made the file, `configured` is what the config says; `rename` (ours → theirs), `prefix` and `extra` are
    what else was done to the file's names. `copied` is a module that the file holds twice, "" for all of it (an EMA).
    `sorted` files have their tensors in the order of their names, as .safetensors files do."""

    make: Callable[..., nn.Module]
    configured: Mapping[str, Any]
    real: Mapping[str, Any]
    rename: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    extra: tuple[str, ...] = ()
    copied: str | None = None
    sorted: bool = False

    @property
    def causes(self) -> int:
        arguments = sum(self.configured.get(name) != value for name, value in self.real.items())
        return arguments + bool(self.rename) + bool(self.prefix) + bool(self.extra) + (self.copied is not None)

    @property
    def name(self) -> str:
        changed = [f"{name}={value}" for name, value in self.real.items() if self.configured.get(name) != value]
        return "-".join(
            [self.make.__name__, *changed, *self.rename.values(), self.prefix, *self.extra, self._copy()]
        ).strip("-")

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The state dict under the network's own names."""
        return state_of(self.make, tuple(self.real.items()))

    @cached_property
    def homes(self) -> dict[str, str]:
        """The network's name of each tensor of the file that is its own."""
        return {self.prefix + self._theirs(name): name for name in self.state}

    def file(self) -> dict[str, torch.Tensor]:
        """Return the state dict under the file's names."""
        named = {theirs: self.state[ours] for theirs, ours in self.homes.items()}
        if self.copied is not None:
            below = f"{self.copied}." if self.copied else ""
            copies = {name: tensor.clone() for name, tensor in self.state.items() if name.startswith(below)}
            named |= {f"{self._copy()}.{name.removeprefix(below)}": tensor for name, tensor in copies.items()}
        named |= {f"{name}.weight": torch.empty(3, 5, device="meta") for name in self.extra}
        return {name: named[name] for name in sorted(named)} if self.sorted else named

    def below(self, module: str) -> dict[str, tuple[int, ...]]:
        """Return what the network has below a module, by the rest of the name."""
        return {
            name[len(module) + 1 :]: tuple(tensor.shape)
            for name, tensor in self.state.items()
            if name.startswith(f"{module}.")
        }

    def _copy(self) -> str:
        return "" if self.copied is None else f"{self.copied.replace('.', '_')}_copy" if self.copied else "ema"

    def _theirs(self, name: str) -> str:
        inside = [ours for ours in self.rename if f"{name}.".startswith(f"{ours}.")]
        if not inside:
            return name
        ours = max(inside, key=len)
        return self.rename[ours] + name[len(ours) :]


def _argument_misfits() -> Iterator[Misfit]:
    families: list[tuple[Callable[..., nn.Module], dict[str, Any], list[dict[str, Any]]]] = [
        (SimpleNet, SIMPLE, [
            {"hidden_size": 30}, {"input_size": 7}, {"output_size": 5}, {"hidden_size": 64, "output_size": 10},
            {"input_size": 784, "hidden_size": 128}, {"input_size": 2, "output_size": 10}, {"hidden_size": 1},
            {"input_size": 20, "hidden_size": 10},
        ]),
        (BertEncoder, BERT, [
            {"vocab_size": 500}, {"layers": 6}, {"layers": 1}, {"intermediate_size": 192}, {"max_positions": 512},
            {"type_vocab_size": 1}, {"hidden_size": 64}, {"hidden_size": 96}, {"vocab_size": 301, "layers": 2},
            {"hidden_size": 64, "intermediate_size": 256}, {"layers": 12, "max_positions": 128},
            {"vocab_size": 120, "type_vocab_size": 4}, {"hidden_size": 24, "layers": 4},
        ]),
        (ResNet, RESNET, [
            {"depth": 34}, {"depth": 50}, {"depth": 101}, {"num_classes": 10}, {"num_classes": 1},
            {"depth": 34, "num_classes": 10}, {"depth": 50, "width_per_group": 128},
        ]),
        (EfficientNetLite, LITE, [
            {"variant": 1}, {"variant": 4}, {"num_classes": 10}, {"variant": 1, "num_classes": 10},
        ]),
    ]  # fmt: skip
    for make, configured, changes in families:
        yield from (Misfit(make, configured, {**configured, **change}) for change in changes)


def _name_misfits() -> Iterator[Misfit]:
    dense = {"fc1": "dense1", "fc2": "dense2"}
    blocks = {"encoder.layer": "encoder.blocks", "embeddings": "embed", "pooler": "pool"}
    stem = {"conv1": "stem.conv", "bn1": "stem.norm"}
    pnet = {"conv1": "features.conv1", "prelu1": "features.prelu1"}
    yield Misfit(SimpleNet, SIMPLE, SIMPLE, dense)
    yield Misfit(SimpleNet, SIMPLE, SIMPLE, {"fc2": "head"})
    yield Misfit(SimpleNet, SIMPLE, SIMPLE, {"fc1": "net.0", "fc2": "net.2"})
    yield Misfit(BertEncoder, BERT, BERT, {"encoder.layer": "encoder.blocks"})
    yield Misfit(BertEncoder, BERT, BERT, blocks)
    yield Misfit(BertEncoder, BERT, BERT, {"pooler.dense": "pooler.linear"})
    yield Misfit(ResNet, RESNET, RESNET, stem)
    yield Misfit(ResNet, RESNET, RESNET, {"fc": "classifier"})
    yield Misfit(ResNet, RESNET, RESNET, {f"layer{index}": f"stages.{index - 1}" for index in (1, 2, 3, 4)})
    yield Misfit(EfficientNetLite, LITE, LITE, {"_fc": "classifier"})
    yield Misfit(EfficientNetLite, LITE, LITE, {"_blocks": "blocks"})
    yield Misfit(PNet, {}, {}, pnet)
    yield Misfit(SileroVAD, {}, {}, {"lstm_cell": "rnn"})
    yield Misfit(SileroVAD, {}, {}, {"final_conv": "head.0"})
    for make, configured in ((SimpleNet, SIMPLE), (BertEncoder, BERT), (ResNet, RESNET), (PNet, {}), (SileroVAD, {})):
        yield Misfit(make, configured, configured, extra=("ema.decay", "criterion"))


def _mixed_misfits() -> Iterator[Misfit]:
    """Two causes at once, of different kinds."""
    wide = {**SIMPLE, "hidden_size": 30}
    yield Misfit(SimpleNet, SIMPLE, wide, {"fc1": "dense1", "fc2": "dense2"})
    yield Misfit(SimpleNet, SIMPLE, wide, {"fc2": "head"})
    yield Misfit(SimpleNet, SIMPLE, wide, prefix="module.")
    yield Misfit(SimpleNet, SIMPLE, wide, extra=("criterion",))
    yield Misfit(SimpleNet, SIMPLE, {**SIMPLE, "output_size": 9}, {"fc1": "net.0", "fc2": "net.2"})
    yield Misfit(BertEncoder, BERT, {**BERT, "layers": 5}, {"encoder.layer": "encoder.blocks"})
    yield Misfit(BertEncoder, BERT, {**BERT, "vocab_size": 77}, {"pooler": "pool"})
    yield Misfit(BertEncoder, BERT, {**BERT, "layers": 6}, prefix="module.")
    yield Misfit(BertEncoder, BERT, {**BERT, "hidden_size": 64}, prefix="bert.")
    yield Misfit(BertEncoder, BERT, {**BERT, "max_positions": 128}, extra=("cls.predictions",))
    yield Misfit(ResNet, RESNET, {**RESNET, "num_classes": 10}, prefix="_orig_mod.")
    yield Misfit(ResNet, RESNET, {**RESNET, "depth": 34}, {"fc": "classifier"})
    yield Misfit(ResNet, RESNET, {**RESNET, "num_classes": 7}, {"fc": "head"})
    yield Misfit(ResNet, RESNET, {**RESNET, "depth": 50}, extra=("projector",))
    yield Misfit(EfficientNetLite, LITE, {**LITE, "num_classes": 12}, {"_fc": "classifier"})
    yield Misfit(EfficientNetLite, LITE, {**LITE, "variant": 3}, prefix="model.")
    yield Misfit(EfficientNetLite, LITE, {**LITE, "variant": 2}, {"_fc": "head"})
    yield Misfit(PNet, {}, {}, {"conv1": "features.conv1", "prelu1": "features.prelu1"}, extra=("ema",))
    yield Misfit(SileroVAD, {}, {}, {"lstm_cell": "rnn"}, prefix="module.")


MISFITS = (*_argument_misfits(), *_name_misfits(), *_mixed_misfits())

# A search ends after 8 s of a user's time; here a busy machine must not decide.
AMPLE = 120.0


@cache
def layout_when(make: Callable[..., nn.Module], arguments: tuple[tuple[str, Any], ...]) -> Layout:
    """Return what a network expects; searches build the same ones over and over, and take most of their time for it."""
    with shapes_only():
        state = make(**dict(arguments)).state_dict()
    return layout_of(state)


def explained(case: Misfit, tensors: Mapping[str, torch.Tensor], *, seconds: float = AMPLE) -> Told | None:
    def shapes(arguments: Mapping[str, Any]) -> Layout:
        return layout_when(case.make, tuple(arguments.items()))

    expected = shapes(case.configured)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return diagnose(
        expected,
        found,
        arguments=case.configured,
        build_shapes=shapes,
        owner=case.make.__name__,
        weights_name="w.pth",
        seconds=seconds,
    )


def loads_strictly(case: Misfit, misfit: Told) -> bool:
    """Apply the printed change as a config would, load strictly, and see that every tensor is where it belongs."""
    with shapes_only():
        module = case.make(**{**case.configured, **(misfit.changes or {})})
    original = case.file()
    tensors, _ = align_with_exceptions(original, list(module.state_dict()), misfit.rename, misfit.ignore, "w.pth")
    module.load_state_dict(tensors, strict=True, assign=True)
    return all_at_home(case, original, tensors)


def all_at_home(case: Misfit, original: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether each tensor of the network is where it belongs, and none was left out."""
    used = {id(tensor): name for name, tensor in tensors.items()}
    return all(used.get(id(original[theirs])) == ours for theirs, ours in case.homes.items())
