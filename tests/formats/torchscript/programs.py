"""TorchScript archives, harmless and hostile: what hostile code does is to make a marker file."""

from __future__ import annotations

import warnings
import zipfile
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.formats.torchscript import canonical
from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CODE = "code/__torch__/tests/formats/torchscript/programs.py"


class AddOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Restores(nn.Module):
    """Runs code as soon as it is loaded."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.marker, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.marker, self.training = state
        torch.ops.aten.save(torch.ones(1), self.marker)


def saved(module: nn.Module, path: Path) -> Path:
    """Script and write a module in the form that releases have."""
    raw = path.with_suffix(".raw")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
        torch.jit.script(module.eval()).save(str(raw))
    canonical.from_file(raw, path, identity={})
    raw.unlink()
    return path


def rewritten(source: Path, target: Path, replaced: Mapping[str, bytes]) -> Path:
    """Write an archive again with some entries replaced or added, named below its root."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as made:
        entries = {info.filename: read.read(info) for info in read.infolist()}
        for name, content in (entries | {f"archive/{name}": content for name, content in replaced.items()}).items():
            made.writestr(name, content)
    return target


def code_of(path: Path) -> str:
    with zipfile.ZipFile(path) as read:
        return read.read(f"archive/{CODE}").decode()


def hostile_code(marker: Path) -> dict[str, Callable[[str], str]]:
    """Return how the code of AddOne is rewritten so that it would write the marker when it is loaded or run."""

    def before_return(line: str) -> Callable[[str], str]:
        return lambda code: code.replace("    return", f"    {line}\n    return")

    file = f'"{marker}"'
    return {
        "a default that runs when it is loaded": lambda code: code.replace(
            "x: Tensor)", f"x: Tensor, y: Tensor=torch.from_file({file}, True, 4))"
        ),
        "save": before_return(f"torch.save(x, {file})"),
        "save by its namespace": before_return(f"ops.aten.save(x, {file})"),
        "save under another name": before_return(f"f = torch.save\n    f(x, {file})"),
        "save by a text": before_return(f'getattr(torch, "save")(x, {file})'),
        "save by a text in pieces": before_return(f'getattr(torch, "sa" "ve")(x, {file})'),
        "save by an escaped text": before_return(f'getattr(torch, "\\163ave")(x, {file})'),
        "from_file": lambda code: code.replace("add(x, 1)", f"add(torch.sum(torch.from_file({file}, True, 4)), 1)"),
    }


def other_code() -> dict[str, Callable[[str], str]]:
    """Return rewritten code that does not touch the marker, and that must be refused all the same."""

    def before_return(line: str) -> Callable[[str], str]:
        return lambda code: code.replace("    return", f"    {line}\n    return")

    return {
        "operators of c10d": before_return("ops.c10d.barrier(x)"),
        "all operators under another name": before_return("o = ops"),
        "a class in C++": before_return("y = __torch__.torch.classes.quantized.LinearPackedParamsBase"),
        "another machine": before_return('rpc_sync("worker", x)'),
        "a comment with a type": before_return("y = x # type: Tensor"),
        "other quotes": before_return("y = 'x'"),
        "a text over lines": before_return('y = """x\n"""'),
        "letters that are not ASCII": before_return("ｓave = x"),
    }


def hostile_entries(marker: Path) -> dict[str, dict[str, bytes]]:
    """Return entries, replaced in AddOne's archive, that must be refused."""
    shell = asm.pickle(asm.shell(marker))
    far = asm.pickle(asm.tuple_of(asm.tensor((2**40,), (1,), asm.storage("0", 2**40))))
    wide = asm.pickle(asm.tuple_of(asm.tensor((2**19, 2**19), (0, 0), asm.storage("0", 3))))
    custom = asm.glob("__torch__.torch.classes.quantized", "LinearPackedParamsBase")
    return {
        "a command in data.pkl": {"data.pkl": shell},
        "a command in constants.pkl": {"constants.pkl": shell},
        "a class in C++ in data.pkl": {"data.pkl": asm.pickle(custom + b")" + asm.NEWOBJ)},
        "a class of Python's in data.pkl": {"data.pkl": asm.pickle(asm.glob("collections", "deque") + b")\x81")},
        "hidden bytes": {"constants.pkl": asm.pickle(b")") + shell},
        "a storage larger than its bytes": {"constants.pkl": far, "constants/0": bytes(12)},
        "stride 0": {"constants.pkl": wide, "constants/0": bytes(12)},
        "bytecode": {"bytecode.pkl": asm.pickle(b")")},
        "a debug pickle": {f"{CODE}.debug_pkl": shell},
        "code outside": {"code/../../x.py": b"x"},
        "9 MB of code": {CODE: b"x" * (9 * 2**20)},
        "code that is no text": {CODE: b"\xff\xfe"},
    }
