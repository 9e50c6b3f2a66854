"""Machines that share a place of results: caches with folders of their own, and keys to sign with."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.release import signing
from pipeline.run.sharing import KIND
from pipeline.storage import objects
from pipeline.storage.cache import Cache
from pipeline.storage.claims import Patience
from pipeline.storage.shared import Shared, Writer

QUICK = Patience(beat_s=0.1, silent_s=1.0, late_s=0.5, poll_s=0.05)


@dataclass
class Machine:
    """A cache with a shared place behind it, and what it was told."""

    cache: Cache
    shared: Shared
    notices: list[str] = field(default_factory=list)
    used: list[tuple[str, str]] = field(default_factory=list)
    built: list[str] = field(default_factory=list)

    def make(self, key, content=b"model", about="a result"):
        """Return the bytes of a result, made here if nobody has; as `get_or_make` does it."""
        found = self.cache.get(key) or self.cache.put(key, partial(self._fill, key, content), about)
        return (found / "sub" / "model.bin").read_bytes()

    def _fill(self, key, content, folder):
        self.built.append(key)
        (folder / "sub").mkdir()
        (folder / "sub" / "model.bin").write_bytes(content)
        (folder / "empty").write_bytes(b"")


def signer(folder: Path, name: str):
    """Return a key of a name, made once in a folder."""
    file = folder / f"{name}.pem"
    if not file.exists():
        signing.generate(folder / name)
    return signing.read_signer(file)


def machine(url, root, key=None, trusted=(), patience=QUICK, through=lambda place: place):
    """Return a machine with a cache of its own; `key` signs what it adds, `trusted` are keys whose results it uses.

    `through` gives what its requests go through.
    """
    place = through(objects.opened(url, to_write=key is not None))
    readers = dict(signing.opener(each.key.public_key(), KIND) for each in [*trusted, *([key] if key else [])])
    writer = Writer(key.key_id, partial(signing.seal, key, KIND)) if key else None
    shared = Shared(place, readers, writer, ("a processor", "1.2.3"), patience)
    made = Machine(Cache(root), shared)
    told = Cache(root, made.notices.append, shared, lambda about, origin: made.used.append((about, origin.writer)))
    made.cache = told
    return made
