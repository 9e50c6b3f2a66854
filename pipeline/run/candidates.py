"""What `weighbridge tune` chooses among: the proven ways to run a release, each with the options that its backend says are worth trying."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.benchmark.recommended import OWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.backends.variant import Variant
    from pipeline.config.models import TuneConfig
    from pipeline.formats.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run an artifact: `base` is the variant that the release was proven with, `variant` that with options of its own."""

    base: Variant
    variant: Variant
    threads: int

    @property
    def name(self) -> str:
        """What it is called, here and in reports."""
        return self.variant.name


def ways(variants: Sequence[Variant], cores: int) -> list[Way]:
    """Return every way to try: each variant with each number of threads and, of the other options, one changed at a time.

    The plainest come first: fewest threads, then the options that it was proven with.
    """
    return sorted((way for variant in variants for way in _ways(variant, cores)), key=lambda way: way.threads)


def _ways(variant: Variant, cores: int) -> list[Way]:
    backend = backends()[variant.backend]
    usual = backend.options.model_validate(dict(variant.options)).model_dump(mode="json")
    changes: list[dict[str, object]] = [{}]
    changes += [{name: value} for name, values in backend.tunable.items() for value in values if value != usual[name]]
    counts = thread_counts(cores) if backend.threads_option else [0]
    found: dict[str, Way] = {}
    for change in changes:
        for threads in counts:
            options = {**variant.options, **change} | ({backend.threads_option: threads} if threads else {})
            said = [*([_of_threads(threads)] if threads else []), *map(_said, change.items())]
            name = f"{variant.name} ({', '.join(said)})" if said else variant.name
            found[name] = Way(variant, replace(variant, name=name, options=options, required=False), threads or cores)
    return list(found.values())


def thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads to try: powers of two, and all."""
    powers = {2**power for power in range(cores.bit_length()) if 2**power <= cores}
    return sorted(powers | {cores})


def _of_threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _said(option: tuple[str, object]) -> str:
    name, value = option
    return f"{name} {str(value).lower() if isinstance(value, bool) else value}"


def precision_of(artifact: Artifact) -> str:
    """Return the precision that an artifact states, `own` where it is that of the network."""
    return str(artifact.written.facts.get("precision") or OWN)


def left_out(tune: TuneConfig, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Return why artifacts are not looked at, by name: what they are is known before anything is timed."""
    found = {}
    for name, artifact in artifacts.items():
        if tune.bytes is not None and artifact.size_bytes > tune.bytes:
            found[name] = f"its files hold {artifact.size_bytes:,} bytes, and tune.bytes is {tune.bytes:,}"
        elif tune.precision is not None and (precision := precision_of(artifact)) not in tune.precision:
            found[name] = f"its precision is {precision}, and tune.precision is {', '.join(tune.precision)}"
    return found
