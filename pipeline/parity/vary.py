"""What a worker is asked of a network that an oracle evaluated: run otherwise, and watched while it runs."""

from __future__ import annotations

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
    from collections.abc import Callable, Mapping

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
        taken = tuple(
            index for index, case in enumerate(self.cases) if attempt(runner_of(own), case.inputs) is not None
        )
        kept = tuple(self.cases[index] for index in taken)
        if kept:
            Rehearse(network=self.network, interface=self.interface, cases=kept).run(context)
        else:
            context.leave(replace(own, double=attempt(module.double) is not None))
        return taken


class TwinOutputs(Model):
    """The network run otherwise (see `pipeline.parity.twins.Twin`), and its outputs by case."""

    name: str
    words: str
    remedy: str
    outputs: tuple[dict[str, Array], ...]


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
            twins=tuple(_outputs(each) for each in attempt(lambda: list(twins.twins(left.module, run, cases))) or ()),
            branch=_outputs(found) if found else None,
            met=tuple(_met(partial(run, case)) for case in cases),
        )


def _outputs(twin: twins.Twin) -> TwinOutputs:
    from pipeline.rebuild import calling

    outputs = tuple({name: calling.array_from(each) for name, each in case.items()} for case in twin.outputs)
    return TwinOutputs(name=twin.name, words=twin.words, remedy=twin.remedy, outputs=outputs)


def _met(run: Callable[[], Mapping[str, torch.Tensor]]) -> tuple[Met, ...]:
    found = attempt(lambda: peculiar.met(run)) or []
    return tuple(Met(name=each.name, lines=each.lines, dependents=dict(each.dependents)) for each in found)
