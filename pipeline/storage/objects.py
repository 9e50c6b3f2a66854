"""Small and large objects under names at a URL: read, made once, replaced, removed; a shared file system, or whatever fsspec reaches.

Not found is an answer; not allowed, not reachable and not there at all are errors; busy is tried again.
"""

from __future__ import annotations

import errno
import os
import random
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pipeline.errors import STOPPING, InterruptedRunError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHUNK_BYTES = 32 << 20
_TRIES, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 8, 0.1, 5.0
_ABOUT = "shared-cache"
_PARTS, _ABANDONED_S = ".parts", 24 * 3600
_UNLINKABLE = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_UNREACHED = {errno.ECONNREFUSED, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
_REFUSED = {"EndpointConnectionError", "NoCredentialsError", "PartialCredentialsError", "ConnectionRefusedError"}
_NOWHERE = {"NoSuchBucket", "NoSuchContainer"}

_S3 = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}}}

Kind = Literal["missing", "there", "busy", "refused", "empty"]
Answer = TypeVar("Answer")
_STATUSES: Mapping[int | None, Kind] = {
    404: "missing",
    412: "there",
    416: "empty",
    408: "busy",
    409: "busy",
    425: "busy",
    429: "busy",
}


class Objects(Protocol):
    """Where objects are. Names are relative, with slashes; every method raises OSError as the place does, or what `told` raises."""

    @property
    def url(self) -> str:
        """Where they are, as the user named it."""

    def read(self, name: str, start: int, end: int) -> bytes | None:
        """Return the bytes from `start` to `end`, or as many as there are; None where there is no such object."""

    def create(self, name: str, content: bytes | Path) -> bool:
        """Make an object, of bytes or of a file's; False where it exists."""

    def replace(self, name: str, content: bytes | Path) -> None:
        """Make an object, or put it in the place of what is there."""

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects right in a folder, without the folder; none if there is no such folder."""

    def sizes(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the name of every object below a folder, with its size in bytes."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Objects as files of a folder, which several machines may share."""

    url: str
    root: Path

    def read(self, name: str, start: int, end: int) -> bytes | None:
        """Return a part of a file (see `Objects`)."""
        try:
            with (self.root / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes | Path) -> bool:
        """Make a file that is whole from its first moment on, unless there is one (see `Objects`)."""
        final = self.root / name
        with _written(self.root, content) as whole:
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(whole, final)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _UNLINKABLE:
                    raise
                return _created_in_place(whole, final)
        return True

    def replace(self, name: str, content: bytes | Path) -> None:
        """Put a file in another's place, whole (see `Objects`)."""
        final = self.root / name
        with _written(self.root, content) as whole:
            final.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(final)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there (see `Objects`)."""
        (self.root / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's files (see `Objects`)."""
        try:
            return sorted(each.name for each in (self.root / folder).iterdir() if each.is_file())
        except FileNotFoundError:
            return []

    def sizes(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield every file below a folder (see `Objects`)."""
        for each in sorted((self.root / folder).rglob("*")):
            with suppress(FileNotFoundError):
                if each.is_file():
                    yield each.relative_to(self.root).as_posix(), each.stat().st_size


@dataclass(frozen=True, slots=True)
class Remote:
    """Objects that fsspec reaches, below a path of one of its file systems."""

    url: str
    system: Any
    root: str

    def read(self, name: str, start: int, end: int) -> bytes | None:
        """Return a part of an object in one request (see `Objects`)."""
        return self._answered(lambda: bytes(self.system.cat_file(f"{self.root}/{name}", start=start, end=end)))

    def create(self, name: str, content: bytes | Path) -> bool:
        """Make an object that nobody has made (see `Objects`)."""
        try:
            self._put(name, content, mode="create")
        except Exception as error:
            if kind_of(error) == "there":
                return False
            raise
        return True

    def replace(self, name: str, content: bytes | Path) -> None:
        """Write an object, whatever was there (see `Objects`)."""
        self._put(name, content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there (see `Objects`)."""
        self._answered(lambda: self.system.rm_file(f"{self.root}/{name}"))

    def names(self, folder: str) -> list[str]:
        """List a folder (see `Objects`)."""
        found = self._answered(lambda: self.system.ls(f"{self.root}/{folder}", detail=True, refresh=True))
        return sorted(each["name"].rpartition("/")[2] for each in found or () if each["type"] == "file")

    def sizes(self, folder: str) -> Iterator[tuple[str, int]]:
        """List everything below a folder (see `Objects`)."""
        self.system.invalidate_cache()
        found = self._answered(lambda: self.system.find(f"{self.root}/{folder}", detail=True))
        prefix = self.system._strip_protocol(self.root)  # noqa: SLF001 - fsspec's way to say how it lists names
        for name, each in sorted((found or {}).items()):
            yield name.removeprefix(prefix).lstrip("/"), int(each["size"])

    def _put(self, name: str, content: bytes | Path, **how: str) -> None:
        path = f"{self.root}/{name}"
        if isinstance(content, Path) and content.stat().st_size <= CHUNK_BYTES:
            content = content.read_bytes()
        if isinstance(content, Path):
            self.system.put_file(str(content), path, **how)
        else:
            self.system.pipe_file(path, content, **how)

    def _answered(self, ask: Callable[[], Answer]) -> Answer | None:
        try:
            return ask()
        except Exception as error:
            kind = kind_of(error)
            if kind == "missing":
                return None
            if kind == "empty":  # a part was asked for of an object of no bytes
                return b""  # type: ignore[return-value]  # only `read` asks for parts
            raise


def opened(url: str, *, to_write: bool, options: Mapping[str, object] | None = None) -> Objects:
    """Return the objects at a URL: a folder for file:// (and a path), otherwise by fsspec and what it needs for that kind of URL.

    Raises:
        UnavailableError: there is no such place, or a package is missing.
    """
    scheme, _, path = url.rpartition("://")
    if scheme in {"", "file", "local"}:
        return _folder(url, Path(path), to_write=to_write)
    try:
        import fsspec

        # A listing that was kept would hide what others write; parts are read one after the other, each in one request.
        given = {**(_S3 if scheme in {"s3", "s3a"} else {}), **(options or {})}
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **given)
    except ImportError as error:
        raise UnavailableError(
            f"the shared cache {url} needs a package: {error}",
            hint="install weighbridge[cache], or what it names",
            about=_ABOUT,
        ) from None
    except ValueError as error:
        raise UnavailableError(
            f"the shared cache {url} is no address: {error}",
            hint="give file://, s3://, gs:// or another of fsspec's",
            about=_ABOUT,
        ) from None
    if hasattr(system, "retries"):
        system.retries = 1  # `insisting` does it, with pauses of random length
    return Remote(url, system, root.rstrip("/"))


