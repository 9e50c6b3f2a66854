"""Export every artifact, and evaluate the network in float64 beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError, WeighbridgeError, WorkerError
from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.table import formats
from pipeline.parity.prove import Truth
from pipeline.run import cached, keys
from pipeline.run.jobs import Export
from pipeline.run.plan import at_once
from pipeline.run.stages import auditing, evaluating
from pipeline.run.stages.network import agreed, rehearsed, truth_of
from pipeline.run.stages.results import Exported, Inputs, Rebuilt
from pipeline.run.stages.sampling import calibration, examples
from pipeline.run.stages.state import Stage
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.config.models import ExportConfig
    from pipeline.run.plan import Plan
    from pipeline.run.stages.state import State


def _run(state: State) -> tuple[object, ...]:
    """Run the network on every case; then export every artifact and evaluate the oracle, each in a worker of its own."""
    wanted = state.plan.config.exports
    state.runner.expect(_needed(state))
    with rehearsed(state) as evaluate, ThreadPoolExecutor(at_once(state.plan, state.settings)) as pool:
        agreement = agreed(state, evaluate)
        made: dict[str, Any] = {
            each.name: pool.submit(_from_network, state, each) for each in wanted if each.made_from is None
        }
        answering = pool.submit(evaluate)
        outcomes = {name: each.exception() or each.result() for name, each in made.items()}
        for each in wanted:
            if each.made_from is not None:
                outcomes[each.name] = _derived(state, each, outcomes[each.made_from])
        artifacts = tuple(each for each in outcomes.values() if isinstance(each, Artifact))
        exported = Exported(artifacts, _refusals(outcomes))
        begun = []
        if at_once(state.plan, state.settings) > 1:
            begun.append(auditing.of_exported(state.adding(exported)))  # the oracle may take longer than the exports
        try:
            answer = answering.result()
        except BaseException:
            for audit in begun:
                with suppress(WeighbridgeError):
                    audit.result()
            raise
    exported, known = evaluating.added(exported, truth_of(state, answer), state)
    return exported, Rebuilt(answer.network, agreement), known, *begun


def _needed(state: State) -> list[str]:
    """Return the modules that the exporters which have something to do will import, while the network is run on every case."""
    found = []
    for each in state.plan.config.exports:
        if each.made_from is None and not state.cache.has(
            keys.of_export(state.plan, each, _identity(state.plan), None)
        ):
            found += [*formats()[each.format].modules, Export.__module__]
    return list(dict.fromkeys(found))


def _from_network(state: State, wanted: ExportConfig) -> Artifact:
    """Export an artifact; where its exporter crashed or took too long, by the format's other way, if it has one."""
    try:
        return export(state, wanted)
    except ExportError:
        raise  # it has tried what there is
    except WorkerError as error:
        chosen = formats()[wanted.format]
        other = chosen.alternative(chosen.options.model_validate(wanted.options), None)
        if other is None:
            raise
        made = export(state, wanted.model_copy(update={"options": {**wanted.options, **other}}))
        note = f"made another way, because the first ended with: {error.message.splitlines()[0]}"
        return replace(made, written=replace(made.written, notes=(note, *made.written.notes), refused=error.message))


def _derived(state: State, wanted: ExportConfig, source: Artifact | BaseException) -> Artifact | BaseException:
    """Derive an artifact from one that was made before it; what the other lacks this one lacks."""
    if not isinstance(source, Artifact):
        told = f"{wanted.made_from}, which it is made from, could not be exported"
        return ExportError(told, hint=f"see what is said of {wanted.made_from}")
    try:
        return export(state, wanted, source)
    except WorkerError as error:
        return error


def _refusals(outcomes: Mapping[str, Artifact | BaseException]) -> dict[str, str]:
    """Return why artifacts could not be made. Whether that closes the gate is decided when the others were proven."""
    refusals = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, WorkerError):
            refusals[name] = outcome.message + (f" ({outcome.hint})" if outcome.hint else "")
        elif isinstance(outcome, BaseException):
            raise outcome
    return refusals


def export(
    state: State, wanted: ExportConfig, source: Artifact | None = None, before: Artifact | None = None
) -> Artifact:
    """Export the network as an artifact, or derive it from another one; `before` was made so with other layers left out.

    Raises:
        ExportError: the format refuses it, with its own reason.
        WorkerError: it crashed.
    """
    planned, report = state.plan, state.settings.report
    report(Event("export", wanted.name, "started"))
    peaks, written_by = [], formats()[wanted.format]
    if missing := written_by.probe():
        report(Event("export", wanted.name, "failed", missing))
        raise ExportError(missing, hint=f"install {written_by.install}")

    def work(folder: Path) -> dict[str, Any]:
        request = Export(
            network=planned.network,
            interface=planned.interface,
            examples=dict(examples(planned).inputs),
            format=wanted.format,
            options=dict(wanted.options),
            folder=folder,
            file_name=written_by.file_of(wanted.name),
            identity=_identity(planned),
            source=source,
            samples=calibration(planned, wanted),
            before=before,
        )
        modules = (*written_by.modules, Export.__module__)
        with state.runner.start(f"the {wanted.name} exporter", threads=1, modules=modules) as worker:
            written = worker.call(request, timeout_s=planned.config.limits.export_seconds)
            peaks.append(worker.peak_bytes)
        return asdict(written) | {"files": [each.name for each in written.files]}

    key = keys.of_export(planned, wanted, _identity(planned), source)
    try:
        found = cached.get_or_make(state.cache, key, f"{planned.config.name}: {wanted.name} export", work)
    except WorkerError as error:
        report(Event("export", wanted.name, "failed", error.message))
        raise
    files, notes = tuple(found.folder / each for each in found.answer["files"]), tuple(found.answer["notes"])
    report(cached.ended("export", wanted.name, found, "; ".join(notes), peaks))
    written = Written(**found.answer | {"files": files, "notes": notes})
    return Artifact(wanted.name, wanted.format, written, source.name if source else None)


def _identity(planned: Plan) -> dict[str, str]:
    """Return what a model file says of itself. A version that is the content's digest cannot stand in the content."""
    version = planned.config.release.version
    identity = {"name": planned.config.name, "weights_sha256": planned.weights_sha256}
    return identity | ({"version": version} if version else {})


EXPORT = Stage(
    "export",
    "export every artifact; evaluate the network in float64",
    (Inputs,),
    (Exported, Rebuilt, Truth),
    _run,
)
