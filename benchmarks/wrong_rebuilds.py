"""How many wrong rebuilds of a network a recording of two inputs stops before anything is exported.

    python -m benchmarks.wrong_rebuilds [--models a,b]

Planted over the shipped networks and ten others: an argument's default in place of its value, two tensors of one shape
exchanged, weights of another epoch, an average for the raw ones, training mode, another activation, epsilon and padding mode,
exchanged inputs, a normalisation left out. Each is judged twice: with the file that `pipeline.record` writes, and with bare
inputs and outputs. The right network must pass both. Run with everything, it writes its figures to
benchmarks/wrong_rebuilds.json. Ends with 1 if one passes with the file of `record`, or fewer than 200 were planted.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks import shipped
from benchmarks.progress import Rows
from benchmarks.rebuilt_networks import TRAINED
from pipeline import record
from pipeline.errors import ArchitectureError
from pipeline.parity import oracle, trained
from pipeline.parity.budget import Rule
from pipeline.parity.jobs import Evaluation, Rehearsed
from pipeline.parity.prove import Conditions
from pipeline.rebuild import calling, cases, model, reference
from pipeline.rebuild import record as recording
from pipeline.rebuild.network import Network
from pipeline.release.predict import read_arrays
from pipeline.release.tools import tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.interface import Interface
    from pipeline.rebuild.reference import Recording

    Plant = tuple[str, str, Callable[[], nn.Module]]
    Change = Callable[[nn.Module], nn.Module]

BAR = 200
FIGURES = Path("benchmarks/wrong_rebuilds.json")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.ReLU6)
_PAIRS, _OF_A_KIND = 6, 3


def networks(
    names: list[str], folder: Path
) -> Iterator[tuple[str, Callable[..., nn.Module], dict[str, Any], dict[str, Any], Interface]]:
    """Yield name, constructor with the trained weights, right arguments, other values of arguments, and interface."""
    for name in names:
        known = next((each for each in TRAINED if each.name == name), None)
        if known is None:
            yield _shipped(name, folder)
            continue
        state = _settled(known.make(**known.arguments), known.interface).state_dict()

        def make(make: Any = known.make, state: Any = state, **arguments: Any) -> nn.Module:
            module = make(**arguments)
            module.load_state_dict(state)
            return module.eval().requires_grad_(False)  # noqa: FBT003 - torch's own signature

        yield name, make, dict(known.arguments), dict(known.others), known.interface


def _settled(module: nn.Module, interface: Interface) -> nn.Module:
    """Give every tensor values of its own, and running statistics that are none of their defaults, as training does."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    module.train()
    for seed in range(4):
        inputs = cases.make(interface, cases.example_sizes(interface), seed=seed, name="training").inputs
        calling.call(module, calling.bind(module, interface), interface, calling.tensors_from(inputs))
    return module.eval()


def _shipped(
    name: str, folder: Path
) -> tuple[str, Callable[..., nn.Module], dict[str, Any], dict[str, Any], Interface]:
    planned = shipped.planned_in(name, folder)

    def make(**arguments: Any) -> nn.Module:
        return model.load(replace(planned.network, arguments=arguments)).module

    others = {"heads": (6, 4)} if name == "minilm" else {}
    return name, make, dict(planned.network.arguments), others, planned.interface


def plants(make: Callable[..., nn.Module], arguments: dict[str, Any], others: dict[str, Any]) -> Iterator[Plant]:
    """Yield kind, what exactly, and what builds the wrong network."""
    right = make(**arguments)
    for name, values in others.items():
        for value in values:
            if value != arguments.get(name):
                yield "argument", f"{name}={value!r}", lambda name=name, value=value: make(**{**arguments, name: value})
    yield from _weights(make, arguments, right)
    yield from _modules(make, arguments, right)
    # Normalisation over one instance is the same in both modes.
    if any(
        getattr(each, "track_running_stats", False) or (isinstance(each, nn.Dropout) and each.p)
        for each in right.modules()
    ):
        yield "training mode", "train()", lambda: make(**arguments).train()


