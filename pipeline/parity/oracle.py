"""The oracle: what the network computes in float64, and how much of it float32 can know.

Float32 has rounding errors of its own, so float32 eager is no reference. The same network in float64 is, to about nine
digits more than float32 holds. What float32 eager itself loses against it, as it stands and with inputs and weights
moved by one unit in the last place, is the *noise*: a backend that evaluates the same sums in another order
cannot be expected to do better (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 1.5–1.6
and 3.1: rounding errors act like perturbations of the data of the size of the unit roundoff).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TC002 - read when answers are validated
from numpy.typing import NDArray  # noqa: TC002 - as above

from pipeline.errors import ArchitectureError, DefectError
from pipeline.rebuild import calling, witness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface

PERTURBATIONS = 2
FALLBACK_FACTOR = 2.0
ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""What a process that evaluates the oracle runs with: the same instructions on every x86-64 processor with AVX2.

Float32 noise otherwise depends on whether the builder's machine has AVX-512, and golden cases carry the noise.
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """What one case's outputs should be, by output name.

    `values`: float64 for floating outputs, exact values for the others. `noise`: for floating outputs the largest error
    seen in float32, elementwise and float64; for the others 1.0 where float32 itself disagrees (a tie), else 0.0.
    `dtypes`: what float32 eager returns.
    """

    values: dict[str, NDArray[Any]]
    noise: dict[str, NDArray[np.float64]]
    dtypes: dict[str, str]


def evaluate(
    module: nn.Module,
    interface: Interface,
    cases: Sequence[Arrays],
    *,
    seed: int,
    plain: Sequence[dict[str, torch.Tensor]] | None = None,
) -> tuple[list[Reference], str | None]:
    """Return each case's reference, and the reason if float64 was not possible (None if it was).

    `plain` are the outputs of each case in float32, where they are known already. Without float64 the reference is float32
    eager, and the noise is twice its response to one-ulp changes. The module's parameters are changed on the way: do not use
    it afterwards.

    Raises:
        ArchitectureError: the network draws random numbers or keeps a state, so that it has no output to hold anything against.
        DefectError: a call by hand gives something else than ours.
    """
    _own_tensors(module)
    run = _runner(module, interface)
    _require_same_twice(run, min(cases, key=_elements))
    plain = list(plain or (run(case, double=False) for case in cases))
    _require_witness(module, interface, run, cases[0], plain[0])
    moved = _perturbed_runs(module, run, interface, cases, seed)
    try:
        module.double()
        exact, reason = [run(case, double=True) for case in cases], None
    except (RuntimeError, NotImplementedError, TypeError) as error:
        exact, reason = plain, str(error).splitlines()[0]
    references = [
        _reference(truth, [first, *others], fallback=reason is not None)
        for truth, first, others in zip(exact, plain, moved, strict=True)
    ]
    return references, reason


def _runner(module: nn.Module, interface: Interface) -> Callable[..., dict[str, torch.Tensor]]:
    import torch

    binding = calling.bind(module, interface)

    def run(arrays: Arrays, *, double: bool) -> dict[str, torch.Tensor]:
        # Copies: a network may write to its inputs.
        tensors = {name: each.clone() for name, each in calling.tensors_from(arrays, double=double).items()}
        with torch.inference_mode():
            named = calling.call(module, binding, interface, tensors)
        return {name: tensor.clone() for name, tensor in named.items()}

    return run


def _require_same_twice(run: Callable[..., dict[str, torch.Tensor]], case: Arrays) -> None:
    """Raise if a call draws random numbers that its outputs show. Its own chance would pass for noise, and hide any defect."""
    before = _random_states()
    first = run(case, double=False)
    if _random_states() == before:
        return
    again = run(case, double=False)
    changed = [name for name in first if not _same(first[name], again[name])]
    if changed:
        raise ArchitectureError(
            f"the network draws random numbers when it is called: {', '.join(changed)} came out differently twice on the same input",
            hint="make them an input, or leave them out in eval() mode: nothing can be held against outputs of chance",
        )


def _require_witness(
    module: nn.Module,
    interface: Interface,
    run: Callable[..., dict[str, torch.Tensor]],
    case: Arrays,
    ours: dict[str, torch.Tensor],
) -> None:
    """Hold a call of ours against one by hand (see `pipeline.rebuild.witness`)."""
    try:
        witness.require_agreement(module, interface, calling.tensors_from(case), ours)
    except DefectError:
        again = run(case, double=False)
        changed = [name for name in ours if not _same(ours[name], again[name])]
        if not changed:
            raise
        raise ArchitectureError(
            f"the network keeps a state between calls: {', '.join(changed)} came out differently twice on the same input",
            hint="make the state an input and an output: an exported file starts from the same state at every call",
        ) from None


def _same(first: torch.Tensor, again: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN where the other has NaN."""
    return bool(((first == again) | ((first != first) & (again != again))).all())  # noqa: PLR0124 - NaN is what differs from itself


