"""Time the backends of a config, or those of a release without its network; compare what two releases recorded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.benchmark import timing
from pipeline.benchmark.document import UNTIMED
from pipeline.config import BenchmarkConfig
from pipeline.config.text import parse_value
from pipeline.errors import DigestError, InputError, UnavailableError, UnsafeError
from pipeline.interface import complete_sizes
from pipeline.rebuild import cases
from pipeline.release import bundle, opening, standalone
from pipeline.release import verify as verifying
from pipeline.report import document
from pipeline.run import keys as dependencies
from pipeline.run import up_to_date
from pipeline.run.plan import plan, sweep_away, usual_values
from pipeline.run.stages import reporting
from pipeline.run.stages.results import Timed
from pipeline.run.stages.state import State, run
from pipeline.run.stages.table import STAGES
from pipeline.run.stages.timing import measured
from pipeline.run.verify import TIMEOUT_S
from pipeline.storage.documents import Positive, described
from pipeline.storage.store import private_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.benchmark.document import Benchmark
    from pipeline.interface import Interface
    from pipeline.report.document import Documents
    from pipeline.run.plan import Settings

CONFIGS = frozenset({".yaml", ".yml"})
MAX_TIMED_ELEMENTS = 2**28
"""The most that the inputs of one size may hold where a release, and not a config, says what is timed."""


def benchmark(path: Path, settings: Settings) -> Documents:
    """Time a config's backends, or those of a release without the network's code; return its report's documents.

    A config is exported and proven first, unless its release is there; no release is written.

    Raises:
        WeighbridgeError: what the user gave is wrong, a gate closed, or nothing can be timed here.
    """
    if path.suffix.lower() not in CONFIGS:
        return _of_release(bundle.find(path), settings)
    planned = plan(path, settings)
    earlier = up_to_date.find(settings.out, planned.config.name, dependencies.of_release(planned, settings))
    if earlier.release and not settings.rebuild:
        _require_sound(verifying.check_unread(earlier.release), earlier.release)  # finding it compared the digests
        variants = present(planned.variants, earlier.release)
        return replace(document.read(earlier.release), benchmark=measured(planned, variants, settings))
    sweep_away(planned.config.name, settings)
    with private_directory(settings.out / planned.config.name) as work:
        state = run(
            State(planned, settings, work),
            STAGES[:-1],
            earlier.why,
        )
        return document.Documents(reporting.parity_document(state), state.need(Timed).benchmark)


def is_undecided(benchmark: Benchmark) -> bool:
    """Say whether a benchmark left a backend without a verdict for want of certainty."""
    return any(
        row.verdict == "undecided" and row.name not in {size.control, *size.measurements.failures}
        for size in benchmark.sizes
        for row in size.rows
    )


def deciding_s(benchmark: Benchmark) -> float:
    """Return the budget with which to time again what is undecided: what it is known to take, or else twice as much."""
    known = [
        row.decides_in_s + benchmark.budget_s - size.measurements.plan.seconds
        for size in benchmark.sizes
        for row in size.rows
        if row.decides_in_s is not None
    ]
    return float(math.ceil(max([2 * benchmark.budget_s, *known])))


def _require_sound(problems: Sequence[str], release: Path) -> None:
    if problems:
        raise DigestError(f"{release} is not what was released: {problems[0]}", hint="fetch the release again")


def _refused(backend: str) -> str | None:
    """Return why a backend opens nothing from a release, None where it does; the manifest may say anything of its format."""
    format_ = backends()[backend].format
    return f"{opening.native_as(format_)}, which is timed from its config" if opening.is_native(format_) else None


def _require_small(interface: Interface, sizes: Sequence[Mapping[str, int]], release: Path) -> None:
    """Raise UnsafeError for a release that states sizes whose inputs alone would exhaust memory."""
    least = cases.smallest(interface)
    for chosen in sizes or [{}]:
        whole = complete_sizes(interface.dimensions, {**least, **chosen})
        shapes = [cases.shape_of(spec, whole) for spec in interface.inputs]
        elements = sum(math.prod(shape) for shape in shapes)
        if elements > MAX_TIMED_ELEMENTS:
            raise UnsafeError(
                f"{release} asks to be timed with inputs of {elements:,} elements, more than {MAX_TIMED_ELEMENTS:,}",
                hint="time it from its config: weighbridge benchmark CONFIG",
            )


def _of_release(release: Path, settings: Settings) -> Documents:
    _require_sound(verifying.check(release), release)
    manifest = standalone.read_manifest(release)
    configured = _Configured.of(manifest["config"], release)
    chosen = _configured(configured.benchmark | _overrides(settings.overrides))
    variants = present(
        [
            Variant(
                name,
                each["backend"],
                each.get("artifact") or each["format"],
                required=False,
                options=each["options"],
                unavailable=backends()[each["backend"]].probe() or _refused(each["backend"]),
            )
            for name, each in manifest.get("backends", {}).items()
            if each["format"] and each["backend"] in backends()
        ],
        release,
    )
    names = [variant.name for variant in variants]
    if not names:
        raise UnavailableError(f"none of the backends of {release.name} can run here", hint="see weighbridge backends")
    if chosen.reference not in names:
        order = list(backends())
        usual = min(variants, key=lambda variant: order.index(variant.backend))
        chosen = chosen.model_copy(update={"reference": usual.name})
    stated = bundle.interface_from(manifest)
    kinds = configured.inputs
    inputs = tuple(
        replace(spec, values=kind.values or usual_values(spec.dtype), scale=kind.scale)
        for spec in stated.inputs
        for kind in [kinds.get(spec.name, _Kind())]
    )
    _require_small(stated, chosen.sizes, release)
    timings = timing.measure(
        variants,
        replace(stated, inputs=inputs),
        None,
        chosen,
        seed=configured.parity.seed,
        threads=settings.threads,
        timeout_s=TIMEOUT_S,
        report=settings.report,
    )
    return replace(document.read(release), benchmark=timings or UNTIMED)


class _Kind(BaseModel):
    """What the values of an input were like."""

    values: Literal["normal", "uniform", "mask", "zeros"] | None = None
    scale: Positive = 1.0


class _Seed(BaseModel):
    seed: int = 0


class _Configured(BaseModel):
    """What decides how a release is timed, of the config that its manifest states."""

    benchmark: dict[str, Any] = {}
    inputs: dict[str, _Kind] = {}
    parity: _Seed = _Seed()

    @classmethod
    def of(cls, config: Any, release: Path) -> _Configured:
        try:
            return cls.model_validate(config, strict=True)
        except ValidationError as error:
            raise InputError(
                f"the config of {release} cannot be timed: {described(error)}", hint="time it from its own config"
            ) from None


def _configured(values: Mapping[str, Any]) -> BenchmarkConfig:
    try:
        return BenchmarkConfig.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(
            f"benchmark.{wrong['loc'][0]} is {wrong['input']!r}: {wrong['msg'].lower()}",
            hint="weighbridge schema says what each setting may be",
        ) from None


def _overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what `--set benchmark.KEY=VALUE` asks for; a release has no other keys to override."""
    found = {}
    for each in overrides:
        key, _, value = each.partition("=")
        section, _, name = key.partition(".")
        if section != "benchmark" or name not in {"seconds", "margin", "threads", "reference"}:
            raise InputError(
                f"--set {each}: a release is timed as it was configured",
                hint="of a release, benchmark.seconds, .margin, .threads and .reference can be set",
            )
        try:
            found[name] = parse_value(value)
        except ValueError as error:
            raise InputError(f"--set {each}: {error}", hint="give a value as in a config") from None
    return found


def present(variants: Sequence[Variant], release: Path) -> list[Variant]:
    """Return the variants that can run here, with their files in a release."""
    models = standalone.read_manifest(release)["models"]
    files = {model.get("name") or model["format"]: release / model["path"] for model in models}
    return [
        replace(variant, file=files.get(variant.artifact or ""))
        for variant in variants
        if variant.unavailable is None and (variant.artifact is None or variant.artifact in files)
    ]
