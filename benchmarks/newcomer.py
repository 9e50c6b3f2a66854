"""How many commands and edits it takes from a file to a proven release, for eight kinds of files that people bring.

    python -m benchmarks.newcomer

Each is made in a folder of its own and taken through the commands as they are printed by one another, `init`, `check` and
`export --no-benchmark`, without anything known beforehand but the name of one's own class. Writes the table of docs/newcomer.md; ends
with 1 where there was no release, or it took more than five commands or any edit. The Hugging Face folder needs transformers.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from benchmarks import pretrained

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_COMMANDS = 5
PAGE = Path("docs/newcomer.md")
_NETWORK = """
from dataclasses import dataclass

from torch import nn


@dataclass
class Sizes:
    inputs: int = 6
    width: int = 8
    classes: int = 3


class Net(nn.Module):
    def __init__(self, inputs: int = 6, width: int = 8, classes: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.body(x)


class Configured(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(sizes.inputs, sizes.width), nn.ReLU(), nn.Linear(sizes.width, sizes.classes))

    def forward(self, x):
        return {"scores": self.body(x)}
"""
_OWN = ("--architecture", "mine.net:Net", "--trust", "mine")


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is made in a folder (returns its name), and what `init` is given beside it."""

    name: str
    make: Callable[[Path], str]
    options: tuple[str, ...] = _OWN


@dataclass(frozen=True)
class Taken:
    """What it took: commands, edits, lines to look at, and the first command that failed with what it said."""

    commands: int
    looks: int
    seconds: float
    problem: str = ""


def _state(name: str = "Net") -> dict[str, torch.Tensor]:
    net = runpy.run_path("src/mine/net.py")
    torch.manual_seed(0)
    made: torch.nn.Module = net["Net"](9, 16, 4) if name == "Net" else net["Configured"](net["Sizes"](9, 16, 4))
    return made.state_dict()


def _plain(folder: Path) -> str:
    torch.save(_state(), folder / "net.pth")
    return "net.pth"


def _safetensors(folder: Path) -> str:
    save_file(_state(), folder / "net.safetensors")
    return "net.safetensors"


def _trained(folder: Path) -> str:
    state = {f"module.{name}": each for name, each in _state().items()}
    torch.save({"epoch": 3, "model_state_dict": state, "loss": 0.1, "optimizer": {"lr": 0.1}}, folder / "last.pth")
    return "last.pth"


def _lightning(folder: Path) -> str:
    state = {f"model.{name}": each for name, each in _state("Configured").items()}
    hyper = {"lr": 0.1, "sizes": {"inputs": 9, "width": 16, "classes": 4}}
    torch.save(
        {"pytorch-lightning_version": "2.5.0", "state_dict": state, "hyper_parameters": hyper}, folder / "epoch.ckpt"
    )
    return "epoch.ckpt"


def _objects(folder: Path) -> str:
    beside = {
        "args": argparse.Namespace(inputs=9, lr=0.1),
        "seen": collections.defaultdict(int, a=1),
        "path": Path("runs"),
    }
    torch.save({"state_dict": _state(), **beside}, folder / "run.pt")
    return "run.pt"


def _several(folder: Path) -> str:
    other = {name: each * 2 for name, each in _state().items()}
    torch.save({"model": _state(), "ema": other}, folder / "both.pth")
    return "both.pth#ema"


def _ours(folder: Path) -> str:
    from pipeline.architectures.simplenet import SimpleNet

    torch.save(SimpleNet(10, 20, 2).state_dict(), folder / "my_model.pth")
    return "my_model.pth"


def _folder(folder: Path) -> str:
    return pretrained.save("bert", folder).name


KINDS = (
    Kind("a state dict of one of the networks that come with weighbridge", _ours, ()),
    Kind("a state dict, and one's own class in a src folder", _plain),
    Kind("the same as safetensors", _safetensors),
    Kind("a training loop's checkpoint, of several GPUs", _trained),
    Kind("a Lightning checkpoint of a network that takes a dataclass", _lightning, ("--architecture", "mine.net:Configured", "--trust", "mine")),
    Kind("a checkpoint with a script's own objects in it", _objects),
    Kind("a file with two state dicts", _several),
    Kind("a Hugging Face folder", _folder, ("--trust", "transformers")),
)  # fmt: skip


def take(kind: Kind, folder: Path) -> Taken:
    """Go from a file to its release by the commands, following what each prints as next."""
    (folder / "src" / "mine").mkdir(parents=True)
    (folder / "src" / "mine" / "__init__.py").touch()
    (folder / "src" / "mine" / "net.py").write_text(_NETWORK)
    home = Path.cwd()
    os.chdir(folder)
    try:
        file = kind.make(folder)
        return _followed(f"weighbridge init {file} {' '.join(kind.options)}", home)
    finally:
        os.chdir(home)


def _followed(first: str, home: Path) -> Taken:
    began_s, commands, looks, command = time.monotonic(), 0, 0, first
    while True:
        is_export = command.startswith("weighbridge export")
        line = [
            sys.executable,
            "-m",
            "pipeline.commands",
            *command.split()[1:],
            *(["--no-benchmark"] if is_export else []),
        ]
        environment = os.environ | {"PYTHONPATH": str(home), "COLUMNS": "300"}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        commands += 1
        looks += done.stdout.count("# CHECK") if " init " in command else 0
        if done.returncode:
            return Taken(commands, looks, time.monotonic() - began_s, f"{command}: {done.stderr.strip()[-400:]}")
        if is_export:
            return Taken(commands, looks, time.monotonic() - began_s)
        command = re.findall(r"^next: (weighbridge .*?)(?:  \(.*)?$", done.stdout + done.stderr, re.MULTILINE)[-1]


def main() -> None:
    """Take every kind, print what it took, and write the page."""
    rows, failed = [], False
    for kind in KINDS:
        if kind.make is _folder and find_spec("transformers") is None:
            print(f"{kind.name}: not tried, as transformers is not installed")
            continue
        with tempfile.TemporaryDirectory(prefix="newcomer-") as place:
            taken = take(kind, Path(place).resolve())
        failed = failed or bool(taken.problem) or taken.commands > MOST_COMMANDS
        print(
            f"{kind.name}: {taken.commands} commands, {taken.looks} lines to look at, {taken.seconds:.0f} s {taken.problem}",
            flush=True,
        )
        rows.append(f"| {kind.name} | {taken.commands} | {0 if not taken.problem else 'no release'} | {taken.looks} |")
    if len(rows) == len(KINDS) and not failed:
        PAGE.write_text("\n".join([*_HEAD, *rows, ""]), encoding="utf-8")
    sys.exit(failed)


_HEAD = (
    "# From a file to a proven release",
    "",
    "How many commands it takes a newcomer who follows what each prints as `next:`, and how many edits of the config: by",
    "`make sweep-newcomer`, which does it for each kind of file. Lines to look at are those that `init` marks CHECK: it took what is likely,",
    "and the file alone could not decide. Nothing has to be changed for there to be a release; what is marked decides whether it is the right one.",
    "",
    "| what there is | commands | edits | lines to look at |",
    "|---|---:|---:|---:|",
)


if __name__ == "__main__":
    main()
