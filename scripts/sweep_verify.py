"""Run a release's own verify.py the way it will be run: elsewhere, read-only, offline, with numpy and onnxruntime only.

    BARE_PYTHON scripts/sweep_verify.py RELEASE [--flips 600]

Run it with the interpreter of an environment that holds numpy and onnxruntime and nothing else (`make sweep-verify` makes
one). Times verify.py on a read-only copy, without a network where `unshare` may; then flips single bits, seeded and anywhere in
the release, and expects verify.py to refuse each. Exits 1 if anything passes that should not, or fails that should pass.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = {"numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf", "pip", "setuptools", "coloredlogs", "sympy", "mpmath", "humanfriendly"}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--flips", type=int, default=600)
    asked = parser.parse_args()
    more = {each.metadata["Name"].lower() for each in distributions()} - ALLOWED
    if more:
        print(f"this environment holds more than numpy and onnxruntime: {', '.join(sorted(more))}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(asked.release, Path(temporary, "release")))
        passed = run_offline(copy)
        verify = runpy.run_path(str(asked.release / "verify.py"), run_name="verify")["main"]
        refused = sum(is_refused(verify, copy, seed) for seed in range(asked.flips))
        print(f"refused {refused} of {asked.flips} single-bit flips")
    return 0 if passed and refused == asked.flips else 1


def run_offline(copy: Path) -> bool:
    paths = [copy, *copy.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    offline = [shutil.which("unshare") or "unshare", "-rn"]
    can_unshare = subprocess.run([*offline, "true"], capture_output=True, check=False).returncode == 0
    command = [*(offline if can_unshare else []), sys.executable, "-I", str(copy / "verify.py")]
    began_s = time.monotonic()
    done = subprocess.run(
        command, cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    took_s = time.monotonic() - began_s
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    print(f"{done.stdout.strip()} ({took_s:.2f} s, {'offline' if can_unshare else 'unshare is not allowed here'})")
    return done.returncode == 0 and not done.stderr


def is_refused(verify: Callable[[list[str]], int], copy: Path, seed: int) -> bool:
    """Flip one bit: of any file, as likely as another for every other seed, else as likely as it is long."""
    rng = random.Random(seed)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    path = rng.choice(files) if seed % 2 else rng.choices(files, sizes)[0]
    position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    flip(path, position, bit)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = verify([str(copy)])
    flip(path, position, bit)
    if code != 1:
        print(f"passed with bit {bit} of byte {position} of {path.name} flipped", file=sys.stderr)
    return code == 1


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


if __name__ == "__main__":
    sys.exit(main())
