"""What must hold before anything of a release is opened, whoever made it and whatever its digests say.

A stranger can write a release whose digests agree with each other. So its models and golden cases are looked at as any
file that somebody brings: from their headers, before a library reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats import table
from pipeline.weights import headers
from pipeline.weights.kinds import Kind, with_article

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def check_contents(release: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return which models and golden cases are not what the manifest says they are.

    Raises UnsafeError for one that could run code, read other files than the release's own, or exhaust memory.
    """
    return list(_problems(release, manifest))


def require_known_maker(format_: str | None, *, is_signed: bool) -> None:
    """Refuse to open machine code, and what is as good as that, of whoever: nobody can tell from its bytes what it does.

    `is_signed`: the release's signature was checked with the key of somebody whom the user named.

    Raises:
        UnsafeError: files of this format are machine code, and the release's maker is not known.
    """
    if not is_signed and is_native(format_):
        raise UnsafeError(
            f"a file of the format {format_} is {native_as(format_)}, and opening it runs it: it is only opened once a signature says whose it is",
            hint="give the public key of whoever made the release: --key KEY.pub.pem (made with: weighbridge export CONFIG --sign KEY)",
        )


def is_native(format_: str | None) -> bool:
    """Whether opening a file of a format runs machine code that it brings."""
    known = table.formats().get(format_ or "")
    return known is not None and known.is_native


def native_as(format_: str | None) -> str:
    """Return what a file of a format is, of which nobody can tell what it does."""
    return table.formats()[format_ or ""].native_as


def _problems(release: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    for model in manifest["models"]:
        yield from _model_problems(release / model["path"], model)
    for name in [each["path"] for each in manifest["files"] if each["role"] == "golden"]:
        try:
            found = headers.read(release / name).kind
            if found is not Kind.SAFETENSORS:
                yield f"{name}: it is {with_article(found)}, not {with_article(Kind.SAFETENSORS)}"
        except WeightsError as error:
            yield f"{name}: {error.message}"


def _model_problems(path: Path, model: Mapping[str, Any]) -> Iterator[str]:
    """Look at a model as its format's record says, or, where nobody here knows the format, as what its bytes are."""
    stated = table.formats().get(model["format"])
    try:
        if stated is not None and stated.kind is None:
            if stated.require_safe is None:
                raise UnsafeError(
                    f"{path.name} is {stated.name}, and nothing tells whether a stranger's is harmless",
                    hint="open only releases whose signature you trust",
                )
            stated.require_safe(path, model["files"])
            return
        found = headers.read(path).kind
        if stated is not None and stated.kind is not found:
            yield f"{path.name}: it is {with_article(found)}, not {with_article(stated.kind or found)}"
        elif (opener := table.of_kind(found)) is not None and opener.require_safe is not None:
            opener.require_safe(path, model["files"])
    except WeightsError as error:
        yield f"{path.name}: {error.message}"
