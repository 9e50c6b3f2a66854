"""The inputs that everything is judged on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.rebuild import cases, reference
from pipeline.run.stages import accuracy
from pipeline.run.stages.results import Inputs
from pipeline.run.stages.state import Stage

if TYPE_CHECKING:
    from pipeline.interface import Case
    from pipeline.run.plan import Plan
    from pipeline.run.stages.state import State


def sample(planned: Plan) -> Inputs:
    """Return seeded inputs, the user's own, and those that were recorded, in this order.

    Recorded is what the network itself takes: with preprocessing in front of it that is no case of the artifacts.

    Raises:
        WeighbridgeError: a file of inputs is not what the config says.
    """
    from pipeline.release import predict

    config = planned.config
    found = cases.sample(planned.interface, seed=config.parity.seed, cap_elements=config.parity.cap_elements)
    if config.samples:
        arrays = predict.read_inputs([config.samples], planned.interface.inputs)
        found = (*found, cases.from_samples(planned.interface, arrays))
    if not config.reference:
        return Inputs(found)
    file = Path(config.reference.file)
    recording = reference.parse(predict.read_arrays(file), planned.interface.of_network(), file.name)
    return Inputs(found if planned.interface.preprocesses else (*found, *recording.cases), recording)


def examples(planned: Plan) -> Case:
    """Return the inputs that exporters are shown."""
    sizes = cases.example_sizes(planned.interface)
    return cases.make(planned.interface, sizes, seed=planned.config.parity.seed, name="exporter")


def _run(state: State) -> tuple[object, ...]:
    accuracy.require_readable(state.plan)
    return (sample(state.plan),)


SAMPLE = Stage("sample", "make seeded inputs over the declared dimensions", (), (Inputs,), _run)
