"""The ledger as JSON and as a page."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.release.tools import tools

_SHOWN = 160


def _plain(text: str) -> str:
    """Return a reason without the places of files on the machine where it was met."""
    return re.sub(r"/\w+/zoo-[^/\s]+/|/\S*site-packages/", "", text)


def as_json(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ledger: what became of each network and of its plain exports."""
    networks = {
        name: {key: row[key] for key in ("outcome", "parameters", "dimensions") if row.get(key)}
        | ({"reason": _plain(row["reason"])} if row["reason"] else {})
        | {"plain": {route: _plain(each["reason"]) or "right" for route, each in row.get("plain", {}).items()}}
        for name, row in sorted(rows.items())
    }
    return json.dumps({"tools": tools(), "networks": networks}, indent=1, ensure_ascii=False) + "\n"


def as_markdown(rows: Mapping[str, Mapping[str, Any]], known: int) -> str:
    """Return the page: the counts, and every network that was not released, with its reason; `known`: of how many networks."""
    families = sorted({name.partition("/")[0] for name in rows})
    counts = {
        family: Counter(row["outcome"] for name, row in rows.items() if name.startswith(f"{family}/"))
        for family in families
    }
    outcomes = sorted(
        {row["outcome"] for row in rows.values()}, key=lambda each: -sum(every[each] for every in counts.values())
    )
    lines = [
        "# Networks that others wrote",
        "",
        "What became of each when it was exported as a user would, and by hand with plain `torch.onnx.export`, both routes, held against the",
        f"same network in float64. Made by `make sweep-zoo`, which tried {len(rows)} of {known} so far; `benchmarks/zoo` says how.",
        "",
        f"| | {' | '.join(families)} | together |",
        f"|---|{'---:|' * (len(families) + 1)}",
    ]
    for outcome in outcomes:
        each = [counts[family][outcome] for family in families]
        lines.append(f"| {outcome} | {' | '.join(map(str, each))} | {sum(each)} |")
    by_plain = [row for row in rows.values() if any(each["right"] for each in row.get("plain", {}).values())]
    released = [row for row in by_plain if row["outcome"] == "released"]
    lines += ["", f"Of {len(by_plain)} that a plain export does right, {len(released)} were released."]
    more = [
        row for row in rows.values() if row["outcome"] == "released" and row not in by_plain and not row.get("brief")
    ]
    lines += [f"{len(more)} were released that no plain export did right.", ""]
    for outcome in outcomes:
        if outcome == "released":
            continue
        lines += [f"## {outcome[:1].upper()}{outcome[1:]}", "", "| network | why |", "|---|---|"]
        lines += [
            f"| {name} | {_cell(row['reason'])} |" for name, row in sorted(rows.items()) if row["outcome"] == outcome
        ]
        lines.append("")
    return "\n".join([*lines, *_kinds()])


def _kinds() -> list[str]:
    from benchmarks.zoo.reproductions import KINDS, ROUTES  # with torch

    lines = [
        "## Kinds of defect, each with a reproduction",
        "",
        "What the reasons above come down to, each with a network of a few lines (benchmarks/zoo/defective.py). `python -m benchmarks.zoo.reproductions`",
        "shows each, and fails where one comes to something else than stands here.",
        "",
        "| kind | what is wrong | dynamo | torchscript |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        came = " | ".join(_cell(str(kind.stated(route))) for route in ROUTES)
        lines.append(f"| {kind.name} | {kind.sentence} | {came} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    flat = " ".join(_plain(text).split()).replace("|", "\\|")
    return flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…"
