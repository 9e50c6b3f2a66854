"""A worker with a backend opened in it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.worker.process import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.backends.variant import Variant
    from pipeline.interface import Interface
    from pipeline.rebuild.network import Network
    from pipeline.worker.process import Terms


@contextmanager
def opened(
    variant: Variant,
    interface: Interface,
    network: Network | None,
    *,
    threads: int,
    timeout_s: float,
    terms: Terms | None = None,
    profile: Path | None = None,
) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """Start a worker, open `variant` in it, and yield it with the session's facts.

    `profile`: a folder to record in where its nodes run, for the job "placement".

    Raises:
        WeighbridgeError: the backend cannot run here, or opening crashed or took too long.
    """
    source = {
        "interface": asdict(interface),
        "file": variant.file and str(variant.file),
        "network": network and variant.artifact is None and asdict(network),
        "profile": profile and str(profile),
        "custom_ops": variant.custom_ops and str(variant.custom_ops),
    }
    with Worker(variant.name, threads=threads, terms=terms) as worker:
        facts = worker.call(
            "open", timeout_s=timeout_s, backend=variant.backend, source=source, options=dict(variant.options)
        )
        yield worker, facts
