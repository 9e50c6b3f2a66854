"""What becomes of one network: its release by weighbridge, and what plain `torch.onnx.export` gives, held against the same truth."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks.zoo import networks
from benchmarks.zoo.session import opened
from pipeline.errors import WeighbridgeError
from pipeline.interface import Case, Dimension, InputSpec, Interface, complete_sizes, free_dimensions
from pipeline.parity import oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare, worst
from pipeline.rebuild import calling, cases
from pipeline.rebuild.outputs import tensors_in
from pipeline.run import export as exporting
from pipeline.run.plan import Settings
from pipeline.worker.inprocess import InProcessRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from pipeline.parity.prove import Truth

SEED, OTHER_SEED = 0, 20_261
ROUTES = ("dynamo", "torchscript")
_PLAIN_S, _LISTED, _SHOWN = 120, 4, 400
_DIFFERENT = 3
_FEW_PERTURBATIONS, _PERTURBATIONS = 6, 18
"""What is found wrong with the noise of a few is held against more than weighbridge starts with: it must be sure."""


class SlowError(Exception):
    """It took longer than it may."""


class ByPosition(torch.nn.Module):
    """A network called by position that returns its tensors in order, as anybody writes it for an export."""

    def __init__(self, inner: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.inner, self.names = inner, names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensors_in(self.inner(**dict(zip(self.names, tensors, strict=True)))).values())


@dataclass(frozen=True)
class Network:
    """A network with what goes in and out of it: as a config has it, and as a call by hand does."""

    name: str
    recipe: int
    module: nn.Module
    interface: Interface
    config: dict[str, Any]
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What a network's outputs should be at the drawn sizes and at others; `unknown` says why that cannot be told."""

    network: Network

    @cached_property
    def quickly(self) -> Truth | str:
        """With few calls in noise."""
        return _truth(self.network, _FEW_PERTURBATIONS)

    @cached_property
    def surely(self) -> Truth | str:
        """With many."""
        return _truth(self.network, _PERTURBATIONS)

    @property
    def unknown(self) -> str | None:
        """Why nobody can tell."""
        return self.quickly if isinstance(self.quickly, str) else None


def row(name: str, *, brief: bool = False) -> dict[str, Any]:
    """Return what became of a network, by key; `brief`: without the slower plain export where there is a release."""
    began_s = time.monotonic()
    found = find(name)
    if isinstance(found, tuple):
        return {"outcome": found[0], "reason": found[1]}
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        ours = _ours(found, Path(folder))
        known = Known(found)
        routes = ROUTES[1:] if brief and ours["released"] else ROUTES
        plain = {} if known.unknown else {route: _plain(found, route, known, Path(folder)) for route in routes}
        if ours["released"]:
            ours["checked"] = known.unknown or _checked(Path(ours.pop("file")), found, known)
    outcome, reason = _outcome(ours, plain, known.unknown)
    return {
        "outcome": outcome,
        "reason": reason,
        "parameters": sum(each.numel() for each in found.module.parameters()),
        "inputs": {spec.name: [*spec.shape] for spec in found.interface.inputs},
        "dimensions": found.config["dimensions"],
        "weighbridge": ours,
        "plain": plain,
        "brief": brief,
        "seconds": round(time.monotonic() - began_s, 1),
    }


def find(name: str) -> Network | tuple[str, str]:
    """Return a network by the first recipe with which it runs; or what that came to, and why."""
    unbuilt: list[str] = []
    failing: list[str] = []
    with _limited(_PLAIN_S):
        for recipe in range(networks.recipes(name)):
            try:
                module = networks.build(name, recipe)
                found = _network(name, recipe, module)
            except LookupError as error:
                unbuilt.append(str(error))
                continue
            except SlowError as error:
                failing.append(str(error))
                break
            if isinstance(found, Network):
                return found
            failing.append(found)
    return ("no small config runs", failing[0]) if failing else ("cannot be made small", unbuilt[0])


def _outcome(ours: Mapping[str, Any], plain: Mapping[str, Any], unknown: str | None) -> tuple[str, str]:
    """Return what a row says, and why."""
    if ours["released"]:
        return ("released", "") if ours["checked"] is None else ("wrong release", str(ours["checked"]))
    reason = ours["reason"]
    right = [route for route, each in plain.items() if each["right"]]
    if right:
        return "missed", f"plain export ({', '.join(right)}) is right: {reason}"
    if ours["exit"] == 2 or unknown:
        return "cannot be said in a config", reason
    made = {route: each for route, each in plain.items() if each["exported"]}
    if made:
        return "defect of an exporter or runtime", "; ".join(
            f"{route}: {each['reason']}" for route, each in made.items()
        )
    return "refused by torch", reason


