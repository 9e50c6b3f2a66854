"""A folder to upload to the Hugging Face Hub: the card with what was measured, and the release, which verifies as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.interface import in_words
from pipeline.release.card import CARD, card
from pipeline.storage.store import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.release.packages.content import Content

RELEASE = "release"


def write(content: Content, path: Path) -> None:
    """Write README.md, the Hub's card, and `release/`, the release itself."""
    content.copy(content.files(), path / RELEASE)
    documents = {
        name: read_json(content.release / "report" / f"{name}.json")
        for name in ("parity", "benchmark")
        if (content.release / "report" / f"{name}.json").is_file()
    }
    (path / CARD).write_bytes(card(content.manifest, list(_measured(documents)), RELEASE))


def _measured(documents: Mapping[str, Any]) -> Iterator[str]:
    """Yield the card's lines about figures: errors in multiples of the noise floor, and latencies with their machine."""
    yield "## Measured"
    backends = [each for each in documents.get("parity", {}).get("backends", []) if each["worst"]]
    if backends:
        yield from ("", "| backend | largest error ÷ noise floor | limit |", "| --- | --- | --- |")
        for each in backends:
            worst = each["worst"]
            yield f"| {each['name']} | {_number(worst['factor'])} (`{worst['output']}`) | {_number(worst['limit'])} |"
    for size in documents.get("benchmark", {}).get("sizes", []):
        yield from (
            "",
            f"Latency at {in_words(size['sizes'])}:",
            "",
            "| backend | median ms | verdict |",
            "| --- | --- | --- |",
        )
        for row in size["rows"]:
            if row["name"] != size["control"] and row["median_ms"] is not None:
                yield f"| {row['name']} | {row['median_ms']:.3g} | {row['verdict']} |"


def _number(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)
