"""Let recorded outputs choose where names and shapes leave open which tensor of a file is which of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import MisfitError
from pipeline.parity import jobs
from pipeline.rebuild.doctor.misfit import in_config
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.parity.jobs import Evaluation
    from pipeline.parity.prove import Conditions
    from pipeline.rebuild.network import Network
    from pipeline.rebuild.reference import Recording
    from pipeline.worker.runner import Worker

_SHOWN = 3


def explained(
    error: MisfitError,
    worker: Worker,
    conditions: Conditions,
    recording: Recording,
    agrees: Callable[[Evaluation], bool],
) -> MisfitError:
    """Return `error` with what the recording says of each way that is left to name the file's tensors.

    Nothing is chosen: a way that agrees is proposed, for the user to write down. `agrees` tells it of what the oracle gives.
    """
    try:
        ways = worker.call(jobs.FindAlternatives(network=conditions.network), timeout_s=conditions.timeout_s)
    except MisfitError as too_many:
        return MisfitError(f"{error.message}\n{too_many.message}", hint=too_many.hint)
    if len(ways) < 2:
        return error
    conditions.report(Event("reference", recording.name, "started", f"{len(ways)} ways to name the file's tensors"))
    agreeing = []
    for number, way in enumerate(ways, 1):
        if agrees(_evaluation(worker, conditions, recording, way)):
            agreeing.append(way)
        conditions.report(Event("reference", recording.name, "working", done=number / len(ways)))
    conditions.report(Event("reference", recording.name, "ended", f"{len(agreeing)} of {len(ways)} agree"))
    return _told(error, recording.name, len(ways), agreeing)


def _evaluation(worker: Worker, conditions: Conditions, recording: Recording, network: Network) -> Evaluation:
    request = jobs.Rehearse(
        network=network, interface=conditions.interface, cases=recording.cases, recorded=len(recording.calls)
    )
    worker.call(request, timeout_s=conditions.timeout_s)
    return worker.call(jobs.Evaluate(seed=0), timeout_s=conditions.timeout_s)


def _told(error: MisfitError, name: str, count: int, agreeing: Sequence[Network]) -> MisfitError:
    if not agreeing:
        return MisfitError(
            f"{error.message}\nnone of the {count} ways to name them gives what {name} recorded",
            hint="look for what else differs: the architecture, its arguments, or weights of another epoch",
        )
    options = [", ".join(in_config(way.rename, way.ignore)) for way in agreeing[:_SHOWN]]
    if len(agreeing) == 1:
        return MisfitError(
            f"{error.message}\nof {count} ways to name them, one gives what {name} recorded", hint=options[0]
        )
    listed = "\n".join(f"  {each}" for each in options)
    return MisfitError(
        f"{error.message}\n{len(agreeing)} of {count} ways to name them give what {name} recorded:\n{listed}",
        hint="write one of them down, or record outputs that tell them apart",
    )
