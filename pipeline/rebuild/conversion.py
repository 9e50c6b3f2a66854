"""What transformers makes of the tensors of a file that it saved: the same under other names, or others of them.

It is told by what it does: every tensor of the file is given with numbers of its own, and looked for in the network that it loads.
Runs transformers' code, which must be trusted, so it belongs into a worker.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError
from pipeline.rebuild.doctor.renames import shortest, stems
from pipeline.weights import headers, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from pipeline.weights.header import TensorHeader
    from pipeline.weights.pretrained import Pretrained

_PLACES = 8191
"""Numbers in a row repeat after as many: a prime, so that what is turned or cut is not what it was."""


def exceptions(found: Pretrained, make: Any, config: Any, again: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return `rename` and `ignore` as transformers has them for this file, told by where it puts tensors of the same names.

    Raises ArchitectureError where the file lacks tensors, or where it makes others of them, which no name can say: `again` is the
    command that saves those.
    """
    import torch

    header = headers.read(found.weights)
    names = [each.name for each in header.tensors]
    marked = {each.name: _marked(each, index) for index, each in enumerate(header.tensors, start=1)}
    placed, told = _loaded(make, config, marked, torch.float32)
    homes: dict[str, str] = {}
    for name, tensor in placed.items():
        source = _source_of(tensor, header.tensors)
        if source is not None and homes.get(source) != source:  # of names that are tied, its own
            homes[source] = name
    homes |= {name: name for name in names if name not in homes and name in placed and not placed[name].numel()}
    left_out = [name for name in names if name not in homes]
    if made := [name for name in left_out if name not in told["unexpected_keys"]]:
        others = f" and {len(made) - 1} more" if made[1:] else ""
        raise ArchitectureError(
            f"transformers makes other tensors of {made[0]}{others} of {found.weights.name}, which no rename can say",
            hint=f"save what it makes of them, and take that: {again}",
        )
    _require_all(found, make, told)
    moved = any(old != new for old, new in homes.items())
    return shortest(homes) if moved else {}, stems(left_out, list(homes))


def converted(found: Pretrained, make: Any, config: Any, *, max_bytes: int | None) -> dict[str, torch.Tensor]:
    """Return the tensors that transformers makes of the file, by their names in the network, in the file's precision.

    Raises ArchitectureError where the file lacks tensors, and as `read.load`.
    """
    import torch

    tensors = read.load(found.weights, max_bytes=max_bytes).tensors
    kinds = {each.dtype for each in tensors.values() if each.is_floating_point()}
    made, told = _loaded(make, config, tensors, kinds.pop() if len(kinds) == 1 else torch.float32)
    _require_all(found, make, told)
    return made


def _require_all(found: Pretrained, make: Any, told: Any) -> None:
    if lacking := sorted(told["missing_keys"]):
        raise ArchitectureError(
            f"{found.weights.name} lacks {lacking[0]}{f' and {len(lacking) - 1} more' if lacking[1:] else ''}, which {make.__name__} would leave at random",
            hint=f"name the network that was saved: --architecture transformers:{found.architecture}",
        )


def _loaded(
    make: Any, config: Any, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], Any]:
    """Return where transformers puts tensors, and what it says of those that have no place, or got nothing.

    In `dtype` throughout: the type that a config states may not hold the numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, told = make.from_pretrained(
                None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=dtype
            )
    except Exception as error:
        raise ArchitectureError(
            f"{make.__name__} does not take these weights: {' '.join(str(error).split())[:300]}",
            hint="is this the config.json that was saved with them?",
        ) from error
    return module.state_dict(), told


def _marked(declared: TensorHeader, index: int) -> torch.Tensor:
    """Return numbers that no other tensor of the file has: its place among them first, and then what follows it."""
    import torch

    places = torch.arange(math.prod(declared.shape)).reshape(declared.shape) % _PLACES
    return index + places if "int" in declared.dtype else (index + places / _PLACES).to(torch.float32)


def _source_of(tensor: torch.Tensor, declared: Sequence[TensorHeader]) -> str | None:
    """Return which tensor of the file was put there, whole and as it was; None for one that was made otherwise."""
    import torch

    if not tensor.numel():
        return None
    first = float(tensor.flatten()[0])
    if not first.is_integer() or not 1 <= first <= len(declared):
        return None
    source = declared[int(first) - 1]
    is_it = tuple(source.shape) == tuple(tensor.shape) and torch.equal(
        tensor, _marked(source, int(first)).to(tensor.dtype)
    )
    return source.name if is_it else None
