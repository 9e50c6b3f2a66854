"""The inputs that everything is judged on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.rebuild import cases, reference
from pipeline.run.stages import accuracy
from pipeline.run.stages.results import Inputs
from pipeline.run.stages.state import Stage

if TYPE_CHECKING:
    from pipeline.config.models import ExportConfig
    from pipeline.interface import Array, Case
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


def calibration(planned: Plan, wanted: ExportConfig) -> dict[str, Array] | None:
    """Return the inputs that an artifact's ranges are measured on; None if it has none.

    Raises:
        InputError: they are not what the config says, or hold NaN or infinity.
    """
    from pipeline.release import predict

    if not wanted.calibration:
        return None
    name = Path(wanted.calibration).name
    arrays = predict.read_inputs([wanted.calibration], planned.interface.inputs)
    found = dict(cases.from_samples(planned.interface, arrays, what=name).inputs)
    for each, array in found.items():
        if not array.size or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            told = "is empty" if not array.size else "holds NaN or infinity"
            raise InputError(
                f"{name}: '{each}' {told}: no range can be measured on it", hint="save inputs that the network meets"
            )
    return found


def examples(planned: Plan) -> Case:
    """Return the inputs that exporters are shown."""
    sizes = cases.example_sizes(planned.interface)
    return cases.make(planned.interface, sizes, seed=planned.config.parity.seed, name="exporter")


def _run(state: State) -> tuple[object, ...]:
    for each in state.plan.config.exports:
        calibration(state.plan, each)  # nothing is made for a file that no range can be measured on
    accuracy.require_readable(state.plan)
    return (sample(state.plan),)


SAMPLE = Stage("sample", "make seeded inputs over the declared dimensions", (), (Inputs,), _run)
