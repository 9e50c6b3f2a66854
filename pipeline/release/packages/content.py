"""What a package is made of: a release that was checked, and what its manifest says."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.formats.onnx.record import ONNX
from pipeline.release import standalone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Content:
    """A release on disk and its manifest."""

    release: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The release's name."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """The release's version."""
        return str(self.manifest["version"])

    def model(self, format_: str) -> Mapping[str, Any] | None:
        """Return what the manifest says of the model in a format, None if the release has none."""
        return next((each for each in self.manifest["models"] if each["format"] == format_), None)

    def onnx(self, kind: str) -> Mapping[str, Any]:
        """Return what the manifest says of the ONNX model; raises InputError if the release has none."""
        model = self.model(ONNX.name)
        if model is None:
            raise InputError(f"{kind} takes the ONNX model, and this release has none", hint="add `onnx` to `exports`")
        return model

    def copy(self, names: list[str], folder: Path) -> None:
        """Copy files of the release into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.release / name, folder / name)

    def files(self) -> list[str]:
        """Return every file of the release by relative name, sorted."""
        return standalone.list_files(self.release)


def read(release: Path) -> Content:
    """Return a release's content; the caller has checked its digests."""
    return Content(release, standalone.read_manifest(release))
