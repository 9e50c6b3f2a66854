"""Record what a network gives where it was trained: one line there, and a rebuilt network can be held against it.

Needs torch and numpy only. The file holds arrays: `0/input/NAME`, `0/output/PATH` and a few elements of what each module
returned, `0/module/INDEX`, a call a number; and `meta`, JSON as bytes: where it was recorded, a digest of every tensor of
the state dict, and the plain attributes of every module.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.rebuild.outputs import is_tensor, leaves, tensors_in

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

FORMAT = "weighbridge reference 1"
META = "meta"
SUFFIXES = (".npz", ".safetensors")
_SAMPLED = 64
_MOST_CALLS = 2000
_DIGEST_DIGITS = 16
# Of torch's own modules, what makes no difference to a network in eval() mode.
_WITHOUT_EFFECT = {
    "training",
    "inplace",
    "p",
    "dropout",
    "momentum",
    "track_running_stats",
    "enable_nested_tensor",
    "use_nested_tensor",
}


def record(
    path: str | os.PathLike[str],
    model: nn.Module,
    /,
    *arguments: Any,
    method: str = "forward",
    append: bool = False,
    **keywords: Any,
) -> Path:
    """Call `model` in eval() mode without gradients, and write what went in and came out to `path` (.npz or .safetensors).

    With `append` the call is added to the file, which must be of the same network. The model is left as it was.
    Raises InputError for another suffix, arguments without a name, and outputs that hold no tensor.
    """
    import numpy as np

    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InputError(f"{target} is no {' or '.join(SUFFIXES)} file", hint="record('reference.npz', model, …)")
    known = dict(_read(target)) if append and target.exists() else {}
    meta = json.loads(bytes(known.pop(META))) if known else _meta(model, method)
    if known and meta["state"] != fingerprint(model)["state"]:
        raise InputError(f"{target} was recorded with other weights", hint="record all calls again, without append")
    inputs, constants = _named(model, method, arguments, keywords)
    with _in_eval_mode(model):
        result, calls = watched(model, method, arguments, keywords)
    outputs = tensors_in(result)
    if not outputs:
        raise InputError(
            f"{type(model).__name__}.{method} returned no tensor", hint="record a method that returns some"
        )
    index = len(meta["calls"])
    meta["calls"].append({"constants": constants, "modules": [[name, kind, shape] for name, kind, shape, _ in calls]})
    arrays = {
        **known,
        **{f"{index}/input/{name}": _array(value) for name, value in inputs.items()},
        **{f"{index}/output/{name}".rstrip("/"): _array(value) for name, value in outputs.items()},
        **{f"{index}/module/{place}": sample for place, (_, _, _, sample) in enumerate(calls)},
    }
    text = json.dumps(meta, sort_keys=True).encode()
    _write(target, {META: np.frombuffer(text, np.uint8), **arrays})
    return target


def watched(
    model: nn.Module, method: str, arguments: Any, keywords: Mapping[str, Any]
) -> tuple[Any, list[tuple[str, str, list[int], Any]]]:
    """Return what a call returns, and of each call of a module inside: its name, class, shape, and some elements (float64)."""
    import torch

    calls: list[tuple[str, str, list[int], Any]] = []

    def hook(name: str) -> Any:
        def note(module: nn.Module, _: Any, result: Any) -> None:
            tensor = next((value for _, value in leaves(result) if is_tensor(value)), None)
            if tensor is not None and len(calls) < _MOST_CALLS:
                calls.append((name, type(module).__name__, list(tensor.shape), _sample(tensor)))

        return note

    handles = [each.register_forward_hook(hook(name)) for name, each in model.named_modules() if name]
    called = model if method == "forward" else getattr(model, method)
    try:
        with torch.no_grad():
            return called(*arguments, **keywords), calls
    finally:
        for handle in handles:
            handle.remove()


def _sample(tensor: torch.Tensor) -> Any:
    """Return up to 64 elements at equal distances, as float64."""
    import numpy as np
    import torch

    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
    places = np.linspace(0, max(len(flat) - 1, 0), min(len(flat), _SAMPLED)).round().astype(np.int64)
    return flat[torch.from_numpy(places).to(flat.device)].double().cpu().numpy()


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return a digest of every tensor of the state dict, their dtypes, and the plain attributes of every module, by name."""
    state = {name: each for name, each in model.state_dict().items() if is_tensor(each)}
    return {
        "state": {name: _digest(tensor) for name, tensor in state.items()},
        "dtypes": sorted({str(each.dtype).removeprefix("torch.") for each in state.values()}),
        "settings": {
            name: {"class": f"{type(each).__module__}.{type(each).__qualname__}", **_settings(each)}
            for name, each in model.named_modules()
        },
    }


def _settings(module: nn.Module) -> dict[str, Any]:
    found = {
        name: _plain(value) for name, value in vars(module).items() if name[0] != "_" and name not in _WITHOUT_EFFECT
    }
    return {name: value for name, value in found.items() if value is not _NOT_PLAIN}


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold; activations by their names; _NOT_PLAIN for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        items = [_plain(each) for each in value]
        return items if all(each is not _NOT_PLAIN for each in items) else _NOT_PLAIN
    return value.__name__ if inspect.isfunction(value) or inspect.isbuiltin(value) else _NOT_PLAIN


def _digest(tensor: torch.Tensor) -> str:
    import torch

    plain = tensor.detach().cpu().contiguous()
    if plain.is_quantized or plain.is_sparse:
        return ""
    head = f"{str(plain.dtype).removeprefix('torch.')} {list(plain.shape)} ".encode()
    data = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
    return hashlib.sha256(head + bytes(data)).hexdigest()[:_DIGEST_DIGITS]


def _meta(model: nn.Module, method: str) -> dict[str, Any]:
    import torch

    held = [each for each in model.state_dict().values() if is_tensor(each)]
    device = held[0].device if held else torch.device("cpu")
    return {
        "format": FORMAT,
        "network": f"{type(model).__module__}.{type(model).__qualname__}",
        "method": method,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "tf32": device.type == "cuda"
        and bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        "autocast": bool(torch.is_autocast_enabled(device.type)),
        "calls": [],
        **fingerprint(model),
    }


def _named(
    model: nn.Module, method: str, arguments: Any, keywords: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors by the names of the parameters they are given for, and the other arguments that are plain values."""
    signature = inspect.signature(model.forward if method == "forward" else getattr(model, method))
    bound = signature.bind(*arguments, **keywords).arguments
    tensors: dict[str, torch.Tensor] = {}
    constants: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL and value:
            raise InputError(f"{name} takes arguments without names", hint="give them to a method that names them")
        given = value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        for parameter, each in given.items():
            found = {path: leaf for path, leaf in leaves(each, parameter) if is_tensor(leaf)}
            tensors |= {path: leaf.detach().clone() for path, leaf in found.items()}
            if not found and each is not None and _plain(each) is not _NOT_PLAIN:
                constants[parameter] = _plain(each)
    return tensors, constants


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {each: each.training for each in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training = training


def _array(tensor: torch.Tensor) -> Any:
    """Return a copy as a numpy array; bfloat16, which numpy lacks, as float32, which holds it exactly."""
    import torch

    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).clone().numpy()


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(dict(arrays), temporary)
        else:
            import numpy as np

            np.savez(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