def told(url: str, error: BaseException) -> UnavailableError:
    """Return the error of a place that cannot be used, with what to do about it."""
    said = re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__
    if kind_of(error) == "busy":
        return UnavailableError(
            f"the shared cache {url} stayed busy or silent for {_TRIES} tries: {said}",
            hint="try again later, or leave out --cache: everything is then made here",
            about=_ABOUT,
        )
    return UnavailableError(
        f"the shared cache {url} cannot be used: {said}",
        hint="check the address, the credentials and their rights (to read, to list, with --cache-key to write and remove), "
        "or leave out --cache",
        about=_ABOUT,
    )


def insisting(url: str, ask: Callable[[], Answer]) -> Answer:
    """Return what a request answers; one that meets a busy place is made again after growing pauses of random length.

    Raises:
        UnavailableError: the place cannot be used, or stays busy.
        InterruptedRunError: the run is stopped meanwhile.
    """
    for turn in range(_TRIES):
        try:
            return ask()
        except Exception as error:
            if kind_of(error) != "busy" or turn == _TRIES - 1:
                raise told(url, error) from error
        longest_s = min(_FIRST_PAUSE_S * 2**turn, _LONGEST_PAUSE_S)
        if STOPPING.wait(longest_s * random.uniform(0.5, 1)):
            raise InterruptedRunError
    raise AssertionError("the last turn returns or raises")


def kind_of(error: BaseException) -> Kind:
    """Return what an exception of a file system means: by its HTTP status where it has one, else by its class."""
    status, code = _http(error)
    if isinstance(error, FileExistsError):
        return "there"
    if code in _NOWHERE:
        return "refused"
    if status in _STATUSES:
        return _STATUSES[status]
    if isinstance(error, FileNotFoundError):
        return "missing"
    return _by_class(error) if status is None else "busy" if status >= 500 else "refused"


def _by_class(error: BaseException) -> Kind:
    names = {type(each).__name__ for each in _chain(error)}
    numbers = {each.errno for each in _chain(error) if isinstance(each, OSError)}
    if names & _REFUSED or numbers & _UNREACHED:
        return "refused"
    # What is left are time-outs, connections that broke, answers cut short, and defects.
    is_of_network = any(isinstance(each, OSError | TimeoutError | EOFError) for each in _chain(error))
    is_of_client = {type(each).__module__.partition(".")[0] for each in _chain(error)} & {"botocore", "aiohttp"}
    return "busy" if is_of_network or is_of_client else "refused"


def _http(error: BaseException) -> tuple[int | None, str]:
    """Return the HTTP status behind an exception, and the service's word for it."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "ResponseMetadata" in response:  # botocore
            status = response["ResponseMetadata"].get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        if type(each).__module__.startswith("aiohttp.http"):
            continue  # its own word for an answer that was cut short is 400
        for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
            found = getattr(each, name, None)
            if isinstance(found, int) and 400 <= found < 600:
                return found, ""
    return None, ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _folder(url: str, root: Path, *, to_write: bool) -> Folder:
    if not root.is_absolute():
        raise UnavailableError(
            f"the shared cache {url} is no absolute path",
            hint="give file:///, and the whole path of a folder",
            about=_ABOUT,
        )
    if not root.is_dir() and not (to_write and root.parent.is_dir()):
        raise UnavailableError(
            f"the shared cache {url} is not there: there is no folder {root if root.parent.is_dir() else root.parent}",
            hint="mount it, correct the address, or make the folder",
            about=_ABOUT,
        )
    if to_write:
        with suppress(OSError):
            for each in (root / _PARTS).iterdir():
                if time.time() - each.stat().st_mtime > _ABANDONED_S:
                    each.unlink(missing_ok=True)
    return Folder(url, root)


@contextmanager
def _written(root: Path, content: bytes | Path) -> Iterator[Path]:
    """Give a file of its own with some content, on disk; it is gone at the end unless it was moved away."""
    part = root / _PARTS / f"{os.getpid()}-{secrets.token_hex(8)}"
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("xb") as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _created_in_place(whole: Path, final: Path) -> bool:
    """Copy a file where links cannot be made. A reader may meet a part of it, and finds that its digest is wrong."""
    try:
        with final.open("xb") as file, whole.open("rb") as source:
            shutil.copyfileobj(source, file, CHUNK_BYTES)
    except FileExistsError:
        return False
    return True
