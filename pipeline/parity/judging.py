"""Judge an artifact's accuracy: the network in float64 and a backend with the artifact, over the same samples, a batch at a time."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from pipeline.errors import InputError
from pipeline.parity import accuracy, measuring
from pipeline.parity.claims import Claim
from pipeline.parity.measuring import Measure, OpenNetwork, RunNetwork
from pipeline.worker import wire
from pipeline.worker.session import Run, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.backends.variant import Variant
    from pipeline.config.accuracy import AccuracyConfig
    from pipeline.interface import Array
    from pipeline.parity.accuracy import Judgement
    from pipeline.parity.samples import Batch, Samples
    from pipeline.parity.truth import Conditions
    from pipeline.worker.runner import Worker

    Pairs = Mapping[str, Sequence[tuple[Array, Array]]]
    """By output, what the network and what the artifact gives for each sample of a batch."""

_MOST_KEPT = 2**31  # bytes of what the network gave
_DIGITS = 6  # of what a manifest holds: the last bits of a sum are another machine's own


@dataclass(slots=True)
class _Seen:
    """What was seen of each sample, in their order: dB and agreement by output, and the metric of network and artifact."""

    sqnr_db: dict[str, list[float]] = field(default_factory=dict)
    agrees: dict[str, list[bool]] = field(default_factory=dict)
    metric: list[tuple[float, float]] = field(default_factory=list)


def judge(
    variant: Variant,
    wanted: AccuracyConfig,
    samples: Samples,
    conditions: Conditions,
    *,
    double: bool,
    kept: Path | None = None,
) -> tuple[Claim, ...]:
    """Return what became of every claim about the artifact that a backend opens; `double`: hold it against float64.

    `kept`: a folder for what the network gives, where these samples are judged on again; it is asked for what is not there.

    Where several outputs are asked of, each has its claim: all have to pass, which takes no correction for how many there are.

    Raises:
        InputError: an output has no row a sample, nothing that was asked can be told of the outputs, or the metric failed.
        WeighbridgeError: a backend refused a batch, or crashed.
    """
    seen = _Seen()
    with ExitStack() as stack:
        network = _Network(stack, conditions, kept, double)
        artifact, _ = stack.enter_context(
            opened(
                conditions.runner,
                variant,
                conditions.interface,
                conditions.network,
                threads=conditions.threads,
                timeout_s=conditions.timeout_s,
            )
        )
        metric = (
            stack.enter_context(
                conditions.runner.start("the metric", threads=conditions.threads, modules=(measuring.__name__,))
            )
            if wanted.metric
            else None
        )
        for index, batch in enumerate(samples.batches()):
            inputs = dict(batch.inputs)
            references = network(index, inputs)
            got = artifact.call(Run(inputs=inputs), timeout_s=conditions.timeout_s)
            pairs = {
                name: list(zip(samples.split(name, each, batch), samples.split(name, got[name], batch), strict=True))
                for name, each in references.items()
                if name in asked(wanted, references)
            }
            _look(seen, wanted, pairs)
            if metric is not None:
                seen.metric.extend(
                    metric.call(_measure(wanted, samples, batch, pairs, conditions), timeout_s=conditions.timeout_s)
                )
    return tuple(_claims(seen, wanted))


@dataclass(slots=True)
class _Network:
    """What the network gives for batches: from the folder, as far as that has them, else from a process that runs it."""

    stack: ExitStack
    conditions: Conditions
    kept: Path | None
    double: bool
    worker: Worker | None = None

    def __call__(self, index: int, inputs: dict[str, Array]) -> dict[str, Array]:
        file = self.kept / f"{index}.message" if self.kept else None
        if file is not None and file.is_file():
            with file.open("rb") as opened:
                return cast("dict[str, Array]", wire.load(opened))
        found = self._started().call(RunNetwork(inputs=inputs), timeout_s=self.conditions.timeout_s)
        if file is not None and self._has_room(file.parent, sum(each.nbytes for each in found.values())):
            with file.open("wb") as opened:
                wire.dump(opened, found)
        return found

    def _started(self) -> Worker:
        if self.worker is None:
            given = self.conditions
            starting = given.runner.start(
                "the float64 network", threads=given.threads, modules=("torch", measuring.__name__)
            )
            self.worker = self.stack.enter_context(starting)
            request = OpenNetwork(network=given.network, interface=given.interface, double=self.double)
            self.worker.call(request, timeout_s=given.timeout_s)
        return self.worker

    @staticmethod
    def _has_room(folder: Path, more: int) -> bool:
        held = sum(each.stat().st_size for each in folder.iterdir())
        return held + more <= min(_MOST_KEPT, shutil.disk_usage(folder).free // 4)


def asked(wanted: AccuracyConfig, outputs: Iterable[str]) -> tuple[str, ...]:
    """Return the outputs that something is asked of: a metric is given all of them."""
    return tuple(each for each in outputs if wanted.metric or not wanted.outputs or each in wanted.outputs)


def _look(seen: _Seen, wanted: AccuracyConfig, pairs: Pairs) -> None:
    """Compare the outputs of each sample of a batch."""
    for name in wanted.outputs or pairs:
        first, _ = pairs[name][0]
        if wanted.sqnr_db is not None and first.dtype.kind not in "iub":
            seen.sqnr_db.setdefault(name, []).extend(accuracy.sqnr_db(*pair) for pair in pairs[name])
        if wanted.top1_agreement is not None and _has_classes(first):
            seen.agrees.setdefault(name, []).extend(accuracy.agrees(*pair) for pair in pairs[name])


def _has_classes(values: Array) -> bool:
    """Whether there is something that could be told wrong: whole numbers, or a last axis with more than one place."""
    return values.dtype.kind in "iub" or (values.dtype.kind == "f" and values.ndim > 0 and values.shape[-1] > 1)


def _measure(wanted: AccuracyConfig, samples: Samples, batch: Batch, pairs: Pairs, conditions: Conditions) -> Measure:
    """Return what asks the metric of the user's about each sample of a batch."""
    assert wanted.metric is not None  # noqa: S101 - who calls has looked

    def outputs(which: int) -> tuple[dict[str, Array], ...]:
        return tuple(
            {name: np.asarray(each[index][which]) for name, each in pairs.items()} for index in range(len(batch.rows))
        )

    return Measure(
        target=wanted.metric,
        trust=conditions.network.trust,
        low=float(wanted.range[0]),
        high=float(wanted.range[1]),
        first=batch.rows.start,
        references=outputs(0),
        got=outputs(1),
        samples=tuple(samples.row(index) for index in batch.rows),
    )


