"""Remember what a release was built from, so that a run with nothing to do ends at once and says what changed otherwise."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.release import bundle, standalone
from pipeline.store import atomic_write, canonical_json, digest_file, key

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = ".built-from.json"


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is known of an earlier build: its release if it is whole and nothing changed, else why it must be rebuilt."""

    release: Path | None
    why: str


def parts(
    config: Mapping[str, Any],
    *,
    weights_sha256: str,
    architecture: Path,
    samples: str | None,
    unavailable: Mapping[str, Any],
) -> dict[str, str]:
    """Return the digests of everything a release depends on, by the words a person would use for it."""
    from pipeline.release.compose import tools

    return {
        **{f"config: {section}": key(value) for section, value in config.items()},
        "weights": weights_sha256,
        "architecture": _sources(architecture.parent),
        "samples": digest_file(Path(samples)) if samples else "",
        "backends found here": key(dict(unavailable)),
        "tools": key({**tools(), "python": platform.python_version(), "machine": platform.machine()}),
        "weighbridge": _own_sources(),
    }


def remember(out: Path, name: str, built_from: Mapping[str, str], release: Path) -> None:
    """Record what a release was built from."""
    sums = digest_file(release / standalone.SUMS)
    record = {"parts": dict(built_from), "version": release.name, "sums_sha256": sums}
    atomic_write(out / name / RECORD, canonical_json(record))


def recall(out: Path, name: str, built_from: Mapping[str, str]) -> Recalled:
    """Return the release that was built from the same parts, after checking every byte of it, or why there is none."""
    try:
        record = json.loads((out / name / RECORD).read_bytes())
        before, version, sums = dict(record["parts"]), str(record["version"]), str(record["sums_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return Recalled(None, "not built before")
    changed = [part for part in {**built_from, **before} if built_from.get(part) != before.get(part)]
    if changed:
        return Recalled(None, f"changed: {', '.join(sorted(changed))}")
    release = out / name / version
    if not (release / standalone.SUMS).is_file() or digest_file(release / standalone.SUMS) != sums:
        return Recalled(None, f"the release {version} is gone or was changed")
    if problems := standalone.check_files(release):
        return Recalled(None, f"the release {version} is damaged: {problems[0]}")
    if (out / name / bundle.LATEST).read_text(encoding="utf-8").strip() != version:
        return Recalled(None, f"`latest` names another release than {version}")
    return Recalled(release, "nothing changed")


@cache
def _own_sources() -> str:
    return _sources(Path(__file__).parent.parent)


def _sources(folder: Path) -> str:
    """Return one digest over the Python sources in a folder and below."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\0{digest_file(path)}\n".encode())
    return total.hexdigest()
