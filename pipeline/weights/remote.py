"""Weights that lie elsewhere: fetched once, kept under their digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import DigestError, UnavailableError, WeightsError
from pipeline.storage.store import disk_errors, private_directory
from pipeline.weights.files import digest

if TYPE_CHECKING:
    from pathlib import Path


def fetch(url: str, sha256: str, cache: Path) -> Path:
    """Return a local copy of `url` (anything fsspec opens: https, s3, hf …) whose digest is `sha256`.

    Raises:
        UnavailableError: fsspec, or its package for this kind of URL, is not installed.
        WeightsError: it cannot be fetched.
        DigestError: what was fetched is not what the config names.
    """
    local = cache / "weights" / sha256 / url.rstrip("/").rpartition("/")[2]
    if local.is_file() and digest(local) == sha256:
        return local
    with private_directory(local.parent.parent) as folder:
        part = folder / local.name
        _download(url, part)
        if (found := digest(part)) != sha256:
            raise DigestError(
                f"{url} has sha256 {found}, and the config says {sha256}",
                hint=f"somebody changed that file; if this one is meant, set model.sha256 to {found}",
            )
        with disk_errors(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            part.replace(local)
    return local


def _download(url: str, target: Path) -> None:
    try:
        import fsspec
    except ImportError:
        raise UnavailableError(f"{url} needs fsspec", hint="install it: pip install fsspec") from None
    try:
        fsspec.open(url)  # finds the package for this kind of URL
        with fsspec.open(url, "rb") as source, disk_errors(target), target.open("wb") as file:
            while chunk := source.read(1 << 20):
                file.write(chunk)
    except ImportError as error:
        raise UnavailableError(f"{url}: {error}", hint="install the package it names, or download the file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{url} cannot be fetched: {error}", hint="check the address and the network") from None
