"""The shipped configs as healthy exports, with what it takes to judge a file: their network, cases and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch

from pipeline.architectures.resnet import ResNet
from pipeline.formats.format import CulpritSearch, FromNetwork
from pipeline.formats.onnx import export as exporter
from pipeline.parity import oracle, prove
from pipeline.parity.budget import Rule, floors
from pipeline.rebuild import cases, model
from pipeline.run import plan as planning

if TYPE_CHECKING:
    from pipeline.interface import Arrays, Interface
    from pipeline.rebuild.network import Network

NAMES = ("simplenet", "silero-vad", "facenet-pnet", "minilm", "efficientnet-lite0", "resnet18")
CAP_ELEMENTS = {"efficientnet-lite0": 320_000, "resnet18": 320_000, "facenet-pnet": 60_000, "minilm": 256}
"""The most elements of an input: cases are smaller than the configs', so that thousands of runs take minutes."""


@dataclass(frozen=True)
class Shipped:
    """A shipped config's ONNX export. `program`: what was exported, for the audit; `examples`: what exporters saw."""

    name: str
    network: Network
    interface: Interface
    proto: onnx.ModelProto
    program: dict[str, Any]
    examples: Arrays

    def module(self) -> torch.nn.Module:
        """Return the network with its weights, afresh: the oracle leaves its own in float64."""
        return model.load(self.network).module

    def searched(self, inputs: Arrays) -> CulpritSearch:
        """Return what a search for a culprit is given, of a file that calls everything as the config does."""
        names = {spec.name: spec.name for spec in self.interface.inputs}
        outputs = {name: name for name in self.interface.outputs}
        here = Path()
        return CulpritSearch(
            self.module(), self.interface, self.examples, inputs, here, names, outputs, {}, None, floors, here
        )

    def truth(self, seed: int) -> prove.Truth:
        """Return the cases of a seed with their references and budgets at the default limit."""
        sampled = cases.sample(self.interface, seed=seed, cap_elements=CAP_ELEMENTS.get(self.name, 1 << 18))
        inputs = [case.inputs for case in sampled]
        references, reason = oracle.evaluate(self.module(), self.interface, inputs, seed=seed)
        return prove.truth(sampled, references, reason, dict.fromkeys(self.interface.outputs, Rule()))


def export(name: str, folder: Path) -> Shipped:
    """Export a shipped config into `folder`; resnet18, which ships without weights, with seeded ones."""
    planned = planned_in(name, folder)
    interface = planned.interface
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    job = FromNetwork(model.load(planned.network).module, interface, examples, folder / "model.onnx", {"name": name})
    artifact = exporter.export(job, exporter.OnnxOptions())
    proto = onnx.load(str(artifact.files[0]))
    return Shipped(name, planned.network, interface, proto, dict(artifact.program), examples)


def planned_in(name: str, folder: Path) -> planning.Plan:
    """Return the plan of a shipped config whose releases go to `folder`."""
    settings = planning.Settings(out=folder, overrides=own_weights(name, folder))
    return planning.plan(Path(f"configs/{name}.yaml"), settings)


def own_weights(name: str, folder: Path) -> tuple[str, ...]:
    """Return what has to be overridden in a shipped config: where the weights of resnet18 are, which are made in `folder` if they are not there."""
    if name != "resnet18":
        return ()
    weights = folder / "resnet18.pth"
    if not weights.is_file():
        torch.save(seeded_resnet18().state_dict(), weights)
    return (f"model.weights={weights}",)


def seeded_resnet18() -> ResNet:
    """Return a resnet18 whose batch statistics are no zeros and ones, which would hide what becomes of them."""
    torch.manual_seed(0)
    network = ResNet(depth=18, num_classes=1000)
    for each in network.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            for tensor in (each.weight, each.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (each.bias, each.running_mean):
                torch.nn.init.normal_(tensor, std=0.1)
    return network