def _random_states() -> tuple[Any, ...]:
    """Return where the generators stand that a network may draw from: torch's, Python's and numpy's."""
    import random

    import numpy as np
    import torch

    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - the one that networks draw from
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(keys).tobytes(), position


def _elements(case: Arrays) -> int:
    return sum(int(array.size) for array in case.values())


def _perturbed_runs(
    module: nn.Module,
    run: Callable[..., dict[str, torch.Tensor]],
    interface: Interface,
    cases: Sequence[Arrays],
    seed: int,
) -> list[list[dict[str, torch.Tensor]]]:
    """Run every case with inputs and weights moved by one ulp, several times; the weights are put back at the end.

    Inputs stay within what they are declared to hold: a network may refuse a probability above 1.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    bounds = {spec.name: (spec.low, spec.high) for spec in interface.inputs}
    originals = [(tensor, tensor.data) for tensor in _floating(module)]
    results: list[list[dict[str, torch.Tensor]]] = [[] for _ in cases]
    with torch.no_grad():
        for _ in range(PERTURBATIONS):
            for tensor, original in originals:
                tensor.data = original  # the one before goes first: never three copies of the weights at once
                tensor.data = _one_ulp_away(original, generator)
            for case, result in zip(cases, results, strict=True):
                tensors = calling.tensors_from(case)
                shifted = {
                    name: _neighbour(tensor, *bounds[name], generator) if tensor.is_floating_point() else tensor
                    for name, tensor in tensors.items()
                }
                result.append(run({name: calling.array_from(each) for name, each in shifted.items()}, double=False))
        for tensor, original in originals:
            tensor.data = original
    return results


def _own_tensors(module: nn.Module) -> None:
    """Let each tensor own its memory: what is mapped from one file is not given back until the last of it goes."""
    for tensor in _tensors(module):
        tensor.data = tensor.data.clone()


def _floating(module: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in _tensors(module) if tensor.is_floating_point() and tensor.numel()]


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module, a tied one once."""
    return list({id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}.values())


def _one_ulp_away(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each nonzero element to a neighbouring floating-point number, up or down at random; zeros stay."""
    import torch

    towards = torch.empty(tensor.shape, dtype=torch.float32).uniform_(-1, 1, generator=generator)
    infinite = torch.copysign(torch.tensor(float("inf")), towards, out=towards).to(tensor.dtype)
    moved = torch.nextafter(tensor, infinite, out=infinite)
    return torch.where(tensor == 0, tensor, moved, out=moved)


def _neighbour(tensor: torch.Tensor, low: float | None, high: float | None, generator: torch.Generator) -> torch.Tensor:
    """Move each element by one unit in the last place, except where that leaves the bounds."""
    import torch

    moved = _one_ulp_away(tensor, generator)
    lowest, highest = (-float("inf") if low is None else low), (float("inf") if high is None else high)
    return torch.where((moved < lowest) | (moved > highest), tensor, moved)


def _reference(truth: dict[str, torch.Tensor], samples: list[dict[str, torch.Tensor]], *, fallback: bool) -> Reference:
    import torch

    values, noise, dtypes = {}, {}, {}
    for name, value in truth.items():
        dtypes[name] = str(samples[0][name].dtype).removeprefix("torch.")
        if not value.is_floating_point():
            ties = [sample[name] != value for sample in samples]
            values[name] = calling.array_from(value)
            noise[name] = calling.array_from(torch.stack(ties).any(0).double())
            continue
        exact = value.double()
        errors = torch.stack([(sample[name].double() - exact).abs() for sample in samples])
        # Equal infinities and shared NaNs are no error; anything else that is not finite stays visible as inf.
        same = torch.stack(
            [(sample[name].double() == exact) | (sample[name].isnan() & exact.isnan()) for sample in samples]
        )
        errors = torch.where(same, 0.0, errors.nan_to_num(nan=float("inf")))
        values[name] = calling.array_from(exact)
        noise[name] = calling.array_from(errors.amax(0) * (FALLBACK_FACTOR if fallback else 1.0))
    return Reference(values, noise, dtypes)
