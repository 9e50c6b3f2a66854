"""Time the backends of a config, or those of a release without its network; compare what two releases recorded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.benchmark import compare as comparing
from pipeline.benchmark import timing
from pipeline.config import BenchmarkConfig
from pipeline.config.text import parse_value
from pipeline.errors import DigestError, InputError, UnavailableError, UnsafeError
from pipeline.interface import complete_sizes
from pipeline.rebuild import cases
from pipeline.release import bundle, standalone
from pipeline.release import verify as verifying
from pipeline.report import document
from pipeline.run import keys as dependencies
from pipeline.run import stages, up_to_date
from pipeline.run.plan import plan, usual_values
from pipeline.run.stages import STAGES, State
from pipeline.run.verify import TIMEOUT_S
from pipeline.storage.store import private_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.benchmark.compare import Comparison
    from pipeline.interface import Interface
    from pipeline.run.plan import Settings

CONFIGS = frozenset({".yaml", ".yml"})
MAX_TIMED_ELEMENTS = 2**28
"""The most that the inputs of one size may hold where a release, and not a config, says what is timed."""


def benchmark(path: Path, settings: Settings) -> dict[str, Any]:
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
        variants = _present(planned.variants, earlier.release)
        return document.read(earlier.release) | {"benchmark": stages.measured(planned, variants, settings)}
    with private_directory(settings.out / planned.config.name) as work:
        state = stages.run(
            State(planned, replace(settings, pages=False), work),
            [stage for stage in STAGES if stage.name != "release"],
            earlier.why,
        )
        return {"parity": stages.parity_document(state), "benchmark": dict(state.benchmark)}


def compare(base: Path, candidate_: Path, *, margin: float, force: bool) -> Comparison:
    """Hold a release against an older one by what both recorded.

    Raises:
        WeighbridgeError: one is no release, they were timed on different machines, or have nothing in common.
    """
    releases = (bundle.find(base), bundle.find(candidate_))
    with document.as_stated(candidate_):
        documents = [document.read(release) | {"manifest": standalone.read_manifest(release)} for release in releases]
        return comparing.compare(*documents, margin=margin, force=force)


def is_undecided(benchmark: Mapping[str, Any]) -> bool:
    """Say whether a benchmark left a backend without a verdict for want of certainty."""
    return any(
        row["verdict"] == "undecided" and row["name"] not in {size["control"], *size["samples"]["failures"]}
        for size in benchmark["sizes"]
        for row in size["rows"]
    )


def _require_sound(problems: Sequence[str], release: Path) -> None:
    if problems:
        raise DigestError(f"{release} is not what was released: {problems[0]}", hint="fetch the release again")


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


def _of_release(release: Path, settings: Settings) -> dict[str, Any]:
    _require_sound(verifying.check(release), release)
    manifest = standalone.read_manifest(release)
    configured = manifest.get("config", {})
    with document.as_stated(release):
        stated_settings = configured.get("benchmark", {}) | _overrides(settings.overrides)
    chosen = _configured(stated_settings)
    variants = _present(
        [
            Variant(
                name,
                each["backend"],
                each["format"],
                required=False,
                options=each["options"],
                unavailable=backends()[each["backend"]].probe(),
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
        chosen = chosen.model_copy(update={"reference": "torchscript" if "torchscript" in names else names[0]})
    stated = bundle.interface_from(manifest)
    kinds = configured.get("inputs", {})
    with document.as_stated(release):
        inputs = tuple(
            replace(spec, values=kind.get("values") or usual_values(spec.dtype), scale=kind.get("scale", 1.0))
            for spec in stated.inputs
            for kind in [kinds.get(spec.name, {})]
        )
        _require_small(stated, chosen.sizes, release)
    timings = timing.measure(
        variants,
        replace(stated, inputs=inputs),
        None,
        chosen,
        seed=configured.get("parity", {}).get("seed", 0),
        threads=settings.threads,
        timeout_s=TIMEOUT_S,
        report=settings.report,
    )
    return document.read(release) | {"benchmark": document.benchmark(timings)}


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


def _present(variants: Sequence[Variant], release: Path) -> list[Variant]:
    """Return the variants that can run here, with their files in a release."""
    files = {model["format"]: release / model["path"] for model in standalone.read_manifest(release)["models"]}
    return [
        replace(variant, file=files.get(variant.format or ""))
        for variant in variants
        if variant.unavailable is None and (variant.format is None or variant.format in files)
    ]
