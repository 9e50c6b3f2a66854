"""Where the error of a TorchScript archive begins: the first module whose outputs differ from the network's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.formats.format import CulpritSearch, Found
from pipeline.formats.torchscript.audit import read

if TYPE_CHECKING:
    from pipeline.interface import Arrays, Interface

_MODULE_MARGIN = 1e-5

_Call: TypeAlias = "tuple[str, tuple[Any, ...], dict[str, Any], list[Any]]"


def search(wanted: CulpritSearch) -> Found:
    """Look for the smallest module that is wrong by itself.

    Raises:
        InputError: the file is no TorchScript archive.
    """
    found = culprit(wanted.module, read(wanted.file), wanted.interface, wanted.inputs)
    return Found(found, None if found else "each module that can be called by itself agrees")


def culprit(eager: Any, module: Any, interface: Interface, inputs: Arrays) -> dict[str, Any] | None:
    """Return the smallest module whose outputs differ from the network's own on the network's own inputs, None if none.

    Modules are judged in the order in which they finish, so that the first one has no culprit inside it.
    """
    calls = _recorded(eager, interface, inputs)
    theirs = dict(module.named_modules())
    for name, arguments, keywords, expected in calls:
        if name not in theirs:
            continue
        got = _outputs(theirs[name], arguments, keywords)
        if got is None or len(got) != len(expected):
            continue
        for index, (value, wanted) in enumerate(zip(got, expected, strict=True)):
            if value.shape != wanted.shape:
                return {
                    "module": name,
                    "output": index,
                    "problem": f"shape {list(value.shape)} instead of {list(wanted.shape)}",
                }
            if (factor := _module_factor(value, wanted)) > 1:
                worst = int((value.double() - wanted.double()).abs().nan_to_num(nan=float("inf")).argmax())
                return {
                    "module": name,
                    "operator": type(dict(eager.named_modules())[name]).__name__,
                    "output": index,
                    "factor": factor,
                    "expected": float(wanted.reshape(-1)[worst]),
                    "got": float(value.reshape(-1)[worst]),
                }
    return None


def _recorded(eager: Any, interface: Interface, inputs: Arrays) -> list[_Call]:
    """Run the network once; return each module's name, arguments by position and name, and tensors returned, as they finish."""
    import torch
    from torch.utils import _pytree as pytree

    from pipeline.rebuild import calling

    calls: list[_Call] = []

    def hook(name: str) -> Any:
        def record(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
            tensors = [each.clone() for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]
            calls.append((name, arguments, keywords, tensors))

        return record

    handles = [each.register_forward_hook(hook(name), with_kwargs=True) for name, each in eager.named_modules()]
    tensors = calling.tensors_from(inputs)
    with torch.no_grad():
        calling.invoke(eager, calling.bind(eager, interface), tensors)
    for handle in handles:
        handle.remove()
    return calls


def _outputs(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any] | None:
    """Return the tensors a submodule returns; None if it cannot be called by itself (inlined, or no forward)."""
    import torch
    from torch.utils import _pytree as pytree

    try:
        with torch.no_grad():
            return [
                each for each in pytree.tree_leaves(module(*arguments, **keywords)) if isinstance(each, torch.Tensor)
            ]
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return None


def _module_factor(value: Any, wanted: Any) -> float:
    """Return the largest difference ÷ what two evaluations of one module may differ by (1e-5 of its largest value)."""
    if not wanted.is_floating_point():
        return float("inf") if (value != wanted).any() else 0.0
    same = (value == wanted) | (value.isnan() & wanted.isnan())
    finite = wanted.double()[wanted.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    apart = (value.double() - wanted.double()).abs().nan_to_num(nan=float("inf")).masked_fill(same, 0.0)
    away = float(apart.max()) if apart.numel() else 0.0
    return away / (_MODULE_MARGIN * scale) if scale else (float("inf") if away else 0.0)
