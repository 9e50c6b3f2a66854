"""Asks pip or uv which distributions another version brings, and installs them into a folder of their own.

Both are run as the user runs them: with their own configuration, index and credentials. Neither is ever told to change the
environment that weighbridge runs in: the one call is a dry run, the other one names a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import STOPPING, InterruptedRunError, UnavailableError
from pipeline.fleet.lines import read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.fleet.replay.requirements import Candidate

TIMEOUT_S = 3600.0
"""How long an installer may take."""

_KEPT_LINES = 2000
_SHOWN_LINES, _SHOWN_COLUMNS = 4, 400
# A process that the kernel ends with this one, before it becomes the installer.
_TIED = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); from pipeline.worker.child import die_with_parent; "
    "die_with_parent(int(sys.argv[2])); os.execv(sys.argv[3], sys.argv[3:])"
)
_CONFLICT = "The conflict is caused by:"
_BEGINS = ("×", "error:", "Traceback")
_TELLING_UV = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_FIND_LINKS", "UV_CONFIG")
_ROOT = str(Path(__file__).parents[3])
_INDEX_KEYS = re.compile(
    r"^(?:global|install|:env:|user|site)\.?(?:index-url|extra-index-url|find-links|no-index)=", re.MULTILINE
)
_TOLD = re.compile(r"\s*(?:Collecting|Downloading|Building|Installing|Preparing|Resolved|Prepared|Downloaded) ?.*")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A distribution that is to be installed; `origin` is where from, with its digest, as far as the installer says it."""

    name: str
    version: str
    origin: str

    @property
    def pin(self) -> str:
        """Return the requirement that is this version and no other."""
        return f"{self.name}=={self.version}"


class Installer(Protocol):
    """What resolves and installs."""

    @property
    def name(self) -> str:
        """What it is called."""

    def resolve(self, candidate: Candidate, constraints: Path, say: Callable[[str], None]) -> tuple[Wheel, ...]:
        """Return what would change, changing nothing; raises UnavailableError with its reason."""

    def install(self, wheels: Sequence[Wheel], folder: Path, say: Callable[[str], None]) -> None:
        """Put exactly these into a folder; raises UnavailableError with its reason."""


@dataclass(frozen=True, slots=True)
class Pip:
    """pip of the environment that weighbridge runs in, which knows what is installed there."""

    name: str = "pip"

    def resolve(self, candidate: Candidate, constraints: Path, say: Callable[[str], None]) -> tuple[Wheel, ...]:
        """Have pip resolve against what is installed here."""
        report = constraints.with_name("report.json")
        asked = [each.text for each in candidate.requirements]
        upgrading = ["--upgrade", "--upgrade-strategy", "only-if-needed"]
        command = ["--dry-run", "--report", str(report), *upgrading, "-c", str(constraints), *asked]
        self._run(candidate.label, command, say)
        found = json.loads(report.read_bytes())["install"]
        return tuple(
            Wheel(
                each["metadata"]["name"], each["metadata"]["version"], json.dumps(each["download_info"], sort_keys=True)
            )
            for each in found
        )

    def install(self, wheels: Sequence[Wheel], folder: Path, say: Callable[[str], None]) -> None:
        """Have pip put them into the folder, and nothing else."""
        label = ", ".join(each.pin for each in wheels)
        self._run(label, ["--no-deps", "--target", str(folder), *(each.pin for each in wheels)], say)

    def _run(self, label: str, arguments: Sequence[str], say: Callable[[str], None]) -> None:
        command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", *arguments]
        # What a user's configuration says of where to install would contradict the folder.
        own = {
            "PIP_USER": "0",
            "PIP_REQUIRE_VIRTUALENV": "0",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        run(self.name, label, command, own, say)


@dataclass(frozen=True, slots=True)
class Uv:
    """uv, which is told which environment it would change."""

    program: str
    name: str = "uv"

    def resolve(self, candidate: Candidate, constraints: Path, say: Callable[[str], None]) -> tuple[Wheel, ...]:
        """Have uv resolve against what is installed here."""
        upgraded = [part for each in candidate.requirements for part in ("--upgrade-package", each.name)]
        asked = [each.text for each in candidate.requirements]
        command = ["--dry-run", "--python", sys.executable, *upgraded, "-c", str(constraints), *asked]
        told = self._run(candidate.label, command, say)
        # It does not say where from, or which digest: what else it was told stands for that.
        index = repr(sorted((name, value) for name, value in os.environ.items() if name.startswith(_TELLING_UV)))
        added = (re.fullmatch(r"\s*[+~] ([A-Za-z0-9._-]+)==(\S+)(.*)", line) for line in told)
        return tuple(Wheel(each[1], each[2], f"{index}{each[3]}") for each in added if each)

    def install(self, wheels: Sequence[Wheel], folder: Path, say: Callable[[str], None]) -> None:
        """Have uv put them into the folder, and nothing else."""
        label = ", ".join(each.pin for each in wheels)
        # A link into uv's own cache would be changed with it.
        command = [
            "--no-deps",
            "--python",
            sys.executable,
            "--link-mode",
            "copy",
            "--compile-bytecode",
            "--target",
            str(folder),
        ]
        self._run(label, [*command, *(each.pin for each in wheels)], say)

    def _run(self, label: str, arguments: Sequence[str], say: Callable[[str], None]) -> list[str]:
        own = {"UV_BREAK_SYSTEM_PACKAGES": "1", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}  # of a dry run, and of a folder
        return run(self.name, label, [self.program, "pip", "install", *arguments], own, say)


def _has_pip() -> bool:
    # By the paths alone: setuptools takes a look for pip as a sign to give its place in distutils back, and breaks on that later.
    return PathFinder.find_spec("pip") is not None


def installer() -> Installer:
    """Return uv if it is there, else pip; pip too where only pip was told an index, which uv does not read.

    Raises:
        UnavailableError: neither is there.
    """
    uv, has_pip = shutil.which("uv"), _has_pip()
    if uv and not (has_pip and not _tells_uv() and _tells_pip()):
        return Uv(uv)
    if has_pip:
        return Pip()
    raise UnavailableError(
        "neither uv nor pip is here, so that no environment can be made",
        hint=f"install one of them: {sys.executable} -m ensurepip",
    )


def _tells_uv() -> bool:
    return any(name.startswith(_TELLING_UV) for name in os.environ)


def _tells_pip() -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    return _INDEX_KEYS.search(done.stdout) is not None


def run(
    name: str, label: str, command: Sequence[str], variables: Mapping[str, str], say: Callable[[str], None]
) -> list[str]:
    """Run an installer to its end, `say` what it is at, and return what it printed; it ends when this process does.

    Raises:
        UnavailableError: it failed, with its own reason, or took longer than `TIMEOUT_S`.
        InterruptedRunError: the run was interrupted.
    """
    told: list[str] = []
    with _started(command, variables) as process:
        assert process.stdout is not None  # noqa: S101 - opened as a pipe below
        try:
            for line in map(str.rstrip, read_lines(process.stdout, time.monotonic() + TIMEOUT_S)):
                told.append(line)
                del told[:-_KEPT_LINES]
                if _TOLD.fullmatch(line):
                    say(_said(line))
        except TimeoutError:
            raise UnavailableError(
                f"an environment with {label} cannot be made: it was not installed within {TIMEOUT_S:g} s",
                hint="see whether the index answers: pip download --no-deps NAME==VERSION",
            ) from None
        code = process.wait()
    if code:
        raise UnavailableError(
            f"an environment with {label} cannot be made: {name}: {reason(told, code)}", hint=hint(told)
        )
    return told


@contextlib.contextmanager
def _started(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    if STOPPING.is_set():
        raise InterruptedRunError
    alive, alive_write = os.pipe()
    tied = [sys.executable, "-c", _TIED, _ROOT, str(alive), *command]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, alive_write)
        try:
            process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(alive,),
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"} | dict(variables),
                start_new_session=True,
            )
        finally:
            os.close(alive)
        stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    process.stdout.close()


