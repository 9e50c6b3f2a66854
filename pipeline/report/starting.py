"""What passes until a backend gives its first answer, in parts that add up: the same in the chart and in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.benchmark.document import BackendFigures

PARTS = ("process", "import", "load", "first call")
EXPLAINED = (
    "process is the start of a Python process besides what it imports for this backend (import) and the opening of the file "
    "(load); the first call is made alone, at the first size; together is their sum."
)


def spans(figures: BackendFigures) -> Mapping[str, float | None]:
    """Return each part in ms, None where it was not measured; of what was, `process` is what the others leave of the start."""
    start_ms, import_ms, load_ms = figures.start_ms, figures.import_ms, figures.load_ms
    process_ms = None if start_ms is None else max(start_ms - (import_ms or 0.0) - (load_ms or 0.0), 0.0)
    first_call_ms = next(iter(figures.first_call_ms.values()), None)
    return dict(zip(PARTS, (process_ms, import_ms, load_ms, first_call_ms), strict=True))


def together_ms(figures: BackendFigures) -> float | None:
    """Return the time until the first answer in ms, None where nothing of it was measured."""
    known = [each for each in spans(figures).values() if each is not None]
    return sum(known) if known else None
