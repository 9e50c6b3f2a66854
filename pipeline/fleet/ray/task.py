"""A task of Ray's: one config exported on a node, with everything that it needs and everything that comes of it sent through Ray.

It is a generator: first lines of what the export tells, then the files that came of it in pieces, then how it ended.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import WeighbridgeError
from pipeline.fleet import node
from pipeline.fleet.exporter import Exporter
from pipeline.fleet.ray.travel import require_absolute, unpack
from pipeline.release import bundle
from pipeline.report.log import RUN
from pipeline.storage.store import list_files, private_directory, sweep
from pipeline.worker.job import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from pipeline.fleet.ray.travel import Pack

    Read = Callable[[str], bytes | memoryview]

PIECE_BYTES = 32 << 20
_OF_RAY = ("RAY_", "OMP_NUM_THREADS")
"""What Ray sets for its own; a number of threads that the node itself was started with is put back."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with one config: `settings` are those of `child.exported`, `usual` is run.json of the run before.

    `keeps_release`: its release is sent back; otherwise it is there for what it leaves in the node's cache.
    """

    name: str
    packed: Pack
    settings: dict[str, Any]
    usual: bytes | None
    keeps_release: bool


@dataclass(frozen=True, slots=True)
class Started:
    """Where it runs: the node's id, and its address."""

    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Line:
    """Something the export told."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file below the folder of the config's name, in order."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class End:
    """How it ended: what `child.exported` returns, and the folders of this node that may be named in messages."""

    answer: dict[str, Any]
    out: str = ""
    root: str = ""


def on_ray(order: Order, files: Mapping[str, Any]) -> Iterator[Started | Line | Piece | End]:
    """Do `run` in a worker of Ray's; `files` are references to bytes in Ray's store, by digest."""
    import ray

    context = ray.get_runtime_context()
    yield Started(context.get_node_id(), ray.util.get_node_ip_address())
    yield from run(order, lambda digest: memoryview(ray.get(files[digest])))


def run(order: Order, read: Read) -> Iterator[Line | Piece | End]:
    """Export on this machine; yield what it tells, what comes of it, and how it ended. `read` returns the bytes of a digest.

    A process of its own does it, and ends with this one. Results are kept in the node's folder, so that a task that is lost goes on.
    """
    try:
        place = node.folder()
        tasks = place / "tasks"
        sweep(tasks)
        with private_directory(tasks) as folder:
            root, out = folder / "root", folder / "out"
            out.mkdir()
            (place / "cache").mkdir(exist_ok=True)
            (out / ".cache").symlink_to(place / "cache")
            unpack(order.packed, root, out / ".cache", read)
            require_absolute(order.packed)
            if order.usual is not None:
                (out / order.name).mkdir()
                (out / order.name / RUN).write_bytes(order.usual)
            answer = yield from _exported(order, root, out)
            if order.keeps_release or "failure" in answer:
                yield from _files(out / order.name, answer.get("release"))
        yield End(answer, str(out), str(root))
    except WeighbridgeError as error:
        yield End({"failure": failure_of(error).model_dump()})


def _exported(order: Order, root: Path, out: Path) -> Generator[Line, None, dict[str, Any]]:
    """Let the child export; yield its events, and return its answer."""
    packed = order.packed
    global _child  # noqa: PLW0603 - one for all tasks of this process: that is its use
    child = _child = _child if _child is not None and _child.alive else Exporter(_environment())
    ended = False
    try:
        child.ask(
            {
                **order.settings,
                "config": str(root / packed.config),
                "out": str(out),
                "directory": str(root / packed.directory),
                "folders": [str(root / each) for each in packed.folders],
                "variables": packed.variables,
            }
        )
        for told in child.told():
            if "end" in told:
                ended = True
                answer: dict[str, Any] = told["end"]
                return answer
            yield Line(told["event"])
        return child.lost(order.name)
    finally:
        if not ended:
            _child = None
            child.end()


_child: Exporter | None = None


def _environment() -> dict[str, str]:
    """Return the node's environment without what Ray put there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_RAY)}
    kept |= {name: value for name, value in _of_parent().items() if name == "OMP_NUM_THREADS"}
    own = Path(__file__).parents[3]
    if own.name in {"site-packages", "dist-packages"}:
        return kept
    return kept | {"PYTHONPATH": os.pathsep.join(each for each in (kept.get("PYTHONPATH", ""), str(own)) if each)}


def _of_parent() -> Mapping[str, str]:
    """Return the environment that the node was started with, as far as the system tells."""
    with contextlib.suppress(OSError):
        parts = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(each.split("=", 1) for each in parts if "=" in each)
    return {}


def _files(folder: Path, release: str | None) -> Iterator[Piece]:
    """Yield what came of an export: its log, its release, and what explains a failure."""
    wanted: Sequence[str] = [each for each in (RUN, release, bundle.FAILED, bundle.CRASHES) if each]
    for top in wanted:
        path = folder / top
        names = [top] if path.is_file() else [f"{top}/{each}" for each in list_files(path)] if path.is_dir() else []
        for name in names:
            with (folder / name).open("rb") as file:
                while True:
                    content = file.read(PIECE_BYTES)
                    yield Piece(name, content)
                    if len(content) < PIECE_BYTES:
                        break
