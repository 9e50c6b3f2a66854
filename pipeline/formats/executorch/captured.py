"""The network as torch.export captures it, at example sizes at which nothing is narrowed.

ExecuTorch plans memory for the largest sizes, and takes no more than it planned. It finds them while it rewrites the program, where
operators ask for sizes, and neither the program's own range constraints nor a warning says so: a convolution whose example has
a batch of 2 is planned for 15, because NNPACK and oneDNN would compute otherwise from 16 on. So neither may be asked
(`unasked`); and where the example is the largest there is, whatever else is asked holds for that.
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import ExportError
from pipeline.formats import capture, refusal
from pipeline.interface import complete_sizes, free_dimensions
from pipeline.rebuild import calling
from pipeline.rebuild.cases import allowed, example_sizes, make, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface, Sizes

_FROM = 20
_MOST_ELEMENTS = 1 << 26


@contextmanager
def unasked() -> Iterator[None]:
    """Let no convolution ask for its batch to choose a library that ExecuTorch does not have."""
    from torch.backends import mkldnn, nnpack

    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN", category=UserWarning)
            stack.enter_context(mkldnn.flags(enabled=False))
        stack.enter_context(nnpack.flags(enabled=False))
        yield


def captured(prepared: Forward, interface: Interface) -> torch.export.ExportedProgram:
    """Return the network for all declared sizes.

    Raises:
        ExportError: torch.export refuses it, or captures less at every size it is shown; both ranges are named.
    """
    refused: ExportError | None = None
    for sizes in _shown(interface):
        shown = prepared if sizes is None else _at(prepared, interface, sizes)
        try:
            program = capture.named(shown, interface)
        except ExportError as error:
            refused = refused or error
            continue
        if not (told := capture.narrowed(program, interface, prepared.names)):
            return program
        hint = refusal.eager_hint(prepared, interface)
        refused = ExportError(f"torch.export: it captured less than the config declares: {'; '.join(told)}", hint=hint)
    try:
        return capture.wide(prepared, interface)
    except ExportError as error:
        raise refused or error from error


def _shown(interface: Interface) -> Iterator[Sizes | None]:
    """Yield the sizes to show torch.export: the largest, some beyond where operators take other paths, the usual ones (None)."""
    seen = [example_sizes(interface)]
    for least in (None, _FROM):
        sizes = _distinct(interface, least)
        elements = sum(math.prod(shape_of(spec, sizes)) for spec in interface.inputs)
        if sizes not in seen and elements <= _MOST_ELEMENTS:
            seen.append(sizes)
            yield sizes
    yield None


def _distinct(interface: Interface, least: int | None) -> dict[str, int]:
    """Return sizes from `least` on, or the largest there are (None), that differ from each other and from every fixed one."""
    taken = {size for spec in interface.inputs for size in spec.shape if isinstance(size, int)}
    chosen: dict[str, int] = {}
    for dimension in free_dimensions(interface.dimensions):
        sizes = allowed(dimension)
        wanted = reversed(sizes) if least is None else (each for each in sizes if each >= least)
        chosen[dimension.name] = next((each for each in wanted if each not in taken), sizes[-1])
        taken.add(chosen[dimension.name])
    return complete_sizes(interface.dimensions, chosen)


def _at(prepared: Forward, interface: Interface, sizes: Sizes) -> Forward:
    tensors = calling.tensors_from(make(interface, sizes, seed=0, name="exporter").inputs)
    return replace(prepared, tensors=tuple(tensors[name] for name in prepared.names))
