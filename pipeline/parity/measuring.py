"""What judging accuracy asks of workers: the network in float64 on samples, and a metric of the user's."""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.interface import Array, Interface
from pipeline.parity.jobs import Evaluated, arrays_by, runner_of
from pipeline.rebuild import trust
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class OpenNetwork(Request[None]):
    """Build the network and load its weights, in float64 where `double`."""

    network: Network
    interface: Interface
    double: bool
    is_lasting = True

    def run(self, context: Context) -> None:
        """Leave the network."""
        from pipeline.rebuild import model

        context.leave(Evaluated(model.load(self.network).module, self.interface, double=self.double))


class RunNetwork(Request[dict[str, Array]]):
    """Return what the network gives for a batch, by output name; floating outputs are float64 where it is."""

    inputs: dict[str, Array]

    def run(self, context: Context) -> dict[str, Array]:
        """Call it without gradients."""
        return dict(arrays_by(runner_of(context.find(Evaluated)))(self.inputs))


class Measure(Request[tuple[tuple[float, float], ...]]):
    """Return the metric of the user's for each sample: of what the network gives, and of what was got.

    `target` is its module:function, found under the trusted prefixes `trust`; `first` is the number of the first sample.
    """

    target: str
    trust: tuple[str, ...]
    low: float
    high: float
    first: int
    references: tuple[dict[str, Array], ...]
    got: tuple[dict[str, Array], ...]
    samples: tuple[dict[str, Array], ...]

    def run(self, _: Context) -> tuple[tuple[float, float], ...]:
        """Run the user's code; raises InputError where it raises, or gives what is no number within its range."""
        located = trust.locate_function(self.target, self.trust)
        function = trust.import_object(located)
        found = []
        for index, (reference, got, sample) in enumerate(zip(self.references, self.got, self.samples, strict=True)):
            found.append(
                (
                    self._value(
                        function,
                        located.path,
                        reference,
                        sample,
                        f"what the network gives for sample {self.first + index}",
                    ),
                    self._value(
                        function, located.path, got, sample, f"what the artifact gives for sample {self.first + index}"
                    ),
                )
            )
        return tuple(found)

    def _value(
        self,
        function: Callable[[dict[str, Array], dict[str, Array]], object],
        path: Path,
        outputs: Mapping[str, Array],
        sample: Mapping[str, Array],
        about: str,
    ) -> float:
        given = (
            {name: each.copy() for name, each in outputs.items()},
            {name: each.copy() for name, each in sample.items()},
        )
        try:
            value = function(*given)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
            where = f" ({path.name}:{frames[-1].lineno})" if frames else ""
            told = f"metric {self.target} raised {type(error).__name__}{where} on {about}: {error}"
            raise InputError(
                told, hint="mend the function, or the arrays beside the inputs in the file of samples"
            ) from error
        try:
            if isinstance(value, str | bytes):  # which float would read
                raise TypeError
            number = float(value)  # type: ignore[arg-type]  # what it cannot take it says
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                f"metric {self.target} gave {type(value).__name__} for {about}, not a number",
                hint="return one float for one sample",
            ) from None
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise InputError(
                f"metric {self.target} gave {number:g} for {about}, and its range is {self.low:g} to {self.high:g}",
                hint="return a number within it, or give the range that it has as `range`: the bound on its mean rests on it",
            )
        return number
