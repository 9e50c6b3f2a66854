"""Let every write, sync and rename of an export fail, once and for good: no space, and an input/output error.

    python -m tests.sweeps.disk

Creating files and folders is included for lack of space. Each run ends with one clear error, or not at all where only a log
could not be written; no part of a release and no temporary is left; the next run succeeds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import faults as commands
from tests import tiny, tuned
from tests.sweeps.tally import tally
from tests.test_full_disk import SAID, faults, survive_a_fault


def main() -> int:
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        for has_old in (False, True):
            folder = Path(name).resolve() / str(has_old)
            folder.mkdir()
            scene = tiny.scene(folder, has_old=has_old)
            claim = f"failing disk, {'next' if has_old else 'first'} version"
            failures += tally(claim, faults(scene), lambda fault: survive_a_fault(scene, fault, folder / "out"))  # noqa: B023
        folder = Path(name).resolve() / "recommendation"
        folder.mkdir()
        ended = commands.weighbridge("export", "configs/simplenet.yaml", "--no-benchmark", "--out", folder / "made")
        assert ended.code == 0, ended.err
        made = folder / "made" / tiny.NAME
        written = tuned.scene(folder, made / (made / "latest").read_text().strip())
        failures += tally(
            "failing disk, a recommendation",
            faults(written),
            lambda fault: tuned.survive_a_fault(written, fault, folder / "out", SAID),
        )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
