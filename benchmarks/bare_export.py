"""What anybody writes to get a network out of a notebook: load it, script or trace it, export it to ONNX, compare once.

    python benchmarks/bare_export.py CONFIG OUT

It reads one of our configs, so that both do the same work, and uses nothing of ours beside the network: no proof, no release, one
input, one comparison. `benchmarks/export_cost.py` holds an export with its proof against it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from ruamel.yaml import YAML

SIZE = 3
"""A dynamic size, where its range holds it."""


def made(value: Any, folder: Path) -> Any:
    """Return arguments with their objects made."""
    if isinstance(value, list):
        return [made(each, folder) for each in value]
    if not isinstance(value, dict):
        return value
    given = {key: made(each, folder) for key, each in value.items()}
    return found(given.pop("_target_"))(**given) if "_target_" in given else given


def found(name: str) -> Any:
    """Return what "package.module:Name" names."""
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


def network(config: dict[str, Any], folder: Path) -> torch.nn.Module:
    """Return the network with its weights."""
    module: torch.nn.Module = found(config["model"]["architecture"])(
        **made(config["model"].get("arguments", {}), folder)
    )
    file = folder / config["model"]["weights"]
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(file)
    else:
        weights = torch.load(file, weights_only=True)
    module.load_state_dict(weights)
    return module.eval()


def example(given: dict[str, Any], sizes: dict[str, int]) -> torch.Tensor:
    """Return one input."""
    shape = [size if isinstance(size, int) else sizes[size] for size in given["shape"]]
    dtype = getattr(torch, given["dtype"])
    if given.get("values") == "mask":
        return torch.ones(shape, dtype=dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(given.get("low") or 0, given.get("high") or 2, shape).to(dtype)


def tensors(value: Any) -> list[np.ndarray[Any, Any]]:
    """Return the tensors of what a network returned, in order."""
    if isinstance(value, torch.Tensor):
        return [value.numpy()]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [each for item in items for each in tensors(item)]


def main() -> None:
    """Export, compare, print the largest difference."""
    file, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = YAML(typ="safe").load(file)
    module = network(config, file.parent)
    ranges = config.get("dimensions", {})
    sizes = {name: min(max(SIZE, each["min"]), each["max"]) for name, each in ranges.items()}
    sizes = {
        name: size - size % ranges[name].get("multiple_of", 1) or ranges[name]["min"] for name, size in sizes.items()
    }
    inputs = {name: example(each, sizes) for name, each in config["inputs"].items()}
    shapes = {
        name: {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(each["shape"]) if isinstance(size, str)}
        for name, each in config["inputs"].items()
    }
    got: dict[str, list[np.ndarray[Any, Any]]] = {}
    with torch.no_grad():
        expected = tensors(module(**inputs))
        if "torchscript" in config["exports"]:
            try:
                scripted = torch.jit.script(module)
            except Exception:  # noqa: BLE001 - whatever cannot be scripted is traced
                scripted = torch.jit.trace(module, example_kwarg_inputs=inputs, strict=False)
            torch.jit.save(scripted, str(out / "model.torchscript"))
            got["torchscript"] = tensors(torch.jit.load(str(out / "model.torchscript"))(**inputs))
        torch.onnx.export(
            module,
            (),
            str(out / "model.onnx"),
            kwargs=inputs,
            input_names=list(inputs),
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    fed = {each.name for each in session.get_inputs()}
    got["onnx"] = session.run(None, {name: each.numpy() for name, each in inputs.items() if name in fed})
    for name, outputs in got.items():
        worst = max(float(np.abs(a - b).max()) for a, b in zip(expected, outputs, strict=False))
        print(f"{name}: {worst:.2g}")


if __name__ == "__main__":
    main()