def _weights(make: Callable[..., nn.Module], arguments: dict[str, Any], right: nn.Module) -> Iterator[Plant]:
    state = dict(right.named_parameters()) | {n: b for n, b in right.named_buffers() if b.is_floating_point()}
    alike = [
        (one, other)
        for one, other in itertools.combinations(state, 2)
        if state[one].shape == state[other].shape and not torch.equal(state[one], state[other])
    ]

    def exchanged(one: str, other: str) -> nn.Module:
        module = make(**arguments)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        tensors[one].data, tensors[other].data = tensors[other].data.clone(), tensors[one].data.clone()
        return module

    def moved(share: float) -> nn.Module:
        module = make(**arguments)
        generator = torch.Generator().manual_seed(1)
        for tensor in module.parameters():
            tensor.data = tensor.data * (1 + share * torch.randn(tensor.shape, generator=generator))
        return module

    for one, other in random.Random(0).sample(alike, min(_PAIRS, len(alike))):
        yield "tensors exchanged", f"{one}, {other}", lambda one=one, other=other: exchanged(one, other)
    yield "another epoch", "every weight 2 % off", lambda: moved(0.02)
    yield "an average", "every weight 0.1 % off", lambda: moved(0.001)


def _modules(make: Callable[..., nn.Module], arguments: dict[str, Any], right: nn.Module) -> Iterator[Plant]:
    def changed(name: str, change: Change) -> nn.Module:
        module = make(**arguments)
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, change(module.get_submodule(name)))
        return module.eval()

    kinds: Counter[str] = Counter()
    for name, each in right.named_modules():
        for kind, what, change in _changes(each):
            kinds[kind] += 1
            if kinds[kind] <= _OF_A_KIND:
                yield kind, f"{name}{what}", lambda name=name, change=change: changed(name, change)


def _changes(module: nn.Module) -> Iterator[tuple[str, str, Change]]:
    """Yield what may be wrong with a module of torch: kind, what exactly, and the change."""
    if isinstance(module, _ACTIVATIONS):
        other = nn.ReLU() if not isinstance(module, nn.ReLU) else nn.GELU()
        yield "activation", f": {type(other).__name__}", lambda _: other
    if isinstance(module, _NORMS):
        eps = 10 * (module.eps or 1e-6)
        yield "epsilon", f": {eps:g}", lambda each: _with(each, eps=eps)
        yield "normalisation left out", "", lambda _: nn.Identity()
    if isinstance(module, nn.Conv1d | nn.Conv2d) and max(module.padding, default=0) and module.padding_mode == "zeros":
        twice = [size for size in reversed(module.padding) for _ in range(2)]  # what the constructor keeps for it
        yield (
            "padding mode",
            ": reflect",
            lambda each: _with(each, padding_mode="reflect", _reversed_padding_repeated_twice=twice),
        )


def _with(module: nn.Module, **attributes: Any) -> nn.Module:
    made = copy.deepcopy(module)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def judge(wrong: nn.Module, interface: Interface, recorded: Recording) -> bool:
    """Tell whether a network passes for the recorded one."""
    inputs = [case.inputs for case in recorded.cases]
    binding = calling.bind(wrong, interface)
    try:
        with torch.inference_mode():
            plain = [
                {
                    name: calling.array_from(each)
                    for name, each in calling.call(wrong, binding, interface, calling.tensors_from(given)).items()
                }
                for given in inputs
            ]
        fingerprint = recording.fingerprint(wrong)
        references, fallback = oracle.evaluate(wrong, interface, inputs, seed=0)
    except (ArchitectureError, RuntimeError):  # it draws random numbers, or does not run
        return False
    facts = {"notes": (), "contradictions": (), "sha256": "", "parameters": 0, "bytes": 0, "binding": ()}
    known = Evaluation(
        network=Rehearsed(**facts, plain=tuple(plain), fingerprint=fingerprint),
        references=tuple(references),
        fallback=fallback,
    )
    conditions = Conditions(interface, Network("none:None", {}, "", (), {}), threads=1, timeout_s=60)
    rules = dict.fromkeys(interface.outputs, Rule())
    return trained.judge(recorded, known, conditions, rules, explicit=False).passed


