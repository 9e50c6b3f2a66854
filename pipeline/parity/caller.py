"""Calls of one network by the config's names: as it is, with its numbers moved a little, and in float64."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.parity import lineage, telling
from pipeline.parity.lineage import Followed
from pipeline.rebuild import calling

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Interface
    from pipeline.parity.telling import Origin

PERTURBATIONS = 2
_DECISION = 2.0
"""An index is a decision, which stands against small changes: weights are halved or doubled to see whether it can fall otherwise."""


class Caller:
    """Calls a network; `skipped` are, by the identity of a case, the numbers of its bounded functions to leave out."""

    def __init__(
        self, module: nn.Module, interface: Interface, skipped: Mapping[int, frozenset[int]] | None = None
    ) -> None:
        self.module = module
        self.interface = interface
        self._binding = calling.bind(module, interface)
        self._skipped = skipped or {}
        precisions = [lineage.own_roundoff(each) for each in floating(module)]
        precisions += [lineage.roundoff(each.dtype) for each in interface.inputs if "float" in each.dtype]
        self._is_float64 = lineage.ROUNDOFFS["float64"] in precisions
        self.move = telling.move(max(precisions, default=0.0))

    def __call__(
        self, case: Arrays, *, double: bool = False, follow: bool = False, inputs: Arrays | None = None
    ) -> Followed:
        """Return the outputs of a case, or of other `inputs` in its place; followed, as far as that works, where it is wanted."""
        import torch

        tensors = calling.tensors_from(case if inputs is None else inputs, double=double)
        skipped = self._skipped.get(id(case), frozenset())

        def fresh() -> dict[str, torch.Tensor]:
            return {name: each.clone() for name, each in tensors.items()}  # a network may write to its inputs

        with torch.inference_mode():
            if follow or skipped:
                own = fresh()
                try:
                    found = lineage.follow(
                        lambda: calling.call(self.module, self._binding, self.interface, own),
                        own.values(),
                        all_of(self.module),
                        skipped,
                        narrow_epsilon=self._is_float64 and not double,
                    )
                    return Followed(_copies(found.outputs), found.trails, found.sources)
                except Exception:  # an operator that cannot be followed, or the network's own error, which comes again
                    if skipped:
                        raise
            return Followed(_copies(calling.call(self.module, self._binding, self.interface, fresh())), {}, ())

    def roundoff(self, name: str, followed: Sequence[Followed], example: torch.Tensor) -> float:
        """Return the unit roundoff of the coarsest precision on the way to an output, over several calls."""
        trails = [each.trails[name] for each in followed if name in each.trails]
        if len(trails) == len(followed):
            return max([each.coarsest for each in trails] + [lineage.own_roundoff(example)])
        weights = [lineage.own_roundoff(each) for each in all_of(self.module)]
        inputs = [lineage.roundoff(each.dtype) for each in self.interface.inputs if "float" in each.dtype]
        return max([lineage.own_roundoff(example), *weights, *inputs])


def _copies(outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in outputs.items()}


def perturbed(run: Caller, cases: Sequence[Arrays], seed: int, times: int = PERTURBATIONS) -> list[list[Followed]]:
    """Run every case with inputs and weights moved by one ulp, several `times`; the weights are put back at the end.

    Inputs stay within what they are declared to hold: a network may refuse a probability above 1.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    bounds = {spec.name: (spec.low, spec.high) for spec in run.interface.inputs}
    results: list[list[Followed]] = [[] for _ in cases]
    with _changing(run.module) as change:
        for _ in range(times):
            change(lambda original: _one_ulp_away(original, generator))
            for case, result in zip(cases, results, strict=True):
                shifted = {
                    name: _neighbour(tensor, *bounds[name], generator) if tensor.is_floating_point() else tensor
                    for name, tensor in calling.tensors_from(case).items()
                }
                arrays = {name: calling.array_from(each) for name, each in shifted.items()}
                result.append(run(case, follow=True, inputs=arrays))
    return results


