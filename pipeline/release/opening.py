"""What must hold before anything of a release is opened, whoever made it and whatever its digests say.

A stranger can write a release whose digests agree with each other. So its models and golden cases are looked at as any
file that somebody brings: from their headers, before a library reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats.torchscript import safety as torchscript
from pipeline.release import standalone
from pipeline.weights import confined, files, headers
from pipeline.weights.kinds import Kind, with_article
from pipeline.weights.protobuf import MalformedFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_KINDS = {"onnx": Kind.ONNX, "torchscript": Kind.TORCHSCRIPT}


def check_contents(release: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return which models and golden cases are not what the manifest says they are.

    Raises UnsafeError for one that could run code, read other files than the release's own, or exhaust memory.
    """
    return list(_problems(release, manifest))


def _problems(release: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    stated = [(model["path"], _KINDS.get(model["format"]), model["files"]) for model in manifest["models"]]
    for name, kind, listed in [*stated, (standalone.GOLDEN, Kind.SAFETENSORS, [])]:
        try:
            found = headers.read(release / name).kind
            if kind not in {None, found}:
                yield f"{name}: it is {with_article(found)}, not {with_article(kind)}"
            elif found is Kind.TORCHSCRIPT:
                torchscript.require_inert(release / name)
            elif found is Kind.ONNX:
                _require_own_data(release / name, listed)
        except WeightsError as error:
            yield f"{name}: {error.message}"


def _require_own_data(path: Path, listed: Sequence[str]) -> None:
    """Refuse an ONNX file whose tensors lie in anything but the files that the manifest lists beside it."""
    with files.mapped(path) as data:
        try:
            locations = {each.location for each in confined.references(data)}
        except MalformedFieldError as error:
            raise WeightsError(f"{path.name} is damaged: {error}") from error
    if outside := sorted(locations - set(listed)):
        raise UnsafeError(
            f"{path.name} would read {outside[0]!r:.120}, which is no file of the release", hint="do not open it"
        )
