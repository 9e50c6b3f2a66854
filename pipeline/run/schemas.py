"""The published JSON Schemas, by the document that each is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.benchmark import document as benchmark
from pipeline.benchmark import recommended
from pipeline.parity import document as parity
from pipeline.release import manifest
from pipeline.report import league
from pipeline.run.plan import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "config": lambda: config.schema(vocabulary()),
    "manifest": manifest.schema,
    "parity": parity.schema,
    "benchmark": benchmark.schema,
    "recommended": recommended.schema,
    "league": league.schema,
}