def shaken(
    run: Caller,
    cases: Sequence[Arrays],
    plain: Sequence[Mapping[str, torch.Tensor]],
    origins: Sequence[Mapping[str, Origin]],
    decided: Sequence[Collection[str]],
    seed: int,
) -> list[dict[str, list[torch.Tensor]]]:
    """Return, for each case, its outputs after what reaches them was changed (see `pipeline.parity.telling`)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    results: list[dict[str, list[torch.Tensor]]] = [{} for _ in cases]

    def keep(index: int, origin: Origin, inputs: Arrays | None = None) -> None:
        wanted = [name for name, each in origins[index].items() if each == origin]
        try:
            found = run(cases[index], inputs=inputs).outputs if wanted else {}
        except Exception:  # noqa: BLE001 - a network that refuses other numbers notices them
            found = {name: plain[index][name].new_empty((0, 0, 0)) for name in wanted}
        for name in wanted:
            results[index].setdefault(name, []).append(found[name])

    with _changing(run.module) as change:
        change(lambda original: telling.scaled(original, generator, 1 + run.move))
        for index in range(len(cases)):
            keep(index, "weights")
        undecided = [index for index in range(len(cases)) if _stands(results[index], plain[index], decided[index])]
        if undecided:
            change(lambda original: telling.scaled(original, generator, _DECISION))
        for index in undecided:
            keep(index, "weights")
    bounds = {spec.name: (spec.low, spec.high) for spec in run.interface.inputs}
    for index, case in enumerate(cases):
        if "inputs" in origins[index].values():
            other = {
                name: _elsewhere(tensor, *bounds[name], generator)
                for name, tensor in calling.tensors_from(case).items()
            }
            keep(index, "inputs", {name: calling.array_from(each) for name, each in other.items()})
    return results


def _stands(
    found: Mapping[str, Sequence[torch.Tensor]], plain: Mapping[str, torch.Tensor], decided: Collection[str]
) -> bool:
    """Whether an output that was decided on is the same after the first change."""
    import torch

    return any(name in decided and torch.equal(each[0], plain[name]) for name, each in found.items())


def _elsewhere(tensor: torch.Tensor, low: float | None, high: float | None, generator: torch.Generator) -> torch.Tensor:
    """Return other inputs of the same kind: the same elements in another order, floating ones moved."""
    tensor = telling.shuffled(tensor, generator)
    if not tensor.is_floating_point():
        return tensor
    return telling.scaled(tensor, generator, 1 + telling.MOVE).clamp(
        -float("inf") if low is None else low, float("inf") if high is None else high
    )


@contextmanager
def _changing(module: nn.Module) -> Iterator[Callable[[Callable[[torch.Tensor], torch.Tensor]], None]]:
    """Yield what changes every floating tensor of a module from what it was; all are put back at the end."""
    import torch

    originals = [(tensor, tensor.data) for tensor in floating(module)]

    def change(changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for tensor, original in originals:
            tensor.data = original  # the one before goes first: never three copies of the weights at once
            tensor.data = changed(original)

    with torch.no_grad():
        try:
            yield change
        finally:
            for tensor, original in originals:
                tensor.data = original


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """Turn a module into float64 for a while; each tensor's own precision holds all that it held before."""
    dtypes = {name: tensor.dtype for name, tensor in _named(module).items()}
    try:
        module.double()
        yield
    finally:
        for name, tensor in _named(module).items():
            if tensor.dtype != dtypes.get(name, tensor.dtype):
                tensor.data = tensor.data.to(dtypes[name])


def _require_as_finite(exact: Sequence[Followed], plain: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Raise where an output is nowhere finite in float64 that is so in the network's own precision: a constant of its code is too large there."""
    for wide, own in zip(exact, plain, strict=True):
        for name, value in own.items():
            if (
                value.is_floating_point()
                and value.numel()
                and value.isfinite().all()
                and not wide.outputs[name].isfinite().any()
            ):
                raise ArithmeticError(f"{name} is nowhere finite in float64, and finite in the network's own precision")


def exactly(
    run: Caller, inputs: Sequence[Arrays], plain: Sequence[Mapping[str, torch.Tensor]]
) -> tuple[list[Followed], str | None]:
    """Return what every case gives in float64; where that is not possible, what it gives as it is (`plain`), and why."""
    try:
        with in_float64(run.module):
            exact = [run(case, double=True, follow=True) for case in inputs]
        _require_as_finite(exact, plain)
    except (RuntimeError, NotImplementedError, TypeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        # What indices were chosen from is known of the network's own precision too.
        return [
            Followed(known, again.trails, again.sources)
            for known, again in zip(plain, (run(case, follow=True) for case in inputs), strict=True)
        ], reason
    return exact, None


def _named(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def own_tensors(module: nn.Module) -> None:
    """Let each tensor own its memory: what is mapped from one file is not given back until the last of it goes."""
    for tensor in all_of(module):
        tensor.data = tensor.data.clone()


def floating(module: nn.Module) -> list[torch.Tensor]:
    """Return the floating parameters and buffers that hold anything."""
    return [tensor for tensor in all_of(module) if tensor.is_floating_point() and tensor.numel()]


def all_of(module: nn.Module) -> list[torch.Tensor]:
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
