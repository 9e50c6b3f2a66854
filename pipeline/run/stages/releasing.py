"""Write the release, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.parity.prove import Truth
from pipeline.release import compose
from pipeline.run import keys
from pipeline.run.stages import reporting
from pipeline.run.stages.results import Exported, Inputs, Judged, Proven, Rebuilt, Released, Timed
from pipeline.run.stages.state import Stage
from pipeline.weights.files import digest

if TYPE_CHECKING:
    from pipeline.run.stages.state import State


def _run(state: State) -> tuple[object, ...]:
    planned, rebuilt = state.plan, state.need(Rebuilt)
    weights = {"sha256": rebuilt.facts.sha256, "parameters": rebuilt.facts.parameters}
    evidence = compose.Evidence(
        config=planned.config,
        interface=planned.interface,
        weights=weights | {"file": Path(planned.network.weights).name},
        architecture={"name": planned.config.model.architecture, "sha256": digest(planned.located.path)},
        artifacts=state.need(Exported).artifacts,
        truth=state.need(Truth),
        proofs=state.need(Proven).proofs,
        report=reporting.files(state, benchmark=state.need(Timed).benchmark),
        sign=planned.sign,
        recording=state.need(Inputs).recording,
        distributions=keys.distributions(planned),
        audits=state.need(Proven).audits,
        accuracies=state.need(Judged).accuracies,
    )
    return (Released(compose.write(evidence, state.settings.out)),)


RELEASE = Stage(
    "release", "write the release", (Inputs, Exported, Rebuilt, Truth, Proven, Judged, Timed), (Released,), _run
)