def _network(name: str, recipe: int, module: nn.Module) -> Network | str:
    """Return a network with the widest declaration that it takes, or why it takes none."""
    problem = ""
    for inputs, dimensions in networks.declared(name, module):
        interface = _interface(inputs, dimensions, ())
        try:
            sampled = cases.sample(interface, seed=SEED, cap_elements=500_000)
            places = [tensors_in(_called(module, case.inputs)) for case in sampled]
        except SlowError:
            raise
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            problem = problem or f"{type(error).__name__}: {_first_line(error)}"  # of the best declaration
            continue
        common = {path: None for path in places[0] if all(path in each for each in places)}
        chosen = {_output_name(path, inputs): path for path in _worth(common, places)}
        if chosen:
            config = {"inputs": inputs, "dimensions": dimensions, "outputs": chosen}
            return Network(name, recipe, module, _interface(inputs, dimensions, tuple(chosen)), config, chosen)
        problem = problem or "it returns no tensor"
    return problem or "no inputs are known for its parameters"


def _interface(inputs: Mapping[str, Any], dimensions: Mapping[str, Any], outputs: tuple[str, ...]) -> Interface:
    specs = tuple(
        InputSpec(name, each["dtype"], tuple(each["shape"]), low=each.get("low"), high=each.get("high"), values=each.get("values", "normal"))
        for name, each in inputs.items()
    )  # fmt: skip
    used = {size for spec in specs for size in spec.shape}
    named = tuple(Dimension(name, **sizes) for name, sizes in dimensions.items() if name in used)
    return Interface(specs, named, outputs)


def _called(module: nn.Module, arrays: Mapping[str, Any], *, double: bool = False) -> Any:
    tensors = {name: each.clone() for name, each in calling.tensors_from(arrays, double=double).items()}
    with torch.inference_mode():
        return module(**tensors)


def _worth(places: Mapping[str, None], found: list[dict[str, torch.Tensor]]) -> list[str]:
    """Return the outputs to declare: the first few that hold elements."""
    filled = [path for path in places if all(each[path].numel() for each in found) and not found[0][path].is_complex()]
    floating = [path for path in filled if found[0][path].is_floating_point()]
    return (floating or filled)[:_LISTED]


def _output_name(path: str, inputs: Mapping[str, Any]) -> str:
    name = path.replace(".", "_") or "y"
    return f"output_{name}" if name in inputs or name[:1].isdigit() else name


def write_config(network: Network, file: Path) -> None:
    """Write a config with its weights beside it, as any user would, for ONNX in onnxruntime alone."""
    weights = file.with_suffix(".pth")
    torch.save({name: each.clone() for name, each in network.module.state_dict().items()}, weights)
    plain_path = list(network.outputs.values()) == [""]
    config = {
        "name": file.stem,
        "model": {"architecture": "benchmarks.zoo.networks:build", "arguments": {"name": network.name, "recipe": network.recipe}, "weights": weights.name},
        **network.config,
        "outputs": list(network.outputs) if plain_path else {name: _place(path) for name, path in network.outputs.items()},
        "exports": ["onnx"],
        "backends": ["eager", "onnxruntime-cpu"],
        "require": ["onnxruntime-cpu"],
    }  # fmt: skip
    with file.open("w", encoding="utf-8") as target:
        YAML(typ="safe").dump(config, target)


def _ours(network: Network, folder: Path) -> dict[str, Any]:
    """Export a network without timing it; return what became of it."""
    write_config(network, folder / "zoo.yaml")
    began_s = time.monotonic()
    settings = Settings(
        out=folder / "artifacts", trust=("benchmarks",), benchmark=False, runner=InProcessRunner(("benchmarks",)), threads=1
    )  # fmt: skip
    try:
        release = exporting.export(folder / "zoo.yaml", settings).release
    except WeighbridgeError as error:
        reason = error.message[: 3 * _SHOWN]
        return {
            "released": False,
            "exit": error.exit_code,
            "reason": reason,
            "hint": error.hint,
            "seconds": round(time.monotonic() - began_s, 1),
        }
    import json

    manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    return {
        "released": True,
        "file": str(release / "model.onnx"),
        "how": manifest.get("artifacts", {}),
        "seconds": round(time.monotonic() - began_s, 1),
    }


def _place(path: str) -> Any:
    return int(path) if path.isdecimal() else path


def _truth(network: Network, perturbations: int) -> Truth | str:
    """Return what outputs should be at the drawn sizes and at others, from a network of its own called by keyword; or why that is unknown."""
    sampled = [*cases.sample(network.interface, seed=SEED, cap_elements=500_000), *_others(network.interface)]
    module = networks.build(network.name, network.recipe)
    places = {path: name for name, path in network.outputs.items()}

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            found = tensors_in(self.inner(**tensors))
            return {name: found[path] for path, name in places.items()}

    try:
        references, fallback = oracle.evaluate(
            Named().eval(),
            network.interface,
            [each.inputs for each in sampled],
            seed=SEED,
            perturbations=perturbations,
        )
    except WeighbridgeError as error:
        return error.message
    rules = {name: Rule() for name in network.interface.outputs}
    return prove.truth(sampled, references, fallback, rules)