def _said(line: str) -> str:
    """Return what is shown while it goes on: of many distributions how many."""
    what, colon, names = line.strip().partition(": ")
    count = names.count(",") + 1
    return f"{what}: {count} distributions" if colon and count > _SHOWN_LINES else line.strip()[:_SHOWN_COLUMNS]


def reason(told: Sequence[str], code: int) -> str:
    """Return why an installer failed, in its own words, as short as they can be."""
    lines = [each.strip() for each in told if each.strip() and not each.startswith("WARNING")]
    errors = [each.removeprefix("ERROR: ") for each in lines if each.startswith("ERROR: ")]
    start = next((index for index, each in enumerate(lines) if each.startswith(_BEGINS)), None)
    if _CONFLICT in lines:
        after = lines[lines.index(_CONFLICT) + 1 :]
        end = next((index for index, each in enumerate(after) if each.startswith("To fix this")), _SHOWN_LINES)
        chosen = [each.replace("The user requested (constraint)", "what stays is") for each in after[:end]]
    elif errors:
        chosen = errors[:1]  # of "Could not find a version" and "No matching distribution found" the second says less
    else:
        chosen = lines[-_SHOWN_LINES:] if start is None else lines[start : start + _SHOWN_LINES]
    return "; ".join(map(_short, chosen)) or f"it ended with {code} and said nothing"


def _short(line: str) -> str:
    """Return a line without the middle of a long list, whose last entries are the newest versions."""
    return line if len(line) <= _SHOWN_COLUMNS else f"{line[: _SHOWN_COLUMNS // 3]} … {line[-_SHOWN_COLUMNS // 2 :]}"


def hint(told: Sequence[str]) -> str:
    """Return what to do about an installer that failed."""
    text = " ".join(" ".join(told).split())
    if re.search(
        r"No matching distribution|Could not find a version|there (?:is|are) no versions? of|was not found in", text
    ):
        return "name a version that your index has, or point PIP_INDEX_URL (UV_DEFAULT_INDEX for uv) to one that has it"
    if re.search(r"ResolutionImpossible|conflict|unsatisfiable", text):
        return "name what has to change with it in the same --with: what is not named stays as it is installed here"
    if re.search(r"Connection|Temporary failure|timed out|Network|dns", text, re.IGNORECASE):
        return "see that your index can be reached; what was kept under artifacts/.cache/environments needs none"
    return "see why with the installer itself: pip download NAME==VERSION"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for what an installer is given, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
        yield Path(folder)
