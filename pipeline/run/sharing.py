"""The cache that machines share, as a run is told of it: where it is, who signs what is added, and whose results are used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.storage.origin import Origin
    from pipeline.storage.shared import Shared

KIND = "application/vnd.weighbridge.result+json"
"""What a record's signature is about: it is no release's, and a release's is no record's."""


@dataclass(frozen=True, slots=True)
class SharedCache:
    """A shared cache: its URL, the private key that signs what this run adds (None: it adds nothing), and the public keys of others.

    Results are used that the private key's owner or one of the others signed, and no others.
    """

    url: str
    key: Path | None = None
    trusted: tuple[Path, ...] = ()


@cache
def opened(wanted: SharedCache) -> Shared:
    """Return a shared cache, ready to use; the same one for the whole process.

    Raises:
        InputError: nothing says whose results count, or a file is no key.
        UnavailableError: there is no such place, or a package is missing.
    """
    if wanted.key is None and not wanted.trusted:
        raise InputError(
            f"--cache {wanted.url}: nothing says whose results count, and what a run takes from it every gate rests on",
            hint="give --cache-key KEY.pem, which signs what this run adds (weighbridge keygen KEY makes one), or --cache-trust "
            "PUBLIC.pem for each key whose results you trust",
        )
    from pipeline.benchmark.machine import processor
    from pipeline.release import signing
    from pipeline.storage import objects
    from pipeline.storage.shared import Shared, Writer

    readers: dict[str, Callable[[bytes], bytes]] = dict(
        signing.opener(signing.read_public(each), KIND) for each in wanted.trusted
    )
    writer = None
    if wanted.key is not None:
        signer = signing.read_signer(wanted.key)
        writer = Writer(signer.key_id, partial(signing.seal, signer, KIND))
        readers |= [signing.opener(signer.key.public_key(), KIND)]
    place = objects.opened(wanted.url, to_write=writer is not None)
    return Shared(place, readers, writer, (processor(), __version__))


def in_words(origin: Origin | None) -> str:
    """Say that a result was made elsewhere, and by whom; nothing of one that was made here."""
    return f"made elsewhere by {origin.short}" if origin else ""
