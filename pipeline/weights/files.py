"""A weights file on disk: that it is there, its bytes without reading them all, its digest."""

from __future__ import annotations

import difflib
import mmap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from pipeline.errors import UnsafeError, WeightsError, in_line
from pipeline.storage.store import digest_file

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pt2", ".onnx", ".npz", ".npy", ".h5", ".keras", ".gguf",
            ".th", ".tar", ".index.json")  # fmt: skip
"""How names of weights files end; used to list what lies beside a missing one, never to tell what a file is."""

ALTERED = "no saving function writes such a file: it was altered, so do not load it; get it again from its maker"
DAMAGED = "it was cut off or altered on its way: copy or download it again"
COPY_AGAIN = "copy or download it again"
"""Hints for what is wrong with a file."""


def require_file(path: Path) -> None:
    """Raise WeightsError unless `path` is a regular file; the hint lists the weights files beside it."""
    if path.is_file():
        return
    if path.is_dir():
        inside = weights_beside(path)
        raise WeightsError(
            f"{path} is a folder, not a weights file",
            hint=f"name one of its files: {in_line(inside)}" if inside else "it holds no weights file either",
        )
    if path.exists():
        raise WeightsError(f"{path} is not a regular file", hint="copy its contents into a file first")
    raise WeightsError(f"there is no file {path}", hint=_hint(path))


def split_key(location: str) -> tuple[str, str | None]:
    """Return a weights file, or a URL, and the key that stands behind it: "gan.pth#generator" names one state dict in it.

    A `#` that belongs to the name of a file that is there is no separator.
    """
    if "#" not in location or Path(location).exists():
        return location, None
    spots = [index for index, character in enumerate(location) if character == "#"]
    found = next((spot for spot in reversed(spots) if Path(location[:spot]).is_file()), None)
    spot = found if found is not None else location.find("#", location.rfind("/") + 1)
    return (location, None) if spot < 0 else (location[:spot], location[spot + 1 :])


def weights_beside(folder: Path) -> list[str]:
    """Return the names in `folder` that end like those of weights files."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(SUFFIXES))
    except OSError:
        return []


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    beside = weights_beside(path.parent)
    if not beside:
        return f"there are no weights files in {path.parent}"
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    nearest = f"did you mean {close[0]}? " if close else ""
    return f"{nearest}{path.parent} holds {in_line(beside)}"


def require_below(size_bytes: int, max_bytes: int | None, what: str, *, is_fixed: bool = False) -> None:
    """Raise UnsafeError where a size is above a limit; `what` is the first half of its message. A user may raise what is not fixed."""
    if max_bytes is not None and size_bytes > max_bytes:
        hint = "do not load it" if is_fixed else f"if you trust it: --max-bytes {size_bytes}"
        raise UnsafeError(f"{what}, more than the limit of {max_bytes:,}", hint=hint)


def in_brackets(shape: tuple[int, ...]) -> str:
    """Return a shape in words; a file may declare one without end."""
    return f"[{', '.join(map(str, shape[:8]))}{', …' if len(shape) > 8 else ''}]"


class Part:
    """Some bytes of a map, from `start` to `stop`, as a file of its own: searched, sliced and read without a copy."""

    def __init__(self, data: mmap.mmap | bytes | Part, start: int, stop: int) -> None:
        shift = data.start if isinstance(data, Part) else 0
        self.data: mmap.mmap | bytes = data.data if isinstance(data, Part) else data
        self.start: int = shift + start
        self.stop: int = shift + min(stop, len(data))
        self._position = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> bytes: ...
    def __getitem__(self, index: int | slice) -> int | bytes:
        if isinstance(index, slice):
            first, last, _ = index.indices(len(self))
            return self.data[self.start + first : self.start + max(first, last)]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.data[(self.start if index >= 0 else self.stop) + index]

    def find(self, what: bytes, start: int = 0) -> int:
        """Return where `what` is at or behind `start`, or -1."""
        return max(self.data.find(what, self.start + start, self.stop) - self.start, -1)

    def rfind(self, what: bytes, start: int = 0) -> int:
        """Return where `what` is last at or behind `start`, or -1."""
        return max(self.data.rfind(what, self.start + start, self.stop) - self.start, -1)

    def seek(self, position: int, whence: int = 0) -> int:
        """Set where `read` goes on: from the start, the present position or the end, as files do."""
        self._position = max(0, (0, self._position, len(self))[whence] + position)
        return self._position

    def tell(self) -> int:
        """Return where `read` goes on."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, or all that are left."""
        end = len(self) if count < 0 else self._position + count
        found = self[self._position : end]
        self._position += len(found)
        return found


Bytes: TypeAlias = mmap.mmap | bytes | Part
"""What can be searched and sliced like bytes."""


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Give the bytes of a file that is not empty, read only when looked at; raises WeightsError if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint="check that it is readable and not empty") from error
    with data:
        yield data


def digest(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal; raises WeightsError if it is missing."""
    require_file(path)
    return digest_file(path)