def recorded(right: nn.Module, interface: Interface, folder: Path) -> tuple[Recording, Recording]:
    """Record two inputs; return what `record` wrote, and the bare inputs and outputs of it."""
    file = folder / "reference.npz"
    file.unlink(missing_ok=True)
    for seed in (11, 12):
        sizes = cases.example_sizes(interface)
        given = calling.tensors_from(cases.make(interface, sizes, seed=seed, name="recorded").inputs)
        positional, keywords = calling.bind(right, interface).arguments(given)
        record(file, right, *positional, append=True, **keywords)
    full = reference.parse(read_arrays(file), interface, file.name)
    return full, replace(full, meta={}, calls=tuple(replace(each, modules=()) for each in full.calls))


def exchanged_inputs(interface: Interface, recording_: Recording) -> Recording | None:
    """Return a recording as a config would read it that exchanges two inputs of one kind; None if there are none."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for spec in interface.inputs:
        kinds.setdefault((spec.dtype, spec.shape), []).append(spec.name)
    pair = next((names[:2] for names in kinds.values() if len(names) > 1), None)
    if pair is None:
        return None
    one, other = pair
    calls = []
    for call in recording_.calls:
        inputs = {**call.case.inputs, one: call.case.inputs[other], other: call.case.inputs[one]}
        calls.append(replace(call, case=replace(call.case, inputs=inputs)))
    return replace(recording_, calls=tuple(calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ",".join([*shipped.NAMES, *(each.name for each in TRAINED)])
    parser.add_argument("--models", default=everything)
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    rows = Rows("wrong_rebuilds", vars(arguments), len(names))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows.get(name, lambda name=name: _of_one(name, Path(folder)))
    found = [row | {"model": name} for name, each in rows.rows.items() for row in each["plants"]]
    wrong_alarms = [
        name for name, each in rows.rows.items() if not (each["right passes"] and each["right passes bare"])
    ]
    passed = [each for each in found if not each["stopped"]]
    bare = [each for each in found if not each["stopped bare"]]
    kinds = Counter(each["kind"] for each in found)
    print(f"{len(found)} wrong rebuilds of {len(rows.rows)} networks: {len(found) - len(passed)} stopped with the file of record, "
          f"{len(found) - len(bare)} with bare inputs and outputs; right ones refused: {wrong_alarms or 'none'}")  # fmt: skip
    for kind, count in sorted(kinds.items()):
        unseen = [f"{each['model']} {each['what']}" for each in bare if each["kind"] == kind]
        print(f"  {kind}: {count}" + (f"; not seen in bare outputs: {', '.join(unseen)}" if unseen else ""))
    for each in passed:
        print(f"  NOT STOPPED: {each['model']}: {each['kind']}: {each['what']}")
    if arguments.models == everything:
        figures = {"tools": tools(), "planted": len(found), "stopped": len(found) - len(passed), "stopped_bare": len(found) - len(bare), "kinds": dict(sorted(kinds.items())), "not_stopped_bare": bare}  # fmt: skip
        FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    raise SystemExit(1 if passed or wrong_alarms or (arguments.models == everything and len(found) < BAR) else 0)


def _of_one(name: str, folder: Path) -> dict[str, Any]:
    ((_, make, right_arguments, others, interface),) = networks([name], folder)
    full, bare = recorded(make(**right_arguments), interface, folder)
    rows = [
        {
            "kind": kind,
            "what": what,
            "stopped": not judge(build(), interface, full),
            "stopped bare": not judge(build(), interface, bare),
        }
        for kind, what, build in plants(make, right_arguments, others)
    ]
    turned = exchanged_inputs(interface, full)
    if turned is not None:
        bare_turned = replace(turned, meta={}, calls=tuple(replace(each, modules=()) for each in turned.calls))
        stopped, stopped_bare = (not judge(make(**right_arguments), interface, each) for each in (turned, bare_turned))
        rows.append(
            {"kind": "inputs exchanged", "what": "two of one shape", "stopped": stopped, "stopped bare": stopped_bare}
        )
    right, right_bare = (judge(make(**right_arguments), interface, each) for each in (full, bare))
    return {"plants": rows, "right passes": right, "right passes bare": right_bare}


if __name__ == "__main__":
    main()
