"""Judge whether what an artifact gives is good enough, where a gate asks for it, on the user's own samples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import GateError, InputError, UnavailableError, WorkerError
from pipeline.formats.table import formats
from pipeline.parity import judging, samples
from pipeline.parity.claims import Accuracy
from pipeline.parity.prove import Truth
from pipeline.run import keys
from pipeline.run.stages import kept
from pipeline.run.stages.network import conditions_of
from pipeline.run.stages.results import Exported, Judged, Proven
from pipeline.storage.store import digest_file
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.backends.variant import Variant
    from pipeline.config.accuracy import AccuracyConfig
    from pipeline.interface import Arrays
    from pipeline.parity.claims import Claim
    from pipeline.parity.samples import Samples
    from pipeline.run.plan import Plan
    from pipeline.run.stages.state import State


def require_readable(planned: Plan) -> None:
    """Read every file of samples before anything is made.

    Raises:
        InputError: it is not what the inputs say, or shares rows with what an artifact is calibrated on.
    """
    for name, wanted in _wanted(planned):
        found = _read(planned, wanted)
        for file in _calibrations(planned, name):
            _require_apart(planned, name, found, file)


def _wanted(planned: Plan) -> Iterator[tuple[str, AccuracyConfig]]:
    for name, gate in planned.config.gates.items():
        if gate.accuracy is not None:
            yield name, gate.accuracy


def _read(planned: Plan, wanted: AccuracyConfig, *, dependent: bool = False) -> Samples:
    from pipeline.release import predict

    file = Path(wanted.samples)
    return samples.parse(predict.read_arrays(file), planned.interface, file.name, dependent=dependent)


def _calibrations(planned: Plan, name: str) -> Iterator[Path]:
    """Yield the files that an artifact, and those it is made from, are calibrated on."""
    exports = {each.name: each for each in planned.config.exports}
    following: str | None = name
    while following is not None:
        if file := exports[following].calibration:
            yield Path(file)
        following = exports[following].made_from


def _require_apart(planned: Plan, name: str, found: Samples, file: Path) -> None:
    from pipeline.release import predict

    shared = samples.shared_rows(found.inputs, predict.read_arrays(file), list(found.inputs))
    if shared:
        place = planned.config.place(f"gates.{name}.accuracy.samples")
        raise InputError(
            f"{place}: {shared:,} of {found.count:,} samples to judge {name} on are in {file.name} too, which it is calibrated on",
            hint="judge on other samples: what an artifact was fitted to says too much good of it",
        )


@dataclass(slots=True)
class Shared:
    """What all that is judged on the same samples has in common: the file, read once, and a folder for what the network gives."""

    folder: Path
    _last: tuple[str, bool, Samples] | None = None

    def read(self, planned: Plan, wanted: AccuracyConfig, *, dependent: bool) -> Samples:
        """Return the samples of a file; the last one stays in memory.

        Raises:
            InputError: it is not what the inputs say.
        """
        if self._last is None or self._last[:2] != (wanted.samples, dependent):
            self._last = (wanted.samples, dependent, _read(planned, wanted, dependent=dependent))
        return self._last[2]

    def outputs(self, wanted: AccuracyConfig) -> Path:
        """Return the folder for what the network gives on the samples of a file."""
        found = self.folder / hashlib.sha256(wanted.samples.encode()).hexdigest()
        found.mkdir(exist_ok=True)
        return found


def judged(state: State, only: str | None = None, shared: Shared | None = None) -> State:
    """Return the state with the accuracy of every artifact that a gate asks it of and a backend proved; `only`: of this one anew.

    Raises:
        InputError: the samples or the metric are not what they must be.
    """
    accuracies = dict(state.need(Judged).accuracies) if only else {}
    for name, wanted in _wanted(state.plan):
        if only not in {None, name}:
            continue
        if (variant := _passed(state, name)) is not None:
            accuracies[name] = _judged(state, variant, wanted, shared)
    return state.adding(Judged(accuracies))


def _passed(state: State, name: str) -> Variant | None:
    """Return the first variant that an artifact was proven with."""
    proofs = state.need(Proven).proofs
    return next((each.variant for each in proofs if each.variant.artifact == name and each.status == "pass"), None)


def _judged(state: State, variant: Variant, wanted: AccuracyConfig, shared: Shared | None) -> Accuracy:
    """Return the accuracy of the artifact that a variant opens; what passed before on the same bytes is not judged again."""
    name, planned = variant.artifact or "", state.plan
    key = keys.of_accuracy(planned, variant, state.need(Exported).named(name), state.settings.threads)
    subject = f"{name} accuracy"
    with kept.known(state, {subject: key}) as known:
        if answer := known.get(subject):
            return Accuracy.from_json(answer).model_copy(update={"required": _is_required(planned, name)})
        found = _found(state, variant, wanted, shared)
        if not found.problem:
            kept.keep(state, key, subject, found.to_json())
        return found


def _is_required(planned: Plan, artifact: str) -> bool:
    return any(each.required for each in planned.variants if each.artifact == artifact)


def _found(state: State, variant: Variant, wanted: AccuracyConfig, shared: Shared | None) -> Accuracy:
    name = variant.artifact or ""
    subject = f"{name} accuracy"
    state.settings.report(Event("parity", subject, "started"))
    claims, problem = _claims(state, variant, wanted, shared)
    verdicts = {each.verdict for each in claims}
    verdict = next(each for each in ("fail", "undecided", "pass") if each in verdicts) if claims else "crashed"
    found = Accuracy(
        verdict=verdict,
        variant=variant.name,
        required=_is_required(state.plan, name),
        file=Path(wanted.samples).name,
        sha256=digest_file(Path(wanted.samples)),
        confidence=wanted.confidence,
        claims=claims,
        **({"problem": problem} if problem else {}),
    )
    passed = found.verdict == "pass"
    said = "" if passed else found.in_words()
    state.settings.report(Event("parity", subject, "ended" if passed else "failed", said))
    return found


def would_pass(state: State, name: str, file: Path, shared: Shared) -> bool:
    """Return whether a gate on accuracy would pass with another file of an artifact, which nothing has proven yet."""
    wanted = dict(_wanted(state.plan))[name]
    variant = _passed(state, name)
    if variant is None:
        return False
    claims, problem = _claims(state, replace(variant, file=file), wanted, shared)
    return problem is None and {each.verdict for each in claims} == {"pass"}


def of_one_call(state: State, name: str, shared: Shared) -> Arrays:
    """Return the inputs of the first call with the samples that an artifact is judged on."""
    wanted = dict(_wanted(state.plan))[name]
    return next(shared.read(state.plan, wanted, dependent=_dependent(state)).batches()).inputs


def _dependent(state: State) -> bool:
    """Return whether rows of the batch were seen to depend on one another."""
    rows, batch = state.need(Truth).rows, samples.batch_dimension(state.plan.interface)
    return rows is not None and rows.verdict == "dependent" and batch is not None and rows.dimension == batch.name


def _claims(
    state: State, variant: Variant, wanted: AccuracyConfig, shared: Shared | None
) -> tuple[tuple[Claim, ...], str | None]:
    """Return the claims, or why they could not be judged: a process crashed, or the backend refused a batch."""
    known = state.need(Truth)
    dependent = _dependent(state)
    read = _read if shared is None else shared.read
    found = read(state.plan, wanted, dependent=dependent)
    if found.batch is not None:  # an output may have as many rows as one batch has by chance, but not in every case
        for case, reference in zip(known.cases, known.references, strict=True):
            for name in judging.asked(wanted, reference.values):
                samples.require_rows(name, reference.values[name].shape, case.sizes[found.batch.name])
    try:
        kept_in = None if shared is None else shared.outputs(wanted)
        double = known.fallback is None
        return judging.judge(variant, wanted, found, conditions_of(state), double=double, kept=kept_in), None
    except (WorkerError, UnavailableError) as error:
        return (), error.message


def gate(state: State) -> None:
    """Close the gate on any artifact that a required variant opens and that was not shown to be good enough.

    Raises:
        GateError: a claim failed, or is undecided.
        UnavailableError: it could not be judged.
    """
    closing = {name: each for name, each in state.need(Judged).accuracies.items() if each.closes}
    if not closing:
        return
    told = [f"{name} ({each.variant}): {each.in_words()}" for name, each in closing.items()]
    verdicts = {each.verdict for each in closing.values()}
    if verdicts == {"crashed"}:
        message = "\n  ".join(["accuracy could not be judged:", *told])
        raise UnavailableError(message, hint="mend what is said there, or leave such samples out", about="crashed")
    failed = "fail" in verdicts
    what = "an artifact is not good enough" if failed else "nobody can tell whether an artifact is good enough"
    hint = _hint(state, closing, failed=failed)
    raise GateError(
        "\n  ".join([f"{what}:", *told]), hint=hint, about="accuracy-fail" if failed else "accuracy-undecided"
    )


def _hint(state: State, closing: dict[str, Accuracy], *, failed: bool) -> str:
    if failed:
        name = next(name for name, each in closing.items() if each.verdict == "fail")
        asked = f"gates.{name}.accuracy says what is asked for"
        if leaves_out(state.plan, name) is False:
            return f"set `leave_out: auto` of {name}, which leaves layers as they were until it passes, or take another precision; {asked}"
        return f"take another precision than that of {name}, or ask for less: {asked}"
    name, accuracy = next((name, each) for name, each in closing.items() if each.verdict == "undecided")
    wanted = [each.more or each.fewest for each in accuracy.deciding]
    seen = accuracy.deciding[0].samples
    if numbers := [each for each in wanted if each is not None]:
        return f"give gates.{name}.accuracy.samples {seen + max(numbers):,} samples, {max(numbers):,} more than now"
    return f"ask for less in gates.{name}.accuracy, or take another precision"


def leaves_out(planned: Plan, name: str) -> bool | None:
    """Return whether layers of an artifact are left out by themselves; None where its format or its precision has no such thing."""
    wanted = next(each for each in planned.config.exports if each.name == name)
    chosen = formats()[wanted.format]
    options = chosen.options.model_validate(wanted.options)
    return chosen.leaves_out(options) if chosen.rank is not None and chosen.precision(options) else None


def noted(state: State) -> None:
    """Remark on artifacts that are not good enough and that no required backend opens: they are not released."""
    for name, each in state.need(Judged).accuracies.items():
        if each.verdict != "pass" and not each.required:
            state.settings.report(
                Event("parity", name, "noted", f"{name} is not released: {each.verdict}: {each.in_words()}")
            )
