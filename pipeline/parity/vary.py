"""What a worker is asked of a network that an oracle evaluated: run otherwise, and watched while it runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.interface import Array, Case, Interface
from pipeline.parity import peculiar, twins
from pipeline.parity.jobs import Evaluated, Rehearse, runner_of
from pipeline.rebuild.attempt import attempt
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Model, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch


class Try(Request[tuple[int, ...]]):
    """Build the network and run it on those of the cases that it takes; return which these are."""

    network: Network
    interface: Interface
    cases: tuple[Case, ...]
    is_lasting = True

    def run(self, context: Context) -> tuple[int, ...]:
        """Leave the network for `Evaluate`, with the cases that it takes."""
        from pipeline.rebuild import model

        module = model.load(self.network).module
        own = Evaluated(module, self.interface, double=False)
        run = runner_of(own)
        taken = tuple(index for index, case in enumerate(self.cases) if attempt(run, case.inputs) is not None)
        kept = tuple(self.cases[index] for index in taken)
        if kept:
            Rehearse(network=self.network, interface=self.interface, cases=kept).run(context)
        else:
            context.leave(replace(own, double=attempt(module.double) is not None))
        return taken


class TwinOutputs(Model):
    """The network run otherwise (see `pipeline.parity.twins.Twin`), its outputs by case, and what float32 loses of them."""

    name: str
    words: str
    remedy: str
    outputs: tuple[dict[str, Array] | None, ...]
    noise: tuple[dict[str, Array] | None, ...]


class Met(Model):
    """A peculiarity that a case meets (see `pipeline.parity.peculiar`)."""

    name: str
    lines: tuple[str, ...]
    dependents: dict[str, Array]  # of booleans


class Variations(Model):
    """What the network gives otherwise: its twins, the one along the branch of the right cases, and what each case meets."""

    twins: tuple[TwinOutputs, ...]
    branch: TwinOutputs | None
    met: tuple[tuple[Met, ...], ...]


class Vary(Request[Variations]):
    """Run the network that was evaluated otherwise, on `cases`; a file is right or wrong on some of them."""

    cases: tuple[dict[str, Array], ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]

    def run(self, context: Context) -> Variations:
        """Try every twin that the network has; what cannot be run is left out."""
        left = context.find(Evaluated)
        run, cases = runner_of(left), self.cases
        right, wrong = ([cases[index] for index in each] for each in (self.right, self.wrong))
        found = attempt(lambda: twins.along_branch(left.module, left.interface, run, right, wrong, double=left.double))
        return Variations(
            twins=tuple(attempt(_with_noise, left, cases) or ()),
            branch=_outputs(found, found) if found else None,
            met=tuple(_met(partial(run, case)) for case in cases),
        )


def _with_noise(left: Evaluated, cases: Sequence[dict[str, Array]]) -> list[TwinOutputs]:
    """Return the twins of a network, each with itself in float32: it may round worse than the network does."""
    found = list(twins.twins(left.module, runner_of(left), cases))
    if not found or not left.double:
        return [_outputs(each, each) for each in found]
    single = replace(left, module=copy.deepcopy(left.module).float(), double=False)
    again = twins.twins(single.module, runner_of(single), cases)
    return [_outputs(each, other) for each, other in zip(found, again, strict=True)]


def _outputs(twin: twins.Twin, single: twins.Twin) -> TwinOutputs:
    outputs, others = (tuple(_arrays(case) for case in each.outputs) for each in (twin, single))
    noise: tuple[dict[str, Array] | None, ...] = tuple(
        {name: abs(value - other[name].astype(value.dtype)) for name, value in own.items() if value.dtype.kind == "f"}
        if own is not None and other is not None
        else None
        for own, other in zip(outputs, others, strict=True)
    )
    return TwinOutputs(name=twin.name, words=twin.words, remedy=twin.remedy, outputs=outputs, noise=noise)


def _arrays(outputs: Mapping[str, torch.Tensor] | None) -> dict[str, Array] | None:
    from pipeline.rebuild import calling

    return None if outputs is None else {name: calling.array_from(each) for name, each in outputs.items()}


def _met(run: Callable[[], Mapping[str, torch.Tensor]]) -> tuple[Met, ...]:
    found = attempt(lambda: peculiar.met(run)) or []
    return tuple(Met(name=each.name, lines=each.lines, dependents=dict(each.dependents)) for each in found)