def _claims(seen: _Seen, wanted: AccuracyConfig) -> Iterator[Claim]:
    if wanted.sqnr_db is not None:
        _require_some(seen.sqnr_db, "sqnr_db", "outputs of floats")
        for name, found in seen.sqnr_db.items():
            hits = sum(each >= wanted.sqnr_db for each in found)
            judged = accuracy.judge_share(hits, len(found), wanted.share, wanted.confidence)
            order = sorted(found)
            yield _claim(
                "sqnr_db", name, judged, threshold=wanted.sqnr_db, lowest=order[0], median=order[(len(order) - 1) // 2]
            )
    if wanted.top1_agreement is not None:
        _require_some(
            seen.agrees, "top1_agreement", "outputs of whole numbers, or with several values along their last axis"
        )
        for name, agreed in seen.agrees.items():
            judged = accuracy.judge_share(sum(agreed), len(agreed), wanted.top1_agreement, wanted.confidence)
            yield _claim("top1_agreement", name, judged)
    if wanted.metric is not None and wanted.margin is not None:
        values = np.asarray(seen.metric, np.float64)
        differences = values[:, 1] - values[:, 0]
        judged = accuracy.judge_mean(differences, wanted.margin, wanted.width, wanted.confidence)
        typical = {"lowest": differences.min(), "median": np.median(differences), "network": values[:, 0].mean()}
        yield _claim("metric", None, judged, **{name: float(each) for name, each in typical.items()})


def _require_some(found: Mapping[str, object], criterion: str, needs: str) -> None:
    if not found:
        raise InputError(
            f"{criterion} is asked for, and none of the outputs is one that it can be asked of ({needs})",
            hint="ask for another criterion, or name other `outputs`",
        )


def _claim(
    criterion: Literal["sqnr_db", "top1_agreement", "metric"], output: str | None, judged: Judgement, **figures: float
) -> Claim:
    bounds = {name: _rounded(getattr(judged, name)) for name in ("value", "lower", "upper", "limit")}
    typical = {name: _rounded(each) for name, each in figures.items()}
    more = {name: each for name, each in (("fewest", judged.fewest), ("more", judged.more)) if each is not None}
    found = {"criterion": criterion, "output": output, "verdict": judged.verdict, "samples": judged.samples}
    return Claim.model_validate(found | bounds | typical | more)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
