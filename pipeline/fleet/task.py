"""A task of Ray's: one config exported on a node, with everything that it needs and everything that comes of it sent through Ray.

It is a generator: first lines of what the export tells, then the files that came of it in pieces, then how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import WeighbridgeError
from pipeline.fleet import node
from pipeline.fleet.travel import require_absolute, unpack
from pipeline.release import bundle
from pipeline.report.log import RUN
from pipeline.storage.store import list_files, private_directory, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.fleet.travel import Pack

    Read = Callable[[str], bytes | memoryview]

PIECE_BYTES = 32 << 20
_GRACE_S = 10.0
_SHOWN_LINES = 6
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
            answer = yield from _exported(order, root, out, folder / "printed")
            if order.keeps_release or "failure" in answer:
                yield from _files(out / order.name, answer.get("release"))
        yield End(answer, str(out), str(root))
    except WeighbridgeError as error:
        failure = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "about": error.about}
        yield End({"failure": failure})


def _exported(order: Order, root: Path, out: Path, printed: Path) -> Iterator[Line]:
    """Let a child export; yield its events, and return its answer."""
    packed = order.packed
    asked = {**order.settings, "config": str(root / packed.config), "out": str(out)}
    alive, ours = os.pipe()
    with printed.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.fleet.child", str(alive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(alive,),
            cwd=root / packed.directory,
            env=_environment(packed, root),
            start_new_session=True,
        )
    os.close(alive)
    assert child.stdin is not None  # noqa: S101 - opened as pipes above
    assert child.stdout is not None  # noqa: S101
    try:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps(asked).encode())
        answer: dict[str, Any] | None = None
        for line in child.stdout:
            told = json.loads(line)
            if "end" in told:
                answer = told["end"]
            else:
                yield Line(told["event"])
        return answer if answer is not None else _lost(order, child.wait(), printed)
    finally:
        _end(child)
        os.close(ours)


def _lost(order: Order, status: int, printed: Path) -> dict[str, Any]:
    """Return what is said of a child that ended without an answer."""
    lines = printed.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    told = f"the export of {order.name} {how}" + "".join(f"\n  | {line[:300]}" for line in lines)
    return {"failure": {"kind": "WorkerError", "message": told, "hint": None, "about": None}}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let a child end by itself, if it still runs, then make it."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _environment(packed: Pack, root: Path) -> dict[str, str]:
    """Return the node's environment without what Ray put there, with what the config refers to and where its code lies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_RAY)}
    kept |= {name: value for name, value in _of_parent().items() if name == "OMP_NUM_THREADS"}
    own = Path(__file__).parents[2]
    installed = own.name in {"site-packages", "dist-packages"}
    paths = [kept.get("PYTHONPATH", ""), *(str(root / each) for each in packed.folders), "" if installed else str(own)]
    return kept | packed.variables | {"PYTHONPATH": os.pathsep.join(each for each in paths if each)}


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
