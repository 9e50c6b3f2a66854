"""What a config needs to be exported on another machine: its files with their digests, laid out there as they lie here.

The layout keeps every relative path: all files lie below one root, the working directory among them, so that a config finds on the other
machine what it finds here. Nothing becomes trusted by travelling: whom to trust is told with the work, and code is looked for from the
same working directory by the same rule.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.config.labels import label_files
from pipeline.config.source import chain
from pipeline.errors import DigestError, InputError, UnavailableError
from pipeline.rebuild import objects, project, sources
from pipeline.run import keys
from pipeline.storage.store import digest_file
from pipeline.weights import stated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.config import Config
    from pipeline.rebuild.trust import Located
    from pipeline.run.plan import Plan, Settings

_VARIABLE = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Pack:
    """What travels with a config.

    `root` is the folder here that everything lies below; `config`, `directory` (the working directory) and the names of `files` are paths
    relative to it, `files` with their SHA-256. `fetched` is a weights file that came from a URL: its place in the cache of a run, with its
    digest. `folders` are those that code is imported from and that the working directory does not tell, relative to the root.
    `absolute` are files that the config names by their absolute paths, with their digests; `variables` are those of the environment that it
    refers to. `here` says where each digest's bytes are on this machine.
    """

    root: Path
    config: str
    directory: str
    files: dict[str, str]
    fetched: dict[str, str]
    folders: tuple[str, ...]
    absolute: dict[str, str]
    variables: dict[str, str]
    here: dict[str, Path]


def pack(path: Path, planned: Plan, settings: Settings) -> Pack:
    """Return what a planned config needs.

    Raises:
        InputError: a file that it needs is gone, or cannot be read.
    """
    cwd = Path(os.path.realpath(Path.cwd()))
    configs = [_real(each) for each in chain(path)]
    texts = [each.read_text(encoding="utf-8-sig") for each in configs] + list(settings.overrides)
    weights = [Path(planned.network.weights).parent / name for name in (planned.network.verified or _NONE).stamps]
    is_fetched = "://" in planned.config.model.weights
    code, folders = _code(planned, cwd)
    needed = [*configs, *_named(planned), *code, *([] if is_fetched else _with_beside(weights))]
    digests = {each: _digest(each) for each in dict.fromkeys(map(_real, needed))}
    root = Path(os.path.commonpath([cwd, *(each.parent for each in digests), *folders]))
    store = settings.out / ".cache"
    fetched = {each: _digest(each) for each in weights} if is_fetched else {}
    variables = {name: os.environ[name] for text in texts for name in _VARIABLE.findall(text) if name in os.environ}
    said = [*texts, *variables.values()]
    return Pack(
        root=root,
        config=_below(root, configs[0]),
        directory=_below(root, cwd),
        files={_below(root, each): digest for each, digest in digests.items()},
        fetched={each.relative_to(store).as_posix(): digest for each, digest in fetched.items()},
        folders=tuple(_below(root, each) for each in folders),
        absolute={str(each): digest for each, digest in digests.items() if any(str(each) in text for text in said)},
        variables=variables,
        here={digest: each for each, digest in (digests | fetched).items()},
    )


def unpack(packed: Pack, root: Path, cache: Path, read: Callable[[str], bytes | memoryview]) -> None:
    """Write what travelled below `root`, and what was fetched below `cache`; `read` returns the bytes of a digest.

    Raises:
        DigestError: what arrived is something else.
    """
    (root / packed.directory).mkdir(parents=True, exist_ok=True)
    for name, digest in packed.files.items():
        _write(_inside(root, name), digest, read)
    for name, digest in packed.fetched.items():
        place = _inside(cache, name)
        if not place.is_file() or digest_file(place) != digest:
            part = place.with_name(f"{place.name}.{os.getpid()}")
            _write(part, digest, read)
            part.replace(place)


def require_absolute(packed: Pack) -> None:
    """Raise UnavailableError for a file named by its absolute path that is not on this machine as it is where the config lies."""
    for name, digest in packed.absolute.items():
        if not Path(name).is_file():
            raise UnavailableError(
                f"{PurePosixPath(packed.config).name} names {name} by its absolute path, and there is no such file on this node",
                hint="name it relative to the config, so that it travels, or put it there on every node",
            )
        if digest_file(Path(name)) != digest:
            raise UnavailableError(
                f"{PurePosixPath(packed.config).name} names {name} by its absolute path, and this node has another file there",
                hint="name it relative to the config, so that it travels, or put the same file there on every node",
            )


def shared(settings: Settings) -> dict[str, Any] | None:
    """Return the cache that machines share as a node is told of it: public keys travel, the private one lies on every node."""
    cache = settings.shared
    if cache is None:
        return None
    trusted = [each.read_text(encoding="utf-8") for each in cache.trusted]
    return {"url": cache.url, "key": cache.key and str(cache.key.absolute()), "trusted": trusted}


class _Nothing:
    stamps: tuple[str, ...] = ()


_NONE = _Nothing()


def _named(planned: Plan) -> Iterator[Path]:
    """Yield the files that a config names beside its weights, and those that objects among its arguments read."""
    config: Config = planned.config
    yield from (Path(each) for each in (config.samples, config.reference and config.reference.file) if each)
    yield from (Path(each.calibration) for each in config.exports if each.calibration)
    yield from (Path(each.accuracy.samples) for each in config.gates.values() if each.accuracy)
    yield from label_files(config)
    yield from map(Path, config.release.beside)
    yield from objects.files(config.model.arguments, Path(planned.network.folder))


def _with_beside(weights: Sequence[Path]) -> list[Path]:
    """Return weights with what a checkpoint's folder says of its network."""
    beside = [each.with_name(stated.BESIDE) for each in weights[:1]]
    return [*weights, *(each for each in beside if each.is_file())]


def _code(planned: Plan, cwd: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of the code of networks, objects and metrics that is no installed package's, and the folders it is imported from.

    With them goes the project's pyproject.toml, which says where its packages lie and which of them its owner trusts.
    """
    files: list[Path] = []
    folders: dict[Path, None] = {}
    for located in _located(planned):
        root = sources.folder_of(located.module, located.path)
        if root.name in _INSTALLED or not (names := keys.sources(located)):
            continue
        files += [root / name for name in names]
        folders[root] = None
    usual = {cwd, *project.source_folders(cwd)}
    told = [project.path_of(cwd)] if project.path_of(cwd).is_file() else []
    return [*files, *told], [each for each in folders if each not in usual]


def _located(planned: Plan) -> Iterable[Located]:
    """Yield what is located, and the modules it is asked for under."""
    for each in (planned.located, *planned.objects, *planned.metrics.values()):
        yield each
        if each.asked is not None:
            yield replace(each, module=each.asked[0], path=sources.find(each.asked[0]))


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check the file, and run again") from error


def _write(place: Path, digest: str, read: Callable[[str], bytes | memoryview]) -> None:
    content = read(digest)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DigestError(f"{place.name} did not arrive as it was sent", hint="run again")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def _inside(root: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"{name} would lie outside of what travels", hint="run again")
    return root / name


def _real(path: Path) -> Path:
    """Return a path without links in its folders; the last link is not followed, as a config's own paths are read."""
    return Path(os.path.realpath(path.parent)) / path.name


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
