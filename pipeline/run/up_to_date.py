"""Whether the release of a config is up to date: what it was built from is recorded, and anything that changed is named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.release import bundle, standalone
from pipeline.storage.store import atomic_write, canonical_json, digest_file, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Parts = Mapping[str, Any]

RECORD = ".built-from.json"


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of an earlier build: its release if it is whole and nothing changed, else why it must be rebuilt."""

    release: Path | None
    why: str


def remember(out: Path, name: str, built_from: Parts, release: Path) -> None:
    """Record what a release was built from."""
    sums = digest_file(release / standalone.SUMS)
    record = {"parts": dict(built_from), "version": release.name, "sums_sha256": sums}
    atomic_write(out / name / RECORD, canonical_json(record))


def find(out: Path, name: str, built_from: Parts, elsewhere: tuple[str, ...] = ()) -> Earlier:
    """Return the release that was built from the same parts, after checking every byte of it, or why there is none.

    Parts that begin with one of `elsewhere` are not compared: what another machine decides.
    """
    try:
        record = read_json(out / name / RECORD)
        before, version, sums = dict(record["parts"]), str(record["version"]), str(record["sums_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return Earlier(None, "not built before")
    if changes := describe_changes(without(before, elsewhere), without(built_from, elsewhere)):
        return Earlier(None, changes)
    release = out / name / version
    if not (release / standalone.SUMS).is_file() or digest_file(release / standalone.SUMS) != sums:
        return Earlier(None, f"the release {version} is gone or was changed")
    if problems := standalone.check_files(release):
        return Earlier(None, f"the release {version} is damaged: {problems[0]}")
    if not _is_latest(out / name / bundle.LATEST, version):
        return Earlier(None, f"`latest` names another release than {version}")
    return Earlier(release, "nothing changed")


def without(parts: Parts, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Return the parts that begin with none of the prefixes."""
    return {name: each for name, each in parts.items() if not name.startswith(prefixes)}


def describe_changes(before: Parts, now: Parts, most: int = 3) -> str:
    """Say in one line what is different: "config: parity.limit changed: 16 → 8 (and 2 more)"; "" if nothing is."""
    changed = [part for part in {**now, **before} if before.get(part) != now.get(part)]
    said = [f"{part} changed: {_shown(before.get(part))} → {_shown(now.get(part))}" for part in sorted(changed)]
    return "; ".join(said[:most]) + (f" (and {len(said) - most} more)" if len(said) > most else "")


def _shown(value: Any) -> str:
    text = "none" if value in {None, ""} else f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_latest(file: Path, version: str) -> bool:
    try:
        return file.read_text(encoding="utf-8").strip() == version
    except (OSError, UnicodeDecodeError):
        return False
