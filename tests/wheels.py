"""Wheels of a small distribution with a backend of its own, written as they lie in an index, and releases that were proven on it.

The backend runs the ONNX file of tests/conftest.py with onnx's reference evaluator. Each version does something else with the result.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from typing import TYPE_CHECKING

from pipeline.errors import UnavailableError
from pipeline.fleet.replay.installing import Wheel
from tests import pages
from tests.conftest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.fleet.replay.requirements import Candidate

ENGINE = '''
"""A backend of somebody else's, version {version}."""

from pipeline.backends.backend import Backend, Options, Session


def open_engine(source, options):
    from onnx.reference import ReferenceEvaluator

    {opening}
    evaluator = ReferenceEvaluator(str(source.file))

    def run(arrays):
        found = dict(zip(evaluator.output_names, evaluator.run(None, dict(arrays)), strict=True))
        {returning}

    return Session(run, bind=lambda arrays: lambda: run(arrays), facts={{}})


ENGINE = Backend(
    name="engine", summary="onnx's evaluator", format="onnx", device="cpu", install="weighbridge-engine", options=Options,
    probe=lambda: None, open=open_engine, modules=(), distributions=("weighbridge-engine",),
)
'''
RIGHT = "return found"
WRONG = 'return found | {"logits": found["logits"] * found["logits"].dtype.type(1.01)}'
SEGFAULT = "import ctypes; ctypes.string_at(0)"


def engine(version: str, returning: str = RIGHT, opening: str = "") -> dict[str, str]:
    """Return the files of a version of the distribution."""
    code = ENGINE.format(version=version, returning=returning, opening=opening)
    return _files("weighbridge-engine", version, code, "[weighbridge.backends]\nengine = weighbridge_engine:ENGINE\n")


def plain(name: str, version: str, *needs: str, code: str = "") -> dict[str, str]:
    """Return the files of a distribution that brings nothing but its version, and `code`."""
    return _files(name, version, f"VERSION = {version!r}\n{code}", "", needs)


def _files(name: str, version: str, code: str, entries: str, needs: tuple[str, ...] = ()) -> dict[str, str]:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    asked = "".join(f"Requires-Dist: {each}\n" for each in needs)
    return {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entries,
    }


def serve(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files as a wheel into a folder that an index points to; return the wheel."""
    folder.mkdir(exist_ok=True)
    info = next(name for name in files if name.endswith("/METADATA")).partition("/")[0]
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    digests = {name: hashlib.sha256(text.encode()).digest() for name, text in files.items()}
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(files[name].encode())}"
        for name, digest in digests.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))
    return path


def install(site: Path, files: Mapping[str, str]) -> Path:
    """Put files into a folder as they are when they are installed; return the folder."""
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return site


def variables(site: Path, wheels: Path) -> dict[str, str]:
    """Return variables with which the distributions of a folder are installed and those of another one are all that an index has."""
    quiet = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONSTRAINT": ""}
    return pages.environment(PYTHONPATH=f"{site}:{pages.ROOT}", **quiet)


def manifest(*required: str) -> dict[str, object]:
    """Return the manifest of a release that was proven on the engine, beside onnxruntime."""
    proven = {
        name: {"backend": name, "format": "onnx", "artifact": "onnx", "options": {}, "verdict": "pass"}
        for name in ("engine", "onnxruntime-cpu")
    }
    config = MANIFEST["config"]
    assert isinstance(config, dict)
    return {**MANIFEST, "backends": proven, "config": config | {"require": list(required)}}


# Everything but the installer is what runs elsewhere: `make sweep-replay` has pip and uv.
UNZIPPING = (
    "import sys; from pathlib import Path; from pipeline.fleet.replay import installing; from tests.wheels import Unzip; "
    "index = Path(sys.argv.pop(1)); installing.installer = lambda: Unzip(index); from pipeline.commands.app import main; main()"
)
"""A program that is weighbridge with an index that is a folder, its first argument."""


class Unzip:
    """An installer that unpacks what a folder has: for tests of everything around an installer."""

    name = "unzip"

    def __init__(self, index: Path) -> None:
        self.index = index

    def resolve(self, candidate: Candidate, constraints: Path, say: Callable[[str], None]) -> tuple[Wheel, ...]:
        del constraints, say
        found = []
        for each in candidate.requirements:
            version = each.text.partition("==")[2]
            path = self.index / f"{each.name.replace('-', '_')}-{version}-py3-none-any.whl"
            if not path.exists():
                raise UnavailableError(
                    f"an environment with {each.text} cannot be made: unzip: no such file", hint="name another"
                )
            found.append(Wheel(each.name, version, hashlib.sha256(path.read_bytes()).hexdigest()))
        return tuple(found)

    def install(self, wheels: Sequence[Wheel], folder: Path, say: Callable[[str], None]) -> None:
        del say
        for each in wheels:
            zipfile.ZipFile(self.index / f"{each.name.replace('-', '_')}-{each.version}-py3-none-any.whl").extractall(
                folder
            )


def contents(folder: Path) -> str:
    """Return a digest of every file below a folder, with its name and its time."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    told = [[str(each.relative_to(folder)), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
