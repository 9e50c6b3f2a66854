"""One zip file of the whole release: stored, sorted, dated 1980, so that the same release is the same bytes."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.release.packages.content import Content

_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16


def write(content: Content, path: Path) -> None:
    """Write NAME-VERSION/… into a zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in content.files():
            info = zipfile.ZipInfo(f"{content.name}-{content.version}/{name}", _EPOCH)
            info.create_system = 3  # Unix, whatever the machine: the mode below is then what unzip applies
            info.external_attr = _PLAIN_FILE
            info.file_size = (content.release / name).stat().st_size
            with (content.release / name).open("rb") as file, archive.open(info, "w") as entry:
                shutil.copyfileobj(file, entry, 1 << 20)