def _others(interface: Interface) -> Iterator[Case]:
    """Yield cases that weighbridge has not drawn: other values at other sizes."""
    rng = np.random.default_rng(OTHER_SEED)
    for index in range(_DIFFERENT):
        sizes = {
            each.name: int(rng.choice(list(cases.allowed(each)))) for each in free_dimensions(interface.dimensions)
        }
        yield cases.make(interface, complete_sizes(interface.dimensions, sizes), seed=OTHER_SEED, name=f"other {index}")


def _plain(network: Network, route: str, known: Known, folder: Path) -> dict[str, Any]:
    """Export by hand with plain torch.onnx.export and hold the file against the truth."""
    module, shown = networks.build(network.name, network.recipe), cases.example_sizes(network.interface)
    example = cases.make(network.interface, shown, seed=SEED, name="example").inputs
    tensors, target = calling.tensors_from(example), folder / f"{route}.onnx"
    began_s = time.monotonic()
    try:
        with _limited(_PLAIN_S), torch.no_grad():
            _export(module, tensors, network.interface, route, target)
            paths = list(tensors_in(module(**tensors)))
    except Exception as error:  # noqa: BLE001 - an exporter may raise anything
        return {"exported": False, "right": False, "reason": f"{type(error).__name__}: {_first_line(error)}"[:_SHOWN]}
    seconds = round(time.monotonic() - began_s, 1)
    problem = _judged(target, network, known, paths)
    return {"exported": True, "right": problem is None, "reason": problem or "", "seconds": seconds}


def _export(
    module: nn.Module, tensors: dict[str, torch.Tensor], interface: Interface, route: str, target: Path
) -> None:
    named = {each.name for each in interface.dimensions if len(cases.allowed(each)) > 1}
    axes = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if size in named} for spec in interface.inputs
    }
    if route == "dynamo":
        shapes = {name: dict.fromkeys(each, torch.export.Dim.DYNAMIC) for name, each in axes.items()}
        torch.onnx.export(
            module,
            (),
            str(target),
            kwargs=tensors,
            input_names=list(tensors),
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    else:
        # This route calls by position, which few networks of transformers take.
        called = ByPosition(module, tuple(tensors)).eval()
        torch.onnx.export(
            called,
            tuple(tensors.values()),
            str(target),
            input_names=list(tensors),
            dynamic_axes=axes,
            dynamo=False,
            opset_version=18,
        )


def _judged(file: Path, network: Network, known: Known, paths: list[str]) -> str | None:
    """Return what is surely wrong with a file, None if nothing is; see `_held`."""
    if isinstance(known.quickly, str) or _held(file, network, known.quickly, paths) is None:
        return known.unknown
    return known.surely if isinstance(known.surely, str) else _held(file, network, known.surely, paths)


def _held(file: Path, network: Network, known: Truth, paths: list[str]) -> str | None:
    """Run a file by hand in onnxruntime on every case; return what is wrong with it, None if nothing is.

    `paths` are the places of its outputs in what the network returns.
    """
    try:
        session = opened(file)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common class
        return f"onnxruntime does not load it: {_first_line(error)}"
    if len(session.get_outputs()) != len(paths):
        return f"{len(session.get_outputs())} outputs instead of {len(paths)}"
    wanted = {place: name for name, place in network.outputs.items()}
    for index, case in enumerate(known.cases):
        sizes = ", ".join(f"{name}={size}" for name, size in case.sizes.items())
        try:
            got = session.run(None, {each.name: case.inputs[each.name] for each in session.get_inputs()})
        except Exception as error:  # noqa: BLE001
            return f"'{case.name}' ({sizes}): {_first_line(error)}"
        outputs = {wanted[path]: value for path, value in zip(paths, got, strict=True) if path in wanted}
        found = worst(compare(case.name, known.references[index], known.floors[index], outputs, known.rules))
        if not found.passed:
            return f"'{case.name}' ({sizes}), {found.output}: {found.problem or f'{found.factor:.3g} × the noise floor, {found.max_error:.2g} off'}"
    return None


def _checked(file: Path, network: Network, known: Known) -> str | None:
    """Return what is wrong with a released file, whose outputs have the config's names."""
    import onnx

    names = [each.name for each in onnx.load(str(file), load_external_data=False).graph.output]
    if sorted(names) != sorted(network.outputs):
        return f"its outputs are {', '.join(names)}"
    return _judged(file, network, known, [network.outputs[name] for name in names])


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise in the block when it takes too long."""

    def late(*_: object) -> None:
        raise SlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_SHOWN]
