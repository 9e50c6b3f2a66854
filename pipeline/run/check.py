"""Check a config with its weights and architecture, and describe the plan of an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.labels import labels
from pipeline.errors import in_line
from pipeline.interface import in_words
from pipeline.parity.jobs import Evaluate
from pipeline.run.jobs import FindUndecided
from pipeline.run.plan import plan
from pipeline.run.stages.network import agreed, rehearse
from pipeline.run.stages.results import Inputs
from pipeline.run.stages.sampling import SAMPLE
from pipeline.run.stages.state import State, run
from pipeline.worker.event import Event
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.config.models import Config, ExportConfig
    from pipeline.interface import Case, Dimension
    from pipeline.parity.jobs import Rehearsed
    from pipeline.parity.trained import Agreement
    from pipeline.rebuild.doubts import Doubt
    from pipeline.rebuild.reference import Recording
    from pipeline.run.plan import Plan, Settings

_NAMED = 3
_MOST_FIELDS = 6


def check(path: Path, settings: Settings) -> dict[str, Any]:
    """Check a config, build its network, load its weights and run it on every parity case; return the plan of an export.

    Raises:
        WeighbridgeError: what the user gave is wrong, or a required backend cannot run here.
    """
    planned = plan(path, settings)
    state = run(State(planned, settings, Path()), [SAMPLE])
    inputs, agreement = state.need(Inputs), None
    sampled, recording = inputs.cases, inputs.recording
    settings.report(Event("check", f"{len(sampled)} cases", "started"))
    with LOCAL.start("the network", threads=1, modules=("torch", Evaluate.__module__)) as worker:
        timeout_s = planned.config.limits.run_seconds
        facts = rehearse(worker, state)
        undecided: tuple[Doubt, ...] = ()
        if recording:
            seed, last = planned.config.parity.seed, len(recording.calls)
            agreement = agreed(state, lambda: worker.call(Evaluate(seed=seed, last=last), timeout_s=timeout_s))
        else:
            undecided = worker.call(FindUndecided(network=planned.network), timeout_s=timeout_s)
    plan_ = _described(planned, facts, sampled, undecided)
    return {"plan": plan_ | {"trained network": _trained(recording, agreement)}}


def _trained(recording: Recording | None, agreement: Agreement | None) -> str:
    """Say how the rebuilt network compares with the trained one."""
    if recording is None or agreement is None:
        return "not compared: nothing tells whether this is the network that was trained (see weighbridge record)"
    found = agreement.deciding
    calls = f"{len(recording.calls)} recorded call{'s' if len(recording.calls) > 1 else ''}"
    return f"the same in {calls} of {recording.name} ({recording.place}): {found.factor:.3g}, limit {found.limit:g}"


def _described(planned: Plan, facts: Rehearsed, cases: Sequence[Case], undecided: Sequence[Doubt]) -> dict[str, Any]:
    config = planned.config
    doubts = {
        "contradicted": list(facts.contradictions),
        "not decided": list(_undecided(planned.located.name, undecided)),
    }
    binding = {"called by": list(facts.binding)} if facts.binding else {}
    preprocessed = [
        f"{spec.name}: {spec.preprocess.in_words()}" for spec in planned.interface.inputs if spec.preprocess
    ]
    return {
        "network": f"{config.model.architecture}, {facts.parameters:,} parameters, {facts.bytes:,} bytes",
        "weights": [f"{Path(planned.network.weights).name}, sha256 {planned.weights_sha256}", *facts.notes],
        **{key: lines for key, lines in doubts.items() if lines},
        "inputs": [
            f"{spec.name}: {spec.dtype} {list(spec.shape)}{_unit(spec.name, config)}"
            for spec in planned.interface.inputs
        ],
        **({"preprocessed": preprocessed} if preprocessed else {}),
        "dimensions": [_dimension(each) for each in planned.interface.dimensions] or ["none"],
        "outputs": [_output(name, planned) for name in planned.interface.outputs],
        **binding,
        "exports": [_export(each) for each in config.exports],
        "backends": [
            f"{variant.name}: {'required' if variant.required else 'optional'}"
            + (f", cannot run here: {variant.unavailable}" if variant.unavailable else "")
            for variant in planned.variants
        ],
        **({"accuracy": judged} if (judged := list(_accuracies(config))) else {}),
        "parity cases": [f"{case.name}: {in_words(case.sizes)}, runs" for case in cases],
        "benchmark": f"{config.benchmark.seconds:g} s, against {config.benchmark.reference}",
    }


def _accuracies(config: Config) -> Iterator[str]:
    for name, gate in config.gates.items():
        if asked := gate.accuracy:
            wanted = [
                *([f"{asked.sqnr_db:g} dB in {asked.share:g} of inputs"] if asked.sqnr_db is not None else []),
                *([f"top-1 agreement {asked.top1_agreement:g}"] if asked.top1_agreement is not None else []),
                *([f"{asked.metric} within {asked.margin:g}"] if asked.metric is not None else []),
            ]
            yield f"{name}: {', '.join(wanted)}, at {asked.confidence:g}, on {Path(asked.samples).name}"


def _unit(name: str, config: Config) -> str:
    said = config.describe.get(name)
    return f", {said.unit}" if said and said.unit else ""


def _output(name: str, planned: Plan) -> str:
    said = planned.config.describe.get(name)
    classes = f"{len(found)} classes: {_few(found)}" if (found := labels(planned.config).get(name)) else ""
    parts = [each for each in (said and said.unit, classes) if each]
    return f"{name}: {'; '.join(parts)}" if parts else name


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … {names[-1]}" if len(names) > _NAMED else "")


def _undecided(owner: str, doubts: Sequence[Doubt]) -> Iterator[str]:
    """Say which arguments nothing decides, a line each; of an object with many such fields, as a library's config has, in one."""
    by_object: dict[str, list[Doubt]] = {}
    for each in doubts:
        by_object.setdefault(each.name.rpartition(".")[0], []).append(each)
    for path, fields in by_object.items():
        if path and len(fields) > _MOST_FIELDS:
            names = in_line([each.name.rpartition(".")[2] for each in fields])
            yield (
                f"{len(fields)} fields of {path} are left at their defaults, and nothing tells whether that is right: {names}; "
                f"write those that matter under model.arguments.{path}, or give a reference"
            )
            continue
        whose = "its class" if path else owner
        for each in fields:
            yield (
                f"{each.name}={each.value} (default of {whose}): {each.why}; "
                "write it under model.arguments, or give a reference"
            )


def _export(each: ExportConfig) -> str:
    format_ = f" ({each.format})" if each.format != each.name else ""
    source = f", from {each.made_from}" if each.made_from else ""
    return f"{each.name}{format_}{source} {each.options or ''}".strip()


def _dimension(each: Dimension) -> str:
    steps = f", in steps of {each.multiple_of}" if each.multiple_of > 1 else ""
    return f"{each.name}: {each.min} to {each.max}{steps}{f', always {each.formula}' if each.formula else ''}"
