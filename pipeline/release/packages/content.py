"""What a package is made of: a release that was checked, and what its manifest says."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import backends
from pipeline.errors import InputError
from pipeline.formats.onnx.record import ONNX
from pipeline.release import standalone
from pipeline.release.recommended import follow, is_good_enough

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.benchmark.recommended import Choice


@dataclass(frozen=True, slots=True)
class Content:
    """A release on disk, its manifest, and what is recommended of it for this processor (see `pipeline.release.recommended`)."""

    release: Path
    manifest: Mapping[str, Any]
    recommended: Choice | None = None

    @property
    def name(self) -> str:
        """The release's name."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """The release's version."""
        return str(self.manifest["version"])

    def onnx(self, kind: str) -> Mapping[str, Any]:
        """Return what the manifest says of the ONNX model, the recommended one of several; raises InputError if the release has none."""
        models: list[Mapping[str, Any]] = [each for each in self.manifest["models"] if each["format"] == ONNX.name]
        wanted = self.recommended.artifact if self.recommended else None
        named = [each for each in models if (each.get("name") or each["format"]) == wanted]
        model = next(iter([*named, *filter(is_good_enough, models), *models]), None)
        if model is None:
            raise InputError(f"{kind} takes the ONNX model, and this release has none", hint="add `onnx` to `exports`")
        return model

    def session(self, model: Mapping[str, Any]) -> dict[str, int]:
        """Return what onnxruntime's SessionOptions are to be set to for a model, by their names there, as recommended for it."""
        if self.recommended is None or self.recommended.artifact != (model.get("name") or model["format"]):
            return {}
        backend = backends()[self.recommended.backend]
        return (
            dict(backend.session(backend.options.model_validate(self.recommended.options))) if backend.session else {}
        )

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
    manifest = standalone.read_manifest(release)
    return Content(release, manifest, follow(release, manifest).choice)
