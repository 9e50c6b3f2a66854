"""A page of the documentation as a reader follows it: the files it gives, the commands it shows, what these must say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A fence; a name right above it, as in "Put this into `net.py`:", is the file that it holds.
_FENCE = re.compile(r"(?:`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Installing happened before, and `make test` is what runs these.
_NOT_HERE = ("make test", "git clone", "python3 -m venv", "pip install", "source ")
# Which verdict a timing comes to depends on the machine.
_VERDICTS = {"faster", "slower", "same", "undecided"}


@dataclass(frozen=True)
class File:
    """A file that the page gives."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and the output shown under it."""

    line: str
    shown: str

    @property
    def fails(self) -> bool:
        """Whether it is shown to fail; what prints its exit code does not."""
        return "exit code" not in self.shown and bool(re.search("error:|can't find|FAILED", self.shown))


def steps(page: Path) -> list[File | Command]:
    """Return the files and commands of a page, in their order."""
    found: list[File | Command] = []
    for name, language, text in _FENCE.findall(page.read_text("utf-8")):
        if language == "console":
            parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
            found += [Command(*part.partition("\n")[::2]) for part in parts]
        elif name:
            found.append(File(name, text))
    return found


def quickened(config: str) -> str:
    """Return a config whose timings take a second: what a page shows of one does not depend on it."""
    return re.sub(r"\bseconds: \d+", "seconds: 1", config)


def follow(page: Path, folder: Path, variables: dict[str, str]) -> list[str]:
    """Do what a page says in a folder; return what is not as it shows."""
    wrong = []
    for step in steps(page):
        if isinstance(step, File):
            (folder / step.name).parent.mkdir(exist_ok=True)
            (folder / step.name).write_text(quickened(step.text), "utf-8")
        elif not step.line.startswith(_NOT_HERE):
            wrong += _problems(step, folder, variables)
    return wrong


def environment(**more: str) -> dict[str, str]:
    """Return variables with which `weighbridge` and `python` are those that run this test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "200"} | more


def _problems(command: Command, folder: Path, variables: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", command.line], cwd=folder, env=variables, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    found = []
    if (done.returncode != 0) != command.fails:
        found.append(f"{command.line}: exit {done.returncode}\n{done.stdout}")
    if missing := landmarks(command.shown) - landmarks(done.stdout):
        found.append(f"{command.line}: the page shows {sorted(missing)}, the output is\n{done.stdout}")
    return found


def landmarks(shown: str) -> set[str]:
    """Return what must stay the same in an output: words and exit codes, without other figures, digests and layout."""
    without_digests = re.sub(r"\b[0-9a-f]{6,64}\b", "", shown)
    return set(re.findall(r"code \d+|[A-Za-z][A-Za-z-]{3,}", without_digests)) - _VERDICTS
