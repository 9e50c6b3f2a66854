"""What a long sweep has found so far, on disk: one that was interrupted goes on, and says how long it will still take."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.release.tools import tools

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("benchmarks/results")


class Rows:
    """The rows of one sweep by key. `asked` is what it was asked for: answers to anything else, and of other code, do not count."""

    def __init__(self, name: str, asked: dict[str, Any], total: int) -> None:
        self.path = FOLDER / f"{name}-{zlib.crc32(json.dumps(asked).encode()):08x}.jsonl"
        self._header = {"asked": asked, "tools": tools(), "code": code_digest(name)}
        self._total, self._began_s = total, time.monotonic()
        self.rows = self._read()
        self._kept = len(self.rows)
        if self._kept:
            print(f"going on behind {self._kept} of about {total}", file=sys.stderr)

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the row of `key`: the one on disk, or what `make` returns, which is written there at once."""
        if key not in self.rows:
            self.rows[key] = row = make()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **row}, ensure_ascii=False) + "\n")
            self._say(key)
        return self.rows[key]

    def forget(self) -> None:
        """Remove the rows: the sweep has come to its end."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            header, *lines = self.path.read_text(encoding="utf-8").split("\n")
            if json.loads(header or "{}") == self._header:
                # What stands behind the last line's end was being written when the sweep was stopped.
                found = {row.pop("key"): row for row in map(json.loads, lines[:-1])}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [self._header, *({"key": key, **row} for key, row in found.items())]
        self.path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in kept), encoding="utf-8")
        return found

    def _say(self, key: str) -> None:
        done, left = len(self.rows), max(self._total - len(self.rows), 0)
        seconds = (time.monotonic() - self._began_s) / (done - self._kept) * left
        print(f"{done} of about {self._total}, {seconds / 60:.0f} min left: {key}", file=sys.stderr, flush=True)


def code_digest(name: str) -> str:
    """Return a digest of what a sweep's rows depend on: the package, and the sweep itself."""
    digest = hashlib.sha256()
    own = Path("benchmarks", name)
    for path in sorted(
        [*Path("pipeline").rglob("*.py"), *(own.rglob("*.py") if own.is_dir() else [own.with_suffix(".py")])]
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()
